//! Products of activations and weights.

use std::hint::black_box;
use std::rc::Rc;

use tokgate_kernels::{DType, MatMut, MatRef, Runtime, matmul};

use super::check;
use super::inputs::{self, Rng};
use super::suite::{Context, Routine, Work};

/// Relative to Σ|x·w|: the order of additions in f32, far below what a wrong row, block or scale makes of it.
const TOLERANCE: f64 = 1e-5;

/// One product: `x [m, k] · wᵀ`, `w [n, k]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Type of the weights.
    pub dtype: DType,
    /// Rows of activations.
    pub m: usize,
    /// Inputs.
    pub k: usize,
    /// Outputs.
    pub n: usize,
    /// Whether the weights stay in the cache at few rows too.
    pub hot: bool,
}

impl Case {
    /// The shape's name in ids.
    pub fn shape(&self) -> String {
        let hot = if self.hot { "_hot" } else { "" };
        format!("m{}_k{}_n{}{hot}", self.m, self.k, self.n)
    }

    /// Bytes of the weights.
    pub fn weight_bytes(&self) -> usize {
        let row = self
            .dtype
            .row_bytes(self.k)
            .expect("real rows are whole blocks");
        self.n * row
    }

    /// What one product works through.
    pub fn work(&self) -> Work {
        let activations = self.m * (self.k + self.n) * size_of::<f32>();
        Work {
            elements: (self.m * self.k * self.n) as u64,
            bytes: (self.weight_bytes() + activations) as u64,
        }
    }

    /// Copies of the weights that the routine goes through.
    pub fn copies(&self, context: &Context) -> usize {
        if self.hot || self.m > 8 {
            1
        } else {
            context.copies(self.weight_bytes())
        }
    }

    /// The activations, by rows.
    pub fn activations(&self) -> Vec<f32> {
        Rng::new(self.k as u64).f32s(self.m * self.k)
    }

    /// The product, checked, over `copies` of the weights in turn.
    ///
    /// # Errors
    /// If an output is wrong.
    pub fn prepare(self, rt: Rc<Runtime>, copies: usize) -> anyhow::Result<Routine> {
        let Self { dtype, m, k, n, .. } = self;
        let store = inputs::store(dtype, copies * n * k);
        let weights = Rc::clone(&store);
        let x = self.activations();
        let mut y = vec![f32::NAN; m * n];
        let product = move |copy: usize, x: &[f32], y: &mut [f32]| -> anyhow::Result<()> {
            let (x, y) = (MatRef::new(x, m, k)?, MatMut::new(y, m, n)?);
            matmul(&rt, x, weights.matrix(copy, n, k), y);
            Ok(())
        };
        product(0, &x, &mut y)?;
        let (w, seen) = (store.matrix(0, n, k), MatRef::new(&y, m, n)?);
        check::matmul(MatRef::new(&x, m, k)?, w, seen, TOLERANCE)?;
        let mut turn = 0;
        Ok(Box::new(move || {
            product(turn, &x, black_box(&mut y)).expect("the shapes of a moment ago");
            turn = (turn + 1) % copies;
        }))
    }
}
