//! Products with a weight matrix.

use candle_core::quantized::QTensor;
use candle_core::{CpuStorage, CustomOp1, Error, Layout, Module, Result, Shape, Tensor};
use tokgate_kernels::{MatMut, MatRef, matmul};

use super::{Kernels, Matrix, activations, in_type_of, rows};

/// `x · wᵀ` for `x [.., k]` and `w [n, k]`: what `QMatMul` and candle's own `Linear` without a bias compute.
#[derive(Clone, Debug)]
pub struct Linear {
    kernels: Kernels,
    weight: Matrix,
}

impl Linear {
    /// Of weights that exist.
    pub fn new(kernels: &Kernels, weight: Matrix) -> Self {
        let kernels = kernels.clone();
        Self { kernels, weight }
    }

    /// See [`Matrix::from_qtensor`].
    ///
    /// # Errors
    /// If the tensor is not of Q8_0.
    pub fn from_qtensor(kernels: &Kernels, weight: &QTensor) -> Result<Self> {
        Ok(Self::new(kernels, Matrix::from_qtensor(weight)?))
    }

    /// See [`Matrix::from_tensor`].
    ///
    /// # Errors
    /// If the tensor's type is not known to the kernels.
    pub fn from_tensor(kernels: &Kernels, weight: &Tensor) -> Result<Self> {
        Ok(Self::new(kernels, Matrix::from_tensor(weight)?))
    }
}

impl Module for Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1_no_bwd(self)
    }
}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "tokgate-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (k, n) = (self.weight.cols(), self.weight.rows());
        let m = rows(layout, k, self.name())?;
        let activations = activations(x, layout, self.name())?;
        let mut y = vec![0.0; m * n];
        self.weight.with(|weight| {
            let x = MatRef::new(&activations, m, k).map_err(Error::wrap)?;
            let y = MatMut::new(&mut y, m, n).map_err(Error::wrap)?;
            matmul(self.kernels.runtime(), x, weight, y);
            Ok(())
        })?;
        let mut dims = layout.dims().to_vec();
        dims.pop();
        dims.push(n);
        Ok((in_type_of(x, y, self.name())?, Shape::from(dims)))
    }
}
