//! Causal attention over a cache of keys and values, with grouped queries and an optional sliding window.
//!
//! SHAPES. A [`Segment`] is one sequence: queries `q [tokens, n_head · head_dim]`, token `i` standing at position
//! `start + i`, and the cache of that sequence and layer, `k` and `v` each `[n_kv_head, capacity, head_dim]`, in which
//! the positions below `start + tokens` are filled. Query head `h` reads KV head `h / (n_head / n_kv_head)`. A call
//! takes any number of segments, so that a server decodes all its sequences in one fork and join. Heads may have any size;
//! variants pad those that are no multiple of 16, a block of keys at a time, which costs a copy of what is read.
//!
//! DEFINITION. For token `i` and head `h`, over the keys `j` with `start + i − window < j ≤ start + i`:
//!
//! ```text
//! x[j]   = (q · k[j]) · scale · log₂e
//! p[j]   = 2^(x[j] − M)            M: any integer ≥ every x[j] − 32
//! out    = Σ p[j] · v[j] / Σ p[j]
//! ```
//!
//! NUMERICS. Scores, exponentials and sums are f32. Over a bf16 cache, `q` is rounded to bf16 before the dot product
//! and `p` before both sums, in every variant, which is what `vdpbf16ps` takes. `M` is an *integer*: changing it scales
//! by a power of two, which commutes with all of these roundings, so that neither the blocks in which a variant walks
//! the keys, nor when it notices a larger score, shows in the result beyond the order of additions. How the keys are
//! cut into parts depends on the shapes alone: every thread count gives the same bits. In a
//! [batch-invariant](Runtime::batch_invariant) runtime each token is cut as a segment of its own. Cache entries outside of the
//! positions that some query of the segment sees are never looked at; those inside must be finite.
//!
//! WHY online: the scores of a query are met in blocks and forgotten, so that the memory is a tile a worker, whatever
//! the length of the sequence. WHY rows in lanes: keys are used as the cache has them, so that decoding and reading a
//! prompt are the same loop. On Emerald Rapids, two threads, a prompt of 512 at 4096 positions, 32/4 heads of 128, bf16:
//! 141 GMAC/s by f32 FMA, 76 % of what registers give in the same run, and 84 by `vdpbf16ps`, 95 % of it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod flash;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod task;
#[cfg(target_arch = "x86_64")]
mod tile;

use std::num::NonZeroUsize;

use half::bf16;

use crate::level::{Level, Tier};
#[cfg(target_arch = "x86_64")]
use crate::op::Op;
use crate::runtime::Runtime;
use crate::view::{MatMut, MatRef, ShapeError};

/// Variants over an f32 cache.
pub const VARIANTS_F32: &[Tier] = &[Tier::Scalar, Tier::Avx2, Tier::Avx512Vnni];
/// Variants over a bf16 cache.
pub const VARIANTS_BF16: &[Tier] = &Tier::ALL;

/// What is the same for all tokens of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads; a multiple of `n_kv_head`.
    pub n_head: usize,
    /// Heads of the cache.
    pub n_kv_head: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Factor of the scores, positive; as a rule `1 / √head_dim`.
    pub scale: f32,
    /// How many positions a query sees, its own included; `None` sees all that came before.
    pub window: Option<NonZeroUsize>,
}

impl AttentionSpec {
    /// Query heads that share a head of the cache.
    ///
    /// # Panics
    /// If there are no heads, or `n_head` is not a multiple of `n_kv_head`.
    pub fn group(&self) -> usize {
        assert!(
            self.n_kv_head > 0 && self.n_head > 0 && self.n_head.is_multiple_of(self.n_kv_head),
            "{} query heads cannot share {} KV heads",
            self.n_head,
            self.n_kv_head
        );
        self.n_head / self.n_kv_head
    }

    /// The first position that the query at `position` sees.
    fn first_key(&self, position: usize) -> usize {
        self.window
            .map_or(0, |window| (position + 1).saturating_sub(window.get()))
    }
}

/// Keys and values of one sequence and layer, each `[n_kv_head, capacity, head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct Cache<'a, T> {
    k: &'a [T],
    v: &'a [T],
    n_kv_head: usize,
    capacity: usize,
    head_dim: usize,
}

impl<'a, T> Cache<'a, T> {
    /// A view of a cache that holds `capacity` positions.
    ///
    /// # Errors
    /// [`ShapeError`] if `k` or `v` holds fewer than `n_kv_head · capacity · head_dim` elements.
    pub fn new(
        k: &'a [T],
        v: &'a [T],
        n_kv_head: usize,
        capacity: usize,
        head_dim: usize,
    ) -> Result<Self, ShapeError> {
        let len = cache_len(k.len().min(v.len()), n_kv_head, capacity, head_dim)?;
        Ok(Self {
            k: &k[..len],
            v: &v[..len],
            n_kv_head,
            capacity,
            head_dim,
        })
    }

    /// Positions that it has room for.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// The keys of a head, `[capacity, head_dim]`.
    ///
    /// # Panics
    /// If there is no such head.
    pub fn keys(&self, kv_head: usize) -> &'a [T] {
        let len = self.capacity * self.head_dim;
        &self.k[kv_head * len..][..len]
    }

    /// The values of a head, `[capacity, head_dim]`.
    ///
    /// # Panics
    /// If there is no such head.
    pub fn values(&self, kv_head: usize) -> &'a [T] {
        let len = self.capacity * self.head_dim;
        &self.v[kv_head * len..][..len]
    }
}

/// A [`Cache`] that can be written.
#[derive(Debug)]
pub struct CacheMut<'a, T> {
    k: &'a mut [T],
    v: &'a mut [T],
    n_kv_head: usize,
    capacity: usize,
    head_dim: usize,
}

impl<'a, T> CacheMut<'a, T> {
    /// A view of a cache that holds `capacity` positions.
    ///
    /// # Errors
    /// [`ShapeError`] if `k` or `v` holds fewer than `n_kv_head · capacity · head_dim` elements.
    pub fn new(
        k: &'a mut [T],
        v: &'a mut [T],
        n_kv_head: usize,
        capacity: usize,
        head_dim: usize,
    ) -> Result<Self, ShapeError> {
        let len = cache_len(k.len().min(v.len()), n_kv_head, capacity, head_dim)?;
        Ok(Self {
            k: &mut k[..len],
            v: &mut v[..len],
            n_kv_head,
            capacity,
            head_dim,
        })
    }
}

/// A cache in any type that can be attended to.
#[derive(Clone, Copy, Debug)]
pub enum KvRef<'a> {
    /// f32 keys and values.
    F32(Cache<'a, f32>),
    /// bf16 keys and values.
    Bf16(Cache<'a, bf16>),
}

/// A cache in any type that can be written.
#[derive(Debug)]
pub enum KvMut<'a> {
    /// f32 keys and values.
    F32(CacheMut<'a, f32>),
    /// bf16 keys and values.
    Bf16(CacheMut<'a, bf16>),
}

/// One sequence's queries, where they stand, what they see, and where the answer goes.
#[derive(Debug)]
pub struct Segment<'a> {
    /// `[tokens, n_head · head_dim]`, already rotated.
    pub q: MatRef<'a, f32>,
    /// Position of the first token.
    pub start: usize,
    /// The sequence's cache, filled for all positions below `start + tokens`.
    pub kv: KvRef<'a>,
    /// `[tokens, n_head · head_dim]`.
    pub out: MatMut<'a, f32>,
}

impl Segment<'_> {
    /// Each token as a segment of its own.
    fn tokens(&mut self) -> impl Iterator<Item = Segment<'_>> {
        let (q, start, kv) = (self.q, self.start, self.kv);
        self.out
            .row_mats()
            .enumerate()
            .map(move |(i, out)| Segment {
                q: q.row_range(i, i + 1),
                start: start + i,
                kv,
                out,
            })
    }
}

/// Attends each segment's queries to its cache.
///
/// # Panics
/// If the shapes do not belong together, a segment's tokens stand past its cache's capacity, or the scale is not a
/// positive number.
pub fn attention(rt: &Runtime, spec: &AttentionSpec, segments: &mut [Segment]) {
    assert!(
        spec.scale > 0.0 && spec.scale.is_finite(),
        "{} is no scale",
        spec.scale
    );
    let width = spec.n_kv_head * spec.group() * spec.head_dim;
    for Segment { q, start, kv, out } in segments.iter() {
        let (n_kv_head, capacity, head_dim) = match kv {
            KvRef::F32(cache) => (cache.n_kv_head, cache.capacity, cache.head_dim),
            KvRef::Bf16(cache) => (cache.n_kv_head, cache.capacity, cache.head_dim),
        };
        assert_eq!(
            (n_kv_head, head_dim),
            (spec.n_kv_head, spec.head_dim),
            "heads and head size of the cache"
        );
        assert_eq!(q.cols(), width, "width of the queries");
        assert_eq!(
            (out.rows(), out.cols()),
            (q.rows(), width),
            "shape of the output"
        );
        assert!(
            *start <= capacity && q.rows() <= capacity - start,
            "positions {start}..+{} in a cache of {capacity}",
            q.rows()
        );
    }
    if spec.head_dim == 0 {
        return;
    }
    if rt.is_batch_invariant() {
        let mut segments: Vec<_> = segments.iter_mut().flat_map(Segment::tokens).collect();
        dispatch(rt, spec, &mut segments);
    } else {
        dispatch(rt, spec, segments);
    }
}

#[cfg(not(target_arch = "x86_64"))]
use scalar::attention as dispatch;

#[cfg(target_arch = "x86_64")]
fn dispatch(rt: &Runtime, spec: &AttentionSpec, segments: &mut [Segment]) {
    use avx2::Avx2;
    use avx512::{Avx512, Avx512Bf16};
    let level = rt.level();
    match Op::AttentionF32.variant(level) {
        Tier::Scalar => return scalar::attention(rt, spec, segments),
        Tier::Avx2 => flash::attention::<_, f32>(Avx2::new(level), rt, spec, segments),
        Tier::Avx512Vnni | Tier::Avx512Bf16 => {
            flash::attention::<_, f32>(Avx512::new(level), rt, spec, segments);
        }
    }
    match Op::AttentionBf16.variant(level) {
        Tier::Scalar => unreachable!("both caches have the same lowest variant"),
        Tier::Avx2 => flash::attention::<_, bf16>(Avx2::new(level), rt, spec, segments),
        Tier::Avx512Vnni => flash::attention::<_, bf16>(Avx512::new(level), rt, spec, segments),
        Tier::Avx512Bf16 => {
            flash::attention::<_, bf16>(Avx512Bf16::new(level), rt, spec, segments);
        }
    }
}

/// Writes the rows of positions `start..` into a cache: `k` and `v` are `[tokens, n_kv_head · head_dim]`, and are
/// rounded to nearest, ties to even, where the cache is bf16.
///
/// # Panics
/// If the shapes do not belong together, or the tokens stand past the cache's capacity.
pub fn store_kv(
    rt: &Runtime,
    spec: &AttentionSpec,
    start: usize,
    k: MatRef<f32>,
    v: MatRef<f32>,
    kv: KvMut,
) {
    match kv {
        KvMut::F32(cache) => store(rt, spec, start, k, v, cache, |to, from| {
            to.copy_from_slice(from);
        }),
        KvMut::Bf16(cache) => {
            let round = rounding(rt.level());
            // SAFETY: the level proves the instructions.
            store(rt, spec, start, k, v, cache, |to, from| unsafe {
                round(to, from)
            });
        }
    }
}

/// Rounds to bf16 with the instructions of a level; the results are the same at all of them.
fn rounding(level: Level) -> unsafe fn(&mut [bf16], &[f32]) {
    match level.tier() {
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => avx2::round,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512Vnni | Tier::Avx512Bf16 => avx512::round,
        _ => round,
    }
}

/// As [`bf16::from_f32`], without branches, so that the compiler makes vectors of it.
#[inline(always)]
fn round(to: &mut [bf16], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        let bits = from.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        let bits = if from.is_nan() {
            bits >> 16 | 0x40
        } else {
            rounded
        };
        *to = bf16::from_bits(bits as u16);
    }
}

fn store<T: Send>(
    rt: &Runtime,
    spec: &AttentionSpec,
    start: usize,
    k: MatRef<f32>,
    v: MatRef<f32>,
    cache: CacheMut<T>,
    convert: impl Fn(&mut [T], &[f32]) + Sync,
) {
    let (heads, head_dim) = (spec.n_kv_head, spec.head_dim);
    let (tokens, capacity) = (k.rows(), cache.capacity);
    assert_eq!(
        (cache.n_kv_head, cache.head_dim),
        (heads, head_dim),
        "heads and head size of the cache"
    );
    assert_eq!(k.cols(), heads * head_dim, "width of the keys");
    assert_eq!(
        (v.rows(), v.cols()),
        (tokens, heads * head_dim),
        "shape of the values"
    );
    assert!(
        start <= capacity && tokens <= capacity - start,
        "positions {start}..+{tokens} in a cache of {capacity}"
    );
    let rows = heads * capacity;
    let fits = "a cache is its heads' rows";
    let mut keys = MatMut::new(cache.k, rows, head_dim).expect(fits);
    let mut values = MatMut::new(cache.v, rows, head_dim).expect(fits);
    let parts = [(k, keys.shared()), (v, values.shared())];
    let copy = |part: usize| {
        let ((from, to), head) = (&parts[part % 2], part / 2);
        for token in 0..tokens {
            // SAFETY: each part has a tensor and head, thus rows, of its own.
            let row = unsafe { to.tile(head * capacity + start + token, 0, head_dim) };
            convert(row, &from.row(token)[head * head_dim..][..head_dim]);
        }
    };
    if tokens < FORK_TOKENS {
        (0..2 * heads).for_each(copy);
    } else {
        rt.pool().for_each(2 * heads, |_, part| copy(part));
    }
}

/// Tokens from which storing them is worth a fork: a token of 1024 elements takes a fraction of a microsecond, which
/// is what the fork costs.
const FORK_TOKENS: usize = 8;

fn cache_len(
    len: usize,
    n_kv_head: usize,
    capacity: usize,
    head_dim: usize,
) -> Result<usize, ShapeError> {
    let rows = n_kv_head.checked_mul(capacity);
    let needed = rows.and_then(|rows| rows.checked_mul(head_dim));
    needed
        .filter(|needed| *needed <= len)
        .ok_or(ShapeError::OutOfBounds {
            rows: rows.unwrap_or(usize::MAX),
            cols: head_dim,
            stride: head_dim,
            len,
        })
}
