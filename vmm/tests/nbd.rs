//! NBD with other people's programs: theirs at our server, our client at theirs. They are Debian's: `qemu-utils`,
//! `libnbd-bin`, `fio` (`cargo xtask test` installs them).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "nbd/client.rs"]
mod client;
#[path = "nbd/rig.rs"]
mod rig;
#[path = "nbd/served.rs"]
mod served;
#[path = "nbd/tls.rs"]
mod tls;
