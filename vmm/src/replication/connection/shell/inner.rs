//! What a connection has open, and how the machine's actions are done to it.

use super::Outcome;
use crate::checkpoint::link::socket;
use crate::replication::connection::errno;
use crate::replication::connection::machine::{Action, Event, Machine, Side};
use rustix::io::Errno;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream as Attempt};
use tokio::time::{Sleep, sleep};

/// What the thread does without the lock.
pub(super) enum Next {
    Tell(Outcome),
    End,
}

pub(super) struct Inner {
    pub(super) machine: Machine,
    pub(super) listener: Option<TcpListener>,
    /// Nothing is started any more.
    pub(super) gone: bool,
    paused: bool,
    /// An attempt that the thread is to begin. Who starts it may not block, nor be in the runtime.
    dial: Option<Dial>,
    /// How long the thread is to wait.
    wait: Option<Duration>,
    attempt: Option<(Attempt, SocketAddr)>,
    timer: Option<Pin<Box<Sleep>>>,
    arrived: Option<(TcpStream, SocketAddr)>,
    peer: Weak<TcpStream>,
    waker: Option<Waker>,
}

#[derive(Clone, Copy)]
struct Dial {
    address: SocketAddr,
    within: Duration,
}

impl Inner {
    pub(super) fn new(machine: Machine) -> Self {
        Self {
            machine,
            listener: None,
            gone: false,
            paused: false,
            dial: None,
            wait: None,
            attempt: None,
            timer: None,
            arrived: None,
            peer: Weak::new(),
            waker: None,
        }
    }

    pub(super) fn remember(&mut self, context: &Context<'_>) {
        self.waker = Some(context.waker().clone());
    }

    /// The thread is to look again.
    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Has the machine judge an event, and does what it says. What is to be told is returned.
    pub(super) fn on(&mut self, event: Event) -> Option<Outcome> {
        let before = self.machine.status();
        let mut outcome = None;
        for action in self.machine.on(event) {
            outcome = self.perform(action).or(outcome);
        }
        let status = self.machine.status();
        if status != before {
            tracing::debug!(?event, "the replication connection is {status:?}, was {before:?}");
        }
        outcome
    }

    pub(super) fn perform(&mut self, action: Action) -> Option<Outcome> {
        match action {
            // Done by who asked for it; answered by the caller.
            Action::Listen | Action::Busy => {}
            Action::CloseListener => {
                self.listener = None;
                if std::mem::take(&mut self.paused) {
                    self.timer = None;
                    self.wait = None;
                }
            }
            Action::Pause(pause) => {
                self.paused = true;
                self.wait = Some(pause);
                let last = self.machine.last();
                tracing::warn!(?last, "nobody can be accepted; it is tried again in {pause:?}");
            }
            Action::Resume => self.paused = false,
            Action::Connect { address, within } => {
                self.timer = None;
                let address = self.machine.config().addresses.get(address).copied();
                self.dial = address.map(|address| Dial { address, within });
            }
            Action::CloseAttempt => {
                self.attempt = None;
                self.dial = None;
                self.timer = None;
                self.wait = None;
            }
            Action::Wait(delay) => {
                self.wait = Some(delay);
                let (counts, last) = (self.machine.counts(), self.machine.last());
                if let Some(last) = last {
                    let (rounds, attempts) = (counts.rounds, counts.attempts);
                    tracing::info!(
                        rounds,
                        attempts,
                        "nobody answers ({last}); it is tried again in {delay:?}"
                    );
                }
            }
            Action::HandOut => return self.hand_out(),
            Action::Refuse => self.arrived = None,
            Action::ClosePeer => {
                if let Some(peer) = std::mem::take(&mut self.peer).upgrade() {
                    // It may have ended by itself.
                    let _ = peer.shutdown(Shutdown::Both);
                }
            }
            Action::Fail(failure) => {
                tracing::warn!("the replication connection is given up: {failure}");
                return Some(Outcome::Failed(failure));
            }
        }
        None
    }

    fn hand_out(&mut self) -> Option<Outcome> {
        let side = self.machine.side()?;
        if side == Side::Client {
            self.timer = None;
        }
        let (stream, peer) = self.arrived.take()?;
        let stream = Arc::new(stream);
        self.peer = Arc::downgrade(&stream);
        tracing::debug!(%peer, ?side, "the replication connection is established");
        Some(Outcome::Established { stream, peer, side })
    }

    /// What happens next, on the connection's thread.
    pub(super) fn event(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if let Some(dial) = self.dial.take()
            && let Some(event) = self.begin(dial)
        {
            return Poll::Ready(event);
        }
        if let Some(delay) = self.wait.take() {
            self.timer = Some(Box::pin(sleep(delay)));
        }
        if let Poll::Ready(event) = self.attempted(context) {
            return Poll::Ready(event);
        }
        if let Poll::Ready(event) = self.accept(context) {
            return Poll::Ready(event);
        }
        let Some(timer) = &mut self.timer else { return Poll::Pending };
        ready!(timer.as_mut().poll(context));
        self.timer = None;
        Poll::Ready(Event::Timer)
    }

    /// Makes a socket for an attempt: each has its own, as one that has failed once is in no defined state.
    fn begin(&mut self, dial: Dial) -> Option<Event> {
        let Dial { address, within } = dial;
        let socket = match socket::new(&address) {
            Ok(socket) => TcpStream::from(socket),
            Err(error) => return Some(socket_failed(&error)),
        };
        if let Err(error) = socket::begin(&socket, &address) {
            return Some(Event::ConnectFailed(error));
        }
        // One that is connected at once can be written to at once.
        match Attempt::from_std(socket) {
            Ok(attempt) => self.attempt = Some((attempt, address)),
            Err(error) => return Some(Event::Internal(errno::of(&error))),
        }
        self.wait = Some(within);
        None
    }

    fn attempted(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        let Some((attempt, _)) = &self.attempt else { return Poll::Pending };
        let ready = ready!(attempt.poll_write_ready(context));
        let Some((attempt, peer)) = self.attempt.take() else { return Poll::Pending };
        let stream = ready.and_then(|()| attempt.into_std());
        let finished = stream.map_err(|error| errno::of(&error)).and_then(|stream| {
            socket::finish(&stream)?;
            Ok(stream)
        });
        Poll::Ready(match finished {
            Ok(stream) => {
                self.arrived = Some((stream, peer));
                Event::Connected
            }
            Err(error) => Event::ConnectFailed(error),
        })
    }

    fn accept(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        let Some(listener) = self.listener.as_ref().filter(|_| !self.paused) else { return Poll::Pending };
        let accepted = ready!(listener.poll_accept(context));
        Poll::Ready(match accepted.and_then(|(stream, from)| Ok((stream.into_std()?, from))) {
            Ok((stream, from)) => {
                self.arrived = Some((stream, from));
                Event::Accepted(from.ip())
            }
            Err(error) => Event::AcceptFailed(errno::of(&error)),
        })
    }
}

/// A protocol that this host does not speak concerns one address; a lack of descriptors or memory, all of them.
fn socket_failed(error: &io::Error) -> Event {
    match errno::of(error) {
        error @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => Event::Internal(error),
        error => Event::ConnectFailed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::connection::Config;
    use std::io::Write;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn r_003_12_the_log_has_the_true_delay_and_error() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let delay = tracing::subscriber::with_default(subscriber, || {
            let config = Config::new(vec!["127.0.0.1:1".parse().unwrap()]);
            let mut inner = Inner::new(Machine::new(config, 3));
            inner.on(Event::StartClient);
            inner.on(Event::ConnectFailed(Errno::CONNREFUSED));
            inner.wait.unwrap()
        });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let said = format!("({}); it is tried again in {delay:?}", Errno::CONNREFUSED);
        assert!(text.contains(&said) && text.contains("Connection refused"), "{text}");
    }

    #[test]
    fn r_003_11_an_error_that_cannot_be_asked_for_is_an_answer() {
        // No socket: getsockopt fails.
        let file = std::fs::File::open("/dev/null").unwrap();
        let stream = TcpStream::from(std::os::fd::OwnedFd::from(file));
        let error = socket::finish(&stream).unwrap_err();
        assert_eq!(error, Errno::NOTSOCK);
        let mut inner = Inner::new(Machine::new(Config::new(vec!["127.0.0.1:1".parse().unwrap()]), 3));
        inner.on(Event::StartClient);
        let Some(Outcome::Failed(failure)) = inner.on(Event::ConnectFailed(error)) else {
            panic!("it is given up")
        };
        assert_eq!(failure.code(), -2);
        assert!(inner.attempt.is_none() && inner.timer.is_none() && inner.wait.is_none());
    }
}
