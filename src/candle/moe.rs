//! Mixtures of experts.

use candle_core::{CpuStorage, CustomOp2, Error, Layout, Result, Shape, Tensor};
use tokgate_kernels::{Experts, MatMut, MatRef, MoeSpec, Routing, moe_ffn, route};

use super::{Kernels, Matrix, activations, in_type_of, rows};

const NAME: &str = "tokgate-moe";

/// Router and experts of a layer: softmax over the router's logits, the `top_k` best, SwiGLU in each, and their weighted
/// sum.
#[derive(Clone, Debug)]
pub struct MoeFfn {
    kernels: Kernels,
    spec: MoeSpec,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

impl MoeFfn {
    /// Of experts that are stacked as GGUF has them: `gate` and `up` `[n_expert, n_ff, d]`, `down` `[n_expert, d, n_ff]`.
    /// `norm_topk_prob` makes the weights of a token's experts add up to one.
    ///
    /// # Errors
    /// If the shapes do not belong together.
    pub fn new(
        kernels: &Kernels,
        (n_expert, top_k): (usize, usize),
        norm_topk_prob: bool,
        [gate, up, down]: [Matrix; 3],
    ) -> Result<Self> {
        let spec = MoeSpec::new(n_expert, top_k, norm_topk_prob).map_err(Error::wrap)?;
        let (d, n_ff) = (gate.cols(), down.cols());
        let stacked = |matrix: &Matrix, rows: usize, cols: usize| {
            Some(matrix.rows()) == n_expert.checked_mul(rows) && matrix.cols() == cols
        };
        if !(stacked(&gate, n_ff, d) && stacked(&up, n_ff, d) && stacked(&down, d, n_ff)) {
            let dims = [&gate, &up, &down].map(|matrix| (matrix.rows(), matrix.cols()));
            candle_core::bail!("{NAME}: {n_expert} experts cannot be made of matrices {dims:?}");
        }
        Ok(Self {
            kernels: kernels.clone(),
            spec,
            gate,
            up,
            down,
        })
    }

    /// The block's answer to `x [.., d]`, given the router's `logits [.., n_expert]`.
    ///
    /// # Errors
    /// If the shapes do not belong together, or a type is not known to the kernels.
    pub fn forward(&self, x: &Tensor, logits: &Tensor) -> Result<Tensor> {
        x.apply_op2_no_bwd(logits, self)
    }
}

impl CustomOp2 for MoeFfn {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        logits: &CpuStorage,
        logits_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (d, n_expert) = (self.gate.cols(), self.spec.n_expert());
        let m = rows(x_layout, d, NAME)?;
        if rows(logits_layout, n_expert, NAME)? != m {
            candle_core::bail!("{NAME}: logits must be those of the {m} tokens");
        }
        let tokens = activations(x, x_layout, NAME)?;
        let logits = activations(logits, logits_layout, NAME)?;
        let rt = self.kernels.runtime();
        let mut routing = Routing::default();
        let logits = MatRef::new(&logits, m, n_expert).map_err(Error::wrap)?;
        route(rt, &self.spec, logits, &mut routing);
        let mut y = vec![0.0; m * d];
        self.gate.with(|gate| {
            self.up.with(|up| {
                self.down.with(|down| {
                    let x = MatRef::new(&tokens, m, d).map_err(Error::wrap)?;
                    let y = MatMut::new(&mut y, m, d).map_err(Error::wrap)?;
                    moe_ffn(rt, &self.spec, x, &routing, &Experts { gate, up, down }, y);
                    Ok(())
                })
            })
        })?;
        Ok((in_type_of(x, y, NAME)?, x_layout.shape().clone()))
    }
}
