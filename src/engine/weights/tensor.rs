//! A weight tensor: mapped from a file as it is, or converted at load.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::thread;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use tokgate_kernels::{BlockQ8_0, DType, MatRef, Weights, q8_0};

use crate::engine::gguf::BlockQuant;
use crate::engine::mapping::{self, Buffer, Element, Mapping};

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

    /// Bytes as `dtype`; `None` where rows are not made of its blocks.
    fn bytes(self, dtype: DType) -> Option<usize> {
        dtype
            .row_bytes(self.cols)?
            .checked_mul(self.experts * self.rows)
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
    dtype: DType,
    shape: Shape,
    mapping: Arc<Mapping>,
    /// Aligned for the type and as long as the shape wants it, both checked in [`Tensor::new`].
    range: Range<usize>,
}

impl Tensor {
    /// The tensor in these bytes, or `None` if they are not aligned for its type or not as many as the shape wants.
    pub fn new(
        dtype: DType,
        shape: Shape,
        mapping: &Arc<Mapping>,
        range: Range<usize>,
    ) -> Option<Self> {
        let bytes = mapping.get(range.clone())?;
        let aligned = match dtype {
            DType::F32 => mapping::elements::<f32>(bytes).is_some(),
            DType::F16 => mapping::elements::<f16>(bytes).is_some(),
            DType::Bf16 => mapping::elements::<bf16>(bytes).is_some(),
            DType::Q8_0 => mapping::elements::<BlockQ8_0>(bytes).is_some(),
        };
        (aligned && Some(bytes.len()) == shape.bytes(dtype)).then(|| Self {
            dtype,
            shape,
            mapping: Arc::clone(mapping),
            range,
        })
    }

    /// A copy of bytes that are not aligned; `None` if they are not as many as the shape wants.
    pub fn copied(dtype: DType, shape: Shape, bytes: &[u8]) -> Option<Self> {
        let mut copy = Buffer::zeroed(bytes.len());
        copy.elements_mut().copy_from_slice(bytes);
        Self::new(dtype, shape, &Arc::new(copy.into()), 0..bytes.len())
    }

    /// Matrices of one shape, one after the other, converted to `dtype` by `threads` threads. Those that are of that
    /// type keep their bits.
    ///
    /// # Panics
    /// If a part has another shape than the others, if all together do not make up `shape`, or if `dtype` cannot hold
    /// rows of that length.
    pub fn stack(parts: &[Self], shape: Shape, dtype: DType, threads: usize) -> Self {
        let part = Shape {
            experts: shape.experts / parts.len(),
            ..shape
        };
        assert!(
            part.experts * parts.len() == shape.experts
                && parts.iter().all(|other| other.shape == part),
            "the parts make up {shape}"
        );
        if !parts.iter().all(|part| part.dtype == dtype) {
            let part_rows = part.experts * part.rows;
            return Self::converted(shape, dtype, threads, |row, wide| {
                let part = &parts[row / part_rows];
                part.view().widen_row(row % part_rows, wide);
            });
        }
        let len = shape.bytes(dtype).expect("rows of whole blocks");
        let mut out = Buffer::zeroed(len);
        for (out, part) in out.elements_mut().chunks_mut(len / parts.len()).zip(parts) {
            out.copy_from_slice(part.raw());
        }
        Self {
            dtype,
            shape,
            mapping: Arc::new(out.into()),
            range: 0..len,
        }
    }

    /// Rows and columns of each of its matrices. What lies in one piece is shared, all else is copied.
    ///
    /// # Panics
    /// If the ranges are not within the shape, or the columns are not whole blocks.
    pub fn cut(&self, rows: Range<usize>, cols: Range<usize>) -> Self {
        let Shape { experts, .. } = self.shape;
        let block = self.dtype.block_len();
        assert!(
            rows.start <= rows.end && rows.end <= self.shape.rows,
            "rows {rows:?} of {}",
            self.shape
        );
        assert!(
            cols.start <= cols.end
                && cols.end <= self.shape.cols
                && cols.start.is_multiple_of(block)
                && (cols.end.is_multiple_of(block) || cols.end == self.shape.cols),
            "columns {cols:?} of {}, in blocks of {block}",
            self.shape
        );
        let shape = Shape {
            experts,
            rows: rows.len(),
            cols: cols.len(),
        };
        let bytes = |cols: usize| cols / block * self.dtype.block_bytes();
        let row = bytes(self.shape.cols);
        let (skip, len) = (bytes(cols.start), bytes(cols.len()));
        let first = |expert: usize| (expert * self.shape.rows + rows.start) * row;
        let in_one_piece = len == row && (experts == 1 || rows.len() == self.shape.rows);
        if in_one_piece {
            let start = self.range.start + first(0);
            return Self {
                shape,
                range: start..start + experts * rows.len() * row,
                ..self.clone()
            };
        }
        let total = experts * rows.len() * len;
        let mut out = Buffer::zeroed(total);
        let mut rest = out.elements_mut::<u8>();
        for expert in 0..experts {
            for at in 0..rows.len() {
                let piece = &self.raw()[first(expert) + at * row + skip..][..len];
                let to;
                (to, rest) = rest.split_at_mut(len);
                to.copy_from_slice(piece);
            }
        }
        Self {
            dtype: self.dtype,
            shape,
            mapping: Arc::new(out.into()),
            range: 0..total,
        }
    }

    /// Some of its matrices, which lie in one piece and are shared.
    ///
    /// # Panics
    /// If the range is not within the matrices.
    pub fn experts(&self, experts: Range<usize>) -> Self {
        assert!(
            experts.start <= experts.end && experts.end <= self.shape.experts,
            "matrices {experts:?} of {}",
            self.shape
        );
        let bytes = self.range.len() / self.shape.experts.max(1);
        let start = self.range.start + experts.start * bytes;
        Self {
            shape: Shape {
                experts: experts.len(),
                ..self.shape
            },
            range: start..start + experts.len() * bytes,
            ..self.clone()
        }
    }

    /// Blocks without kernels, converted to `dtype` by `threads` threads; `None` if they are not as many bytes as the
    /// shape wants.
    ///
    /// # Panics
    /// If `dtype` cannot hold rows of that length.
    pub fn requantized(
        quant: BlockQuant,
        shape: Shape,
        blocks: &[u8],
        dtype: DType,
        threads: usize,
    ) -> Option<Self> {
        let row_bytes = quant.row_bytes(shape.cols)?;
        let wanted = row_bytes.checked_mul(shape.experts * shape.rows)?;
        (blocks.len() == wanted).then(|| {
            Self::converted(shape, dtype, threads, |row, wide| {
                quant.dequantize(&blocks[row * row_bytes..][..row_bytes], wide);
            })
        })
    }

    /// A tensor of rows that `widen` writes as f32, each by its number among the rows of all experts.
    fn converted(
        shape: Shape,
        dtype: DType,
        threads: usize,
        widen: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        let len = shape.bytes(dtype).expect("rows of whole blocks");
        let mut out = Buffer::zeroed(len);
        let rows = Rows {
            shape,
            threads,
            widen,
        };
        match dtype {
            DType::F32 => rows.convert(out.elements_mut(), |row, out| out.copy_from_slice(row)),
            DType::F16 => rows.convert(out.elements_mut::<f16>(), |row, out| {
                out.convert_from_f32_slice(row);
            }),
            DType::Bf16 => rows.convert(out.elements_mut::<bf16>(), |row, out| {
                out.convert_from_f32_slice(row);
            }),
            DType::Q8_0 => rows.convert(out.elements_mut(), q8_0::quantize_row),
        }
        Self {
            dtype,
            shape,
            mapping: Arc::new(out.into()),
            range: 0..len,
        }
    }

    /// Sizes.
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// Element type.
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> u64 {
        self.range.len() as u64
    }

    /// Whether the bytes are the file's own, as opposed to a copy.
    pub fn is_mapped(&self) -> bool {
        self.mapping.is_file()
    }

    /// What the kernels take: all experts' matrices as one, `[experts · rows, cols]`.
    pub fn view(&self) -> Weights<'_> {
        match self.dtype {
            DType::F32 => Weights::F32(self.matrix()),
            DType::F16 => Weights::F16(self.matrix()),
            DType::Bf16 => Weights::Bf16(self.matrix()),
            DType::Q8_0 => Weights::Q8_0(self.matrix()),
        }
    }

    fn matrix<T: Element>(&self) -> MatRef<'_, T> {
        let data = mapping::elements(self.raw()).expect("alignment and length were checked");
        let rows = self.shape.experts * self.shape.rows;
        let cols = self.shape.cols / self.dtype.block_len();
        MatRef::new(data, rows, cols).expect("the length was checked")
    }

    fn raw(&self) -> &[u8] {
        &self.mapping[self.range.clone()]
    }
}

/// The rows of all experts' matrices, counted through.
struct Rows<W> {
    shape: Shape,
    threads: usize,
    /// Writes a row as f32.
    widen: W,
}

impl<W: Fn(usize, &mut [f32]) + Sync> Rows<W> {
    /// Widens all rows to f32, and lets `narrow` write them to `out`.
    fn convert<T: Send>(&self, out: &mut [T], narrow: impl Fn(&[f32], &mut [T]) + Sync) {
        let rows = self.shape.experts * self.shape.rows;
        let out_cols = out.len() / rows;
        let share = rows.div_ceil(self.threads.max(1));
        thread::scope(|scope| {
            for (index, chunk) in out.chunks_mut(share * out_cols).enumerate() {
                let narrow = &narrow;
                let mut work = move || {
                    let mut wide = vec![0.0; self.shape.cols];
                    for (row, out) in chunk.chunks_mut(out_cols).enumerate() {
                        (self.widen)(index * share + row, &mut wide);
                        narrow(&wide, out);
                    }
                };
                if share == rows {
                    work();
                } else {
                    scope.spawn(work);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(values: &[f32], shape: Shape) -> Tensor {
        let bytes = mapping::bytes(values).to_vec();
        let range = 0..bytes.len();
        let mapping = Arc::new(Mapping::from(bytes));
        Tensor::new(DType::F32, shape, &mapping, range).expect("a vector of this size is aligned")
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
                let parts = [first.clone(), second.clone()];
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
    fn a_cut_holds_its_rows_and_columns() {
        let shape = Shape {
            experts: 2,
            rows: 3,
            cols: 64,
        };
        let all: Vec<f32> = (0..2 * 3 * 64).map(|i| i as f32).collect();
        let stack = mapped(&all, shape);
        let part = stack.cut(1..3, 32..64);
        let wanted = (0..2).flat_map(|expert| (1..3).map(move |row| (expert * 3 + row) * 64 + 32));
        let wanted: Vec<f32> = wanted.flat_map(|at| all[at..at + 32].to_vec()).collect();
        assert_eq!(values(&part), wanted);
        let second = stack.experts(1..2);
        assert_eq!(values(&second), all[192..]);
        assert!(Arc::ptr_eq(&second.mapping, &stack.mapping));
        assert_eq!(stack.experts(2..2).bytes(), 0);
        let one = mapped(&all[..192], Shape::matrix(3, 64));
        let rows = one.cut(1..2, 0..64);
        assert_eq!(values(&rows), all[64..128]);
        assert!(
            Arc::ptr_eq(&rows.mapping, &one.mapping),
            "rows are shared, not copied"
        );
        assert_eq!(one.cut(3..3, 0..64).bytes(), 0);
        assert_eq!(one.cut(0..3, 64..64).bytes(), 0);
    }

    #[test]
    fn mapping_checks_alignment_and_length() {
        let mapping = Arc::new(Mapping::from(vec![0; 64]));
        let tensor = |dtype, rows, cols, range| {
            Tensor::new(dtype, Shape::matrix(rows, cols), &mapping, range)
        };
        assert!(tensor(DType::F32, 2, 8, 0..64).is_some());
        assert!(tensor(DType::F32, 2, 8, 0..60).is_none(), "too short");
        assert!(tensor(DType::F32, 2, 8, 4..68).is_none(), "past the end");
        assert!(tensor(DType::F32, 1, 8, 1..33).is_none(), "not aligned");
        assert!(tensor(DType::Q8_0, 1, 33, 0..34).is_none(), "half a block");
    }
}
