//! Both sides, without a socket between them.

mod client;
mod hostile;
mod memory;
mod server;
