//! NBD, fixed newstyle: disks to and from other hosts.
//!
//! ```text
//!                 client::Client ◄─ bytes ─► transport ◄── socket, TLS ──► transport ◄─ bytes ─► server::Session
//!   orders, with an epoch each ─┘                                                                     │
//!                                                                                      export::Export ┘
//!                                                                                      (ImageExport: any image)
//! ```
//!
//! * [`wire`]: messages to bytes and back.
//! * [`server`]: a session, which is bytes in and bytes out; and the loop that joins it to a socket.
//! * [`client`]: the same for the other side, with many requests under way.
//! * [`export`]: what is served. [`transport`]: what carries the bytes.
//! * [`sum`]: what bytes come to, so that who has the same need not be sent them.
//!
//! **Epochs.** A client that negotiates the context `colo:epoch` gives, with each request, the epoch that it
//! belongs to, in the upper half of the request's cookie. A server that does not know the context sees nothing but
//! cookies, so all of it stays NBD. What `colo:epoch` says in a block status is the newest epoch that is stable on
//! the server's disk.
//!
//! **Order.** NBD promises none between requests under way. Our server serves those of a connection as they come,
//! and says so by that same context; with any other server the client lets no two overlap.

pub mod client;
pub mod export;
pub mod server;
pub mod sum;
pub mod transport;
pub mod wire;

pub use export::{Export, ImageExport};
pub use sum::Sum;
pub use wire::Errno;

#[cfg(test)]
mod tests;
