//! Matrix products of activations with weights of any element type.
//!
//! SHAPES. `x: [m, k]` f32, `w: [n, k]` as GGUF stores it, `y: [m, n]` f32; `k` in elements, for Q8_0 a multiple of 32.
//! With `rows`, row i of the product is `x[rows[i]]`.
//!
//! DEFINITION.
//! ```text
//! y[m][n] = Σ_k r(x[m][k]) · w[n][k]
//! ```
//! where `r` depends on the weights' type:
//! ```text
//! f32, f16   r(x) = x
//! bf16       r(x) = x rounded to bf16, to nearest, ties to even
//! Q8_0       r(x) = d · q for each block of 32: a = max|x|, d = a / 127, q = round(x · (127 / a)), ties to even;
//!            all zeros where a < 2⁻¹⁰⁰; d = NaN where a block holds a NaN or an infinity
//! ```
//!
//! NUMERICS. Products are accumulated in f32, in an order that depends on the variant and on the shape, and not on the
//! number of threads. In a [batch-invariant](Runtime::batch_invariant) runtime it is the order of one token. Q8_0: the 32
//! products of a block add up exactly in i32, then `(d_w · d_x) · sum` is accumulated in f32, the three factors being
//! multiplied in any order. The activations' `d` stays f32: as f16, which is what a block in a file has, it would overflow
//! from max|x| = 8.3e6 on and lose bits below 8e-3. The bound of 2⁻¹⁰⁰ keeps `127 / a` finite. Non-finite activations make
//! their own token's outputs non-finite and touch no other's. Outputs are zero where `k` is zero.
//!
//! WHY. One call takes a list of products, because a fork and join costs a microsecond or two, which is what a small
//! product costs: Q, K and V, or gate and up, or all experts of a layer go over the workers at once. Products that share
//! their activations share their rounding too. A call forks at most twice, once to prepare activations and once to
//! multiply, and not at all where there is less to do than a fork costs.
//!
//! WHY runs of tasks: with few tokens a product is a stream of weights, and a worker that reads one stream of neighbours
//! reads faster than one that takes every other task. On Zen 5, two threads, one token, Q8_0 from memory: 1.08 × at
//! 1024 → 1024, 1.03 at 1024 → 3072, 1.00 at 4096 → 4096; twice as many tasks were no faster, four times as many slower.
//!
//! WHY batch invariance by groups: the forms for few tokens and for many add up in different orders, and each is the
//! faster one where it is used. Where a token's bits must not depend on its neighbours, groups of as many tokens as a
//! variant multiplies alike meet the same rows of weights one after the other, while these are in L2. Beside a plain
//! product of as many tokens, weights from memory, 4096 → 4096, one thread of a Zen 5: Q8_0 is as fast at 2 tokens, 0.8
//! at 4, 0.65 at 6, 0.5 at 8 and 0.45 at 25; bf16 0.75 to 0.95 up to 6, 0.66 at 25. Attention of 5 tokens is 0.6 at 600
//! positions and 0.4 at 4096, for each token reads the keys by itself.

#[cfg(target_arch = "x86_64")]
mod float;
mod kernel;
#[cfg(target_arch = "x86_64")]
mod q8_0;
mod scalar;

use std::ops::Range;

use crate::dtype::DType;
use crate::level::{Level, Tier};
use crate::pool::share;
use crate::runtime::Runtime;
use crate::view::{MatMut, MatRef, SharedMat, Weights};
use kernel::{Kernel, Product, Tokens};

/// Variants with f32 weights.
pub const VARIANTS_F32: &[Tier] = &[Tier::Scalar, Tier::Avx2, Tier::Avx512Vnni];
/// Variants with f16 weights.
pub const VARIANTS_F16: &[Tier] = &[Tier::Scalar, Tier::Avx2, Tier::Avx512Vnni];
/// Variants with bf16 weights.
pub const VARIANTS_BF16: &[Tier] = &[Tier::Scalar, Tier::Avx2, Tier::Avx512Vnni, Tier::Avx512Bf16];
/// Variants with Q8_0 weights.
pub const VARIANTS_Q8_0: &[Tier] = &[Tier::Scalar, Tier::Avx2, Tier::Avx512Vnni];

/// MACs below which a product is not worth a fork: some 3 µs of work.
const MIN_FORK_MACS: usize = 1 << 18;

/// Activations below which their preparation is not worth a fork: some 5 µs of work.
const MIN_FORK_PREPARE: usize = 1 << 15;

/// Tasks for each worker, where the work can be cut that fine: a worker whose core is taken away holds up one of them.
const TASKS_PER_WORKER: usize = 8;

/// Bytes of weights that all tokens meet before the next ones, where tokens go by themselves: they stay in L2.
const NEAR: usize = 128 << 10;

/// One of several independent products, see [`matmul_all`].
#[derive(Debug)]
pub struct Job<'a> {
    /// Activations `[·, k]`.
    pub x: MatRef<'a, f32>,
    /// Row `i` of this product is `x.row(rows[i])`; `None`: all rows in order.
    pub rows: Option<&'a [u32]>,
    /// Weights `[n, k]`.
    pub w: Weights<'a>,
    /// Output `[m, n]`, where `m` is the number of `rows`, or else of rows of `x`.
    pub y: MatMut<'a, f32>,
}

/// `y[m][n] = Σ_k x[m][k] · w[n][k]`.
///
/// # Panics
/// If the shapes do not belong together.
pub fn matmul(rt: &Runtime, x: MatRef<f32>, w: Weights, y: MatMut<f32>) {
    matmul_all(
        rt,
        &mut [Job {
            x,
            rows: None,
            w,
            y,
        }],
    );
}

/// All of `jobs`, over the workers at once. Jobs whose `x` is the same view, and whose `rows` are the same slice, share
/// the preparation of their activations.
///
/// # Panics
/// If the shapes of a job do not belong together, or an element of `rows` is not a row of `x`.
pub fn matmul_all(rt: &Runtime, jobs: &mut [Job]) {
    let mut operands: Vec<Operand> = Vec::new();
    let mut products: Vec<Planned> = Vec::with_capacity(jobs.len());
    let mut macs = 0_usize;
    let mut bytes = 0_usize;
    for (at, job) in jobs.iter_mut().enumerate() {
        let tokens = check(at, job);
        let (m, n, k) = (tokens.len(), job.w.rows(), job.w.cols());
        if m == 0 || n == 0 {
            continue;
        }
        let kernel = select(job.w.dtype(), rt.level(), k);
        let dtype = job.w.dtype();
        let known = operands
            .iter()
            .rposition(|operand| operand.dtype == dtype && operand.tokens.same(&tokens));
        let operand = known.unwrap_or_else(|| {
            let operand = Operand::new(rt, tokens, dtype, kernel, bytes);
            bytes = operand.end().next_multiple_of(64);
            operands.push(operand);
            operands.len() - 1
        });
        macs = macs.saturating_add(m.saturating_mul(n).saturating_mul(k));
        products.push(Planned {
            kernel,
            operand,
            w: job.w,
            y: job.y.shared(),
            near_rows: 0,
            task_rows: 0,
            end_task: 0,
        });
    }

    let threads = if macs < MIN_FORK_MACS {
        1
    } else {
        rt.pool().threads()
    };
    let mut prepared = rt.scratch().take::<u8>(bytes);
    prepare(rt, threads, &mut operands, &mut prepared);

    let mut tasks = 0;
    for product in &mut products {
        let (m, n, k) = (product.y.rows(), product.w.rows(), product.w.cols());
        let together = operands[product.operand].together;
        let (granule, most) = product.kernel.task_rows(together, k);
        product.near_rows = if together < m {
            let row_bytes = product.w.dtype().row_bytes(k).expect("whole blocks");
            (NEAR / row_bytes.max(1))
                .next_multiple_of(granule)
                .max(granule)
        } else {
            n
        };
        // Each task has a like share of all MACs, as far as its kernel can cut and wants to.
        let fair = (macs / (threads * TASKS_PER_WORKER)).div_ceil(m.saturating_mul(k).max(1));
        product.task_rows = fair.next_multiple_of(granule).clamp(granule, most);
        tasks += n.div_ceil(product.task_rows);
        product.end_task = tasks;
    }
    let task_of = |task: usize| {
        let at = products.partition_point(|product| product.end_task <= task);
        let product = &products[at];
        let n = product.w.rows();
        let first = product.end_task - n.div_ceil(product.task_rows);
        let start = (task - first) * product.task_rows;
        (product, start..n.min(start + product.task_rows))
    };
    let multiply = |_, task: usize| {
        let (product, rows) = task_of(task);
        let operand = &operands[product.operand];
        let next = (task + 1 < tasks).then(|| task_of(task + 1));
        for start in rows.clone().step_by(product.near_rows) {
            let end = rows.end.min(start + product.near_rows);
            let after = if end < rows.end {
                Some((product.w, end..rows.end))
            } else {
                next.clone().map(|(product, rows)| (product.w, rows))
            };
            for tokens in operand.groups() {
                let at = |token| operand.start + token * operand.token_bytes;
                product.kernel.multiply(
                    rt,
                    &Product {
                        tokens: &operand.tokens.part(tokens.clone()),
                        prepared: &prepared[at(tokens.start)..at(tokens.end)],
                        w: product.w,
                        y: product.y.row_range(tokens.start, tokens.end),
                        next: after.clone(),
                        alike: rt.is_batch_invariant(),
                    },
                    start..end,
                );
            }
        }
    };
    for_each(rt, threads, tasks, multiply);
}

/// Rounds the activations of all operands, each once.
fn prepare(rt: &Runtime, threads: usize, operands: &mut [Operand], prepared: &mut [u8]) {
    let elements: usize = operands.iter().map(Operand::elements).sum();
    let threads = if elements < MIN_FORK_PREPARE {
        1
    } else {
        threads
    };
    let mut tasks = 0;
    for operand in operands.iter_mut() {
        let granules = operand.tokens.len().div_ceil(operand.granule);
        let most = operand.elements() / (MIN_FORK_PREPARE / 4) + 1;
        operand.tasks = if operand.elements() == 0 {
            0
        } else if threads == 1 {
            1
        } else {
            granules.min(most).min(threads * TASKS_PER_WORKER)
        };
        tasks += operand.tasks;
        operand.end_task = tasks;
    }
    let len = prepared.len();
    let mut prepared = MatMut::new(prepared, 1, len).expect("one row of all bytes");
    let prepared = prepared.shared();
    let operands: &[Operand] = operands;
    for_each(rt, threads, tasks, |_, task| {
        let operand = &operands[operands.partition_point(|operand| operand.end_task <= task)];
        let part = task - (operand.end_task - operand.tasks);
        let tokens = share(operand.tokens.len(), operand.granule, operand.tasks, part);
        let start = operand.start + tokens.start * operand.token_bytes;
        // SAFETY: operands lie one after the other, and so do their parts, of which each is one task's.
        let out = unsafe { prepared.tile(0, start, tokens.len() * operand.token_bytes) };
        if operand.together == operand.tokens.len() {
            operand.kernel.prepare(&operand.tokens, tokens, out);
            return;
        }
        for (token, out) in tokens.zip(out.chunks_exact_mut(operand.token_bytes.max(1))) {
            let token = operand.tokens.part(token..token + 1);
            operand.kernel.prepare(&token, 0..1, out);
        }
    });
}

fn for_each(rt: &Runtime, threads: usize, tasks: usize, task: impl Fn(usize, usize) + Sync) {
    if threads == 1 {
        (0..tasks).for_each(|at| task(0, at));
    } else {
        rt.pool().for_each_in_runs(tasks, task);
    }
}

/// The kernel for weights of a type at a level.
fn select(dtype: DType, level: Level, k: usize) -> &'static dyn Kernel {
    if k == 0 {
        // An empty sum: the kernels need not think of it.
        return &scalar::Scalar;
    }
    match (dtype, level.tier()) {
        #[cfg(target_arch = "x86_64")]
        (DType::F32 | DType::F16 | DType::Bf16, tier) if tier > Tier::Scalar => {
            float::select(dtype, tier)
        }
        #[cfg(target_arch = "x86_64")]
        (DType::Q8_0, Tier::Avx2) => &q8_0::AVX2,
        #[cfg(target_arch = "x86_64")]
        (DType::Q8_0, Tier::Avx512Vnni | Tier::Avx512Bf16) => &q8_0::AVX512,
        (DType::F32 | DType::F16 | DType::Bf16 | DType::Q8_0, _) => &scalar::Scalar,
    }
}

/// Checks that a job's shapes belong together, and returns its tokens.
fn check<'a>(at: usize, job: &Job<'a>) -> Tokens<'a> {
    let Job { x, rows, w, y } = job;
    let tokens = Tokens::new(*x, *rows);
    assert!(
        x.cols() == w.cols(),
        "matmul: job {at} has x of {} columns for weights of {}",
        x.cols(),
        w.cols()
    );
    assert!(
        y.rows() == tokens.len() && y.cols() == w.rows(),
        "matmul: job {at} has y of {} × {} for {} tokens and {} outputs",
        y.rows(),
        y.cols(),
        tokens.len(),
        w.rows()
    );
    tokens
}

/// Activations, and where they lie once prepared.
struct Operand<'a> {
    tokens: Tokens<'a>,
    /// Element type of the weights, on which the kernel depends.
    dtype: DType,
    kernel: &'static dyn Kernel,
    /// Tokens that are multiplied together, at most: all of them, unless each is to get the bits that it gets alone.
    together: usize,
    /// First byte among the prepared ones.
    start: usize,
    token_bytes: usize,
    granule: usize,
    tasks: usize,
    end_task: usize,
}

impl<'a> Operand<'a> {
    fn new(
        rt: &Runtime,
        tokens: Tokens<'a>,
        dtype: DType,
        kernel: &'static dyn Kernel,
        start: usize,
    ) -> Self {
        let (m, k) = (tokens.len(), tokens.cols());
        let together = if rt.is_batch_invariant() {
            m.div_ceil(m.div_ceil(kernel.alike()))
        } else {
            m
        };
        let (token_bytes, granule) = kernel.prepared_layout(together, k);
        Self {
            tokens,
            dtype,
            kernel,
            together,
            start,
            token_bytes,
            granule,
            tasks: 0,
            end_task: 0,
        }
    }

    fn end(&self) -> usize {
        let len = self.tokens.len().checked_mul(self.token_bytes);
        len.and_then(|len| len.checked_add(self.start))
            .expect("size of the prepared activations")
    }

    /// The tokens that are multiplied together.
    fn groups(&self) -> impl Iterator<Item = Range<usize>> {
        let len = self.tokens.len();
        let starts = (0..len).step_by(self.together);
        starts.map(move |start| start..len.min(start + self.together))
    }

    /// Elements to prepare.
    fn elements(&self) -> usize {
        if self.token_bytes == 0 {
            0
        } else {
            self.tokens.len() * self.tokens.cols()
        }
    }
}

/// A product, and how it is cut into tasks.
struct Planned<'a> {
    kernel: &'static dyn Kernel,
    operand: usize,
    w: Weights<'a>,
    y: SharedMat<'a, f32>,
    /// Rows that all groups of tokens meet before the next ones.
    near_rows: usize,
    task_rows: usize,
    end_task: usize,
}

/// Rows of `y` that a product's kernel writes.
type Rows = Range<usize>;
