//! A matrix whose surroundings give away whoever touches them.

use tokgate_kernels::{MatMut, MatRef};

/// A NaN that no arithmetic makes.
const CANARY: u32 = 0x7fc0_d00d;

/// `rows × cols` floats that start off any alignment, with canaries before, between and after the rows.
#[derive(Clone)]
pub struct Padded {
    data: Vec<f32>,
    rows: usize,
    cols: usize,
}

impl Padded {
    /// Elements before the first row.
    const BEFORE: usize = 1;
    /// Elements between rows, and after the last one.
    const BETWEEN: usize = 3;

    pub fn new(rows: usize, cols: usize, mut element: impl FnMut(usize, usize) -> f32) -> Self {
        let mut data = vec![f32::from_bits(CANARY); Self::BEFORE];
        for r in 0..rows {
            data.extend((0..cols).map(|c| element(r, c)));
            data.extend([f32::from_bits(CANARY); Self::BETWEEN]);
        }
        Self { data, rows, cols }
    }

    pub fn view(&self) -> MatRef<'_, f32> {
        let stride = self.cols + Self::BETWEEN;
        MatRef::with_stride(&self.data[Self::BEFORE..], self.rows, self.cols, stride)
            .expect("it was made for this shape")
    }

    pub fn view_mut(&mut self) -> MatMut<'_, f32> {
        let stride = self.cols + Self::BETWEEN;
        MatMut::with_stride(&mut self.data[Self::BEFORE..], self.rows, self.cols, stride)
            .expect("it was made for this shape")
    }

    /// The rows without what lies between.
    pub fn dense(&self) -> Vec<f32> {
        (0..self.rows)
            .flat_map(|r| self.view().row(r).to_vec())
            .collect()
    }

    /// # Panics
    /// If anything outside the rows was written.
    pub fn assert_untouched_around(&self, what: &str) {
        let stride = self.cols + Self::BETWEEN;
        for (i, v) in self.data.iter().enumerate() {
            let inside = i >= Self::BEFORE && (i - Self::BEFORE) % stride < self.cols;
            assert!(
                inside || v.to_bits() == CANARY,
                "{what}: element {i} lies outside the rows and was written"
            );
        }
    }
}
