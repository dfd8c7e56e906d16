//! What the programs in the kernel and the program outside of it agree on.
//!
//! ```text
//!   colo-proxy ──► NICS[index] : Nic ──────────► vif, forward and capture programs
//!              ◄── COUNTERS[index] : Counters ──┘      │
//!              ◄── ADDRESSES : Address ────────────────┤  (secondary only)
//!                  FLOWS : Flow ◄──────────────────────┘
//! ```
//!
//! * [`layout`]: the values in the maps.
//! * [`tag`]: the 802.1ad tag of frames on the forward link and on the way to the comparator.
//! * [`translate`]: from the secondary's sequence numbers and timestamps to the primary's and back.
//!
//! All of it is plain data and arithmetic, so it is tested on the host as it runs in the kernel.
#![no_std]

pub mod layout;
pub mod tag;
pub mod translate;
