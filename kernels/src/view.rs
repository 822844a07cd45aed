//! Checked views of matrices: every bound that a kernel relies on is established here.

use half::{bf16, f16};

use crate::dtype::DType;
use crate::q8_0::{BLOCK_LEN, BlockQ8_0};

/// Why a view cannot be made over a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// `rows`, `cols` and `stride` do not fit the slice.
    #[error("a {rows} × {cols} matrix with row stride {stride} does not fit {len} elements")]
    OutOfBounds {
        /// Rows asked for.
        rows: usize,
        /// Elements of a row asked for.
        cols: usize,
        /// Elements from one row's start to the next one's.
        stride: usize,
        /// Elements of the slice.
        len: usize,
    },
}

/// A row-major matrix view: row `r` is `data[r · stride..][..cols]`.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a, T> MatRef<'a, T> {
    /// A dense view, `stride = cols`.
    ///
    /// # Errors
    /// [`ShapeError`] if `data` holds fewer than `rows · cols` elements.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Result<Self, ShapeError> {
        Self::with_stride(data, rows, cols, cols)
    }

    /// A view whose rows start `stride` elements apart.
    ///
    /// # Errors
    /// [`ShapeError`] if `stride < cols` or the last row ends past the slice.
    pub fn with_stride(
        data: &'a [T],
        rows: usize,
        cols: usize,
        stride: usize,
    ) -> Result<Self, ShapeError> {
        check(data.len(), rows, cols, stride)?;
        Ok(Self {
            data,
            rows,
            cols,
            stride,
        })
    }

    /// Rows.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from one row's start to the next one's.
    pub const fn stride(&self) -> usize {
        self.stride
    }

    /// Row `r`.
    ///
    /// # Panics
    /// If `r` is not below [`Self::rows`].
    pub fn row(&self, r: usize) -> &'a [T] {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        &self.data[r * self.stride..][..self.cols]
    }

    /// Rows `start..end` as a view of their own.
    ///
    /// # Panics
    /// If the range is not within the rows.
    pub fn row_range(&self, start: usize, end: usize) -> Self {
        assert!(
            start <= end && end <= self.rows,
            "rows {start}..{end} of {}",
            self.rows
        );
        let data = if start == end {
            &[]
        } else {
            &self.data[start * self.stride..]
        };
        Self {
            data,
            rows: end - start,
            ..*self
        }
    }

    /// Where row 0 starts; valid for reads of `cols` elements at each multiple of the stride below `rows`.
    pub const fn as_ptr(&self) -> *const T {
        self.data.as_ptr()
    }
}

/// A mutable row-major matrix view, see [`MatRef`].
#[derive(Debug)]
pub struct MatMut<'a, T> {
    data: &'a mut [T],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a, T> MatMut<'a, T> {
    /// A dense view, `stride = cols`.
    ///
    /// # Errors
    /// [`ShapeError`] if `data` holds fewer than `rows · cols` elements.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Result<Self, ShapeError> {
        Self::with_stride(data, rows, cols, cols)
    }

    /// A view whose rows start `stride` elements apart; what lies between them is never touched.
    ///
    /// # Errors
    /// [`ShapeError`] if `stride < cols` or the last row ends past the slice.
    pub fn with_stride(
        data: &'a mut [T],
        rows: usize,
        cols: usize,
        stride: usize,
    ) -> Result<Self, ShapeError> {
        check(data.len(), rows, cols, stride)?;
        Ok(Self {
            data,
            rows,
            cols,
            stride,
        })
    }

    /// Rows.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from one row's start to the next one's.
    pub const fn stride(&self) -> usize {
        self.stride
    }

    /// Row `r`.
    ///
    /// # Panics
    /// If `r` is not below [`Self::rows`].
    pub fn row_mut(&mut self, r: usize) -> &mut [T] {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        &mut self.data[r * self.stride..][..self.cols]
    }

    /// The same view, read only.
    pub fn as_ref(&self) -> MatRef<'_, T> {
        MatRef {
            data: self.data,
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
        }
    }

    /// The same view under a shorter borrow.
    pub fn reborrow(&mut self) -> MatMut<'_, T> {
        MatMut {
            data: self.data,
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
        }
    }

    /// Each row as a view of its own; none where rows have no elements.
    pub(crate) fn row_mats(&mut self) -> impl Iterator<Item = MatMut<'_, T>> {
        let rows = self.data.chunks_mut(self.stride.max(1)).take(self.rows);
        rows.map(|data| MatMut {
            data,
            rows: 1,
            cols: self.cols,
            stride: self.stride,
        })
    }

    /// A handle through which the workers of a pool write disjoint tiles.
    pub(crate) fn shared(&mut self) -> SharedMat<'_, T> {
        SharedMat {
            data: self.data.as_mut_ptr(),
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
            borrow: std::marker::PhantomData,
        }
    }
}

fn check(len: usize, rows: usize, cols: usize, stride: usize) -> Result<(), ShapeError> {
    let error = ShapeError::OutOfBounds {
        rows,
        cols,
        stride,
        len,
    };
    if stride < cols {
        return Err(error);
    }
    let Some(before_last) = rows.checked_sub(1) else {
        return Ok(());
    };
    let end = before_last
        .checked_mul(stride)
        .and_then(|start| start.checked_add(cols));
    if end.is_some_and(|end| end <= len) {
        Ok(())
    } else {
        Err(error)
    }
}

/// A [`MatMut`] that several workers write at once, each its own tiles.
///
/// Bounds are checked at each access; that tiles do not overlap is the caller's promise.
#[derive(Clone, Copy)]
pub(crate) struct SharedMat<'a, T> {
    data: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    borrow: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for an exclusive borrow of `T`s, whose parts may be handed to other threads if `T` may.
unsafe impl<T: Send> Send for SharedMat<'_, T> {}
// SAFETY: as for `Send`; `tile` makes the caller promise that parts in use at one time do not overlap.
unsafe impl<T: Send> Sync for SharedMat<'_, T> {}

impl<'a, T> SharedMat<'a, T> {
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Rows `start..end`.
    pub(crate) fn row_range(&self, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= self.rows);
        Self {
            // Past the last row there may be nothing, and then no row is left to point to.
            data: self.data.wrapping_add(start * self.stride),
            rows: end - start,
            ..*self
        }
    }

    /// Columns `start..start + len` of row `r`.
    ///
    /// # Safety
    /// No other reference to any of these elements is alive.
    pub(crate) unsafe fn tile(&self, r: usize, start: usize, len: usize) -> &'a mut [T] {
        assert!(r < self.rows && start <= self.cols && len <= self.cols - start);
        // SAFETY: the assertion keeps the part within row `r`, which the view's constructor found within the slice;
        // the caller promises that nobody else refers to it.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(r * self.stride + start), len) }
    }

    /// Where row 0 starts; valid for writes of `cols` elements at each multiple of the stride below `rows`.
    pub(crate) fn as_mut_ptr(&self) -> *mut T {
        self.data
    }
}

/// A weight matrix `[n, k]` in any storable type: row `n` holds the weights of output `n`, as GGUF stores it.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a> {
    /// f32 elements.
    F32(MatRef<'a, f32>),
    /// f16 elements.
    F16(MatRef<'a, f16>),
    /// bf16 elements.
    Bf16(MatRef<'a, bf16>),
    /// Q8_0 blocks: a row of `k / 32`.
    Q8_0(MatRef<'a, BlockQ8_0>),
}

impl Weights<'_> {
    /// Outputs `n`.
    pub const fn rows(&self) -> usize {
        match self {
            Self::F32(m) => m.rows(),
            Self::F16(m) => m.rows(),
            Self::Bf16(m) => m.rows(),
            Self::Q8_0(m) => m.rows(),
        }
    }

    /// Inputs `k`, in elements.
    pub const fn cols(&self) -> usize {
        match self {
            Self::F32(m) => m.cols(),
            Self::F16(m) => m.cols(),
            Self::Bf16(m) => m.cols(),
            Self::Q8_0(m) => m.cols() * BLOCK_LEN,
        }
    }

    /// Element type.
    pub const fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F16(_) => DType::F16,
            Self::Bf16(_) => DType::Bf16,
            Self::Q8_0(_) => DType::Q8_0,
        }
    }

    /// Outputs `start..end` as weights of their own.
    ///
    /// # Panics
    /// If the range is not within the rows.
    pub fn row_range(&self, start: usize, end: usize) -> Self {
        match self {
            Self::F32(m) => Self::F32(m.row_range(start, end)),
            Self::F16(m) => Self::F16(m.row_range(start, end)),
            Self::Bf16(m) => Self::Bf16(m.row_range(start, end)),
            Self::Q8_0(m) => Self::Q8_0(m.row_range(start, end)),
        }
    }

    /// Row `r`, widened to f32: the embedding of token `r`.
    ///
    /// # Panics
    /// If `r` is not below [`Self::rows`] or `out.len()` is not [`Self::cols`].
    pub fn widen_row(&self, r: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols(), "a row of {} elements", self.cols());
        match self {
            Self::F32(m) => out.copy_from_slice(m.row(r)),
            Self::F16(m) => out
                .iter_mut()
                .zip(m.row(r))
                .for_each(|(o, v)| *o = v.to_f32()),
            Self::Bf16(m) => out
                .iter_mut()
                .zip(m.row(r))
                .for_each(|(o, v)| *o = v.to_f32()),
            Self::Q8_0(m) => crate::q8_0::dequantize_row(m.row(r), out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_check_their_bounds() {
        let data = [0_u8; 10];
        assert!(MatRef::new(&data, 2, 5).is_ok());
        assert!(MatRef::new(&data, 3, 4).is_err());
        assert!(
            MatRef::with_stride(&data, 2, 3, 7).is_ok(),
            "the last row need not fill its stride"
        );
        assert!(MatRef::with_stride(&data, 2, 3, 2).is_err());
        assert!(MatRef::new(&data, usize::MAX, usize::MAX).is_err());
        assert!(MatRef::new(&data, 0, 99).is_ok());
        assert_eq!(MatRef::new(&data, 0, 99).unwrap().row_range(0, 0).rows(), 0);
    }

    #[test]
    #[should_panic(expected = "rows 1..3 of 2")]
    fn a_row_range_stays_inside() {
        MatRef::new(&[0_u8; 4], 2, 2).unwrap().row_range(1, 3);
    }
}
