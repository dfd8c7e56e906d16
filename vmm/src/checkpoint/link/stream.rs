//! A connection with deadlines: plain, or TLS.
//!
//! ```text
//!   send, receive (until) ─► try ─► not now? ─► wait ─► try …       past the instant nothing is waited for,
//!                             │                                     what is there already is still taken
//!                             └ plain: the socket;  TLS: records, then the socket
//! ```
//!
//! `try_receive`, `try_send` and `try_flush` never wait: they are for a thread that waits for something else, too.
//! One thread uses it; another can hang up ([`Hangup`]), and the first finds the connection ended.

use super::socket::wait;
use super::tls::Tls;
use crate::checkpoint::protocol::Channel;
use crate::config::Peer;
use rustix::event::PollFlags;
use rustls::Connection;
use std::io::{self, BufReader, ErrorKind, IoSlice, Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

/// How much TLS reads from the socket at once, and how much of what is to be sent it encrypts ahead.
const TLS_BUFFER: usize = 256 << 10;

/// How often the socket is read for a byte of content, before it is time to look at the clock.
const RECORDS: usize = 64;

/// A connection to a peer.
#[derive(Debug)]
pub struct Stream {
    socket: Arc<TcpStream>,
    peer: Option<SocketAddr>,
    tls: Option<Box<Session>>,
}

#[derive(Debug)]
struct Session {
    connection: Connection,
    input: BufReader<Socket>,
}

/// A socket that can be read by whoever shares it.
#[derive(Debug)]
struct Socket(Arc<TcpStream>);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

/// Ends a connection from another thread.
#[derive(Clone, Debug)]
pub struct Hangup(Arc<TcpStream>);

impl Hangup {
    /// Whoever waits for the peer finds the connection ended, here and there.
    pub fn hang_up(&self) {
        // It fails when the connection is gone, and that is what is wanted.
        let _ = self.0.shutdown(Shutdown::Both);
    }

    /// Whoever waits for the peer finds that no more comes. What it still says is sent.
    pub(super) fn wake(&self) {
        let _ = self.0.shutdown(Shutdown::Read);
    }
}

impl Stream {
    /// Without TLS, over a socket that was set not to block.
    pub fn plain(socket: TcpStream, peer: Option<SocketAddr>) -> Self {
        Self { socket: Arc::new(socket), peer, tls: None }
    }

    /// Begins TLS.
    pub(super) fn secure(mut self, mut connection: Connection, until: Instant) -> io::Result<Self> {
        connection.set_buffer_limit(Some(TLS_BUFFER));
        let input = BufReader::with_capacity(TLS_BUFFER, Socket(Arc::clone(&self.socket)));
        let mut session = Box::new(Session { connection, input });
        while session.connection.is_handshaking() {
            if session.connection.wants_write() {
                session.flush(&self.socket, until)?;
            } else if !session.fill(&self.socket)? {
                wait(&self.socket, PollFlags::IN, until)?;
            }
        }
        session.flush(&self.socket, until)?;
        self.tls = Some(session);
        Ok(self)
    }

    /// Begins TLS, as the side that connected to this host.
    pub fn secure_to(self, host: &Peer, tls: &Tls, until: Instant) -> io::Result<Self> {
        self.secure(tls.client(host).map_err(io::Error::other)?.into(), until)
    }

    /// Begins TLS, as the side that was connected to.
    pub fn secure_from(self, tls: &Tls, until: Instant) -> io::Result<Self> {
        self.secure(tls.server().map_err(io::Error::other)?.into(), until)
    }

    /// Who is there, as far as it is known.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Something that can end it from another thread.
    pub fn hangup(&self) -> Hangup {
        Hangup(Arc::clone(&self.socket))
    }

    /// Takes what is there: nothing yet gives none, no bytes at all is the peer's end.
    pub fn try_receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.read(buffer) {
            Ok(count) => Ok(Some(count)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => (&*self.socket).read(buffer),
            Some(session) => session.read(&self.socket, buffer),
        }
    }

    /// Takes over what it can, without waiting: nothing now gives none.
    pub fn try_send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        loop {
            let taken = match &mut self.tls {
                None => (&*self.socket).write_vectored(parts),
                Some(session) => session.try_write(&self.socket, parts),
            };
            match taken {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Hands on what was taken over, without waiting; says whether all of it is gone.
    pub fn try_flush(&mut self) -> io::Result<bool> {
        self.tls.as_mut().map_or(Ok(true), |session| session.try_flush(&self.socket))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Channel for Stream {
    fn send(&mut self, mut parts: &mut [IoSlice<'_>], until: Instant) -> io::Result<()> {
        // Empty parts at the beginning would look like a peer that takes nothing.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let taken = match &mut self.tls {
                None => (&*self.socket).write_vectored(parts),
                Some(session) => session.write(&self.socket, parts, until),
            };
            match taken {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => IoSlice::advance_slices(&mut parts, count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait(&self.socket, PollFlags::OUT, until)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        match &mut self.tls {
            None => Ok(()),
            Some(session) => session.flush(&self.socket, until),
        }
    }

    fn receive(&mut self, buffer: &mut [u8], until: Instant) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.read(rest) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait(&self.socket, PollFlags::IN, until)?;
                }
                // Records of nothing can come for ever.
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    if Instant::now() >= until {
                        return Err(ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

impl Session {
    /// Takes records from the socket; says whether something came.
    fn fill(&mut self, socket: &TcpStream) -> io::Result<bool> {
        match self.connection.read_tls(&mut self.input) {
            Ok(count) => {
                let judged = self.connection.process_new_packets();
                if let Err(error) = judged {
                    // The peer is told why, if it takes that at once.
                    let _ = self.connection.write_tls(&mut &*socket);
                    return Err(io::Error::new(ErrorKind::InvalidData, error));
                }
                if count == 0 && self.connection.is_handshaking() {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self, socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        for _ in 0..RECORDS {
            match self.connection.reader().read(buffer) {
                // Without TLS's own farewell: the protocol above says whether the end is one within a message.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.fill(socket)? {
                        return Err(error);
                    }
                }
                read => return read,
            }
        }
        // There may be more in the buffer, so the socket is not what is waited for.
        Err(ErrorKind::Interrupted.into())
    }

    /// Encrypts as much as fits, once what is encrypted already is on its way.
    fn write(&mut self, socket: &TcpStream, parts: &[IoSlice<'_>], until: Instant) -> io::Result<usize> {
        match self.connection.writer().write_vectored(parts)? {
            0 => {
                self.flush(socket, until)?;
                self.connection.writer().write_vectored(parts)
            }
            count => Ok(count),
        }
    }

    /// Encrypts as much as fits, and hands on as much as the socket takes.
    fn try_write(&mut self, socket: &TcpStream, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut count = self.connection.writer().write_vectored(parts)?;
        let all = self.try_flush(socket)?;
        if count == 0 && all {
            count = self.connection.writer().write_vectored(parts)?;
            self.try_flush(socket)?;
        }
        if count == 0 && !all { Err(ErrorKind::WouldBlock.into()) } else { Ok(count) }
    }

    fn flush(&mut self, socket: &TcpStream, until: Instant) -> io::Result<()> {
        while !self.try_flush(socket)? {
            wait(socket, PollFlags::OUT, until)?;
        }
        Ok(())
    }

    /// Whether the socket has all of it.
    fn try_flush(&mut self, socket: &TcpStream) -> io::Result<bool> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut &*socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
