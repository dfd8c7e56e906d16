//! What a running node is asked, and what it answers.
//!
//! ```text
//!   status, top, promote, … ─► client ──┐ unix socket, one JSON object per line
//!                                       ├─► server (a thread) ─► Handler ─► the live path
//!   Prometheus ─────────────────────────┘ GET /metrics                          │
//!                                                   NodeStatus ◄────────────────┘
//! ```
//!
//! * [`protocol`] is what is said, [`listener`] where it is heard, and [`server`] who answers.
//! * [`client`] finds the processes of this network namespace and asks them.
//! * [`status`] is what a node says of itself; [`exposition`] writes it as metrics, [`render`] for
//!   people, and [`rates`] is the difference of two.
//! * [`families`] is how metrics are written, and [`scrape`] serves them, those of other programs, too.

pub mod client;
pub mod exposition;
pub mod families;
pub mod listener;
pub mod protocol;
pub mod rates;
pub mod render;
pub mod scrape;
pub mod server;
pub mod status;

pub use listener::{BindError, MetricsListener, listen};
pub use protocol::{Answer, Handler, Refusal, Request};
pub use server::{Server, StartError};
