//! Working memory that kernels borrow and give back, so that a forward pass allocates nothing once it is warm.

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use half::bf16;

/// A cache line and a zmm register.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Types of which any bit pattern is a value.
///
/// # Safety
/// No padding, no invalid bit patterns, alignment of at most 64.
pub unsafe trait Plain: Copy {}

// SAFETY: any bit pattern is a value of it.
unsafe impl Plain for u8 {}
// SAFETY: any bit pattern is a value of it.
unsafe impl Plain for i8 {}
// SAFETY: any bit pattern is a value of it.
unsafe impl Plain for i32 {}
// SAFETY: any bit pattern is a value of it.
unsafe impl Plain for u32 {}
// SAFETY: any bit pattern is a value of it.
unsafe impl Plain for f32 {}
// SAFETY: any bit pattern is a value of it.
unsafe impl Plain for bf16 {}

/// A store of buffers. Borrowing takes the smallest buffer that is large enough, and allocates where there is none.
#[derive(Debug, Default)]
pub struct Scratch {
    free: Mutex<Vec<Vec<Line>>>,
}

impl Scratch {
    /// `len` elements aligned to 64 bytes, with arbitrary contents. The buffer returns to the store when dropped.
    ///
    /// # Panics
    /// If the size overflows.
    pub fn take<T: Plain>(&self, len: usize) -> Buffer<'_, T> {
        const { assert!(align_of::<T>() <= align_of::<Line>()) };
        let bytes = len.checked_mul(size_of::<T>()).expect("scratch size");
        let lines = bytes.div_ceil(size_of::<Line>());
        let found = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let fitting = free
                .iter()
                .enumerate()
                .filter(|(_, buffer)| buffer.len() >= lines);
            let best = fitting
                .min_by_key(|(_, buffer)| buffer.len())
                .map(|(at, _)| at);
            best.map(|at| free.swap_remove(at))
        };
        let buffer = found.unwrap_or_else(|| vec![Line([0; 64]); lines]);
        Buffer {
            store: self,
            lines: ManuallyDrop::new(buffer),
            len,
            element: PhantomData,
        }
    }
}

/// A borrowed buffer, see [`Scratch::take`].
#[derive(Debug)]
pub struct Buffer<'a, T: Plain> {
    store: &'a Scratch,
    lines: ManuallyDrop<Vec<Line>>,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Plain> Deref for Buffer<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `take` made the lines hold `len` elements; lines are initialised and aligned, any bits are a `T`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and the buffer is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl<T: Plain> Drop for Buffer<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the buffer is being dropped, so that nobody looks at `lines` again.
        let lines = unsafe { ManuallyDrop::take(&mut self.lines) };
        self.store
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back() {
        let scratch = Scratch::default();
        let first = {
            let mut buffer = scratch.take::<f32>(1000);
            assert_eq!(buffer.len(), 1000);
            assert_eq!(buffer.as_ptr() as usize % 64, 0);
            buffer.fill(1.0);
            buffer.as_ptr() as usize
        };
        let second = scratch.take::<i8>(4000);
        assert_eq!(second.as_ptr() as usize, first);
        assert_ne!(scratch.take::<i8>(1).as_ptr() as usize, first);
        assert!(scratch.take::<f32>(0).is_empty());
    }
}
