//! What all SIMD variants do with one tile of query rows and one block of keys, written once over [`Simd`].
//!
//! A tile has R rows, a power of two; a row is one token's query of one head, and rows of all heads that share a KV
//! head lie in one tile, so that the block is read once for the group. A word is what [`Simd::mac`] multiplies: an
//! f32, or a pair of bf16. With L lanes a vector, there are three ways to lay them out:
//!
//! - R ≥ L: lanes are rows, and a key is met one word after the other, each broadcast from where the cache has it:
//!   nothing is transposed, nothing is added across lanes, and the softmax is vertical;
//! - R < L, *spread*: lanes are (row, one of G = L / R neighbouring words), the G words being broadcast as one, and
//!   each key's partial sums are added at the end, so that few rows waste no lanes;
//! - R < L, *across*: a vector is L words of one row, G = L, and a key's words are read as they lie. Sums cost more, but
//!   bf16 are widened as they are read, once for all rows, instead of being staged, as broadcasting wants them.
//!
//! Pairs need no staging: a key's neighbours lie side by side in the cache, and two values are woven into pairs as they
//! are read. Up to L rows do so; for more, weaving each block once for all tiles is cheaper.
//!
//! A vector of scores has V = L / G rows of G keys, and there are R / V vectors side by side:
//!
//! ```text
//! queries  [words / G][R][G]     scores, then probabilities [keys / G][R / V][G][V]     (pairs: half the keys)
//! keys     [keys][words]         values [keys or pairs of them][head_dim]               output [R][head_dim]
//! ```
//!
//! WHY so much care for what lies between two reads: few rows are bound by memory, which idles whenever a core has
//! nothing left to ask for, and lines that are asked for all at once hold each other up. What reads ask ahead is therefore
//! spread over the loop as evenly as it will be used, a line or two at a time, the loops over a usual head are unrolled,
//! and a worker goes from one head to the next. On Zen 5, one query of 32/32 heads at 4096 positions, one thread went from
//! 0.73 to 0.95 of what a loop that only reads the same pages reaches, two threads from 0.84 to 1.00, and from 0.76 to 0.96
//! where each core reads what it reads alone.

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::ops::Range;

use half::bf16;

use super::flash::Element;

/// The vectors of an instruction set. A value of an implementing type is made from a `Level` only, so that it proves
/// that the CPU has the instructions; the methods must be inlined into a function that enables them, which
/// [`Simd::meet`] and its neighbours are.
pub(super) trait Simd: Copy + Send + Sync {
    /// `LANES` f32 or words.
    type V: Copy;
    /// A truth value a lane.
    type Mask: Copy;
    const LANES: usize;
    /// Whether a word is a pair of bf16 rather than an f32.
    const PAIRS: bool;
    /// Rows up to which a cache of bf16 is read *across*.
    const ROWS_ACROSS: usize;
    /// Whether there are 32 registers rather than 16.
    const MANY_REGISTERS: bool;

    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `LANES` words can be read.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// # Safety
    /// `LANES` words can be written.
    unsafe fn store(self, to: *mut f32, v: Self::V);
    /// The same `G` words over and over.
    ///
    /// # Safety
    /// `G` words can be read.
    unsafe fn spread<const G: usize>(self, from: *const f32) -> Self::V;
    /// `LANES` bf16 as f32.
    ///
    /// # Safety
    /// `LANES` elements can be read.
    unsafe fn widen(self, from: *const bf16) -> Self::V;
    /// Pairs of an element of `even` and one of `odd`.
    ///
    /// # Safety
    /// `LANES` elements can be read from both.
    unsafe fn zip(self, even: *const bf16, odd: *const bf16) -> Self::V;
    /// Pairs of an element of `even` and one of `odd`, both of twice `LANES` bf16, in an order that is cheap to make;
    /// see [`Simd::unweave`].
    fn weave(self, even: Self::V, odd: Self::V) -> [Self::V; 2];
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b − c`.
    fn mul_sub(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `acc` plus the products of words.
    fn mac(self, acc: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// Sums of neighbours: those of `a`, then those of `b`.
    fn halve(self, a: Self::V, b: Self::V) -> Self::V;
    fn any_greater(self, a: Self::V, b: Self::V) -> bool;
    /// Whether `low ≤ x < high`.
    fn within(self, x: Self::V, low: Self::V, high: Self::V) -> Self::Mask;
    fn select(self, mask: Self::Mask, yes: Self::V, no: Self::V) -> Self::V;
    /// 2ˣ; see [`EXP2`].
    fn exp2(self, x: Self::V) -> Self::V;
    /// Rounds non-negative numbers to bf16.
    fn round(self, x: Self::V) -> Self::V;
    /// Probabilities of 2G keys as words: rounded, and those of two neighbouring keys side by side.
    fn pair<const G: usize>(self, a: Self::V, b: Self::V) -> Self::V;

    /// `LANES` words of a query: pairs of its elements, or these, rounded to bf16 where `ROUND`.
    ///
    /// # Safety
    /// Their elements can be read.
    unsafe fn words<const ROUND: bool>(self, from: *const f32) -> Self::V;

    /// The word that makes [`Simd::mac`] a sum.
    fn pair_of_ones(self) -> Self::V;

    /// [`meet`] with the instructions enabled.
    fn meet<T: Element, E: Element, const VECTORS: usize, const G: usize>(
        self,
        tile: &mut Tile,
        block: &Block<E>,
    );
    /// [`widen_rows`] with the instructions enabled.
    fn widen_rows(self, from: &[bf16], head_dim: usize, to: &mut [f32], stride: usize);
    /// [`zip_rows`] with the instructions enabled.
    fn zip_rows(self, from: &[bf16], head_dim: usize, to: &mut [f32], stride: usize);
    /// [`pack_row`] with the instructions enabled.
    fn pack_row<T: Element>(self, query: &[f32], place: Place, to: &mut [f32]);
    /// Puts a row of output in order that was gathered from values which were woven: each two whole vectors.
    fn unweave(self, row: &mut [f32]);
    /// [`divide`] with the instructions enabled.
    fn divide(self, from: &[f32], by: f32, to: &mut [f32]);
}

/// The polynomial for 2ᶠ on 0 ≤ f < 1, lowest power first: the least relative error of this degree is 7.5e-8, with f32
/// rounding 1.5e-7.
pub(super) const EXP2: [f32; 6] = [
    0.999_999_94,
    0.693_153_1,
    0.240_153_61,
    0.055_826_318,
    0.008_989_34,
    0.001_877_576_7,
];

/// How far scores may rise above the running maximum before sums are rescaled, as a power of two: sums of 2³² · keys
/// are far from overflow, and rescaling becomes as rare as it can be.
pub(super) const SLACK: f32 = 32.0;

/// Where a running maximum starts: below every score.
pub(super) const LOWEST: f32 = f32::MIN;

/// Rows of keys or values, as many as whoever uses it says: f32, bf16, or words.
#[derive(Clone, Copy)]
pub(super) struct Rows<E> {
    /// Row 0; words that lie in a cache of bf16 are aligned to 2 bytes only.
    data: *const E,
    /// Elements from a row to the next.
    stride: usize,
}

impl<E: Copy> Rows<E> {
    pub(super) fn new(data: *const E, stride: usize) -> Self {
        Self { data, stride }
    }

    /// From row `n` on.
    pub(super) fn skip(self, n: usize) -> Self {
        Self::new(self.row(n), self.stride)
    }

    #[inline(always)]
    fn row(self, n: usize) -> *const E {
        self.data.wrapping_add(n * self.stride)
    }
}

/// Memory that will be read soon.
#[derive(Clone, Copy)]
pub(super) struct Ahead(pub(super) *const u8);

impl Ahead {
    /// What comes `bytes` later.
    #[inline(always)]
    fn skip(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Asks for the cache lines that start in these bytes of it, into L1: on Zen 5, 32/32 heads at 4096 positions, one
    /// thread, 5 to 8 % faster than into L2, and no slower for a prompt.
    #[inline(always)]
    fn fetch(self, bytes: Range<usize>) {
        for line in bytes.start.div_ceil(64)..bytes.end.div_ceil(64) {
            // SAFETY: fetching reads nothing, and is allowed at any address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.0.wrapping_add(line * 64).cast()) };
        }
    }
}

/// Widens rows of bf16 to f32.
#[inline(always)]
pub(super) fn widen_rows<S: Simd>(
    simd: S,
    from: &[bf16],
    head_dim: usize,
    to: &mut [f32],
    stride: usize,
) {
    assert!(head_dim.is_multiple_of(S::LANES));
    for (from, to) in from.chunks_exact(head_dim).zip(to.chunks_exact_mut(stride)) {
        assert!(to.len() >= head_dim);
        for at in (0..head_dim).step_by(S::LANES) {
            // SAFETY: both rows have the head size, which is a multiple of the lanes.
            unsafe {
                let wide = simd.widen(from.as_ptr().add(at));
                simd.store(to.as_mut_ptr().add(at), wide);
            }
        }
    }
}

/// Makes words of neighbouring rows: one row of pairs of two rows of bf16. An odd last row is paired with zeros,
/// whatever comes after it.
#[inline(always)]
pub(super) fn zip_rows<S: Simd>(
    simd: S,
    from: &[bf16],
    head_dim: usize,
    to: &mut [f32],
    stride: usize,
) {
    assert!(head_dim.is_multiple_of(S::LANES));
    let zeros = [bf16::ZERO; 16];
    for (pair, to) in from.chunks(2 * head_dim).zip(to.chunks_exact_mut(stride)) {
        assert!(to.len() >= head_dim);
        let both = pair.len() == 2 * head_dim;
        for at in (0..head_dim).step_by(S::LANES) {
            let even = pair.as_ptr().wrapping_add(at);
            let odd = if both {
                even.wrapping_add(head_dim)
            } else {
                zeros.as_ptr()
            };
            // SAFETY: the rows have the head size, which is a multiple of the lanes, and the lanes are at most 16.
            unsafe { simd.store(to.as_mut_ptr().add(at), simd.zip(even, odd)) };
        }
    }
}

/// Where a query lies among those of its tile.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Its row, and how many there are.
    pub(super) row: usize,
    pub(super) rows: usize,
    /// Neighbouring words of a row in a vector.
    pub(super) g: usize,
}

/// Makes words of a query, and puts them where its tile wants them, `[words / G][R][G]`.
#[inline(always)]
pub(super) fn pack_row<S: Simd, T: Element>(simd: S, query: &[f32], place: Place, to: &mut [f32]) {
    const { assert!(S::LANES <= 16) };
    let Place { row, rows, g } = place;
    let elements = S::LANES * if S::PAIRS { 2 } else { 1 };
    let mut at = row * g;
    for query in query.chunks(elements) {
        let mut padded = [0.0; 32];
        let from = if query.len() == elements {
            query.as_ptr()
        } else {
            padded[..query.len()].copy_from_slice(query);
            padded.as_ptr()
        };
        let mut words = [0.0_f32; 16];
        // SAFETY: there are as many elements as a vector of words is made of, and room for those.
        unsafe {
            let v = if T::ROUND {
                simd.words::<true>(from)
            } else {
                simd.words::<false>(from)
            };
            simd.store(words.as_mut_ptr(), v);
        }
        let count = query.len() / (elements / S::LANES);
        match g {
            1 => scatter::<1>(&words[..count], rows, to, &mut at),
            2 => scatter::<2>(&words[..count], rows, to, &mut at),
            4 => scatter::<4>(&words[..count], rows, to, &mut at),
            8 => scatter::<8>(&words[..count], rows, to, &mut at),
            _ => scatter::<16>(&words[..count], rows, to, &mut at),
        }
    }
}

/// Puts groups of `G` words `rows` groups apart, from `at` on.
#[inline(always)]
fn scatter<const G: usize>(words: &[f32], rows: usize, to: &mut [f32], at: &mut usize) {
    for group in words.as_chunks::<G>().0 {
        *to[*at..]
            .first_chunk_mut()
            .expect("a tile's queries have room for all") = *group;
        *at += rows * G;
    }
}

/// `to = from / by`.
#[inline(always)]
pub(super) fn divide(from: &[f32], by: f32, to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from / by;
    }
}

/// A block of keys and values.
#[derive(Clone, Copy)]
pub(super) struct Block<E> {
    /// Keys, at least 1.
    pub(super) keys: usize,
    /// `keys` rows of `head_dim` elements.
    pub(super) k: Rows<E>,
    /// `keys` rows of `head_dim` elements, or with words that are pairs half as many.
    pub(super) v: Rows<E>,
    /// Where to fetch while the scores are computed, as much as the keys are in the cache.
    pub(super) during_scores: Option<Ahead>,
    /// Where to fetch while the values are added up, as much as these are in the cache.
    pub(super) during_values: Option<Ahead>,
}

impl<E: Copy> Block<E> {
    /// Neighbouring keys. Past the end the last one is met again: [`scores_len`] has room for what nobody looks at.
    #[inline(always)]
    fn key_rows<const KEYS: usize>(&self, first: usize) -> [*const E; KEYS] {
        if first + KEYS <= self.keys {
            let row = self.k.row(first);
            std::array::from_fn(|i| row.wrapping_add(i * self.k.stride))
        } else {
            std::array::from_fn(|i| self.k.row((first + i).min(self.keys - 1)))
        }
    }
}

/// A tile of query rows and what they have gathered so far.
pub(super) struct Tile<'a> {
    pub(super) head_dim: usize,
    /// What turns a dot product into a power of two: scale · log₂e.
    pub(super) factor: f32,
    /// Whether `low` and `high` matter: not all lanes see all keys, or the last vector of keys is not full.
    pub(super) masked: bool,
    /// Each lane's first visible key, counted from the block's first.
    pub(super) low: &'a [f32],
    /// The key after each lane's last visible one.
    pub(super) high: &'a [f32],
    pub(super) q: &'a [f32],
    pub(super) scores: &'a mut [f32],
    /// Each lane's running maximum, an integer.
    pub(super) max: &'a mut [f32],
    /// Each lane's running sum; a row's sum is that of its lanes.
    pub(super) sum: &'a mut [f32],
    /// Each row's running output, in the order in which [`Simd::weave`] leaves pairs where values are woven as they are read.
    pub(super) out: &'a mut [f32],
}

/// Words of scores for `keys` keys and `rows` rows: whole vectors of whole register tiles, and of whole pairs where one
/// row's vector holds 16 keys.
pub(super) const fn scores_len(keys: usize, rows: usize) -> usize {
    keys.next_multiple_of(32) * rows
}

/// Scores, softmax and weighted values of one block; `KEYS` is the height of the register tile of scores.
#[inline(always)]
pub(super) fn meet<
    S: Simd,
    T: Element,
    E: Element,
    const VECTORS: usize,
    const G: usize,
    const KEYS: usize,
>(
    simd: S,
    tile: &mut Tile,
    block: &Block<E>,
) {
    let lanes = VECTORS * S::LANES;
    let rows = lanes / G;
    let words = tile.head_dim / if S::PAIRS { 2 } else { 1 };
    assert!(
        E::WORDS || S::PAIRS || G == S::LANES,
        "bf16 are spread in pairs only"
    );
    assert!(block.keys > 0 && words.is_multiple_of(G) && tile.head_dim.is_multiple_of(S::LANES));
    assert!(tile.q.len() >= rows * words && tile.out.len() >= rows * tile.head_dim);
    assert!(tile.scores.len() >= scores_len(block.keys, rows));
    assert!(tile.max.len() >= lanes && tile.sum.len() >= lanes);
    assert!(tile.low.len() >= lanes && tile.high.len() >= lanes);
    // SAFETY: the lengths are asserted above; that `k` and `v` have the rows is `Block`'s invariant.
    unsafe {
        match tile.head_dim {
            // The usual size as a constant unrolls the loops over it.
            128 => phases::<S, T, E, VECTORS, G, KEYS>(simd, tile, block, 128),
            other => phases::<S, T, E, VECTORS, G, KEYS>(simd, tile, block, other),
        }
    }
}

/// What [`meet`] does, one after the other; `head_dim` is the tile's.
///
/// # Safety
/// [`meet`]'s assertions hold.
#[inline(always)]
unsafe fn phases<
    S: Simd,
    T: Element,
    E: Element,
    const VECTORS: usize,
    const G: usize,
    const KEYS: usize,
>(
    simd: S,
    tile: &mut Tile,
    block: &Block<E>,
    head_dim: usize,
) {
    let rows = VECTORS * S::LANES / G;
    // SAFETY: the caller's promise.
    unsafe {
        scores::<S, T, E, VECTORS, G, KEYS>(simd, tile, block, head_dim);
        if tile.masked {
            softmax::<S, T, VECTORS, G, true>(simd, tile, block.keys);
        } else {
            softmax::<S, T, VECTORS, G, false>(simd, tile, block.keys);
        }
        match (rows, S::MANY_REGISTERS) {
            (1, _) => weigh::<S, T, E, G, 1, 8>(simd, tile, block, rows, head_dim),
            (2, true) => weigh::<S, T, E, G, 2, 8>(simd, tile, block, rows, head_dim),
            (2, false) => weigh::<S, T, E, G, 2, 4>(simd, tile, block, rows, head_dim),
            (4, true) => weigh::<S, T, E, G, 4, 4>(simd, tile, block, rows, head_dim),
            (_, true) => weigh::<S, T, E, G, 8, 2>(simd, tile, block, rows, head_dim),
            (_, false) => weigh::<S, T, E, G, 4, 2>(simd, tile, block, rows, head_dim),
        }
    }
}

/// Dot products of all rows with all keys.
///
/// # Safety
/// [`meet`]'s assertions hold.
#[inline(always)]
unsafe fn scores<
    S: Simd,
    T: Element,
    E: Element,
    const VECTORS: usize,
    const G: usize,
    const KEYS: usize,
>(
    simd: S,
    tile: &mut Tile,
    block: &Block<E>,
    head_dim: usize,
) {
    let words = head_dim / if S::PAIRS { 2 } else { 1 };
    let row_bytes = head_dim * size_of::<T>();
    let (q, to) = (tile.q.as_ptr(), tile.scores.as_mut_ptr());
    let mut key = 0;
    while key < block.keys {
        let ahead = |first: usize| {
            block
                .during_scores
                .map(|ahead| ahead.skip(first * row_bytes))
        };
        if G == S::LANES {
            // At most: 16 lanes and two keys a tile.
            let mut sums = [[simd.splat(0.0); 8]; VECTORS];
            for part in 0..G / KEYS {
                let first = key + part * KEYS;
                let rows = block.key_rows(first);
                // SAFETY: the rows are keys of the block, and the queries are as long as `meet` asserted.
                let mut acc = unsafe {
                    dots::<S, T, E, VECTORS, G, KEYS>(simd, q, words, rows, ahead(first))
                };
                for (sums, acc) in sums.iter_mut().zip(&mut acc) {
                    fold(simd, acc, KEYS.ilog2());
                    sums[part] = acc[0];
                }
            }
            for (v, sums) in sums.iter_mut().enumerate() {
                fold(simd, &mut sums[..G / KEYS], (G / KEYS).ilog2());
                let at = key / G * VECTORS + v;
                // SAFETY: key + G is at most the keys that `scores_len` makes room for.
                unsafe { simd.store(to.add(at * S::LANES), sums[0]) };
            }
            key += G;
        } else {
            // SAFETY: as above.
            let mut acc = unsafe {
                dots::<S, T, E, VECTORS, G, KEYS>(simd, q, words, block.key_rows(key), ahead(key))
            };
            fold(simd, &mut acc[0], G.ilog2());
            for (v, acc) in acc.iter().enumerate() {
                for (i, acc) in acc.iter().take(KEYS / G).enumerate() {
                    let at = (key / G + i) * VECTORS + v;
                    // SAFETY: key + KEYS is at most the keys that `scores_len` makes room for.
                    unsafe { simd.store(to.add(at * S::LANES), *acc) };
                }
            }
            key += KEYS;
        }
    }
}

/// Products of `KEYS` keys, summed over the words but not over the `G` neighbours.
///
/// # Safety
/// `q` has `words` words for each row, and so has each key.
#[inline(always)]
unsafe fn dots<
    S: Simd,
    T: Element,
    E: Element,
    const VECTORS: usize,
    const G: usize,
    const KEYS: usize,
>(
    simd: S,
    q: *const f32,
    words: usize,
    k: [*const E; KEYS],
    ahead: Option<Ahead>,
) -> [[S::V; KEYS]; VECTORS] {
    // A step asks for as much as its words are in the cache.
    let bytes = KEYS * G * size_of::<T>() * if S::PAIRS { 2 } else { 1 };
    let mut acc = [[simd.splat(0.0); KEYS]; VECTORS];
    for at in 0..words / G {
        let mut rows = [simd.splat(0.0); VECTORS];
        for (v, rows) in rows.iter_mut().enumerate() {
            // SAFETY: `at` stays below the words; see above.
            *rows = unsafe { simd.load(q.add((at * VECTORS + v) * S::LANES)) };
        }
        for i in 0..KEYS {
            if let Some(ahead) = ahead {
                let share = bytes * i / KEYS..bytes * (i + 1) / KEYS;
                ahead.skip(at * bytes).fetch(share);
            }
            // SAFETY: as above.
            let k = unsafe {
                if E::WORDS || S::PAIRS {
                    simd.spread::<G>(k[i].cast::<f32>().wrapping_add(at * G))
                } else {
                    E::read(simd, k[i].wrapping_add(at * G))
                }
            };
            for v in 0..VECTORS {
                acc[v][i] = simd.mac(acc[v][i], rows[v], k);
            }
        }
    }
    acc
}

/// Adds neighbouring lanes `rounds` times: of 2ʳ vectors each, the sums move up into one.
#[inline(always)]
fn fold<S: Simd>(simd: S, vectors: &mut [S::V], rounds: u32) {
    for round in 1..=rounds {
        for i in 0..vectors.len() >> round {
            vectors[i] = simd.halve(vectors[2 * i], vectors[2 * i + 1]);
        }
    }
}

/// Turns scores into probabilities, in place, and keeps up the running maximum and sum.
///
/// # Safety
/// [`meet`]'s assertions hold.
#[inline(always)]
unsafe fn softmax<S: Simd, T: Element, const VECTORS: usize, const G: usize, const MASKED: bool>(
    simd: S,
    tile: &mut Tile,
    keys: usize,
) {
    let rows = S::LANES / G;
    let step = if S::PAIRS { 2 } else { 1 };
    // Vectors for each of the `VECTORS`, of G keys each.
    let count = keys.div_ceil(G * step) * step;
    let lane_keys: [f32; 16] = std::array::from_fn(|lane| (lane / rows) as f32);
    for v in 0..VECTORS {
        let lanes = v * S::LANES;
        let s = tile.scores.as_mut_ptr();
        // SAFETY: `meet` asserted the lengths; `lane_keys` has the 16 lanes of the widest vector.
        let sight = unsafe {
            Sight {
                low: simd.load(tile.low.as_ptr().add(lanes)),
                high: simd.load(tile.high.as_ptr().add(lanes)),
                keys: simd.load(lane_keys.as_ptr()),
            }
        };
        let mut max = [simd.splat(LOWEST); 4];
        for i in 0..count {
            // SAFETY: `scores_len` covers `count` vectors.
            let mut x = unsafe { simd.load(s.add((i * VECTORS + v) * S::LANES)) };
            if MASKED {
                x = sight.or(simd, i * G, x, simd.splat(LOWEST));
            }
            max[i % 4] = simd.max(x, max[i % 4]);
        }
        let max = simd.max(simd.max(max[0], max[1]), simd.max(max[2], max[3]));
        let max = simd.mul(max, simd.splat(tile.factor));
        // SAFETY: `meet` asserted the length.
        let mut running = unsafe { simd.load(tile.max.as_ptr().add(lanes)) };
        if simd.any_greater(max, simd.add(running, simd.splat(SLACK))) {
            let mut seen = [0.0; 16];
            // SAFETY: the widest vector has 16 lanes.
            unsafe { simd.store(seen.as_mut_ptr(), max) };
            raise(tile, &seen[..S::LANES], v, rows);
            // SAFETY: `meet` asserted the length.
            running = unsafe { simd.load(tile.max.as_ptr().add(lanes)) };
        }
        let factor = simd.splat(tile.factor);
        // SAFETY: `meet` asserted the length.
        let mut sum = unsafe { simd.load(tile.sum.as_ptr().add(lanes)) };
        for i in 0..count / step {
            let mut p = [simd.splat(0.0); 2];
            for (j, p) in p.iter_mut().enumerate().take(step) {
                let i = i * step + j;
                // SAFETY: `scores_len` covers `count` vectors.
                let x = unsafe { simd.load(s.add((i * VECTORS + v) * S::LANES)) };
                *p = simd.exp2(simd.mul_sub(x, factor, running));
                if MASKED {
                    *p = sight.or(simd, i * G, *p, simd.splat(0.0));
                }
            }
            let p = if S::PAIRS {
                let pair = simd.pair::<G>(p[0], p[1]);
                sum = simd.mac(sum, pair, simd.pair_of_ones());
                pair
            } else {
                let p = if T::ROUND { simd.round(p[0]) } else { p[0] };
                sum = simd.add(sum, p);
                p
            };
            // SAFETY: vector i is written where vectors 2i and 2i + 1, or i, have been read, which `scores_len` covers.
            unsafe { simd.store(s.add((i * VECTORS + v) * S::LANES), p) };
        }
        // SAFETY: `meet` asserted the length.
        unsafe { simd.store(tile.sum.as_mut_ptr().add(lanes), sum) };
    }
}

/// Which keys the lanes of a vector see.
struct Sight<V> {
    low: V,
    high: V,
    /// The lanes' keys, counted from the vector's first.
    keys: V,
}

impl<V: Copy> Sight<V> {
    /// `x` in the lanes that see their key of the vector which starts at `first`, otherwise `hidden`.
    #[inline(always)]
    fn or<S: Simd<V = V>>(&self, simd: S, first: usize, x: V, hidden: V) -> V {
        let keys = simd.add(self.keys, simd.splat(first as f32));
        simd.select(simd.within(keys, self.low, self.high), x, hidden)
    }
}

/// Raises the running maximum of those of vector `v`'s rows that outgrew it, and rescales their sums.
#[cold]
fn raise(tile: &mut Tile, seen: &[f32], v: usize, rows: usize) {
    let lanes = seen.len();
    let max = &mut tile.max[v * lanes..][..lanes];
    let sum = &mut tile.sum[v * lanes..][..lanes];
    for row in 0..rows {
        let seen = seen.iter().skip(row).step_by(rows);
        let seen = seen.fold(LOWEST, |max, x| max.max(*x));
        let running = max[row];
        if seen > running + SLACK {
            let raised = seen.ceil();
            let shrink = pow2(running - raised);
            for lane in (row..lanes).step_by(rows) {
                max[lane] = raised;
                sum[lane] *= shrink;
            }
            for x in &mut tile.out[(v * rows + row) * tile.head_dim..][..tile.head_dim] {
                *x *= shrink;
            }
        }
    }
}

/// 2ˣ of an integer x ≤ 0, zero where that is no normal number.
pub(super) fn pow2(x: f32) -> f32 {
    if x < -126.0 {
        0.0
    } else {
        f32::from_bits(((x as i32 + 127) as u32) << 23)
    }
}

/// Adds the values, weighted by the probabilities, to the output; `ROWS` × `WIDE` vectors are the register tile.
///
/// # Safety
/// [`meet`]'s assertions hold, and `ROWS` divides `rows`.
#[inline(always)]
unsafe fn weigh<
    S: Simd,
    T: Element,
    E: Element,
    const G: usize,
    const ROWS: usize,
    const WIDE: usize,
>(
    simd: S,
    tile: &mut Tile,
    block: &Block<E>,
    rows: usize,
    head_dim: usize,
) {
    let vectors = head_dim / S::LANES;
    let mut at = 0;
    // SAFETY: strips end at the head size.
    unsafe {
        while at + WIDE <= vectors {
            strip::<S, T, E, G, ROWS, WIDE>(simd, tile, block, rows, head_dim, at * S::LANES);
            at += WIDE;
        }
        if WIDE > 4 && at + 4 <= vectors {
            strip::<S, T, E, G, ROWS, 4>(simd, tile, block, rows, head_dim, at * S::LANES);
            at += 4;
        }
        if WIDE > 2 && at + 2 <= vectors {
            strip::<S, T, E, G, ROWS, 2>(simd, tile, block, rows, head_dim, at * S::LANES);
            at += 2;
        }
        if at < vectors {
            strip::<S, T, E, G, ROWS, 1>(simd, tile, block, rows, head_dim, at * S::LANES);
        }
    }
}

/// One strip of columns.
///
/// # Safety
/// As for [`weigh`]; `column` + `WIDE` vectors are at most the head size.
#[inline(always)]
unsafe fn strip<
    S: Simd,
    T: Element,
    E: Element,
    const G: usize,
    const ROWS: usize,
    const WIDE: usize,
>(
    simd: S,
    tile: &mut Tile,
    block: &Block<E>,
    rows: usize,
    head_dim: usize,
    column: usize,
) {
    let step = if S::PAIRS { 2 } else { 1 };
    let count = block.keys.div_ceil(step);
    let weaves = S::PAIRS && !E::WORDS;
    let p = tile.scores.as_ptr();
    // The strips share what there is to fetch.
    let bytes = step * WIDE * S::LANES * size_of::<T>();
    let share = block
        .during_values
        .map(|ahead| ahead.skip(block.keys * column * size_of::<T>()));
    for row in (0..rows).step_by(ROWS) {
        let ahead = share.filter(|_| row == 0);
        let out = tile.out.as_mut_ptr();
        let to = |r: usize, w: usize| (row + r) * head_dim + column + w * S::LANES;
        let mut acc = [[simd.splat(0.0); WIDE]; ROWS];
        for (r, acc) in acc.iter_mut().enumerate() {
            for (w, acc) in acc.iter_mut().enumerate() {
                // SAFETY: `meet` asserted that the output has all rows.
                *acc = unsafe { simd.load(out.add(to(r, w))) };
            }
        }
        // Of the values, which are keys, or pairs of them where these are rows already.
        let whole = if weaves { block.keys / 2 } else { count };
        let mut from = block.v.row(0).wrapping_add(column);
        for i in 0..whole {
            // SAFETY: `v` has these rows of the head size; the probabilities are `count` of `rows`.
            unsafe {
                let ahead = ahead.map(|ahead| ahead.skip(i * bytes));
                let second = from.wrapping_add(block.v.stride);
                let v = words::<S, E, WIDE>(simd, [from, second], ahead, bytes);
                add_weighted::<S, G, ROWS, WIDE>(simd, &mut acc, v, p, i, rows, row);
            }
            from = from.wrapping_add(block.v.stride * if weaves { 2 } else { 1 });
        }
        if whole < count {
            // An odd last key is paired with itself, at no probability.
            // SAFETY: as above.
            unsafe {
                let v = words::<S, E, WIDE>(simd, [from, from], None, bytes);
                add_weighted::<S, G, ROWS, WIDE>(simd, &mut acc, v, p, whole, rows, row);
            }
        }
        for (r, acc) in acc.iter_mut().enumerate() {
            for (w, acc) in acc.iter().enumerate() {
                // SAFETY: as for the loads.
                unsafe { simd.store(out.add(to(r, w)), *acc) };
            }
        }
    }
}

/// Words of `WIDE` vectors of columns: of one row where its elements are words, otherwise of one or two rows of bf16.
/// Reading them asks for `bytes` ahead, each vector for its share, lest a value asks for all of its lines at once: on Zen
/// 5, 32/32 heads at 4096 positions, one thread, 3 % faster.
///
/// # Safety
/// The rows have these columns; the second is read only where words are pairs.
#[inline(always)]
unsafe fn words<S: Simd, E: Element, const WIDE: usize>(
    simd: S,
    [row, second]: [*const E; 2],
    ahead: Option<Ahead>,
    bytes: usize,
) -> [S::V; WIDE] {
    let mut v = [simd.splat(0.0); WIDE];
    let fetch = |vectors: Range<usize>| {
        if let Some(ahead) = ahead {
            ahead.fetch(bytes * vectors.start / WIDE..bytes * vectors.end / WIDE);
        }
    };
    // SAFETY: the caller's promise.
    unsafe {
        if S::PAIRS && !E::WORDS {
            for (two, v) in v.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let w = 2 * two;
                fetch(w..w + 2);
                let [even, odd] = [row, second].map(|row| simd.load(row.add(w * S::LANES).cast()));
                *v = simd.weave(even, odd);
            }
            if WIDE % 2 == 1 {
                let w = WIDE - 1;
                fetch(w..WIDE);
                let [even, odd] = [row, second].map(|row| row.add(w * S::LANES).cast());
                v[w] = simd.zip(even, odd);
            }
        } else {
            for (w, v) in v.iter_mut().enumerate() {
                fetch(w..w + 1);
                *v = E::read(simd, row.add(w * S::LANES));
            }
        }
    }
    v
}

/// Adds the words of value `i`, or of pair `i` of values, to the sums of `ROWS` of the `rows` rows, from `row` on, weighted
/// by the probabilities at `p`.
///
/// # Safety
/// There are probabilities of that value for all `rows`.
#[inline(always)]
unsafe fn add_weighted<S: Simd, const G: usize, const ROWS: usize, const WIDE: usize>(
    simd: S,
    acc: &mut [[S::V; WIDE]; ROWS],
    v: [S::V; WIDE],
    p: *const f32,
    i: usize,
    rows: usize,
    row: usize,
) {
    for (r, acc) in acc.iter_mut().enumerate() {
        let at = if G == S::LANES {
            (i / G * rows + row + r) * G + i % G
        } else {
            i * rows + row + r
        };
        // SAFETY: the caller's promise.
        let p = unsafe { simd.spread::<1>(p.add(at)) };
        for (acc, v) in acc.iter_mut().zip(v) {
            *acc = simd.mac(*acc, p, v);
        }
    }
}
