//! What protection costs, measured on real interfaces: the ways from a guest to its client, side by
//! side.
//!
//! ```text
//!   bridge      client ─ switch ─ bridge ─ guest                   the machine's limit
//!   mirrored    the same, and the input is copied to a second guest that runs along, translated;
//!               the first guest's output passes in the kernel, the second's is dropped
//!   passed      the output goes through the comparator, which lets it pass by a rule
//!   protected   the output is held until both agree
//!   plain       the same, and no cable has segmentation or checksum offload
//!   QEMU        its filters and its comparer hold the output until both agree
//! ```
//!
//! All run on the same CPUs: two guests' TCP stacks, the client's, and the comparator share them, so
//! that a ratio says what is paid in all and not only on the primary's host.
//!
//! * [`server`] is what both guests run, [`load`] what the client does.
//! * [`contender`] is the way, [`qemu`] QEMU's, [`report`] the table.

pub mod contender;
pub mod load;
pub mod qemu;
pub mod report;
pub mod secondary;
pub mod server;
