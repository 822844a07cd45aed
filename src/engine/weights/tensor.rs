//! A weight tensor: mapped from a file as it is, or converted at load.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::thread;

use half::{bf16, f16};
use tokgate_kernels::{BlockQ8_0, DType, MatRef, Weights, q8_0};

use crate::engine::mapping::{self, Element, Mapping};

/// Sizes of a weight tensor: `experts` matrices of `rows × cols`, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Matrices; 1 for a plain one.
    pub experts: usize,
    /// Outputs of a matrix.
    pub rows: usize,
    /// Inputs of a matrix, the fastest-running dimension.
    pub cols: usize,
}

impl Shape {
    /// A plain matrix.
    pub const fn matrix(rows: usize, cols: usize) -> Self {
        Self {
            experts: 1,
            rows,
            cols,
        }
    }

    /// Elements; the configuration's limits keep the product from overflowing.
    pub const fn elements(self) -> usize {
        self.experts * self.rows * self.cols
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.experts > 1 {
            write!(f, "{} × ", self.experts)?;
        }
        write!(f, "{} × {}", self.rows, self.cols)
    }
}

/// A weight tensor that kernels can use. A clone refers to the same bytes.
#[derive(Clone, Debug)]
pub struct Tensor {
    shape: Shape,
    storage: Storage,
}

#[derive(Clone, Debug)]
enum Storage {
    Mapped {
        dtype: DType,
        mapping: Arc<Mapping>,
        /// Aligned for the type and as long as the shape wants it, both checked in [`Tensor::mapped`].
        range: Range<usize>,
    },
    F32(Arc<[f32]>),
    F16(Arc<[f16]>),
    Bf16(Arc<[bf16]>),
    Q8_0(Arc<[BlockQ8_0]>),
}

impl Tensor {
    /// The tensor in these bytes of a file, or `None` if they are not aligned for its type or not as many as the shape
    /// wants.
    pub fn mapped(
        dtype: DType,
        shape: Shape,
        mapping: &Arc<Mapping>,
        range: Range<usize>,
    ) -> Option<Self> {
        let bytes = mapping.get(range.clone())?;
        let wanted = dtype
            .row_bytes(shape.cols)?
            .checked_mul(shape.experts * shape.rows)?;
        let aligned = match dtype {
            DType::F32 => mapping::elements::<f32>(bytes).is_some(),
            DType::F16 => mapping::elements::<f16>(bytes).is_some(),
            DType::Bf16 => mapping::elements::<bf16>(bytes).is_some(),
            DType::Q8_0 => mapping::elements::<BlockQ8_0>(bytes).is_some(),
        };
        (bytes.len() == wanted && aligned).then(|| Self {
            shape,
            storage: Storage::Mapped {
                dtype,
                mapping: Arc::clone(mapping),
                range,
            },
        })
    }

    /// Sizes.
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// Element type.
    pub const fn dtype(&self) -> DType {
        match &self.storage {
            Storage::Mapped { dtype, .. } => *dtype,
            Storage::F32(_) => DType::F32,
            Storage::F16(_) => DType::F16,
            Storage::Bf16(_) => DType::Bf16,
            Storage::Q8_0(_) => DType::Q8_0,
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> u64 {
        let blocks = self.shape.elements() / self.dtype().block_len();
        (blocks * self.dtype().block_bytes()) as u64
    }

    /// Whether the bytes are the file's own, as opposed to a conversion.
    pub const fn is_mapped(&self) -> bool {
        matches!(self.storage, Storage::Mapped { .. })
    }

    /// What the kernels take: all experts' matrices as one, `[experts · rows, cols]`.
    pub fn view(&self) -> Weights<'_> {
        match &self.storage {
            Storage::Mapped {
                dtype,
                mapping,
                range,
            } => {
                let bytes = &mapping[range.clone()];
                match dtype {
                    DType::F32 => Weights::F32(self.matrix(typed(bytes))),
                    DType::F16 => Weights::F16(self.matrix(typed(bytes))),
                    DType::Bf16 => Weights::Bf16(self.matrix(typed(bytes))),
                    DType::Q8_0 => Weights::Q8_0(self.matrix(typed(bytes))),
                }
            }
            Storage::F32(data) => Weights::F32(self.matrix(data)),
            Storage::F16(data) => Weights::F16(self.matrix(data)),
            Storage::Bf16(data) => Weights::Bf16(self.matrix(data)),
            Storage::Q8_0(data) => Weights::Q8_0(self.matrix(data)),
        }
    }

    fn matrix<'a, T>(&self, data: &'a [T]) -> MatRef<'a, T> {
        let rows = self.shape.experts * self.shape.rows;
        MatRef::new(data, rows, data.len() / rows).expect("the length was checked when it was made")
    }

    /// Matrices of `shape` one after the other, converted to `dtype` by `threads` threads.
    ///
    /// # Panics
    /// If a part has another shape, or `dtype` cannot hold rows of that length.
    pub fn stack(parts: &[Weights<'_>], shape: Shape, dtype: DType, threads: usize) -> Self {
        let rows = Rows { parts, shape };
        let storage = match dtype {
            DType::F32 => Storage::F32(rows.convert(1, threads, |row, out| {
                out.copy_from_slice(row);
            })),
            DType::F16 => Storage::F16(rows.convert(1, threads, |row, out| {
                out.iter_mut()
                    .zip(row)
                    .for_each(|(out, value)| *out = f16::from_f32(*value));
            })),
            DType::Bf16 => Storage::Bf16(rows.convert(1, threads, |row, out| {
                out.iter_mut()
                    .zip(row)
                    .for_each(|(out, value)| *out = bf16::from_f32(*value));
            })),
            DType::Q8_0 => {
                Storage::Q8_0(rows.convert(q8_0::BLOCK_LEN, threads, q8_0::quantize_row))
            }
        };
        Self { shape, storage }
    }
}

fn typed<T: Element>(bytes: &[u8]) -> &[T] {
    mapping::elements(bytes).expect("alignment and length were checked when it was made")
}

/// The rows of several matrices, counted through.
struct Rows<'a> {
    parts: &'a [Weights<'a>],
    shape: Shape,
}

impl Rows<'_> {
    /// All rows, widened to f32 and then narrowed by `narrow` into blocks of `block` elements.
    fn convert<T: Copy + Default + Send>(
        &self,
        block: usize,
        threads: usize,
        narrow: impl Fn(&[f32], &mut [T]) + Sync,
    ) -> Arc<[T]> {
        let Shape {
            experts,
            rows,
            cols,
        } = self.shape;
        let (part_rows, part_experts) = (self.parts[0].rows(), self.parts.len());
        assert!(
            cols.is_multiple_of(block)
                && part_rows * part_experts == experts * rows
                && self
                    .parts
                    .iter()
                    .all(|part| (part.rows(), part.cols()) == (part_rows, cols)),
            "the parts must make up {} and blocks of {block}",
            self.shape
        );
        let out_cols = cols / block;
        let all_rows = experts * rows;
        let mut out: Arc<[T]> = std::iter::repeat_n(T::default(), all_rows * out_cols).collect();
        let data = Arc::get_mut(&mut out).expect("nobody else has it yet");
        let share = all_rows.div_ceil(threads.max(1));
        thread::scope(|scope| {
            for (index, chunk) in data.chunks_mut(share * out_cols).enumerate() {
                let narrow = &narrow;
                let mut work = move || {
                    let mut wide = vec![0.0; cols];
                    for (row, out) in chunk.chunks_mut(out_cols).enumerate() {
                        let row = index * share + row;
                        self.parts[row / part_rows].widen_row(row % part_rows, &mut wide);
                        narrow(&wide, out);
                    }
                };
                if share == all_rows {
                    work();
                } else {
                    scope.spawn(work);
                }
            }
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(values: &[f32], shape: Shape) -> Tensor {
        let bytes = mapping::bytes(values).to_vec();
        let range = 0..bytes.len();
        let mapping = Arc::new(Mapping::from(bytes));
        Tensor::mapped(DType::F32, shape, &mapping, range)
            .expect("a vector of this size is aligned")
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        let (view, cols) = (tensor.view(), tensor.shape().cols);
        let mut all = vec![0.0; tensor.shape().elements()];
        for (row, out) in all.chunks_mut(cols).enumerate() {
            view.widen_row(row, out);
        }
        all
    }

    #[test]
    fn a_stack_holds_its_parts_in_order() {
        let shape = Shape::matrix(3, 64);
        let (a, b) = (vec![1.0; 192], vec![-2.0; 192]);
        let (first, second) = (mapped(&a, shape), mapped(&b, shape));
        let stacked = Shape {
            experts: 2,
            ..shape
        };
        for dtype in DType::ALL {
            for threads in [1, 2, 5, 100] {
                let parts = [first.view(), second.view()];
                let both = Tensor::stack(&parts, stacked, dtype, threads);
                assert_eq!((both.dtype(), both.shape()), (dtype, stacked));
                assert!(!both.is_mapped());
                // Q8_0 rounds its scale of 1/127 to f16.
                for (found, wanted) in values(&both).iter().zip(a.iter().chain(&b)) {
                    assert!((found - wanted).abs() <= 1e-3, "{dtype} {found} {wanted}");
                }
            }
        }
    }

    #[test]
    fn mapping_checks_alignment_and_length() {
        let mapping = Arc::new(Mapping::from(vec![0; 64]));
        let tensor = |dtype, rows, cols, range| {
            Tensor::mapped(dtype, Shape::matrix(rows, cols), &mapping, range)
        };
        assert!(tensor(DType::F32, 2, 8, 0..64).is_some());
        assert!(tensor(DType::F32, 2, 8, 0..60).is_none(), "too short");
        assert!(tensor(DType::F32, 2, 8, 4..68).is_none(), "past the end");
        assert!(tensor(DType::F32, 1, 8, 1..33).is_none(), "not aligned");
        assert!(tensor(DType::Q8_0, 1, 33, 0..34).is_none(), "half a block");
    }
}
