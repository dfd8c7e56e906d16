//! Where the other host is, and where this one is waited at.
//!
//! ```text
//!   web2.example:9000, 192.0.2.7:9000, [2001:db8::7]:9000 ──► Peer ── resolve, before files are out of reach ──► addresses
//!   0.0.0.0:9000, [::]:9000, localhost:9000 ────────────────► Listen
//! ```

use super::value::from_text;
use serde::Deserialize;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;
use thiserror::Error;

/// A name has no more addresses than this that would be tried.
const MOST_ADDRESSES: usize = 16;

/// An address that is none.
#[derive(Debug, Error)]
pub enum AddressError {
    /// The other host's.
    #[error(
        "{0:?} is no host and port; write HOST:PORT, such as web2.example:9000, 192.0.2.7:9000 or [2001:db8::7]:9000"
    )]
    Peer(String),
    /// The other host's, of which only the host is said.
    #[error(
        "{0:?} is no host and port: missing port; write HOST:PORT, such as web2.example:9000 or [2001:db8::7]:9000"
    )]
    NoPort(String),
    /// This host's.
    #[error(
        "{0:?} is no address and port to listen on; write ADDR:PORT, such as 192.0.2.7:9000, 0.0.0.0:9000 or [::]:9000"
    )]
    Listen(String),
    /// A name without an address.
    #[error("cannot find the address of {peer}: {error}; write an IP address, or see to DNS or /etc/hosts")]
    Resolve {
        /// Whose.
        peer: Peer,
        /// Why not.
        error: io::Error,
    },
}

/// The other host: a name or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Peer {
    host: String,
    port: u16,
}

impl Peer {
    /// Its addresses, in the order in which they are to be tried; at least one. A name is looked up: this
    /// can take its time, and needs files that are out of reach later.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, AddressError> {
        let failed = |error| AddressError::Resolve { peer: self.clone(), error };
        let found = (self.host.as_str(), self.port).to_socket_addrs().map_err(failed)?;
        let found: Vec<_> = found.take(MOST_ADDRESSES).collect();
        if found.is_empty() {
            return Err(failed(io::ErrorKind::NotFound.into()));
        }
        Ok(found)
    }

    /// The host: what its certificate is for.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether it is this host itself, so that nobody else can listen in.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl FromStr for Peer {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError::Peer(text.to_owned());
        let missing = || AddressError::NoPort(text.to_owned());
        // What ends with a bracket is an address alone: its colons are its own.
        let (host, port) = text.rsplit_once(':').filter(|_| !text.ends_with(']')).ok_or_else(missing)?;
        if port.is_empty() {
            return Err(missing());
        }
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port: u16 = port.parse().ok().filter(|&port| digits && port != 0).ok_or_else(wrong)?;
        let host = if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            address.parse::<Ipv6Addr>().map_err(|_| wrong())?.to_string()
        } else {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let name = (1..=253).contains(&host.len()) && host.chars().all(fits);
            // What consists of digits alone is an address, or a slip of the pen.
            let number = host.chars().all(|c| c.is_ascii_digit() || c == '.');
            if !name || (number && host.parse::<Ipv4Addr>().is_err()) {
                return Err(wrong());
            }
            host.to_owned()
        };
        Ok(Self { host, port })
    }
}

from_text!(Peer);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Where the other host is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Listen(SocketAddr);

impl Listen {
    /// The address; port 0 has the kernel choose one.
    pub const fn address(self) -> SocketAddr {
        self.0
    }
}

impl FromStr for Listen {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        // Other names would have to be looked up, and could mean several addresses.
        let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
        let local = local.map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let address = local.or_else(|| text.parse().ok());
        address.map(Self).ok_or_else(|| AddressError::Listen(text.to_owned()))
    }
}

from_text!(Listen);

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_addresses_are_read_and_shown() {
        for (text, loopback) in [
            ("web2.example:9000", false),
            ("192.0.2.7:1", false),
            ("[2001:db8::7]:65535", false),
            ("localhost:9000", true),
            ("127.0.0.2:9000", true),
            ("[::1]:9000", true),
        ] {
            let peer: Peer = text.parse().unwrap();
            assert_eq!((peer.to_string().as_str(), peer.is_loopback()), (text, loopback));
        }
        let found = "[::1]:9000".parse::<Peer>().unwrap().resolve().unwrap();
        assert_eq!(found, ["[::1]:9000".parse().unwrap()]);
        for text in ["0.0.0.0:9000", "[::]:0", "127.0.0.1:9"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        assert_eq!("localhost:7".parse::<Listen>().unwrap().to_string(), "127.0.0.1:7");
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for text in [
            "",
            "web2",
            "web2:",
            ":9000",
            "web2:0",
            "web2:70000",
            "web2:+1",
            "::1:9000",
            "[::1]",
            "[web]:1",
            "1.2.3:9",
            "a b:1",
        ] {
            let error = text.parse::<Peer>().unwrap_err().to_string();
            assert!(error.contains("is no host and port"), "{text}: {error}");
            assert!(error.contains("; write HOST:PORT, such as"), "{text}: {error}");
            // One would be looked for in vain in the others.
            let missing = matches!(text, "" | "web2" | "web2:" | "[::1]");
            assert_eq!(error.contains("missing port"), missing, "{text}: {error}");
        }
        for text in ["", "9000", ":9000", "web2:9000", "::1:x", "0.0.0.0"] {
            let error = text.parse::<Listen>().unwrap_err().to_string();
            assert!(error.contains("write ADDR:PORT, such as"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_read_again(text in "\\PC{0,30}|\\[?[0-9a-f:.]{1,20}\\]?:[0-9]{1,6}") {
            if let Ok(peer) = text.parse::<Peer>() {
                prop_assert_eq!(peer.to_string().parse::<Peer>().unwrap(), peer);
            }
            if let Ok(listen) = text.parse::<Listen>() {
                prop_assert_eq!(listen.to_string().parse::<Listen>().unwrap(), listen);
            }
        }
    }
}
