//! The lab: two hosts, two guests and a client, each a network namespace of its own, with real
//! programs in them.
//!
//! ```text
//!   client ──┐                               lan: a bridge and nothing else
//!            ├── lan ─────────────────┐
//!            │                        │
//!   p ─ uplink ┘ br0               └─ uplink ─ s   br0
//!   │          └ vif00 ─── eth0  pg0           │   └ vif00 ─── eth0  sg0     one MAC, one set of
//!   └ fwd ════════════ forward link ═══════ fwd┘                             addresses for both
//! ```
//!
//! [`Lab`] builds it and takes it away, [`Space`] is one namespace, [`Program`] something that runs
//! in one, [`Recorder`] writes down every frame of an interface, [`Desk`] is the server whose bytes
//! are known, [`Toolstack`] performs checkpoints, [`Snapshot`] tells what a set-up left behind.
//!
//! Needs root, and the Debian packages that `cargo xtask test` installs.

pub mod desk;
pub mod lab;
pub mod live;
pub mod packet;
pub mod program;
pub mod recorder;
pub mod released;
pub mod services;
pub mod snapshot;
pub mod space;
mod sys;
pub mod toolstack;
pub mod wait;

pub use desk::{Desk, Flaw};
pub use lab::{Lab, Options};
pub use live::{Live, Proxy};
pub use packet::PacketSocket;
pub use program::Program;
pub use recorder::{Record, Recorder};
pub use snapshot::Snapshot;
pub use space::Space;
pub use toolstack::{Conduct, Toolstack};
pub use wait::until;
