//! A stack of transformer layers in candle, of which the products and the attention are candle's own or the kernels'.
//!
//! Both stacks have the same Q8_0 weights and differ in nothing else: norms, rotation, activation and cache are candle's.

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::kv_cache::KvCache;
use candle_nn::ops::{rms_norm, softmax_last_dim};
use candle_nn::rotary_emb::rope;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokgate::candle::{Attention, Kernels, Linear};

/// Sizes of a model.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub layers: usize,
    pub embd: usize,
    pub n_head: usize,
    pub n_kv_head: usize,
    pub head_dim: usize,
    pub ff: usize,
    pub context: usize,
}

/// Qwen3-0.6B's layers, four of 28.
pub const QWEN3_0_6B: Shape = Shape {
    layers: 4,
    embd: 1024,
    n_head: 16,
    n_kv_head: 8,
    head_dim: 128,
    ff: 3072,
    context: 1024,
};

/// Seeded weights of a layer: q, k, v, o, gate, up, down.
pub struct Weights(Vec<[QTensor; 7]>);

impl Weights {
    pub fn random(shape: Shape, seed: u64) -> Result<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut matrix = |rows: usize, cols: usize| {
            let scale = (3.0 / cols as f32).sqrt();
            let elements: Vec<f32> = (0..rows * cols)
                .map(|_| rng.random_range(-scale..scale))
                .collect();
            let dense = Tensor::from_vec(elements, (rows, cols), &Device::Cpu)?;
            QTensor::quantize(&dense, GgmlDType::Q8_0)
        };
        let Shape {
            layers, embd, ff, ..
        } = shape;
        let (q, kv) = (
            shape.n_head * shape.head_dim,
            shape.n_kv_head * shape.head_dim,
        );
        let layers = (0..layers).map(|_| {
            Ok([
                matrix(q, embd)?,
                matrix(kv, embd)?,
                matrix(kv, embd)?,
                matrix(embd, q)?,
                matrix(ff, embd)?,
                matrix(ff, embd)?,
                matrix(embd, ff)?,
            ])
        });
        Ok(Self(layers.collect::<Result<_>>()?))
    }
}

/// Whose products and attention.
pub enum Side<'a> {
    Candle,
    Tokgate(&'a Kernels),
}

struct Layer {
    matrices: [Box<dyn Module>; 7],
    cache: KvCache,
}

/// The stack.
pub struct Stack {
    shape: Shape,
    layers: Vec<Layer>,
    /// The kernels' attention; candle's if `None`.
    attention: Option<Attention>,
    norm: Tensor,
    cos: Tensor,
    sin: Tensor,
}

impl Stack {
    pub fn new(shape: Shape, weights: &Weights, side: &Side) -> Result<Self> {
        let module = |weight: &QTensor| -> Result<Box<dyn Module>> {
            Ok(match side {
                Side::Tokgate(kernels) => Box::new(Linear::from_qtensor(kernels, weight)?),
                Side::Candle => {
                    let data = weight.data()?.into_owned();
                    let storage = candle_core::quantized::QStorage::from_data(
                        data.into(),
                        &Device::Cpu,
                        GgmlDType::Q8_0,
                    )?;
                    let copy = QTensor::new(storage, weight.shape())?;
                    Box::new(QMatMul::from_qtensor(copy)?)
                }
            })
        };
        let layers = weights.0.iter().map(|[q, k, v, o, gate, up, down]| {
            let matrices = [
                module(q)?,
                module(k)?,
                module(v)?,
                module(o)?,
                module(gate)?,
                module(up)?,
                module(down)?,
            ];
            Ok(Layer {
                matrices,
                cache: KvCache::new(2, shape.context),
            })
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let scale = 1.0 / (shape.head_dim as f32).sqrt();
        let attention = match side {
            Side::Tokgate(kernels) => Some(Attention::new(kernels, scale)?),
            Side::Candle => None,
        };
        let half = shape.head_dim / 2;
        let angle = |at: usize| {
            let (position, pair) = (at / half, at % half);
            position as f32 * 1e6_f32.powf(-(pair as f32) / half as f32)
        };
        let angles: Vec<f32> = (0..shape.context * half).map(angle).collect();
        let angles = Tensor::from_vec(angles, (shape.context, half), &Device::Cpu)?;
        Ok(Self {
            shape,
            layers,
            attention,
            norm: Tensor::ones(shape.embd, DType::F32, &Device::Cpu)?,
            cos: angles.cos()?,
            sin: angles.sin()?,
        })
    }

    /// Forgets all positions.
    pub fn reset(&mut self) {
        for layer in &mut self.layers {
            layer.cache.reset();
        }
    }

    /// Passes `x [1, m, embd]` through all layers, at the positions after those of earlier calls.
    pub fn forward(&mut self, x: &Tensor) -> Result<Tensor> {
        let (_, m, _) = x.dims3()?;
        let Self {
            shape,
            layers,
            attention,
            norm,
            cos,
            sin,
        } = self;
        let mut x = x.clone();
        for Layer { matrices, cache } in layers {
            let [q, k, v, o, gate, up, down] = matrices;
            let past = cache.current_seq_len();
            let heads = |x: Tensor, n: usize| {
                x.reshape((1, m, n, shape.head_dim))?
                    .transpose(1, 2)?
                    .contiguous()
            };
            let (cos, sin) = (cos.narrow(0, past, m)?, sin.narrow(0, past, m)?);
            let h = rms_norm(&x, norm, 1e-6)?;
            let q = rope(&heads(q.forward(&h)?, shape.n_head)?, &cos, &sin)?;
            let k = rope(&heads(k.forward(&h)?, shape.n_kv_head)?, &cos, &sin)?;
            let v = heads(v.forward(&h)?, shape.n_kv_head)?;
            let (k, v) = cache.append(&k, &v)?;
            let attended = match attention {
                Some(attention) => attention.forward(&q, &k, &v)?,
                None => by_candle(&q, &k, &v, past)?,
            };
            x = (x + o.forward(&attended)?)?;
            let h = rms_norm(&x, norm, 1e-6)?;
            let h = (gate.forward(&h)?.silu()? * up.forward(&h)?)?;
            x = (x + down.forward(&h)?)?;
        }
        Ok(x)
    }
}

/// Attention as candle's models write it.
pub fn by_candle(q: &Tensor, k: &Tensor, v: &Tensor, past: usize) -> Result<Tensor> {
    let (b, n_head, m, d) = q.dims4()?;
    let (_, n_kv_head, l, _) = k.dims4()?;
    let group = n_head / n_kv_head;
    let repeated = |x: &Tensor| {
        let x = x.unsqueeze(2)?.expand((b, n_kv_head, group, l, d))?;
        x.reshape((b, n_head, l, d))
    };
    let scores = (q.matmul(&repeated(k)?.t()?)? * (1.0 / (d as f64).sqrt()))?;
    let hidden = |at: usize| {
        let (query, key) = (at / l, at % l);
        if key > past + query {
            f32::NEG_INFINITY
        } else {
            0.0
        }
    };
    let mask: Vec<f32> = (0..m * l).map(hidden).collect();
    let mask = Tensor::from_vec(mask, (1, 1, m, l), q.device())?;
    let shares = softmax_last_dim(&scores.broadcast_add(&mask)?)?;
    let out = shares.matmul(&repeated(v)?)?;
    out.transpose(1, 2)?.reshape((b, m, n_head * d))
}

/// Seeded activations `[1, m, embd]`.
pub fn tokens(shape: Shape, m: usize, seed: u64) -> Result<Tensor> {
    let mut rng = StdRng::seed_from_u64(seed);
    let elements: Vec<f32> = (0..m * shape.embd)
        .map(|_| rng.random_range(-1.0..1.0))
        .collect();
    Tensor::from_vec(elements, (1, m, shape.embd), &Device::Cpu)
}

/// The largest difference of two tensors, relative to the root mean square of the first.
pub fn difference(a: &Tensor, b: &Tensor) -> Result<f32> {
    let largest = (a - b)?.abs()?.flatten_all()?.max(D::Minus1)?;
    let square = a.sqr()?.mean_all()?.to_scalar::<f32>()?;
    Ok(largest.to_scalar::<f32>()? / square.sqrt())
}

/// Median, least and most of candle's time over the kernels', over `pairs` of calls in turn: A B, B A, A B ….
pub fn ratio(
    pairs: usize,
    mut candle: impl FnMut() -> Result<()>,
    mut tokgate: impl FnMut() -> Result<()>,
) -> Result<[f64; 3]> {
    let time = |work: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
        let start = std::time::Instant::now();
        work()?;
        Ok(start.elapsed().as_secs_f64())
    };
    let mut ratios = Vec::with_capacity(pairs);
    for pair in 0..pairs {
        let (theirs, ours) = if pair % 2 == 0 {
            let theirs = time(&mut candle)?;
            (theirs, time(&mut tokgate)?)
        } else {
            let ours = time(&mut tokgate)?;
            (time(&mut candle)?, ours)
        };
        ratios.push(theirs / ours);
    }
    ratios.sort_by(f64::total_cmp);
    Ok([ratios[pairs / 2], ratios[0], ratios[pairs - 1]])
}
