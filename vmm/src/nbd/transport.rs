//! What carries a connection's bytes: a socket that does not block, plain or under TLS.
//!
//! ```text
//!   try_receive, try_send, try_flush      now or not at all: for who also waits for something else
//!   receive, send (until)                 for who waits for nothing else
//! ```

use crate::checkpoint::link::Stream;
use crate::checkpoint::link::socket::wait;
use rustix::event::PollFlags;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// A connection that does not block.
pub trait Transport: AsFd + Send {
    /// Takes what is there: nothing yet gives none, no bytes at all is the peer's end. When it gives none, the
    /// descriptor says when there is more.
    fn try_receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>>;
    /// Takes over what it can: nothing now gives none, and then the descriptor says when to try again.
    fn try_send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<Option<usize>>;
    /// Hands on what was taken over and is still here; says whether nothing is any more.
    fn try_flush(&mut self) -> io::Result<bool>;
}

/// Without TLS.
#[derive(Debug)]
pub struct Plain<S>(S);

impl<S> Plain<S> {
    /// A socket that was set not to block.
    pub fn new(socket: S) -> Self {
        Self(socket)
    }

    /// The socket.
    pub fn into_inner(self) -> S {
        self.0
    }
}

impl<S: AsFd> AsFd for Plain<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn now(mut attempt: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match attempt() {
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl<S: AsFd + Read + Write + Send> Transport for Plain<S> {
    fn try_receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        now(|| self.0.read(buffer))
    }

    fn try_send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        now(|| self.0.write_vectored(parts))
    }

    fn try_flush(&mut self) -> io::Result<bool> {
        Ok(true)
    }
}

impl Transport for Stream {
    fn try_receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        Stream::try_receive(self, buffer)
    }

    fn try_send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        Stream::try_send(self, parts)
    }

    fn try_flush(&mut self) -> io::Result<bool> {
        Stream::try_flush(self)
    }
}

/// As far away as makes no difference.
const NEVER: Duration = Duration::from_hours(24 * 365);

/// Waits until something can be done, or until an instant, if there is one.
fn wait_for(transport: &dyn Transport, what: PollFlags, until: Option<Instant>) -> io::Result<()> {
    wait(&transport.as_fd(), what, until.unwrap_or_else(|| Instant::now() + NEVER))
}

/// Takes what comes next, at least a byte; none is the peer's end.
pub fn receive(
    transport: &mut dyn Transport,
    buffer: &mut [u8],
    until: Option<Instant>,
) -> io::Result<usize> {
    loop {
        if let Some(count) = transport.try_receive(buffer)? {
            return Ok(count);
        }
        wait_for(transport, PollFlags::IN, until)?;
    }
}

/// Sends all of this.
pub fn send(transport: &mut dyn Transport, mut bytes: &[u8], until: Option<Instant>) -> io::Result<()> {
    while !bytes.is_empty() {
        match transport.try_send(&[IoSlice::new(bytes)])? {
            Some(0) => return Err(ErrorKind::WriteZero.into()),
            Some(count) => bytes = bytes.get(count..).unwrap_or_default(),
            None => wait_for(transport, PollFlags::OUT, until)?,
        }
    }
    while !transport.try_flush()? {
        wait_for(transport, PollFlags::OUT, until)?;
    }
    Ok(())
}

/// The upgrade of a connection that is never to be one of TLS.
pub fn no_tls<T>(_: T, _: Instant) -> io::Result<T> {
    Err(io::Error::new(ErrorKind::Unsupported, "this connection cannot carry TLS"))
}
