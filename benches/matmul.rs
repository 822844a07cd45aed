//! Matrix products: every element type and variant on the layers of real models, beside candle's `QMatMul` and gemm.
//!
//! `m` is the number of rows: 1 decodes a token, 8 decodes for eight users or checks a draft, 512 reads a prompt. Up to
//! 8 rows the weights come from memory, as they do when a model decodes: the routine goes through copies that outweigh
//! the cache. `hot` says that they stay in the cache instead. What is compared runs next to each other in time.

mod common;
mod peers;

use std::hint::black_box;
use std::process::ExitCode;
use std::rc::Rc;

use common::inputs::{self, Rng};
use common::shapes::{HEADS, LAYERS, Layer, REDUCED, REPRESENTATIVE};
use common::suite::{Context, Routine, Suite, Work};
use common::{check, runtimes};
use tokgate_kernels::{DType, MatMut, MatRef, Op, Tier, matmul};

/// Relative to Σ|x·w|: the order of additions in f32, far below what a wrong row, block or scale makes of it.
const TOLERANCE: f64 = 1e-5;

fn main() -> anyhow::Result<ExitCode> {
    let mut suite = Suite::new()?;
    for op in Op::ALL {
        if let Some(dtype) = weights(op) {
            add(&mut suite, op, dtype);
        }
    }
    Ok(suite.run())
}

/// The element type of a matmul's weights. Other operations have targets of their own; a new one does not compile before
/// it has its place.
fn weights(op: Op) -> Option<DType> {
    match op {
        Op::MatmulF32 => Some(DType::F32),
        Op::MatmulF16 => Some(DType::F16),
        Op::MatmulBf16 => Some(DType::Bf16),
        Op::MatmulQ8_0 => Some(DType::Q8_0),
        Op::AttentionF32 | Op::AttentionBf16 => None,
        Op::MoeRoute | Op::MoeF32 | Op::MoeF16 | Op::MoeBf16 | Op::MoeQ8_0 => None,
        Op::RmsNorm | Op::Rope | Op::Swiglu | Op::Add | Op::Softmax => None,
    }
}

/// One product: `x [m, k] · wᵀ`, `w [n, k]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    dtype: DType,
    m: usize,
    k: usize,
    n: usize,
    hot: bool,
}

impl Case {
    fn shape(&self) -> String {
        let hot = if self.hot { "_hot" } else { "" };
        format!("m{}_k{}_n{}{hot}", self.m, self.k, self.n)
    }

    fn weight_bytes(&self) -> usize {
        let row = self
            .dtype
            .row_bytes(self.k)
            .expect("real rows are whole blocks");
        self.n * row
    }

    fn work(&self) -> Work {
        let activations = self.m * (self.k + self.n) * size_of::<f32>();
        Work {
            elements: (self.m * self.k * self.n) as u64,
            bytes: (self.weight_bytes() + activations) as u64,
        }
    }

    /// Copies of the weights that the routine goes through.
    fn copies(&self, context: &Context) -> usize {
        if self.hot || self.m > 8 {
            1
        } else {
            context.copies(self.weight_bytes())
        }
    }

    fn activations(&self) -> Vec<f32> {
        Rng::new(self.k as u64).f32s(self.m * self.k)
    }
}

/// Adds the benches of one element type: variants and peers side by side, shape after shape.
fn add(suite: &mut Suite, op: Op, dtype: DType) {
    let case = |m, layer: Layer, hot| Case {
        dtype,
        m,
        k: layer.k,
        n: layer.n,
        hot,
    };
    let compared = [
        case(1, REPRESENTATIVE[0], false),
        case(8, REPRESENTATIVE[0], false),
        case(512, REPRESENTATIVE[0], false),
        case(1, REPRESENTATIVE[1], true),
        case(512, REPRESENTATIVE[1], false),
    ];
    let mut cases = Vec::from(compared);
    // Models come in these two types; the others hold a few small tensors.
    if matches!(dtype, DType::Q8_0 | DType::Bf16) {
        let layers = LAYERS
            .into_iter()
            .flat_map(|layer| [1, 512].map(|m| case(m, layer, false)));
        let heads = HEADS.into_iter().map(|head| case(1, head, false));
        cases.extend(layers.chain(heads).filter(|case| !compared.contains(case)));
    }
    let tiers = runtimes::variants(op);
    for case in cases {
        for (at, tier) in tiers.iter().enumerate() {
            let fastest = at == 0;
            if *tier != Tier::Scalar && (fastest || compared.contains(&case)) {
                ours(suite, op, *tier, case);
            }
        }
        peers::add(suite, case, compared.contains(&case));
    }
    for m in [1, 512] {
        ours(suite, op, Tier::Scalar, case(m, REDUCED, false));
    }
}

fn ours(suite: &mut Suite, op: Op, tier: Tier, case: Case) {
    suite.add(
        op.name(),
        tier.name(),
        &case.shape(),
        case.work(),
        move |context| {
            let rt = context.runtimes.get(op, tier)?;
            let Case { dtype, m, k, n, .. } = case;
            let copies = case.copies(context);
            let store = inputs::store(dtype, copies * n * k);
            let weights = Rc::clone(&store);
            let x = case.activations();
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
            }) as Routine)
        },
    );
}
