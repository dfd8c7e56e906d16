//! Hellos over a connection, and the primary's way to one.

use super::socket::{self, SocketError};
use super::stream::Stream;
use super::tls::{Tls, TlsError};
use crate::checkpoint::protocol::Channel;
use crate::checkpoint::protocol::hello::{Agreed, HEAD, Hello, HelloError, Mismatch};
use crate::config::Peer;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use thiserror::Error;

/// A connection that no session comes of.
#[derive(Debug, Error)]
pub enum GreetError {
    /// There is none.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// TLS cannot be begun.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It was begun and failed.
    #[error(
        "TLS with the peer failed: {0}; does each side trust the other's certificate, is TLS on at both ends?"
    )]
    Handshake(io::Error),
    /// What came is no hello.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// The peer ended before its hello did.
    #[error("the peer hung up before its hello was complete; its log may say why")]
    HungUp,
    /// The peer is slow.
    #[error("the peer's hello did not come in time; is it colo-vm, is it alive?")]
    Silent,
    /// The connection failed.
    #[error("the connection failed before the hellos were done: {0}")]
    Io(io::Error),
    /// The hellos do not fit.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
}

fn failed(error: io::Error) -> GreetError {
    match error.kind() {
        ErrorKind::TimedOut => GreetError::Silent,
        // TLS 1.3: only now does the side that connects hear that its certificate is refused.
        ErrorKind::InvalidData => GreetError::Handshake(error),
        _ => GreetError::Io(error),
    }
}

pub(super) fn send(channel: &mut impl Channel, hello: &Hello, until: Instant) -> Result<(), GreetError> {
    channel.send(&mut [IoSlice::new(&hello.to_bytes())], until).map_err(failed)
}

pub(super) fn receive(channel: &mut impl Channel, until: Instant) -> Result<Hello, GreetError> {
    let mut head = [0; HEAD];
    if channel.receive(&mut head, until).map_err(failed)? < HEAD {
        return Err(GreetError::HungUp);
    }
    let mut body = vec![0; Hello::body_len(head)?];
    if channel.receive(&mut body, until).map_err(failed)? < body.len() {
        return Err(GreetError::HungUp);
    }
    Ok(Hello::from_body(&body)?)
}

/// Connects to a secondary and agrees with it. The addresses are those of the host, looked up. The same hello
/// with the other role makes the heartbeat's connection.
pub fn dial(
    host: &Peer,
    addresses: &[SocketAddr],
    tls: Option<&Tls>,
    ours: &Hello,
    within: Duration,
) -> Result<(Stream, Agreed), GreetError> {
    let until = Instant::now() + within;
    let (socket, peer) = socket::connect(addresses, within)?;
    let mut stream = Stream::plain(socket, Some(peer));
    if let Some(tls) = tls {
        stream = stream.secure(tls.client(host)?.into(), until).map_err(|error| match error.kind() {
            ErrorKind::TimedOut => GreetError::Silent,
            _ => GreetError::Handshake(error),
        })?;
    }
    send(&mut stream, ours, until)?;
    let theirs = receive(&mut stream, until)?;
    let agreed = ours.taken(&theirs)?;
    Ok((stream, agreed))
}
