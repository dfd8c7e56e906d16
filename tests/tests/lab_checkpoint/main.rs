//! Guests that another host takes over, in lab machines: they run loads that know
//! what is right (`colo-load`), and say on their consoles whether it is so.
//!
//! ```text
//!   Hosts: a and b, started for a test
//!   Side::start ─► one colo-vm on one of them
//!     converse: types on its console, hears "check: … 0 errors"
//!     until:    looks at its status until something is so
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod chaos;
mod hosts;
mod pair;
mod side;
