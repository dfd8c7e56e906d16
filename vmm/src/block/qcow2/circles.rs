//! Notices when the library goes in circles.
//!
//! ```text
//!   a buffer is made ─► read or written ─► a buffer is made ─► …      as it should be
//!   a buffer is made ─► a buffer is made ─► a buffer is made ─► …     it calls itself, without end
//! ```
//!
//! With damaged refcounts it looks for room for a refcount block in the range of that very block, until the
//! stack is full, which ends the process. It asks the file how to align a buffer each time round.

use std::cell::Cell;
use std::panic::resume_unwind;

/// Buffers in a row that nothing is read into or written from. The library has no use for more than a few.
const MOST: u32 = 100;

thread_local! {
    static PLANNED: Cell<u32> = const { Cell::new(0) };
}

/// Something is read or written, or asked for.
pub(super) fn begin() {
    PLANNED.set(0);
}

/// A buffer is going to be made. Unwinds to whoever called the library if that happens too often; the
/// panic's hook says nothing of it.
pub(super) fn plan() {
    PLANNED.set(PLANNED.get() + 1);
    if PLANNED.get() > MOST {
        begin();
        resume_unwind(Box::new("its tables lead in circles"));
    }
}
