//! The kernels as operations of [candle](candle_core), for those who have a model in candle already: feature `candle`.
//!
//! | here | replaces | what differs |
//! |---|---|---|
//! | [`Linear`] | `QMatMul::forward` of Q8_0; `x.matmul(&w.t()?)` of bf16, f16, f32 | bf16 is not widened as a whole for each call |
//! | [`Attention`] | scores, mask, softmax and values as four operations | online, causal, grouped queries without `repeat_kv` |
//! | [`MoeFfn`] | candle's fused experts, which are for GPUs only | runs on CPUs, with Q8_0 experts as a GGUF file stacks them |
//!
//! Replacing a `QMatMul` is two lines, since both are [`Module`](candle_core::Module)s:
//!
//! ```
//! use candle_core::quantized::{GgmlDType, QTensor};
//! use candle_core::{Device, Module, Tensor};
//! use tokgate::candle::{Kernels, Linear};
//!
//! let weight = Tensor::randn(0_f32, 1.0, (64, 96), &Device::Cpu)?;
//! let weight = QTensor::quantize(&weight, GgmlDType::Q8_0)?;
//!
//! let kernels = Kernels::new(2)?;                         // threads, shared by all operations of a model
//! let linear = Linear::from_qtensor(&kernels, &weight)?;  // was: QMatMul::from_qtensor(weight)?
//! let x = Tensor::randn(0_f32, 1.0, (1, 3, 96), &Device::Cpu)?;
//! assert_eq!(linear.forward(&x)?.dims(), [1, 3, 64]);
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! NUMERICS. Those of [`tokgate_kernels`]: sums in f32, activations quantised by blocks of 32 for Q8_0 and rounded to
//! bf16 for bf16 weights. Results have the type of the activations. Only the CPU, and no gradients: candle says so where
//! one of them is asked for. `candle_layer`, an example of the repository, runs one stack of layers both ways.

mod attention;
mod linear;
mod matrix;
mod moe;

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::{CpuStorage, Error, Layout, Result};
use half::{bf16, f16};
use tokgate_kernels::Runtime;

pub use attention::Attention;
pub use linear::Linear;
pub use matrix::Matrix;
pub use moe::MoeFfn;

/// What runs the operations of a model: threads, kernel level and working memory. Clones share them.
#[derive(Clone, Debug)]
pub struct Kernels(Arc<Runtime>);

impl Kernels {
    /// `threads` at the level that `TOKGATE_LEVEL` names, or else the CPU's fastest.
    ///
    /// # Errors
    /// If the level is unknown or beyond this CPU, or the threads cannot be started.
    pub fn new(threads: usize) -> Result<Self> {
        Runtime::new(threads).map(Self::from).map_err(Error::wrap)
    }

    fn runtime(&self) -> &Runtime {
        &self.0
    }
}

impl From<Runtime> for Kernels {
    fn from(runtime: Runtime) -> Self {
        Self(Arc::new(runtime))
    }
}

/// The elements of a dense tensor as f32; borrowed where they are.
fn activations<'a>(
    storage: &'a CpuStorage,
    layout: &Layout,
    op: &'static str,
) -> Result<Cow<'a, [f32]>> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(Error::RequiresContiguous { op }.bt());
    };
    Ok(match storage {
        CpuStorage::F32(x) => Cow::Borrowed(&x[start..end]),
        CpuStorage::BF16(x) => x[start..end].iter().map(|v| v.to_f32()).collect(),
        CpuStorage::F16(x) => x[start..end].iter().map(|v| v.to_f32()).collect(),
        other => return Err(unsupported(other, op)),
    })
}

/// `y` in the type of `like`.
fn in_type_of(like: &CpuStorage, y: Vec<f32>, op: &'static str) -> Result<CpuStorage> {
    Ok(match like {
        CpuStorage::F32(_) => CpuStorage::F32(y),
        CpuStorage::BF16(_) => CpuStorage::BF16(y.into_iter().map(bf16::from_f32).collect()),
        CpuStorage::F16(_) => CpuStorage::F16(y.into_iter().map(f16::from_f32).collect()),
        other => return Err(unsupported(other, op)),
    })
}

fn unsupported(storage: &CpuStorage, op: &'static str) -> Error {
    use candle_core::backend::BackendStorage;
    Error::UnsupportedDTypeForOp(storage.dtype(), op).bt()
}

/// Rows and columns of a tensor of any rank, whose last dimension must have `columns`.
fn rows(layout: &Layout, columns: usize, op: &str) -> Result<usize> {
    let dims = layout.dims();
    match dims.split_last() {
        Some((last, rest)) if *last == columns => Ok(rest.iter().product()),
        _ => candle_core::bail!("{op}: {dims:?} should end in {columns}"),
    }
}
