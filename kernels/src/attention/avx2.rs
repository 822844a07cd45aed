//! Vectors of eight f32.

use std::arch::x86_64::*;

use half::bf16;

use super::flash::Element;
use super::tile::{Block, EXP2, Place, Simd, Tile, divide, meet, pack_row, widen_rows};
use crate::level::{Level, Tier};

/// Proof of AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn new(level: Level) -> Self {
        assert!(level.tier() >= Tier::Avx2);
        Self(())
    }
}

macro_rules! value {
    ($intrinsics:expr) => {
        // SAFETY: an `Avx2` proves that the CPU has these instructions; they touch no memory.
        unsafe { $intrinsics }
    };
}

impl Simd for Avx2 {
    type V = __m256;
    type Mask = __m256;
    const LANES: usize = 8;
    const PAIRS: bool = false;
    /// More rows would need more than 8 accumulators.
    const ROWS_ACROSS: usize = 2;
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        value!(_mm256_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: __m256) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn spread<const G: usize>(self, from: *const f32) -> __m256 {
        // SAFETY: the caller promises G words.
        unsafe {
            match G {
                1 => _mm256_castsi256_ps(_mm256_set1_epi32(from.cast::<i32>().read_unaligned())),
                2 => _mm256_castsi256_ps(_mm256_set1_epi64x(from.cast::<i64>().read_unaligned())),
                4 => _mm256_broadcast_ps(&from.cast::<__m128>().read_unaligned()),
                _ => _mm256_loadu_ps(from),
            }
        }
    }

    #[inline(always)]
    unsafe fn widen(self, from: *const bf16) -> __m256 {
        // SAFETY: the caller promises 8 elements.
        unsafe {
            let half = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(half))
        }
    }

    unsafe fn zip(self, _: *const bf16, _: *const bf16) -> __m256 {
        unreachable!("words are f32")
    }

    fn weave(self, _: __m256, _: __m256) -> [__m256; 2] {
        unreachable!("words are f32")
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        value!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        value!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        value!(_mm256_max_ps(a, b))
    }

    #[inline(always)]
    fn mul_sub(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        value!(_mm256_fmsub_ps(a, b, c))
    }

    #[inline(always)]
    fn mac(self, acc: __m256, a: __m256, b: __m256) -> __m256 {
        value!(_mm256_fmadd_ps(a, b, acc))
    }

    #[inline(always)]
    fn halve(self, a: __m256, b: __m256) -> __m256 {
        // The horizontal sum interleaves the operands by 128-bit halves.
        value!(_mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(
            _mm256_castps_pd(_mm256_hadd_ps(a, b))
        )))
    }

    #[inline(always)]
    fn any_greater(self, a: __m256, b: __m256) -> bool {
        value!(_mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) != 0)
    }

    #[inline(always)]
    fn within(self, x: __m256, low: __m256, high: __m256) -> __m256 {
        value!(_mm256_and_ps(
            _mm256_cmp_ps::<_CMP_GE_OQ>(x, low),
            _mm256_cmp_ps::<_CMP_LT_OQ>(x, high)
        ))
    }

    #[inline(always)]
    fn select(self, mask: __m256, yes: __m256, no: __m256) -> __m256 {
        value!(_mm256_blendv_ps(no, yes, mask))
    }

    #[inline(always)]
    fn exp2(self, x: __m256) -> __m256 {
        value!({
            // In this order the maximum keeps a NaN.
            let x = _mm256_max_ps(_mm256_set1_ps(-126.0), x);
            let whole = _mm256_floor_ps(x);
            let f = _mm256_sub_ps(x, whole);
            let mut p = _mm256_set1_ps(EXP2[5]);
            for c in EXP2[..5].iter().rev() {
                p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(*c));
            }
            let exponent = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(whole));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent))
        })
    }

    #[inline(always)]
    fn round(self, x: __m256) -> __m256 {
        value!({
            let bits = _mm256_castps_si256(x);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
            _mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32(!0xffff)))
        })
    }

    fn pair<const G: usize>(self, _: __m256, _: __m256) -> __m256 {
        unreachable!("words are f32")
    }

    #[inline(always)]
    unsafe fn words<const ROUND: bool>(self, from: *const f32) -> __m256 {
        // SAFETY: the caller's promise.
        let x = unsafe { _mm256_loadu_ps(from) };
        if ROUND {
            value!({
                // A NaN stays as it is: rounding could make a number of it.
                let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x);
                _mm256_blendv_ps(self.round(x), x, nan)
            })
        } else {
            x
        }
    }

    fn pair_of_ones(self) -> __m256 {
        unreachable!("words are f32")
    }

    fn meet<T: Element, E: Element, const VECTORS: usize, const G: usize>(
        self,
        tile: &mut Tile,
        block: &Block<E>,
    ) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn enabled<T: Element, E: Element, const VECTORS: usize, const G: usize>(
            simd: Avx2,
            tile: &mut Tile,
            block: &Block<E>,
        ) {
            // Of 16 registers, 8 accumulate.
            if VECTORS == 2 {
                meet::<_, T, E, VECTORS, G, 4>(simd, tile, block);
            } else {
                meet::<_, T, E, VECTORS, G, 8>(simd, tile, block);
            }
        }
        // SAFETY: an `Avx2` proves that the CPU has these features.
        unsafe { enabled::<T, E, VECTORS, G>(self, tile, block) }
    }

    fn widen_rows(self, from: &[bf16], head_dim: usize, to: &mut [f32], stride: usize) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn enabled(simd: Avx2, from: &[bf16], head_dim: usize, to: &mut [f32], stride: usize) {
            widen_rows(simd, from, head_dim, to, stride);
        }
        // SAFETY: an `Avx2` proves that the CPU has these features.
        unsafe { enabled(self, from, head_dim, to, stride) }
    }

    fn zip_rows(self, _: &[bf16], _: usize, _: &mut [f32], _: usize) {
        unreachable!("words are f32")
    }

    fn pack_row<T: Element>(self, query: &[f32], place: Place, to: &mut [f32]) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn enabled<S: Simd, T: Element>(s: S, query: &[f32], place: Place, to: &mut [f32]) {
            pack_row::<S, T>(s, query, place, to);
        }
        // SAFETY: an `Avx2` proves that the CPU has these features.
        unsafe { enabled::<Self, T>(self, query, place, to) }
    }

    fn unweave(self, _: &mut [f32]) {
        unreachable!("words are f32")
    }

    fn divide(self, from: &[f32], by: f32, to: &mut [f32]) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn enabled(from: &[f32], by: f32, to: &mut [f32]) {
            divide(from, by, to);
        }
        // SAFETY: an `Avx2` proves that the CPU has these features.
        unsafe { enabled(from, by, to) }
    }
}

/// See [`super::round`].
#[target_feature(enable = "avx2")]
pub(super) fn round(to: &mut [bf16], from: &[f32]) {
    super::round(to, from);
}
