//! Lab machines: real kernels with a real KVM, on any machine.
//!
//! ```text
//!   this machine                                     its root is theirs, read-only
//!   ┌────────────────────────────────────────────────────────────────────────────┐
//!   │ Lab ── Link client ─┬───────────────┬──── client0 in a namespace: clients  │
//!   │     ── Link forward ┼───┬───────────┼───┐                                  │
//!   │     ── Link repl. ──┼───┼───┬───────┼───┼───┐                              │
//!   │ ┌ Host a: QEMU ─────┴───┴───┴─┐ ┌ Host b┴───┴───┴─┐  TCG, or nested KVM    │
//!   │ │ client0  fwd0  repl0        │ │ client0 …       │  Debian's kernel       │
//!   │ │ /dev/kvm (SVM), /results    │ │                 │  the agent runs        │
//!   │ │ agent ── virtio-serial ─────┼─┼─ Host::run      │  commands              │
//!   │ └─────────────────────────────┘ └─────────────────┘                        │
//!   └────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! [`Lab::start`] starts one or two, [`Lab::shared`] one for all tests of a program, [`Lease::take`] one for
//! a test alone. A [`Host`] runs
//! [`Job`]s and can be killed; a [`Link`] can be cut, delayed or made to lose frames. [`images`] has
//! guests for them. `cargo xtask lab` is the same for people.

pub mod agent;
mod cpio;
pub mod host;
pub mod images;
mod lease;
pub mod link;
mod loads;
pub mod machine;
mod modules;
mod outside;
mod protocol;
mod start;
pub mod store;
mod sys;
pub mod vmlinux;

pub use host::{Host, Job, Output, Running, Stream};
pub use images::Disk;
pub use lease::Lease;
pub use link::{Faults, Link};
pub use loads::colo_load;
pub use machine::Accel;
pub use outside::ADDRESS as CLIENT_ADDRESS;
pub use start::{Lab, Options};
pub use store::Kernel;
