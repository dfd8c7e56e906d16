//! Guests that are stopped, saved and taken over, in lab machines: they run loads that know what is right
//! (`colo-load`), and say on their consoles whether it is so.
//!
//! ```text
//!   Side::start ─► one colo-vm on a host of the lab
//!     converse: types on its console, hears "check: … 0 errors"
//!     ask:      says QMP commands, gets answers and events
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod loads;
mod side;
