//! `HOST:PORT`, where a host is a name, an IPv4 address, or an IPv6 address in brackets.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;
use thiserror::Error;

/// A host and a port, as written. Nothing has been looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

/// A text that names no host and port.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{written:?} is no HOST:PORT: {why}; write such as 192.0.2.7:9000, [2001:db8::7]:9000 or node-b:9000"
)]
pub struct AddressError {
    written: String,
    why: &'static str,
}

/// A name that leads nowhere.
#[derive(Debug, Error)]
#[error("cannot find the address of {host}: {source}; check the name, or write the address itself")]
pub struct ResolveError {
    host: HostPort,
    source: io::Error,
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = |why| AddressError { written: text.chars().take(300).collect(), why };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("the port is missing"))?;
        let host = match host.strip_prefix('[') {
            Some(inner) => {
                let inner =
                    inner.strip_suffix(']').ok_or_else(|| wrong("the port is missing after the bracket"))?;
                inner.parse::<Ipv6Addr>().map_err(|_| wrong("what is in brackets is no IPv6 address"))?;
                inner
            }
            None if host.contains(':') => return Err(wrong("an IPv6 address is written in brackets")),
            None => host,
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        if host.is_empty() {
            return Err(wrong("the host is empty (0.0.0.0 or [::] is every interface)"));
        }
        if host.len() > 253 || !host.chars().all(fits) {
            return Err(wrong("the host is neither a name nor an address"));
        }
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port =
            port.parse().ok().filter(|_| digits).ok_or_else(|| wrong("the port is no number up to 65535"))?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl HostPort {
    /// The host: what a certificate of the peer is for.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// All addresses that it has now, in the order in which they are to be tried. This opens files, unless the
    /// host is an address: it is for the time before a process is confined.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, ResolveError> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        let failed = |source| ResolveError { host: self.clone(), source };
        let found: Vec<_> = (self.host.as_str(), self.port).to_socket_addrs().map_err(failed)?.collect();
        if found.is_empty() { Err(failed(io::ErrorKind::NotFound.into())) } else { Ok(found) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_wrong_with_an_address_is_said() {
        for (text, why) in [
            ("", "port is missing"),
            ("node-b", "port is missing"),
            ("[::1]", "port is missing"),
            (":9000", "host is empty"),
            ("::1:9000", "in brackets"),
            ("[node]:9000", "no IPv6 address"),
            ("node:", "up to 65535"),
            ("node:65536", "up to 65535"),
            ("node:+90", "up to 65535"),
            ("no de:90", "neither a name"),
        ] {
            let error = text.parse::<HostPort>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("node-b:9000"), "{text}: {error}");
        }
    }

    #[test]
    fn an_address_needs_no_lookup() {
        let parse = |text: &str| text.parse::<HostPort>().unwrap().resolve().unwrap();
        assert_eq!(parse("[::1]:7"), ["[::1]:7".parse().unwrap()]);
        assert_eq!(parse("192.0.2.7:65535"), ["192.0.2.7:65535".parse().unwrap()]);
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_read_again(address: SocketAddr) {
            let shown = HostPort::from(SocketAddr::new(address.ip(), address.port())).to_string();
            prop_assert_eq!(shown.parse::<HostPort>().unwrap().to_string(), shown);
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = text.parse::<HostPort>();
        }
    }
}
