//! What other Rust projects make of the same products, on the same weights, in the same run.
//!
//! candle runs Q8_0 through `QMatMul`, bf16 through `Tensor::matmul`. gemm knows f32 and f16 only, takes its activations
//! in the weights' type, and runs AVX-512 where the CPU has it (feature `x86-v4`).

use std::hint::black_box;
use std::rc::Rc;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{Device, Module, Tensor};
use half::f16;
use tokgate_kernels::{DType, MatRef, Op, Tier, Weights};

use crate::Duel;
use crate::common::check;
use crate::common::inputs;
use crate::common::kind::{Kind, kind};
use crate::common::matmul::Case;
use crate::common::shapes::{LAYERS, Layer, REPRESENTATIVE};
use crate::common::suite::Routine;

/// Relative to Σ|x·w|: peers round activations their own way, candle's Q8_0 with one scale for 256 of them.
const TOLERANCE: f64 = 2e-3;

/// Somebody else's product.
#[derive(Clone, Copy)]
struct Peer {
    /// The project.
    name: &'static str,
    make: fn(Case, usize) -> anyhow::Result<Product>,
}

/// The duels of `op`'s variant for `tier`: weights of its type with the peers that know them.
pub fn duels(op: Op, tier: Tier) -> Vec<Duel> {
    let Kind::Matmul(dtype) = kind(op) else {
        return Vec::new();
    };
    let case = |m, layer: Layer| Case {
        dtype,
        m,
        k: layer.k,
        n: layer.n,
        hot: false,
    };
    let rows: &[usize] = match dtype {
        DType::Q8_0 => &[1, 4, 8, 32, 512],
        _ => &[1, 8, 512],
    };
    let mut cases: Vec<Case> = REPRESENTATIVE
        .into_iter()
        .flat_map(|layer| rows.iter().map(move |m| (*m, layer)))
        .map(|(m, layer)| case(m, layer))
        .collect();
    if dtype == DType::Q8_0 {
        let others = LAYERS.into_iter().filter(|layer| {
            REPRESENTATIVE
                .iter()
                .all(|one| (one.k, one.n) != (layer.k, layer.n))
        });
        cases.extend(others.map(|layer| case(512, layer)));
    }
    let with_peers = |case: Case| {
        of(dtype).into_iter().map(move |peer| Duel {
            op,
            tier,
            peer: peer.name,
            shape: case.shape(),
            work: case.work(),
            ours: Box::new(move |context| {
                case.prepare(context.runtimes.get(op, tier)?, case.copies(context))
            }),
            theirs: Box::new(move |context| peer.prepare(case, case.copies(context))),
        })
    };
    cases.into_iter().flat_map(with_peers).collect()
}

/// The peers that know weights of `dtype`.
fn of(dtype: DType) -> Vec<Peer> {
    let candle = |make| Peer {
        name: "candle",
        make,
    };
    let gemm = |make| Peer { name: "gemm", make };
    match dtype {
        DType::Q8_0 => vec![candle(candle_q8_0)],
        DType::Bf16 => vec![candle(candle_bf16)],
        DType::F32 => vec![gemm(self::gemm::<f32>)],
        DType::F16 => vec![gemm(self::gemm::<f16>)],
    }
}

impl Peer {
    /// The product, checked, over `copies` of the weights in turn.
    ///
    /// # Errors
    /// If an output is wrong.
    fn prepare(self, case: Case, copies: usize) -> anyhow::Result<Routine> {
        let Product {
            mut product,
            mut outputs,
        } = (self.make)(case, copies)?;
        let Case { dtype, m, k, n, .. } = case;
        let store = inputs::store(dtype, copies * n * k);
        check::matmul(
            MatRef::new(&case.activations(), m, k)?,
            store.matrix(0, n, k),
            MatRef::new(&outputs(0)?, m, n)?,
            TOLERANCE,
        )?;
        // What a peer prepares at its first use of a matrix is not to be timed.
        (0..copies).for_each(&mut product);
        let mut turn = 0;
        Ok(Box::new(move || {
            product(turn);
            turn = (turn + 1) % copies;
        }))
    }
}

/// A peer's product with the `copy`-th weights, and its outputs as f32, which is asked for once.
struct Product {
    product: Box<dyn FnMut(usize)>,
    outputs: Box<dyn FnMut(usize) -> anyhow::Result<Vec<f32>>>,
}

fn candle_q8_0(case: Case, copies: usize) -> anyhow::Result<Product> {
    let Case { dtype, m, k, n, .. } = case;
    let x = Tensor::from_vec(case.activations(), (m, k), &Device::Cpu)?;
    let store = inputs::store(dtype, copies * n * k);
    let weights = (0..copies).map(|copy| {
        let bytes = block_bytes(store.matrix(copy, n, k));
        let storage = QStorage::from_data(bytes.into(), &Device::Cpu, GgmlDType::Q8_0)?;
        QMatMul::from_qtensor(QTensor::new(storage, (n, k))?)
    });
    let weights = weights.collect::<candle_core::Result<Vec<_>>>()?;
    Ok(candle(move |copy| weights[copy].forward(&x)))
}

fn candle_bf16(case: Case, copies: usize) -> anyhow::Result<Product> {
    let Case { dtype, m, k, n, .. } = case;
    let x = Tensor::from_vec(case.activations(), (m, k), &Device::Cpu)?;
    let x = x.to_dtype(candle_core::DType::BF16)?;
    let store = inputs::store(dtype, copies * n * k);
    let weights = (0..copies).map(|copy| {
        let Weights::Bf16(w) = store.matrix(copy, n, k) else {
            unreachable!("the store is of the case's type");
        };
        Tensor::from_vec(dense(w), (n, k), &Device::Cpu)?.t()
    });
    let weights = weights.collect::<candle_core::Result<Vec<_>>>()?;
    Ok(candle(move |copy| x.matmul(&weights[copy])))
}

fn candle(product: impl Fn(usize) -> candle_core::Result<Tensor> + 'static) -> Product {
    let product = Rc::new(product);
    let timed = Rc::clone(&product);
    Product {
        product: Box::new(move |copy| {
            // Every copy was multiplied once before, without an error.
            black_box(timed(copy).expect("same shapes"));
        }),
        outputs: Box::new(move |copy| {
            let y = product(copy)?.to_dtype(candle_core::DType::F32)?;
            Ok(y.flatten_all()?.to_vec1()?)
        }),
    }
}

/// The blocks of a Q8_0 matrix as a file holds them.
fn block_bytes(weights: Weights) -> Vec<u8> {
    let Weights::Q8_0(blocks) = weights else {
        unreachable!("the store is of the case's type");
    };
    let mut bytes = Vec::with_capacity(blocks.rows() * blocks.cols() * 34);
    for block in (0..blocks.rows()).flat_map(|row| blocks.row(row)) {
        bytes.extend_from_slice(&block.d.to_le_bytes());
        bytes.extend(block.qs.iter().map(|q| *q as u8));
    }
    bytes
}

/// What gemm multiplies.
trait Float: Copy + 'static {
    const ZERO: Self;
    const ONE: Self;
    fn narrow(value: f32) -> Self;
    fn widen(self) -> f32;
    /// The elements of weights of this type.
    fn elements(weights: Weights) -> Vec<Self>;
}

impl Float for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    fn narrow(value: f32) -> Self {
        value
    }

    fn widen(self) -> f32 {
        self
    }

    fn elements(weights: Weights) -> Vec<Self> {
        let Weights::F32(w) = weights else {
            unreachable!("the store is of the case's type");
        };
        dense(w)
    }
}

impl Float for f16 {
    const ZERO: Self = Self::ZERO;
    const ONE: Self = Self::ONE;

    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn widen(self) -> f32 {
        self.to_f32()
    }

    fn elements(weights: Weights) -> Vec<Self> {
        let Weights::F16(w) = weights else {
            unreachable!("the store is of the case's type");
        };
        dense(w)
    }
}

fn dense<T: Copy>(w: MatRef<T>) -> Vec<T> {
    (0..w.rows()).flat_map(|row| w.row(row)).copied().collect()
}

fn gemm<T: Float>(case: Case, copies: usize) -> anyhow::Result<Product> {
    let Case { dtype, m, k, n, .. } = case;
    let store = inputs::store(dtype, copies * n * k);
    let weights = (0..copies).map(|copy| T::elements(store.matrix(copy, n, k)));
    let weights: Vec<Vec<T>> = weights.collect();
    let x: Vec<T> = case.activations().into_iter().map(T::narrow).collect();
    let product = Rc::new(move |copy: usize, y: &mut [T]| {
        let w = &weights[copy];
        assert!(x.len() == m * k && w.len() == n * k && y.len() == m * n);
        let (row, unit) = (k as isize, 1);
        // SAFETY: the assertion holds the three matrices to their strides: x is m × k and y is m × n by rows; w, n × k by
        // rows, is read as k × n by columns.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                y.as_mut_ptr(),
                unit,
                n as isize,
                false,
                x.as_ptr(),
                unit,
                row,
                w.as_ptr(),
                row,
                unit,
                T::ZERO,
                T::ONE,
                false,
                false,
                false,
                gemm::Parallelism::Rayon(0),
            );
        }
    });
    let timed = Rc::clone(&product);
    let mut y = vec![T::ZERO; m * n];
    Ok(Product {
        product: Box::new(move |copy| timed(copy, black_box(&mut y))),
        outputs: Box::new(move |copy| {
            let mut y = vec![T::ZERO; m * n];
            product(copy, &mut y);
            Ok(y.into_iter().map(T::widen).collect())
        }),
    })
}
