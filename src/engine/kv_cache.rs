//! The keys and values of one sequence, for all layers.
//!
//! SHAPE. Per layer, keys then values, each `[n_kv_head][capacity][head_dim]`: what one head's attention reads lies in
//! one piece. The memory is claimed zeroed, so that the system hands out pages only as positions are written: a cache
//! for a long context costs what was used of it.

use std::ops::Range;

use half::slice::HalfBitsSliceExt;
use tokgate_kernels::{Cache, CacheMut, DType, KvMut, KvRef};

use crate::engine::config::ModelConfig;

/// Why a cache cannot be made or moved.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvCacheError {
    /// The cache does not fit the address space or the memory.
    #[error(
        "a {dtype} KV cache for {capacity} positions needs {bytes:?} bytes, which cannot be had; use a smaller context"
    )]
    Memory {
        /// Element type.
        dtype: DType,
        /// Positions.
        capacity: usize,
        /// Bytes, or `None` where the number overflows.
        bytes: Option<usize>,
    },
    /// Only f32 and bf16 caches exist.
    #[error("a KV cache holds f32 or bf16, not {0}")]
    DType(DType),
}

/// Keys and values of one sequence.
#[derive(Debug)]
pub struct KvCache {
    store: Store,
    n_layer: usize,
    n_kv_head: usize,
    head_dim: usize,
    capacity: usize,
    len: usize,
}

/// bf16 elements are kept as their bits, because only plain integers can be claimed zeroed without being touched.
#[derive(Debug)]
enum Store {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
}

impl KvCache {
    /// An empty cache for `capacity` positions of a model.
    ///
    /// # Errors
    /// [`KvCacheError`] if `dtype` is neither f32 nor bf16, or the memory cannot be had.
    pub fn new(config: &ModelConfig, dtype: DType, capacity: usize) -> Result<Self, KvCacheError> {
        let elements = [
            2,
            config.n_layer,
            config.n_kv_head,
            config.head_dim,
            capacity,
        ]
        .into_iter()
        .try_fold(1_usize, usize::checked_mul);
        let bytes = elements.and_then(|elements| elements.checked_mul(dtype.block_bytes()));
        let memory = KvCacheError::Memory {
            dtype,
            capacity,
            bytes,
        };
        let Some(elements) = elements else {
            return Err(memory);
        };
        let store = match dtype {
            DType::F32 => zeroed!(0.0_f32, elements).map(Store::F32),
            DType::Bf16 => zeroed!(0_u16, elements).map(Store::Bf16),
            DType::F16 | DType::Q8_0 => return Err(KvCacheError::DType(dtype)),
        };
        Ok(Self {
            store: store.ok_or(memory)?,
            n_layer: config.n_layer,
            n_kv_head: config.n_kv_head,
            head_dim: config.head_dim,
            capacity,
            len: 0,
        })
    }

    /// Positions that are filled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is filled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match self.store {
            Store::F32(_) => DType::F32,
            Store::Bf16(_) => DType::Bf16,
        }
    }

    /// Bytes of keys and values of one position, over all layers.
    pub fn bytes_per_position(&self) -> usize {
        2 * self.n_layer * self.n_kv_head * self.head_dim * self.dtype().block_bytes()
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Counts `tokens` more positions as filled.
    pub(crate) fn advance(&mut self, tokens: usize) {
        assert!(
            tokens <= self.capacity - self.len,
            "the forward pass checked the room"
        );
        self.len += tokens;
    }

    /// Keys and values of some heads of a layer.
    pub(crate) fn layer(&self, layer: usize, heads: Range<usize>) -> KvRef<'_> {
        let half = self.n_kv_head * self.capacity * self.head_dim;
        let part = layer * 2 * half..(layer + 1) * 2 * half;
        match &self.store {
            Store::F32(store) => KvRef::F32(self.view(&store[part], heads)),
            Store::Bf16(store) => KvRef::Bf16(self.view(store[part].reinterpret_cast(), heads)),
        }
    }

    fn view<'a, T>(&self, both: &'a [T], heads: Range<usize>) -> Cache<'a, T> {
        let (k, v) = both.split_at(both.len() / 2);
        let head = self.capacity * self.head_dim;
        let part = heads.start * head..heads.end * head;
        let (k, v) = (&k[part.clone()], &v[part]);
        Cache::new(k, v, heads.len(), self.capacity, self.head_dim).expect(MADE_FOR_IT)
    }

    /// Keys and values of a layer, to be written.
    pub(crate) fn layer_mut(&mut self, layer: usize) -> KvMut<'_> {
        let (heads, capacity, dim) = (self.n_kv_head, self.capacity, self.head_dim);
        let half = heads * capacity * dim;
        let part = layer * 2 * half..(layer + 1) * 2 * half;
        match &mut self.store {
            Store::F32(store) => {
                let (k, v) = store[part].split_at_mut(half);
                KvMut::F32(CacheMut::new(k, v, heads, capacity, dim).expect(MADE_FOR_IT))
            }
            Store::Bf16(store) => {
                let (k, v) = store[part].reinterpret_cast_mut().split_at_mut(half);
                KvMut::Bf16(CacheMut::new(k, v, heads, capacity, dim).expect(MADE_FOR_IT))
            }
        }
    }
}

const MADE_FOR_IT: &str = "the store was made for these sizes";

/// Zeroed memory whose pages are claimed as they are first written, or `None` where the system refuses it.
macro_rules! zeroed {
    ($zero:expr, $len:expr) => {{
        // `vec![0; n]` aborts where memory is short; asking first makes that an error.
        let mut probe = vec![$zero; 0];
        let granted = probe.try_reserve_exact($len).is_ok();
        drop(probe);
        granted.then(|| vec![$zero; $len])
    }};
}
use zeroed;
