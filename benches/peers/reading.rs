//! The limit as a peer: a loop that does nothing but read as many bytes of memory as an operation has operands.
//!
//! Where an operation is bound by memory, its share of that loop's rate is its share of what the machine gives, in the
//! same minute and from the same kind of pages. Both take these from the allocator: with
//! `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` they are huge ones.

use std::hint::black_box;
use std::rc::Rc;

use tokgate_kernels::limits::{self, STREAM_GRANULE};
use tokgate_kernels::{DType, Op, Runtime, Tier};

use crate::Duel;
use crate::common::attention::{self, LLAMA2_7B, QWEN3_0_6B};
use crate::common::kind::{Kind, kind};
use crate::common::matmul;
use crate::common::moe::QWEN3_30B_A3B;
use crate::common::shapes::{Layer, REPRESENTATIVE};
use crate::common::suite::{Context, Routine, Work};

/// As many more copies than other benches go through, for the loop would find part of those in the last-level cache.
const AS_MANY: usize = 4;

/// Positions of a cache.
const POSITIONS: usize = 4096;

/// Bytes that a thread reads in one go.
const PART: usize = 1 << 20;

/// The duels of `op`'s variant for `tier` where a model is bound by memory: a lone token, and few for experts.
pub fn duels(op: Op, tier: Tier) -> Vec<Duel> {
    match kind(op) {
        Kind::Matmul(dtype) => {
            let product = |layer: Layer| {
                let case = matmul::Case {
                    dtype,
                    m: 1,
                    k: layer.k,
                    n: layer.n,
                    hot: false,
                };
                let (shape, work, bytes) = (case.shape(), case.work(), case.weight_bytes());
                let copies = move |context: &Context| AS_MANY * case.copies(context);
                let ours = move |rt, copies| case.prepare(rt, copies);
                beside((op, tier), shape, work, bytes, copies, ours)
            };
            REPRESENTATIVE.into_iter().map(product).collect()
        }
        Kind::Attention(dtype) => {
            let decoding = |heads| {
                let case = attention::Case {
                    dtype,
                    heads,
                    m: 1,
                    kv: POSITIONS,
                };
                let (shape, work, bytes) = (case.shape(), case.work(), case.kv_bytes());
                let copies = move |context: &Context| AS_MANY * case.copies(context);
                let ours = move |rt, copies| case.prepare(rt, copies);
                beside((op, tier), shape, work, bytes, copies, ours)
            };
            let models = [LLAMA2_7B, QWEN3_0_6B, attention::QWEN3_30B_A3B];
            models.into_iter().map(decoding).collect()
        }
        // No such model comes in other types, and f32 would fill 2.4 GB.
        Kind::Experts(DType::Q8_0) => {
            let block = |m| {
                let work = QWEN3_30B_A3B.work(DType::Q8_0, m);
                let (shape, bytes) = (QWEN3_30B_A3B.shape(m), work.bytes as usize);
                let ours = move |rt, _| QWEN3_30B_A3B.prepare(rt, DType::Q8_0, m);
                beside((op, tier), shape, work, bytes, |_| 1, ours)
            };
            [8, 32].into_iter().map(block).collect()
        }
        Kind::Experts(_) | Kind::Router | Kind::Elementwise(_) => Vec::new(),
    }
}

/// An operation beside a loop that reads `bytes`; both go through as many copies of their operands.
fn beside(
    (op, tier): (Op, Tier),
    shape: String,
    work: Work,
    bytes: usize,
    copies: impl Fn(&Context) -> usize + Copy + 'static,
    ours: impl FnOnce(Rc<Runtime>, usize) -> anyhow::Result<Routine> + 'static,
) -> Duel {
    Duel {
        op,
        tier,
        peer: "read",
        shape,
        work,
        ours: Box::new(move |context| ours(context.runtimes.get(op, tier)?, copies(context))),
        theirs: Box::new(move |context| {
            reading(context.runtimes.get(op, tier)?, bytes, copies(context))
        }),
    }
}

/// Reads `bytes`, of `copies` of them in turn, with the threads of the runtime.
fn reading(rt: Rc<Runtime>, bytes: usize, copies: usize) -> anyhow::Result<Routine> {
    let bytes = bytes.next_multiple_of(STREAM_GRANULE);
    // Ones, for pages of zeros may all be the same one.
    let data = vec![1_u8; copies * bytes + STREAM_GRANULE];
    let first = data.as_ptr().align_offset(STREAM_GRANULE);
    let mut turn = 0;
    Ok(Box::new(move || {
        let (data, level) = (&data[first + turn * bytes..][..bytes], rt.level());
        rt.pool().for_each(bytes.div_ceil(PART), |_, part| {
            let part = &data[part * PART..];
            black_box(limits::read(level, &part[..part.len().min(PART)]));
        });
        turn = (turn + 1) % copies;
    }))
}
