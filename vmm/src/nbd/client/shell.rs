//! A client on a connection.

use super::handshake::{Ask, Handshake, HandshakeError, Progress};
use super::session::{Client, ClientError, Done, Window};
use crate::nbd::transport::{self, Transport};
use std::io;
use std::time::Instant;
use thiserror::Error;

/// How often a turn reads before it lets the caller look elsewhere.
const READS: usize = 32;

/// A connection that does not come about, or ends.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The server and we do not agree.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// A reply makes no sense.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// TLS did not begin.
    #[error("TLS with the NBD server failed: {0}; does each side trust the other's certificate?")]
    Tls(io::Error),
    /// The server ended.
    #[error("the NBD server hung up before the export was chosen; its log may say why")]
    HungUp,
    /// The connection failed.
    #[error("the connection to the NBD server failed: {0}")]
    Io(#[from] io::Error),
}

/// Does the handshake. `upgrade` makes TLS of the connection, if that is asked for.
pub fn connect<T: Transport, P: AsRef<[u8]>>(
    mut transport: T,
    ask: Ask,
    window: Window,
    until: Instant,
    upgrade: impl Fn(T, Instant) -> io::Result<T>,
) -> Result<(T, Client<P>), ConnectError> {
    let mut handshake = Handshake::new(ask);
    loop {
        let progress = handshake.step()?;
        let len = handshake.output().len();
        transport::send(&mut transport, handshake.output(), Some(until))?;
        handshake.sent(len);
        match progress {
            Progress::Ready => {
                let (facts, input) = handshake.finish();
                return Ok((transport, Client::new(facts, input, window)));
            }
            Progress::Secure => {
                transport = upgrade(transport, until).map_err(ConnectError::Tls)?;
                handshake.secured();
            }
            Progress::Receive => match transport::receive(&mut transport, handshake.room(), Some(until))? {
                0 => return Err(ConnectError::HungUp),
                count => handshake.received(count),
            },
        }
    }
}

/// What is to be waited for before the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Nothing: there is more already.
    pub again: bool,
    /// Besides bytes from the server (always), room for bytes to it.
    pub send: bool,
    /// Nothing any more: the server has ended.
    pub ended: bool,
}

/// Sends what can be sent and takes what came, in both directions at once, and waits for neither: who calls waits for
/// the descriptor of the connection, and for what else it has (an event, a timer).
pub fn turn<P: AsRef<[u8]>>(
    transport: &mut dyn Transport,
    client: &mut Client<P>,
    mut answered: impl FnMut(Done),
) -> Result<Turn, ConnectError> {
    let mut turn = Turn { again: true, send: false, ended: false };
    for _ in 0..READS {
        send(transport, client)?;
        match transport.try_receive(client.room())? {
            None => {
                turn.again = false;
                break;
            }
            Some(0) => {
                turn.ended = true;
                break;
            }
            Some(count) => {
                client.received(count);
                while let Some(done) = client.next_done()? {
                    answered(done);
                }
            }
        }
    }
    let flushed = transport.try_flush()?;
    turn.send = client.wants_to_send() || !flushed;
    Ok(turn)
}

fn send<P: AsRef<[u8]>>(transport: &mut dyn Transport, client: &mut Client<P>) -> io::Result<()> {
    while client.wants_to_send() {
        match transport.try_send(&client.parts())? {
            Some(0) => return Err(io::ErrorKind::WriteZero.into()),
            Some(count) => client.sent(count),
            None => break,
        }
    }
    Ok(())
}
