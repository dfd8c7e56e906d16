//! Sockets that send at once, and notice when the peer is gone.
//!
//! ```text
//!   TCP_NODELAY        a message leaves when it is written
//!   keep-alive         a peer that says nothing is asked whether it is there
//!   TCP_USER_TIMEOUT   one that confirms nothing of what is sent to it is given up
//! ```
//!
//! All are non-blocking and closed on exec; who waits does so in `wait`, with an instant at which it ends.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};
use thiserror::Error;

/// After how long of silence the kernel asks, and how often.
const KEEPALIVE: Duration = Duration::from_secs(2);
const KEEPALIVE_TRIES: u32 = 3;
/// How long the kernel sends what nobody confirms, in milliseconds.
const USER_TIMEOUT: u32 = 10_000;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// A socket that cannot be had.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Nobody answers.
    #[error("cannot connect to the peer: {0}; does colo-vm listen there, does a firewall let it through?")]
    Connect(String),
    /// We cannot listen.
    #[error("cannot listen on {address}: {source}; choose an address of this host and a port that is free")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Waits until one of these can be done, or it is time. What is possible then is still found.
pub(crate) fn wait(socket: &impl AsFd, what: PollFlags, until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // An instant too far away to be expressed is as good as none.
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(socket, what)], timeout.as_ref()) {
            Ok(0) if left.is_zero() => return Err(io::ErrorKind::TimedOut.into()),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// One that is not connected yet, for an address of this family.
pub(crate) fn new(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE)?;
    sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_TRIES)?;
    sockopt::set_tcp_user_timeout(&socket, USER_TIMEOUT)?;
    Ok(socket)
}

/// Listens. What is accepted has the options of this socket.
pub fn listen(address: SocketAddr) -> Result<TcpListener, SocketError> {
    let listen = || {
        let socket = new(&address)?;
        // A port whose last connection ended a moment ago can be used again.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    listen().map_err(|source| SocketError::Listen { address, source })
}

/// Connects to the first of these that answers. Each has an equal part of the time that is left.
pub fn connect(addresses: &[SocketAddr], within: Duration) -> Result<(TcpStream, SocketAddr), SocketError> {
    let end = Instant::now() + within;
    let mut failures = Vec::new();
    for (at, address) in addresses.iter().enumerate() {
        let left = end.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        match attempt(address, Instant::now() + share) {
            Ok(socket) => return Ok((socket, *address)),
            Err(error) => failures.push(format!("{address}: {error}")),
        }
    }
    if failures.is_empty() {
        failures.push("no address is known".to_owned());
    }
    Err(SocketError::Connect(failures.join(", ")))
}

fn attempt(address: &SocketAddr, until: Instant) -> io::Result<TcpStream> {
    let socket = TcpStream::from(new(address)?);
    if !begin(&socket, address)? {
        wait(&socket, PollFlags::OUT, until)?;
    }
    finish(&socket)?;
    Ok(socket)
}

/// Begins to connect, and says whether that is done already. Otherwise it is when the socket can be written to.
pub(crate) fn begin(socket: &TcpStream, address: &SocketAddr) -> Result<bool, Errno> {
    match rustix::net::connect(socket, address) {
        Ok(()) => Ok(true),
        Err(Errno::INPROGRESS) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Says how it went.
pub(crate) fn finish(socket: &TcpStream) -> Result<(), Errno> {
    sockopt::socket_error(socket)??;
    // One that tries a port of its own host where nobody listens can meet itself there.
    let same = Some(rustix::net::getsockname(socket)?) == rustix::net::getpeername(socket)?;
    if same { Err(Errno::CONNREFUSED) } else { Ok(()) }
}

/// The next connection, if one waits. It is non-blocking and closed on exec like those that are made here.
pub(super) fn accept(listener: &TcpListener) -> io::Result<Option<(TcpStream, Option<SocketAddr>)>> {
    match rustix::net::acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok((socket, from)) => {
            let from = from.and_then(|from| SocketAddr::try_from(from).ok());
            Ok(Some((TcpStream::from(socket), from)))
        }
        Err(Errno::WOULDBLOCK | Errno::INTR | Errno::CONNABORTED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_a_connection_notice_a_lost_peer() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (one, to) = connect(&[address], Duration::from_mins(1)).unwrap();
        wait(&listener, PollFlags::IN, Instant::now() + Duration::from_mins(1)).unwrap();
        let (other, from) = accept(&listener).unwrap().unwrap();
        assert_eq!((to, from), (address, Some(one.local_addr().unwrap())));
        for socket in [one, other] {
            assert!(sockopt::tcp_nodelay(&socket).unwrap());
            assert!(sockopt::socket_keepalive(&socket).unwrap());
            assert_eq!(sockopt::tcp_keepidle(&socket).unwrap(), KEEPALIVE);
            assert_eq!(sockopt::tcp_keepintvl(&socket).unwrap(), KEEPALIVE);
            assert_eq!(sockopt::tcp_user_timeout(&socket).unwrap(), USER_TIMEOUT);
            let flags = rustix::io::fcntl_getfd(&socket).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
    }

    #[test]
    fn every_address_is_tried_and_all_failures_are_told() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let good = listener.local_addr().unwrap();
        let bad = listen("127.0.0.1:0".parse().unwrap()).unwrap().local_addr().unwrap();
        let other = "[::1]:1".parse().unwrap();
        assert_eq!(connect(&[bad, good], Duration::from_mins(1)).unwrap().1, good);
        let error = connect(&[bad, other], Duration::from_mins(1)).unwrap_err().to_string();
        assert!(error.contains(&bad.to_string()) && error.contains("[::1]:1"), "{error}");
        let error = listen(good).unwrap_err().to_string();
        assert!(error.contains(&good.to_string()) && error.contains("free"), "{error}");
    }
}
