//! Vectors of sixteen words: f32, or pairs of bf16 where the CPU multiplies these.

use std::arch::x86_64::*;

use half::bf16;

use super::flash::Element;
use super::tile::{Block, EXP2, Place, Simd, Tile, divide, meet, pack_row, widen_rows, zip_rows};
use crate::level::{Level, Tier};

/// Proof of AVX-512 F, BW, DQ and VL, and with pairs of AVX-512 BF16.
#[derive(Clone, Copy)]
pub(super) struct Vectors<const PAIRS: bool>(());

/// Multiplies f32.
pub(super) type Avx512 = Vectors<false>;
/// Multiplies pairs of bf16.
pub(super) type Avx512Bf16 = Vectors<true>;

impl<const PAIRS: bool> Vectors<PAIRS> {
    pub(super) fn new(level: Level) -> Self {
        let needed = if PAIRS {
            Tier::Avx512Bf16
        } else {
            Tier::Avx512Vnni
        };
        assert!(level.tier() >= needed);
        Self(())
    }
}

macro_rules! value {
    ($intrinsics:expr) => {
        // SAFETY: a `Vectors` proves that the CPU has these instructions; they touch no memory.
        unsafe { $intrinsics }
    };
}

impl<const PAIRS: bool> Simd for Vectors<PAIRS> {
    type V = __m512;
    type Mask = __mmask16;
    const LANES: usize = 16;
    const PAIRS: bool = PAIRS;
    /// Pairs of more rows are as fast or faster spread, which adds fewer lanes up.
    const ROWS_ACROSS: usize = if PAIRS { 2 } else { 8 };
    const MANY_REGISTERS: bool = true;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        value!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: __m512) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn spread<const G: usize>(self, from: *const f32) -> __m512 {
        // SAFETY: the caller promises G words.
        unsafe {
            match G {
                1 => _mm512_castsi512_ps(_mm512_set1_epi32(from.cast::<i32>().read_unaligned())),
                2 => _mm512_castsi512_ps(_mm512_set1_epi64(from.cast::<i64>().read_unaligned())),
                4 => _mm512_broadcast_f32x4(_mm_loadu_ps(from)),
                8 => _mm512_broadcast_f32x8(_mm256_loadu_ps(from)),
                _ => _mm512_loadu_ps(from),
            }
        }
    }

    #[inline(always)]
    unsafe fn widen(self, from: *const bf16) -> __m512 {
        // SAFETY: the caller promises 16 elements.
        unsafe {
            let half = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(half))
        }
    }

    #[inline(always)]
    unsafe fn zip(self, even: *const bf16, odd: *const bf16) -> __m512 {
        // SAFETY: the caller promises 16 elements of each.
        unsafe {
            let even = _mm512_cvtepu16_epi32(_mm256_loadu_si256(even.cast()));
            let odd = _mm512_castps_si512(self.widen(odd));
            _mm512_castsi512_ps(_mm512_or_si512(even, odd))
        }
    }

    #[inline(always)]
    fn weave(self, even: __m512, odd: __m512) -> [__m512; 2] {
        value!({
            let (even, odd) = (_mm512_castps_si512(even), _mm512_castps_si512(odd));
            [
                _mm512_castsi512_ps(_mm512_unpacklo_epi16(even, odd)),
                _mm512_castsi512_ps(_mm512_unpackhi_epi16(even, odd)),
            ]
        })
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        value!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        value!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        value!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn mul_sub(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        value!(_mm512_fmsub_ps(a, b, c))
    }

    #[inline(always)]
    fn mac(self, acc: __m512, a: __m512, b: __m512) -> __m512 {
        if PAIRS {
            value!(_mm512_dpbf16_ps(acc, as_pairs(a), as_pairs(b)))
        } else {
            value!(_mm512_fmadd_ps(a, b, acc))
        }
    }

    #[inline(always)]
    fn halve(self, a: __m512, b: __m512) -> __m512 {
        value!({
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
            _mm512_add_ps(
                _mm512_permutex2var_ps(a, even, b),
                _mm512_permutex2var_ps(a, odd, b),
            )
        })
    }

    #[inline(always)]
    fn any_greater(self, a: __m512, b: __m512) -> bool {
        value!(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) != 0)
    }

    #[inline(always)]
    fn within(self, x: __m512, low: __m512, high: __m512) -> __mmask16 {
        value!(_mm512_mask_cmp_ps_mask::<_CMP_LT_OQ>(
            _mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, low),
            x,
            high
        ))
    }

    #[inline(always)]
    fn select(self, mask: __mmask16, yes: __m512, no: __m512) -> __m512 {
        value!(_mm512_mask_blend_ps(mask, no, yes))
    }

    #[inline(always)]
    fn exp2(self, x: __m512) -> __m512 {
        value!({
            const FLOOR: i32 = 0b1001;
            let f = _mm512_reduce_ps::<FLOOR>(x);
            let mut p = _mm512_set1_ps(EXP2[5]);
            for c in EXP2[..5].iter().rev() {
                p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(*c));
            }
            // Scales by 2 to the floor of x.
            _mm512_scalef_ps(p, x)
        })
    }

    #[inline(always)]
    fn round(self, x: __m512) -> __m512 {
        value!({
            let bits = _mm512_castps_si512(x);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
            _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(!0xffff)))
        })
    }

    #[inline(always)]
    fn pair<const G: usize>(self, a: __m512, b: __m512) -> __m512 {
        // Of the 2G keys' rows: key 2i of a row, then key 2i + 1 of it.
        let order: [u16; 32] = std::array::from_fn(|at| {
            let (rows, word) = (16 / G, at / 2);
            ((word / rows * 2 + at % 2) * rows + word % rows) as u16
        });
        value!({
            let order: __m512i = std::mem::transmute::<[u16; 32], __m512i>(order);
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(b, a));
            _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, both))
        })
    }

    #[inline(always)]
    unsafe fn words<const ROUND: bool>(self, from: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            let x = _mm512_loadu_ps(from);
            if PAIRS {
                let high = _mm512_loadu_ps(from.add(16));
                let pairs: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, x));
                _mm512_castsi512_ps(pairs)
            } else if ROUND {
                // A NaN stays as it is: rounding could make a number of it.
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
                _mm512_mask_blend_ps(nan, self.round(x), x)
            } else {
                x
            }
        }
    }

    #[inline(always)]
    fn pair_of_ones(self) -> __m512 {
        value!(_mm512_castsi512_ps(_mm512_set1_epi32(0x3f80_3f80)))
    }

    fn meet<T: Element, E: Element, const VECTORS: usize, const G: usize>(
        self,
        tile: &mut Tile,
        block: &Block<E>,
    ) {
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
        fn f32s<S: Simd, T: Element, E: Element, const VECTORS: usize, const G: usize>(
            simd: S,
            tile: &mut Tile,
            block: &Block<E>,
        ) {
            meet_in_tiles::<S, T, E, VECTORS, G>(simd, tile, block);
        }
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
        fn pairs<S: Simd, T: Element, E: Element, const VECTORS: usize, const G: usize>(
            simd: S,
            tile: &mut Tile,
            block: &Block<E>,
        ) {
            meet_in_tiles::<S, T, E, VECTORS, G>(simd, tile, block);
        }
        if PAIRS {
            // SAFETY: a `Vectors` with pairs proves that the CPU has these features.
            unsafe { pairs::<Self, T, E, VECTORS, G>(self, tile, block) }
        } else {
            // SAFETY: a `Vectors` proves that the CPU has these features.
            unsafe { f32s::<Self, T, E, VECTORS, G>(self, tile, block) }
        }
    }

    fn widen_rows(self, from: &[bf16], head_dim: usize, to: &mut [f32], stride: usize) {
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
        fn enabled<S: Simd>(s: S, from: &[bf16], head_dim: usize, to: &mut [f32], stride: usize) {
            widen_rows(s, from, head_dim, to, stride);
        }
        // SAFETY: a `Vectors` proves that the CPU has these features.
        unsafe { enabled(self, from, head_dim, to, stride) }
    }

    fn zip_rows(self, from: &[bf16], head_dim: usize, to: &mut [f32], stride: usize) {
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
        fn enabled<S: Simd>(s: S, from: &[bf16], head_dim: usize, to: &mut [f32], stride: usize) {
            zip_rows(s, from, head_dim, to, stride);
        }
        // SAFETY: a `Vectors` proves that the CPU has these features.
        unsafe { enabled(self, from, head_dim, to, stride) }
    }

    fn pack_row<T: Element>(self, query: &[f32], place: Place, to: &mut [f32]) {
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
        fn enabled<S: Simd, T: Element>(s: S, query: &[f32], place: Place, to: &mut [f32]) {
            pack_row::<S, T>(s, query, place, to);
        }
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
        fn paired<S: Simd, T: Element>(s: S, query: &[f32], place: Place, to: &mut [f32]) {
            pack_row::<S, T>(s, query, place, to);
        }
        if PAIRS {
            // SAFETY: a `Vectors` with pairs proves that the CPU has these features.
            unsafe { paired::<Self, T>(self, query, place, to) }
        } else {
            // SAFETY: a `Vectors` proves that the CPU has these features.
            unsafe { enabled::<Self, T>(self, query, place, to) }
        }
    }

    fn unweave(self, row: &mut [f32]) {
        #[target_feature(enable = "avx512f")]
        fn enabled(row: &mut [f32]) {
            let low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
            let high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
            for two in row.as_chunks_mut::<32>().0 {
                let to: *mut f64 = two.as_mut_ptr().cast();
                // SAFETY: two vectors of the chunk's bytes.
                unsafe {
                    let (a, b) = (_mm512_loadu_pd(to), _mm512_loadu_pd(to.add(8)));
                    _mm512_storeu_pd(to, _mm512_permutex2var_pd(a, low, b));
                    _mm512_storeu_pd(to.add(8), _mm512_permutex2var_pd(a, high, b));
                }
            }
        }
        // SAFETY: a `Vectors` proves that the CPU has these features.
        unsafe { enabled(row) }
    }

    fn divide(self, from: &[f32], by: f32, to: &mut [f32]) {
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
        fn enabled(from: &[f32], by: f32, to: &mut [f32]) {
            divide(from, by, to);
        }
        // SAFETY: a `Vectors` proves that the CPU has these features.
        unsafe { enabled(from, by, to) }
    }
}

/// [`meet`] with register tiles of scores of which 16 of 32 registers accumulate. Where one or two rows are read across,
/// a tile has four keys: on Zen 5, 32/32 heads at 4096 positions in memory, that is 1.2 times as fast as eight with
/// pairs, 1.1 times with f32.
#[inline(always)]
fn meet_in_tiles<S: Simd, T: Element, E: Element, const VECTORS: usize, const G: usize>(
    simd: S,
    tile: &mut Tile,
    block: &Block<E>,
) {
    match VECTORS {
        8 => meet::<S, T, E, VECTORS, G, 2>(simd, tile, block),
        4 => meet::<S, T, E, VECTORS, G, 4>(simd, tile, block),
        1 | 2 if G == S::LANES => meet::<S, T, E, VECTORS, G, 4>(simd, tile, block),
        _ => meet::<S, T, E, VECTORS, G, 8>(simd, tile, block),
    }
}

/// See [`super::round`].
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub(super) fn round(to: &mut [bf16], from: &[f32]) {
    super::round(to, from);
}

#[inline(always)]
fn as_pairs(v: __m512) -> __m512bh {
    // SAFETY: both are 64 bytes of any value.
    unsafe { std::mem::transmute(v) }
}
