//! How much memory a piece of code asks for at once: hostile counts must not reach the allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Runs `f`, and fails if a single allocation on this thread was larger than `limit` bytes.
pub fn bounded<T>(limit: usize, f: impl FnOnce() -> T) -> T {
    LARGEST.set(0);
    let result = f();
    let largest = LARGEST.get();
    assert!(
        largest <= limit,
        "one allocation of {largest} bytes, over the limit of {limit}"
    );
    result
}

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

struct Watched;

#[global_allocator]
static ALLOCATOR: Watched = Watched;

fn note(size: usize) {
    // The thread's variables are gone while it ends.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: the caller's promise is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}
