//! A session on a connection, served by the thread that calls.

use super::{Session, SessionError, Step, Terms};
use crate::nbd::transport::{self, Transport};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long what may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The handshake, TLS included.
    pub handshake: Duration,
    /// The time between two requests; none is any.
    pub idle: Option<Duration>,
    /// Until a peer has taken what it was sent; none is any.
    pub send: Option<Duration>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { handshake: Duration::from_secs(10), idle: None, send: Some(Duration::from_secs(30)) }
    }
}

/// A connection that ended badly. Whatever was answered was done.
#[derive(Debug, Error)]
pub enum ServeError {
    /// It made no sense.
    #[error("an NBD client is let go: {0}")]
    Session(#[from] SessionError),
    /// TLS did not begin.
    #[error("TLS with an NBD client failed: {0}; does each side trust the other's certificate?")]
    Tls(io::Error),
    /// The connection failed, or the client was silent for too long.
    #[error("the connection to an NBD client failed{}: {source}", if *.handshake { " before it had chosen an export" } else { "" })]
    Io {
        /// Whether no export was chosen yet.
        handshake: bool,
        /// How.
        source: io::Error,
    },
}

/// Serves one connection until it ends. `upgrade` makes TLS of it, until an instant, when the terms demand that.
pub fn serve<T: Transport>(
    mut transport: T,
    terms: Arc<Terms>,
    patience: Patience,
    upgrade: impl Fn(T, Instant) -> io::Result<T>,
) -> Result<(), ServeError> {
    let greeted = Instant::now() + patience.handshake;
    let mut session = Session::new(terms);
    loop {
        let early = session.in_handshake();
        let failed = |source| ServeError::Io { handshake: early, source };
        let until = |within: Option<Duration>| match within {
            _ if early => Some(greeted),
            within => within.map(|within| Instant::now() + within),
        };
        let step = match session.step() {
            Ok(step) => step,
            Err(error) => {
                // It may hear why.
                let _ = send(&mut session, &mut transport, until(patience.send));
                return Err(error.into());
            }
        };
        if step == Step::Again {
            continue;
        }
        let sent = send(&mut session, &mut transport, until(patience.send));
        if step == Step::End {
            // Who has said good-bye need not wait for ours.
            return Ok(());
        }
        sent.map_err(failed)?;
        match step {
            Step::Again | Step::Send | Step::End => {}
            Step::Secure => {
                transport = upgrade(transport, greeted).map_err(ServeError::Tls)?;
                session.secured();
            }
            Step::Receive => {
                let until = until(patience.idle);
                match transport::receive(&mut transport, session.room(), until).map_err(failed)? {
                    0 if session.between_messages() => return Ok(()),
                    0 => return Err(SessionError::HungUp.into()),
                    count => session.received(count),
                }
            }
        }
    }
}

fn send(session: &mut Session, transport: &mut dyn Transport, until: Option<Instant>) -> io::Result<()> {
    let len = session.output().len();
    if len > 0 {
        transport::send(transport, session.output(), until)?;
        session.sent(len);
    }
    Ok(())
}
