//! The kernels as operations of candle, against candle's own.

#[path = "../examples/candle_layer/stack.rs"]
#[allow(dead_code, reason = "the example uses all of it")]
mod stack;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use stack::{Shape, Side, Stack, Weights, by_candle, difference, tokens};
use tokgate::candle::{Attention, Kernels, Linear, Matrix, MoeFfn};

/// Of the root mean square of an answer: activations in 8 bits, of blocks of 32 here and perhaps of 256 there.
const Q8_0: f32 = 0.05;

/// Activations rounded to bf16 here and weights widened there, or the reverse.
const BF16: f32 = 0.02;

/// The order of additions.
const F32: f32 = 1e-4;

fn random(dims: &[usize], seed: u64) -> Tensor {
    use rand::{Rng, SeedableRng};
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let elements: Vec<f32> = (0..dims.iter().product())
        .map(|_| rng.random_range(-1.0..1.0))
        .collect();
    Tensor::from_vec(elements, dims, &Device::Cpu).unwrap()
}

fn kernels() -> Kernels {
    Kernels::new(2).unwrap()
}

fn assert_close(want: &Tensor, got: &Tensor, tolerance: f32) {
    assert_eq!(want.dims(), got.dims());
    let off = difference(want, got).unwrap();
    assert!(off <= tolerance, "off by {off} of the RMS");
}

#[test]
fn q8_0_products_are_qmatmuls() -> Result<()> {
    for (m, n, k) in [(1, 64, 96), (7, 100, 256), (33, 32, 512)] {
        let weight = QTensor::quantize(&random(&[n, k], 1), GgmlDType::Q8_0)?;
        let ours = Linear::from_qtensor(&kernels(), &weight)?;
        let theirs = QMatMul::from_qtensor(weight)?;
        let x = random(&[1, m, k], 2);
        assert_close(&theirs.forward(&x)?, &ours.forward(&x)?, Q8_0);
    }
    Ok(())
}

#[test]
fn dense_products_are_matmuls() -> Result<()> {
    for (dtype, tolerance) in [(DType::F32, F32), (DType::F16, F32), (DType::BF16, BF16)] {
        let weight = random(&[48, 80], 1).to_dtype(dtype)?;
        let x = random(&[5, 80], 2);
        let want = x.matmul(&weight.to_dtype(DType::F32)?.t()?)?;
        let ours = Linear::from_tensor(&kernels(), &weight)?;
        assert_close(&want, &ours.forward(&x)?, tolerance);
        // A part of a tensor, and activations in another type, which the answer then has.
        let part = Linear::from_tensor(&kernels(), &weight.narrow(0, 8, 32)?)?;
        let y = part.forward(&x.to_dtype(DType::BF16)?)?;
        assert_eq!(y.dtype(), DType::BF16);
        assert_close(&want.narrow(1, 8, 32)?, &y.to_dtype(DType::F32)?, BF16);
    }
    Ok(())
}

#[test]
fn attention_is_softmax_over_what_came_before() -> Result<()> {
    let scale = 1.0 / 64_f32.sqrt();
    let attention = Attention::new(&kernels(), scale)?;
    for (b, n_head, n_kv_head, m, l) in [(1, 4, 2, 5, 5), (2, 8, 2, 1, 40), (1, 6, 6, 17, 90)] {
        let q = random(&[b, n_head, m, 64], 1);
        let (k, v) = (
            random(&[b, n_kv_head, l, 64], 2),
            random(&[b, n_kv_head, l, 64], 3),
        );
        let want = by_candle(&q, &k, &v, l - m)?;
        assert_close(&want, &attention.forward(&q, &k, &v)?, F32);
        let bf16 = |x: &Tensor| x.to_dtype(DType::BF16);
        assert_close(&want, &attention.forward(&q, &bf16(&k)?, &bf16(&v)?)?, BF16);
        // As candle's cache gives them: the filled part of something longer.
        let longer = |x: &Tensor| {
            let rest = Tensor::full(f32::NAN, (b, n_kv_head, 7, 64), &Device::Cpu)?;
            Tensor::cat(&[x, &rest], 2)?.narrow(2, 0, l)
        };
        assert_close(
            &want,
            &attention.forward(&q, &longer(&k)?, &longer(&v)?)?,
            F32,
        );
        // Queries that a model has by tokens and transposes.
        let by_tokens = q.transpose(1, 2)?.contiguous()?.transpose(1, 2)?;
        assert_close(&want, &attention.forward(&by_tokens, &k, &v)?, F32);
    }
    Ok(())
}

#[test]
fn experts_are_the_sum_of_their_feed_forwards() -> Result<()> {
    let (n_expert, top_k, n_ff, d, m) = (6, 2, 64, 96, 9);
    let dense = [
        random(&[n_expert, n_ff, d], 1),
        random(&[n_expert, n_ff, d], 2),
        random(&[n_expert, d, n_ff], 3),
    ];
    let (x, logits) = (random(&[m, d], 4), random(&[m, n_expert], 5));
    let quantised = dense
        .each_ref()
        .map(|w| QTensor::quantize(w, GgmlDType::Q8_0).unwrap());
    let [gate, up, down] = quantised
        .each_ref()
        .map(|w| w.dequantize(&Device::Cpu).unwrap());
    let shares: Vec<Vec<f32>> = softmax_last_dim(&logits)?.to_vec2()?;
    let mut rows = Vec::new();
    for (token, shares) in shares.iter().enumerate() {
        let mut best: Vec<usize> = (0..n_expert).collect();
        best.sort_by(|a, b| shares[*b].total_cmp(&shares[*a]));
        best.truncate(top_k);
        let sum: f32 = best.iter().map(|expert| shares[*expert]).sum();
        let x = x.narrow(0, token, 1)?;
        let mut row = Tensor::zeros((1, d), DType::F32, &Device::Cpu)?;
        for expert in best {
            let product = |w: &Tensor, x: &Tensor| x.matmul(&w.get(expert)?.t()?);
            let h = (product(&gate, &x)?.silu()? * product(&up, &x)?)?;
            row = (row + (product(&down, &h)? * f64::from(shares[expert] / sum))?)?;
        }
        rows.push(row);
    }
    let want = Tensor::cat(&rows, 0)?;
    let matrices = quantised
        .each_ref()
        .map(|w| Matrix::from_qtensor(w).unwrap());
    let moe = MoeFfn::new(&kernels(), (n_expert, top_k), true, matrices)?;
    assert_close(&want, &moe.forward(&x, &logits)?, Q8_0);
    Ok(())
}

#[test]
fn a_stack_of_layers_answers_alike() -> Result<()> {
    let shape = Shape {
        layers: 2,
        embd: 128,
        n_head: 4,
        n_kv_head: 2,
        head_dim: 32,
        ff: 256,
        context: 32,
    };
    let weights = Weights::random(shape, 1)?;
    let kernels = kernels();
    let mut theirs = Stack::new(shape, &weights, &Side::Candle)?;
    let mut ours = Stack::new(shape, &weights, &Side::Tokgate(&kernels))?;
    for (m, seed) in [(9, 2), (1, 3), (1, 4)] {
        let x = tokens(shape, m, seed)?;
        assert_close(&theirs.forward(&x)?, &ours.forward(&x)?, 2.0 * Q8_0);
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_an_error_and_no_panic() -> Result<()> {
    let kernels = kernels();
    let weight = QTensor::quantize(&random(&[64, 256], 1), GgmlDType::Q4_0)?;
    let error = Linear::from_qtensor(&kernels, &weight)
        .unwrap_err()
        .to_string();
    assert!(error.contains("Q4_0") || error.contains("Q4"), "{error}");
    let linear = Linear::from_tensor(&kernels, &random(&[8, 32], 1))?;
    assert!(linear.forward(&random(&[2, 31], 1)).is_err());
    assert!(linear.forward(&random(&[32, 2], 1).t()?).is_err());
    assert!(Linear::from_tensor(&kernels, &random(&[8, 32], 1).t()?).is_err());
    assert!(Linear::from_tensor(&kernels, &random(&[8], 1)).is_err());
    assert!(Attention::new(&kernels, f32::NAN).is_err());
    let attention = Attention::new(&kernels, 1.0)?;
    let tensor = |dims: [usize; 4]| random(&dims, 1);
    for (q, kv) in [
        ([1, 3, 1, 16], [1, 2, 4, 16]),
        ([1, 2, 5, 16], [1, 2, 4, 16]),
        ([1, 2, 1, 16], [1, 2, 4, 32]),
        ([2, 2, 1, 16], [1, 2, 4, 16]),
    ] {
        assert!(
            attention
                .forward(&tensor(q), &tensor(kv), &tensor(kv))
                .is_err(),
            "{q:?} {kv:?}"
        );
    }
    let transposed = tensor([1, 4, 2, 16]).transpose(1, 2)?;
    let (q, k) = (tensor([1, 2, 1, 16]), tensor([1, 2, 4, 16]));
    assert!(attention.forward(&q, &transposed, &k).is_err());
    assert!(attention.forward(&q, &k, &k.to_dtype(DType::F16)?).is_err());
    let matrix = |dims: &[usize]| Matrix::from_tensor(&random(dims, 1)).unwrap();
    let odd = [
        matrix(&[2, 8, 32]),
        matrix(&[2, 8, 32]),
        matrix(&[2, 16, 8]),
    ];
    assert!(MoeFfn::new(&kernels, (2, 1), true, odd).is_err());
    Ok(())
}
