//! Network interfaces: what they are like, how they are changed, and the tap that frames are taken
//! in at.
//!
//! ```text
//!   Netlink ── get, set ──► links, bridges            rtnetlink(7), no external program
//!   Tap     ── readv, writev ──► frames with their vnet header
//! ```

mod clsact;
mod netlink;
mod sys;
mod tap;

pub use netlink::{Link, LinkError, Netlink};
pub use tap::{Tap, TapError, VNET_HDR};
