//! Seeded operands: the same values at every run, on every machine.

use std::cell::RefCell;
use std::rc::Rc;

use half::{bf16, f16};
use tokgate_kernels::q8_0::BLOCK_LEN;
use tokgate_kernels::{BlockQ8_0, DType, MatRef, Weights};

/// SplitMix64: small, seeded, and its stream never changes with a dependency.
pub struct Rng(u64);

impl Rng {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % n as u64) as usize
    }

    /// Uniform in −1…1.
    pub fn f32(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }

    /// `n` values in −1…1.
    pub fn f32s(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.f32()).collect()
    }

    /// `n` values in −1…1.
    pub fn bf16s(&mut self, n: usize) -> Vec<bf16> {
        (0..n).map(|_| bf16::from_f32(self.f32())).collect()
    }
}

/// Random values are drawn for this many units and then repeated: kernels do not look back, and a gigabyte is filled at
/// the speed of the memory. A prime, so that no two rows of a real shape are alike.
const PERIOD: usize = 16_381;

/// A run of elements that weight matrices of any shape are cut from.
pub enum Store {
    /// f32 elements.
    F32(Vec<f32>),
    /// f16 elements.
    F16(Vec<f16>),
    /// bf16 elements.
    Bf16(Vec<bf16>),
    /// Blocks of 32.
    Q8_0(Vec<BlockQ8_0>),
}

impl Store {
    fn new(dtype: DType, elements: usize) -> Self {
        let mut rng = Rng::new(0x0070_6b67_6174_6500 ^ dtype as u64);
        match dtype {
            DType::F32 => Self::F32(repeat(elements, || rng.f32())),
            DType::F16 => Self::F16(repeat(elements, || f16::from_f32(rng.f32()))),
            DType::Bf16 => Self::Bf16(repeat(elements, || bf16::from_f32(rng.f32()))),
            DType::Q8_0 => Self::Q8_0(repeat(elements.div_ceil(BLOCK_LEN), || {
                BlockQ8_0::quantize(&std::array::from_fn(|_| rng.f32()))
            })),
        }
    }

    fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F16(_) => DType::F16,
            Self::Bf16(_) => DType::Bf16,
            Self::Q8_0(_) => DType::Q8_0,
        }
    }

    /// Elements that it holds.
    pub fn elements(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::F16(data) => data.len(),
            Self::Bf16(data) => data.len(),
            Self::Q8_0(data) => data.len() * BLOCK_LEN,
        }
    }

    /// The `copy`-th matrix `[n, k]`, the copies lying one behind the other.
    ///
    /// # Panics
    /// If there is no such copy, or `k` does not fill whole blocks.
    pub fn matrix(&self, copy: usize, n: usize, k: usize) -> Weights<'_> {
        assert!(k.is_multiple_of(self.dtype().block_len()), "whole blocks");
        let at = copy * n * k;
        match self {
            Self::F32(data) => Weights::F32(view(&data[at..], n, k)),
            Self::F16(data) => Weights::F16(view(&data[at..], n, k)),
            Self::Bf16(data) => Weights::Bf16(view(&data[at..], n, k)),
            Self::Q8_0(data) => Weights::Q8_0(view(&data[at / BLOCK_LEN..], n, k / BLOCK_LEN)),
        }
    }
}

fn view<T>(data: &[T], rows: usize, cols: usize) -> MatRef<'_, T> {
    MatRef::new(data, rows, cols).expect("the store holds the matrix")
}

fn repeat<T: Clone>(len: usize, draw: impl FnMut() -> T) -> Vec<T> {
    let period: Vec<T> = std::iter::repeat_with(draw).take(PERIOD.min(len)).collect();
    let mut data = Vec::with_capacity(len);
    while data.len() < len {
        data.extend_from_slice(&period[..period.len().min(len - data.len())]);
    }
    data
}

/// A store of at least `elements` of `dtype`. The last one is kept: benches of one type follow each other, and share it.
pub fn store(dtype: DType, elements: usize) -> Rc<Store> {
    thread_local! {
        static LAST: RefCell<Option<Rc<Store>>> = const { RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| {
        if let Some(store) = last.as_ref()
            && store.dtype() == dtype
            && store.elements() >= elements
        {
            return Rc::clone(store);
        }
        // The old one goes first, so that the two need not fit into memory side by side.
        *last = None;
        Rc::clone(last.insert(Rc::new(Store::new(dtype, elements))))
    })
}

/// How many copies of a matrix of `bytes` it takes to come from memory at each use, as a model's weights do when a token
/// is decoded: twice the last-level cache, within reason.
pub fn copies(bytes: usize) -> usize {
    const AT_LEAST: usize = 64 << 20;
    const AT_MOST: usize = 640 << 20;
    (2 * last_level_cache())
        .clamp(AT_LEAST, AT_MOST)
        .div_ceil(bytes.max(1))
}

/// Bytes of the last-level cache, as far as the system tells; otherwise a size that is common on desktops.
fn last_level_cache() -> usize {
    let read = |index: usize| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        let text = std::fs::read_to_string(path).ok()?;
        text.trim().strip_suffix('K')?.parse::<usize>().ok()
    };
    let largest = (0..8).map_while(read).max();
    largest.map_or(32 << 20, |kib| kib << 10)
}
