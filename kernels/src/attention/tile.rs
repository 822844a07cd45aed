//! What all SIMD variants do with one tile of query rows and one block of keys, written once over [`Simd`].
//!
//! A tile has R rows, a power of two; a row is one token's query of one head, and rows of all heads that share a KV
//! head lie in one tile, so that the block is read once for the group. With L lanes a vector,
//!
//! - R ≥ L: lanes are rows, and a key is met one *word* after the other, each broadcast from where the cache has it:
//!   nothing is transposed, nothing is reduced across lanes, and the softmax is vertical;
//! - R < L: lanes are (row, one of G = L / R neighbouring words), the G words being broadcast as one, and each key's
//!   partial sums are added at the end, so that single queries waste no lanes either.
//!
//! A word is what [`Simd::mac`] multiplies: an f32, or a pair of bf16.
//!
//! ```text
//! queries  [words / G][R][G]     scores [keys][R]     probabilities, in their place: [keys or pairs of them][R]
//! keys     [keys][words]         values [keys or pairs of them][head_dim]         output [R][head_dim]
//! ```

use super::flash::{Block, Element, Staged};

/// The vectors of an instruction set. A value of an implementing type is made from a `Level` only, so that it proves
/// that the CPU has the instructions; the methods must be inlined into a function that enables them, which
/// [`Simd::block`] and [`Simd::stage`] are.
pub(super) trait Simd: Copy + Send + Sync {
    /// `LANES` f32 or words.
    type V: Copy;
    /// A truth value a lane.
    type Mask: Copy;
    const LANES: usize;
    /// Whether a word is a pair of bf16 rather than an f32.
    const PAIRS: bool;
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
    /// Probabilities of keys [2G][R] as words, [G][R]: rounded, and those of two neighbouring keys side by side.
    fn pair<const G: usize>(self, a: Self::V, b: Self::V) -> Self::V;

    /// The word that makes [`Simd::mac`] a sum.
    fn pair_of_ones(self) -> Self::V;

    /// [`block`] with the instructions enabled.
    fn block<T: Element, const VECTORS: usize, const G: usize>(self, tile: &mut Tile);
    /// [`Element::stage`] with the instructions enabled.
    fn stage<T: Element>(self, block: Block<T>, buffer: &mut [f32]) -> Staged;
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

/// Rows of keys or values in words, as many as whoever uses it says.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// Row 0; bf16 in a cache are aligned to 2 bytes only.
    data: *const f32,
    /// Words from a row to the next.
    stride: usize,
}

impl Rows {
    pub(super) fn new(data: *const f32, stride: usize) -> Self {
        Self { data, stride }
    }

    /// From row `n` on.
    pub(super) fn skip(self, n: usize) -> Self {
        Self::new(self.row(n), self.stride)
    }

    #[inline(always)]
    fn row(self, n: usize) -> *const f32 {
        self.data.wrapping_add(n * self.stride)
    }
}

/// One tile's state and the block that it meets.
pub(super) struct Tile<'a> {
    pub(super) head_dim: usize,
    /// Keys of the block, at least 1.
    pub(super) keys: usize,
    /// `keys` rows of `head_dim` elements.
    pub(super) k: Rows,
    /// `keys`, or with pairs half as many, rows of `head_dim` words.
    pub(super) v: Rows,
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
    /// Each row's running output.
    pub(super) out: &'a mut [f32],
}

/// Words of scores for `keys` keys and `rows` rows: whole vectors of whole register tiles, and of whole pairs where one
/// row's vector holds 16 keys.
pub(super) const fn scores_len(keys: usize, rows: usize) -> usize {
    keys.next_multiple_of(32) * rows
}

/// Scores, softmax and weighted values of one block; `KEYS` is the height of the register tile of scores.
#[inline(always)]
pub(super) fn block<
    S: Simd,
    T: Element,
    const VECTORS: usize,
    const G: usize,
    const KEYS: usize,
>(
    simd: S,
    tile: &mut Tile,
) {
    let lanes = VECTORS * S::LANES;
    let rows = lanes / G;
    let words = tile.head_dim / if S::PAIRS { 2 } else { 1 };
    assert!(tile.keys > 0 && words.is_multiple_of(G) && tile.head_dim.is_multiple_of(S::LANES));
    assert!(tile.q.len() >= rows * words && tile.out.len() >= rows * tile.head_dim);
    assert!(tile.scores.len() >= scores_len(tile.keys, rows));
    assert!(tile.max.len() >= lanes && tile.sum.len() >= lanes);
    assert!(tile.low.len() >= lanes && tile.high.len() >= lanes);
    // SAFETY: the lengths are asserted above; that `k` and `v` have the rows is `Tile`'s invariant.
    unsafe {
        scores::<S, VECTORS, G, KEYS>(simd, tile, words);
        if tile.masked {
            softmax::<S, T, VECTORS, G, true>(simd, tile);
        } else {
            softmax::<S, T, VECTORS, G, false>(simd, tile);
        }
        match (rows, S::MANY_REGISTERS) {
            (1, _) => weigh::<S, 1, 8>(simd, tile, rows),
            (2, _) => weigh::<S, 2, 4>(simd, tile, rows),
            (4, true) => weigh::<S, 4, 4>(simd, tile, rows),
            (_, true) => weigh::<S, 8, 2>(simd, tile, rows),
            (_, false) => weigh::<S, 4, 2>(simd, tile, rows),
        }
    }
}

/// Dot products of all rows with all keys.
///
/// # Safety
/// [`block`]'s assertions hold.
#[inline(always)]
unsafe fn scores<S: Simd, const VECTORS: usize, const G: usize, const KEYS: usize>(
    simd: S,
    tile: &mut Tile,
    words: usize,
) {
    let (q, to) = (tile.q.as_ptr(), tile.scores.as_mut_ptr());
    let last = tile.keys - 1;
    let mut key = 0;
    while key <= last {
        // Past the end the last key is met again: `scores_len` has room for what nobody will look at.
        let row = |i: usize| tile.k.row((key + i).min(last));
        if G <= KEYS {
            // SAFETY: the rows are keys of the block, and the queries are as long as `block` asserted.
            let mut acc = unsafe { dots::<S, VECTORS, G, KEYS>(simd, q, words, row) };
            fold_neighbours::<S, KEYS, G>(simd, &mut acc[0], G);
            for (v, acc) in acc.iter().enumerate() {
                for (i, acc) in acc.iter().take(KEYS / G).enumerate() {
                    let at = (key / G + i) * VECTORS + v;
                    // SAFETY: key + KEYS is at most the keys that `scores_len` makes room for.
                    unsafe { simd.store(to.add(at * S::LANES), *acc) };
                }
            }
            key += KEYS;
        } else {
            // One row whose vector holds more keys than a register tile has: two tiles make one vector.
            // SAFETY: as above.
            let halves = unsafe {
                [
                    dots::<S, 1, G, KEYS>(simd, q, words, row),
                    dots::<S, 1, G, KEYS>(simd, q, words, |i| row(KEYS + i)),
                ]
            };
            let [a, b] = halves.map(|[mut acc]| {
                fold_neighbours::<S, KEYS, G>(simd, &mut acc, KEYS);
                acc[0]
            });
            // SAFETY: as above, for 2 · KEYS = G keys.
            unsafe { simd.store(to.add(key), simd.halve(a, b)) };
            key += 2 * KEYS;
        }
    }
}

/// Products of `KEYS` keys, summed over the words but not over the `G` neighbours.
///
/// # Safety
/// `q` has `words` words for each row, and so has each key.
#[inline(always)]
unsafe fn dots<S: Simd, const VECTORS: usize, const G: usize, const KEYS: usize>(
    simd: S,
    q: *const f32,
    words: usize,
    row: impl Fn(usize) -> *const f32,
) -> [[S::V; KEYS]; VECTORS] {
    let k: [*const f32; KEYS] = std::array::from_fn(row);
    let mut acc = [[simd.splat(0.0); KEYS]; VECTORS];
    for at in 0..words / G {
        // SAFETY: `at` stays below the words; see above.
        let q: [S::V; VECTORS] =
            std::array::from_fn(|v| unsafe { simd.load(q.add((at * VECTORS + v) * S::LANES)) });
        for i in 0..KEYS {
            // SAFETY: as above.
            let k = unsafe { simd.spread::<G>(k[i].add(at * G)) };
            for v in 0..VECTORS {
                acc[v][i] = simd.mac(acc[v][i], q[v], k);
            }
        }
    }
    acc
}

/// Adds neighbouring lanes, `width` of them, of all vectors; the sums move up into the first `KEYS / width` vectors.
#[inline(always)]
fn fold_neighbours<S: Simd, const KEYS: usize, const G: usize>(
    simd: S,
    acc: &mut [S::V; KEYS],
    width: usize,
) {
    let mut vectors = KEYS;
    while vectors > KEYS / width {
        vectors /= 2;
        for i in 0..vectors {
            acc[i] = simd.halve(acc[2 * i], acc[2 * i + 1]);
        }
    }
}

/// Turns scores into probabilities, in place, and keeps up the running maximum and sum.
///
/// # Safety
/// [`block`]'s assertions hold.
#[inline(always)]
unsafe fn softmax<S: Simd, T: Element, const VECTORS: usize, const G: usize, const MASKED: bool>(
    simd: S,
    tile: &mut Tile,
) {
    let rows = VECTORS * S::LANES / G;
    let step = if S::PAIRS { 2 } else { 1 };
    // Vectors for each of the `VECTORS`, of G keys each.
    let count = tile.keys.div_ceil(G * step) * step;
    let factor = simd.splat(tile.factor);
    let lane_keys: [f32; 16] = std::array::from_fn(|lane| (lane / rows) as f32);
    for v in 0..VECTORS {
        let lanes = v * S::LANES;
        let s = tile.scores.as_mut_ptr();
        let at = |i: usize| (i * VECTORS + v) * S::LANES;
        // SAFETY: `block` asserted the lengths; `lane_keys` has the 16 lanes of the widest vector.
        let (low, high, keys) = unsafe {
            (
                simd.load(tile.low.as_ptr().add(lanes)),
                simd.load(tile.high.as_ptr().add(lanes)),
                simd.load(lane_keys.as_ptr()),
            )
        };
        let visible = |i: usize| simd.within(simd.add(keys, simd.splat((i * G) as f32)), low, high);
        let lowest = simd.splat(LOWEST);
        let mut max = [lowest; 4];
        for i in 0..count {
            // SAFETY: `scores_len` covers `count` vectors.
            let mut x = unsafe { simd.load(s.add(at(i))) };
            if MASKED {
                x = simd.select(visible(i), x, lowest);
            }
            max[i % 4] = simd.max(x, max[i % 4]);
        }
        let max = simd.max(simd.max(max[0], max[1]), simd.max(max[2], max[3]));
        let max = simd.mul(max, factor);
        // SAFETY: `block` asserted the length.
        let mut running = unsafe { simd.load(tile.max.as_ptr().add(lanes)) };
        if simd.any_greater(max, simd.add(running, simd.splat(SLACK))) {
            let mut seen = [0.0; 16];
            // SAFETY: the widest vector has 16 lanes.
            unsafe { simd.store(seen.as_mut_ptr(), max) };
            raise(tile, &seen[..S::LANES], lanes, rows);
            // SAFETY: `block` asserted the length.
            running = unsafe { simd.load(tile.max.as_ptr().add(lanes)) };
        }
        // SAFETY: `block` asserted the length.
        let mut sum = unsafe { simd.load(tile.sum.as_ptr().add(lanes)) };
        let p = |i: usize| {
            // SAFETY: `scores_len` covers `count` vectors.
            let x = unsafe { simd.load(s.add(at(i))) };
            let p = simd.exp2(simd.mul_sub(x, factor, running));
            if MASKED {
                simd.select(visible(i), p, simd.splat(0.0))
            } else {
                p
            }
        };
        for i in 0..count / step {
            let p = if S::PAIRS {
                let pair = simd.pair::<G>(p(2 * i), p(2 * i + 1));
                sum = simd.mac(sum, pair, simd.pair_of_ones());
                pair
            } else {
                let p = if T::ROUND { simd.round(p(i)) } else { p(i) };
                sum = simd.add(sum, p);
                p
            };
            // SAFETY: vector i is written where vectors 2i and 2i + 1, or i, have been read, which `scores_len` covers.
            unsafe { simd.store(s.add(at(i)), p) };
        }
        // SAFETY: `block` asserted the length.
        unsafe { simd.store(tile.sum.as_mut_ptr().add(lanes), sum) };
    }
}

/// Raises the running maximum of the rows that outgrew it, and rescales their sums.
#[cold]
fn raise(tile: &mut Tile, seen: &[f32], lanes: usize, rows: usize) {
    let count = seen.len();
    let max = &mut tile.max[lanes..][..count];
    let sum = &mut tile.sum[lanes..][..count];
    for row in 0..rows.min(count) {
        let seen = seen.iter().skip(row).step_by(rows);
        let seen = seen.fold(LOWEST, |max, x| max.max(*x));
        let running = max[row];
        if seen > running + SLACK {
            let raised = seen.ceil();
            let shrink = pow2(running - raised);
            for lane in (row..count).step_by(rows) {
                max[lane] = raised;
                sum[lane] *= shrink;
            }
            for x in &mut tile.out[(lanes + row) * tile.head_dim..][..tile.head_dim] {
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
/// [`block`]'s assertions hold, and `ROWS` divides `rows`.
#[inline(always)]
unsafe fn weigh<S: Simd, const ROWS: usize, const WIDE: usize>(
    simd: S,
    tile: &mut Tile,
    rows: usize,
) {
    let vectors = tile.head_dim / S::LANES;
    let mut at = 0;
    // SAFETY: strips end at the head size.
    unsafe {
        while at + WIDE <= vectors {
            strip::<S, ROWS, WIDE>(simd, tile, rows, at * S::LANES);
            at += WIDE;
        }
        if WIDE > 4 && at + 4 <= vectors {
            strip::<S, ROWS, 4>(simd, tile, rows, at * S::LANES);
            at += 4;
        }
        if WIDE > 2 && at + 2 <= vectors {
            strip::<S, ROWS, 2>(simd, tile, rows, at * S::LANES);
            at += 2;
        }
        if at < vectors {
            strip::<S, ROWS, 1>(simd, tile, rows, at * S::LANES);
        }
    }
}

/// One strip of columns.
///
/// # Safety
/// As for [`weigh`]; `column` + `WIDE` vectors are at most the head size.
#[inline(always)]
unsafe fn strip<S: Simd, const ROWS: usize, const WIDE: usize>(
    simd: S,
    tile: &mut Tile,
    rows: usize,
    column: usize,
) {
    let count = tile.keys.div_ceil(if S::PAIRS { 2 } else { 1 });
    let p = tile.scores.as_ptr();
    for row in (0..rows).step_by(ROWS) {
        let out = tile.out.as_mut_ptr();
        let to = |r: usize, w: usize| (row + r) * tile.head_dim + column + w * S::LANES;
        let mut acc: [[S::V; WIDE]; ROWS] = std::array::from_fn(|r| {
            // SAFETY: `block` asserted that the output has all rows.
            std::array::from_fn(|w| unsafe { simd.load(out.add(to(r, w))) })
        });
        for i in 0..count {
            // SAFETY: `v` has `count` rows of the head size, the probabilities `count` of `rows`.
            unsafe {
                let from = tile.v.row(i).add(column);
                let v: [S::V; WIDE] = std::array::from_fn(|w| simd.load(from.add(w * S::LANES)));
                for (r, acc) in acc.iter_mut().enumerate() {
                    let p = simd.spread::<1>(p.add(i * rows + row + r));
                    for (acc, v) in acc.iter_mut().zip(v) {
                        *acc = simd.mac(*acc, p, v);
                    }
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (w, acc) in acc.iter().enumerate() {
                // SAFETY: as for the loads.
                unsafe { simd.store(out.add(to(r, w)), *acc) };
            }
        }
    }
}
