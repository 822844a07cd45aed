//! Weights of candle as the kernels read them.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{CpuStorage, DType, Error, Layout, Result, Storage, Tensor};
use half::f16;
use tokgate_kernels::q8_0::BLOCK_LEN;
use tokgate_kernels::{BlockQ8_0, MatRef, Weights};

/// A matrix of weights, or several stacked ones: `rows` outputs of `cols` inputs.
#[derive(Clone, Debug)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    store: Store,
}

#[derive(Clone, Debug)]
enum Store {
    /// A copy of a quantised tensor's blocks: candle keeps them as bytes.
    Q8_0(Vec<BlockQ8_0>),
    /// The tensor itself, dense.
    Dense(Tensor),
}

impl Matrix {
    /// The blocks of a Q8_0 tensor, copied, so that the tensor can be dropped. Dimensions before the last are rows.
    ///
    /// # Errors
    /// If the tensor is of another type or not on the CPU.
    pub fn from_qtensor(tensor: &QTensor) -> Result<Self> {
        if tensor.dtype() != GgmlDType::Q8_0 {
            candle_core::bail!(
                "the kernels take Q8_0, not {:?}; dequantise it and use a tensor of bf16",
                tensor.dtype()
            );
        }
        let (rows, cols) = shape(tensor.shape().dims())?;
        let bytes = tensor.data()?;
        let (blocks, rest) = bytes.as_chunks::<{ size_of::<BlockQ8_0>() }>();
        if !rest.is_empty() || blocks.len() * BLOCK_LEN != rows * cols {
            candle_core::bail!(
                "{} bytes are no {rows} × {cols} matrix of Q8_0",
                bytes.len()
            );
        }
        let block = |bytes: &[u8; size_of::<BlockQ8_0>()]| {
            let [d0, d1, qs @ ..] = *bytes;
            BlockQ8_0 {
                d: f16::from_le_bytes([d0, d1]),
                qs: qs.map(|q| q as i8),
            }
        };
        Ok(Self {
            rows,
            cols,
            store: Store::Q8_0(blocks.iter().map(block).collect()),
        })
    }

    /// A tensor of bf16, f16 or f32, which is shared and not copied. Dimensions before the last are rows.
    ///
    /// # Errors
    /// If the tensor is of another type, not dense, or not on the CPU.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let (rows, cols) = shape(tensor.dims())?;
        if !matches!(tensor.dtype(), DType::BF16 | DType::F16 | DType::F32) {
            return Err(Error::UnsupportedDTypeForOp(tensor.dtype(), "weights").bt());
        }
        let matrix = Self {
            rows,
            cols,
            store: Store::Dense(tensor.clone()),
        };
        matrix.with(|_| Ok(()))?;
        Ok(matrix)
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// What `f` makes of the weights.
    pub(super) fn with<R>(&self, f: impl FnOnce(Weights) -> Result<R>) -> Result<R> {
        match &self.store {
            Store::Q8_0(blocks) => {
                let blocks = MatRef::new(blocks, self.rows, self.cols / BLOCK_LEN);
                f(Weights::Q8_0(blocks.map_err(Error::wrap)?))
            }
            Store::Dense(tensor) => {
                let (storage, layout) = tensor.storage_and_layout();
                let Storage::Cpu(storage) = &*storage else {
                    candle_core::bail!("weights must be on the CPU");
                };
                f(match storage {
                    CpuStorage::BF16(w) => Weights::Bf16(self.dense(w, layout)?),
                    CpuStorage::F16(w) => Weights::F16(self.dense(w, layout)?),
                    CpuStorage::F32(w) => Weights::F32(self.dense(w, layout)?),
                    other => return Err(super::unsupported(other, "weights")),
                })
            }
        }
    }

    fn dense<'a, T>(&self, elements: &'a [T], layout: &Layout) -> Result<MatRef<'a, T>> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(Error::RequiresContiguous { op: "weights" }.bt());
        };
        MatRef::new(&elements[start..end], self.rows, self.cols).map_err(Error::wrap)
    }
}

fn shape(dims: &[usize]) -> Result<(usize, usize)> {
    match dims.split_last() {
        Some((cols, rows)) if !rows.is_empty() => Ok((rows.iter().product(), *cols)),
        _ => candle_core::bail!("weights have at least two dimensions, not {dims:?}"),
    }
}
