//! Who listens.
//!
//! ```text
//!   the address is of this host ──► bind succeeds ─────► server
//!   it is the other host's ───────► EADDRNOTAVAIL ─────► client
//!   anything else ────────────────► an error, not a guess
//! ```
//!
//! So one and the same configuration serves both hosts. It does not where every host can bind the address: the
//! unspecified one (`0.0.0.0`), or any with `net.ipv4.ip_nonlocal_bind`. There the role is to be named.

use super::errno;
use crate::checkpoint::link::socket::{SocketError, listen};
use rustix::io::Errno;
use std::net::{IpAddr, SocketAddr, TcpListener};
use thiserror::Error;

/// What this host is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It connects.
    Client,
    /// It listens.
    Server,
    /// It listens if the address is its own, else it connects.
    ByAddress,
}

/// A role that cannot be taken.
#[derive(Debug, Error)]
pub enum RoleError {
    /// It is to be the client.
    #[error(
        "cannot listen on {0}: no address of this host; connect to it (role client), or choose an address of this host"
    )]
    NotOurs(String),
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] SocketError),
    /// Each host would listen.
    #[error("the role cannot be told from {address}: {why}; name the role (client or server)")]
    Unclear {
        /// Which address.
        address: IpAddr,
        /// Why not.
        why: &'static str,
    },
    /// There is nowhere to listen or to connect to.
    #[error("no address is given; write HOST:PORT of the one that listens")]
    NoAddress,
}

impl RoleError {
    /// As the first of these connections said it.
    pub fn code(&self) -> i8 {
        match self {
            Self::NotOurs(_) => -2,
            Self::Listen(_) | Self::Unclear { .. } | Self::NoAddress => -1,
        }
    }
}

/// Listens on the first of these that is an address of this host.
pub fn bind(addresses: &[SocketAddr]) -> Result<TcpListener, RoleError> {
    for address in addresses {
        match listen(*address) {
            Ok(listener) => return Ok(listener),
            Err(SocketError::Listen { source, .. }) if is_not_ours(errno::of(&source)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let shown: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
    if shown.is_empty() { Err(RoleError::NoAddress) } else { Err(RoleError::NotOurs(shown.join(", "))) }
}

/// The address is another host's, or of a protocol that this host does not speak.
fn is_not_ours(error: Errno) -> bool {
    matches!(error, Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT)
}

/// What this host is by these addresses: a listener, or none if it is the client.
pub(super) fn by_address(addresses: &[SocketAddr]) -> Result<Option<TcpListener>, RoleError> {
    if let Some(any) = addresses.iter().find(|address| address.ip().to_canonical().is_unspecified()) {
        return Err(RoleError::Unclear { address: any.ip(), why: "every host can listen on it" });
    }
    match bind(addresses) {
        Ok(listener) => {
            let address = listener.local_addr().map(|address| address.ip());
            match address {
                Ok(address) if nonlocal(address) => {
                    Err(RoleError::Unclear { address, why: "ip_nonlocal_bind is set here" })
                }
                _ => Ok(Some(listener)),
            }
        }
        Err(RoleError::NotOurs(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether this host could listen there even if the address were another's.
fn nonlocal(address: IpAddr) -> bool {
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    let setting = std::fs::read_to_string(format!("/proc/sys/net/{family}/ip_nonlocal_bind"));
    setting.is_ok_and(|setting| setting.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_errors_say_that_the_address_is_not_ours() {
        let not_ours: Vec<_> = (1..134).filter(|&code| is_not_ours(Errno::from_raw_os_error(code))).collect();
        assert_eq!(not_ours, [libc::EAFNOSUPPORT, libc::EADDRNOTAVAIL]);
    }
}
