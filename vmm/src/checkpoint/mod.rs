//! A secondary kept level with its primary, checkpoint by checkpoint.
//!
//! ```text
//!   primary                                          secondary
//!   session ──► protocol (what is said, and when) ◄── session
//!                  │                          │
//!                 link (how it gets there: TCP, TLS, heartbeat)
//! ```
//!
//! * [`protocol`]: the messages, and for each side a type per phase. It has no socket.
//! * [`link`]: TCP with deadlines, TLS, the secondary's door, the heartbeat.

pub mod link;
pub mod protocol;
