//! Counts each thread's allocations.
// UNSAFETY: an allocator is unsafe by nature; this one passes every call on to the system's.
#![expect(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Has no destructor, so it can be used for as long as its thread allocates.
    static MADE: Cell<usize> = const { Cell::new(0) };
    static HELD: Cell<isize> = const { Cell::new(0) };
}

/// How often the calling thread has asked for memory.
pub fn on_this_thread() -> usize {
    MADE.get()
}

/// How many bytes the calling thread has asked for and not given back. (It may give back what another
/// has asked for, so only a difference says something, and only of what is done on one thread.)
pub fn held_by_this_thread() -> isize {
    HELD.get()
}

fn hold(bytes: usize) {
    HELD.set(HELD.get().wrapping_add_unsigned(bytes));
}

fn give_back(bytes: usize) {
    HELD.set(HELD.get().wrapping_sub_unsigned(bytes));
}

// SAFETY: the system's allocator does the work, and gets every argument as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MADE.set(MADE.get() + 1);
        hold(layout.size());
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        give_back(layout.size());
        // SAFETY: passed on.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        MADE.set(MADE.get() + 1);
        give_back(layout.size());
        hold(size);
        // SAFETY: passed on.
        unsafe { System.realloc(memory, layout, size) }
    }
}
