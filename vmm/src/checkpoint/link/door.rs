//! The secondary's door: anybody may knock, one primary is let in.
//!
//! ```text
//!   listener ─► knock ─► a thread: TLS, hello, judgement ─┬─► main: is the seat free? ─► Arrival::Main
//!                │        until a deadline                ├─► heartbeat of that session ─► Arrival::Heartbeat
//!                │                                        └─► refused: answered, logged, closed
//!                └ too many: the oldest of who knocks most is put out
//! ```
//!
//! The session has its own connection and hears nothing of this. A stranger who keeps knocking cannot keep the
//! primary out: it takes places from itself first.

use super::Quiet;
use super::greet::{self, GreetError};
use super::socket::{accept, wait};
use super::stream::{Hangup, Stream};
use super::tls::Tls;
use crate::checkpoint::Holding;
use crate::checkpoint::disks::Disks;
use crate::checkpoint::protocol::hello::{Agreed, Answer, Hello, Mismatch, Role};
use crate::sandbox::{self, Kind};
use rustix::event::PollFlags;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What is asked of who knocks.
#[derive(Debug)]
pub struct Terms {
    /// What the secondary says of itself; role, session and answer are filled in.
    pub ours: Hello,
    /// What it holds, of a primary that it has lost.
    pub holding: Holding,
    /// Its disks.
    pub disks: Arc<dyn Disks>,
    /// How it proves who it is.
    pub tls: Option<Tls>,
    /// How long it may take to do all of that.
    pub patience: Duration,
    /// How many may do so at one time.
    pub places: usize,
}

impl Terms {
    /// With the usual patience for the usual number.
    pub fn new(ours: Hello, holding: Holding, disks: Arc<dyn Disks>, tls: Option<Tls>) -> Self {
        Self { ours, holding, disks, tls, patience: Duration::from_secs(5), places: 16 }
    }
}

/// Who was let in.
#[derive(Debug)]
pub enum Arrival {
    /// A primary. While its seat is kept, no other is let in.
    Main {
        /// The connection, behind the hellos.
        stream: Stream,
        /// What was agreed.
        agreed: Agreed,
        /// To be dropped with the session.
        seat: Seat,
    },
    /// The heartbeat of a primary. It may come before the main connection that it belongs to: each is brought here
    /// by a thread of its own.
    Heartbeat {
        /// The connection, behind the hellos.
        stream: Stream,
        /// Of which session.
        session: u64,
    },
}

/// The place of the one primary.
#[derive(Debug)]
pub struct Seat(Arc<Shared>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.lock().seat = None;
    }
}

/// An open door. It is closed when this is dropped; who is in stays in.
#[derive(Debug)]
pub struct Door {
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    terms: Terms,
    state: Mutex<State>,
    refused: AtomicU64,
    arrivals: SyncSender<Arrival>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    seat: Option<Taken>,
    /// Those who have not been judged yet, oldest first.
    knocking: Vec<Knock>,
    /// Threads, including those of who was put out and has not noticed.
    threads: usize,
    next: u64,
    log: Quiet,
}

#[derive(Debug)]
struct Taken {
    session: u64,
    heartbeat: bool,
}

#[derive(Debug)]
struct Knock {
    id: u64,
    from: Option<IpAddr>,
    hangup: Hangup,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds it can panic half-way, so a poisoned lock is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, from: Option<SocketAddr>, why: &dyn std::fmt::Display) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let speak = self.lock().log.speak();
        let Some(swallowed) = speak else { return };
        let from = from.map_or_else(|| "an unknown address".to_owned(), |from| from.to_string());
        tracing::warn!(swallowed, "a connection from {from} is refused: {why}");
    }

    /// Judges a hello, and takes what it asks for.
    fn judge(self: &Arc<Self>, theirs: &Hello) -> Result<(Agreed, Option<Seat>), (Answer, GreetError)> {
        let ours = Hello { role: theirs.role, disks: self.terms.disks.known(), ..self.terms.ours.clone() };
        let agreed = ours.compare(theirs).map_err(|error| (Answer::Mismatch, error.into()))?;
        let refused = |answer| (answer, Mismatch::Refused(answer).into());
        let mut state = self.lock();
        match (theirs.role, &mut state.seat) {
            (Role::Main, Some(_)) => Err(refused(Answer::Busy)),
            // Its primary is gone, and what it was is nowhere else.
            (Role::Main, None) if self.terms.holding.of().is_some_and(|run| run != theirs.run) => {
                Err(refused(Answer::Keeps))
            }
            (Role::Main, seat @ None) => {
                *seat = Some(Taken { session: theirs.session, heartbeat: false });
                Ok((agreed, Some(Seat(Arc::clone(self)))))
            }
            (Role::Heartbeat, Some(taken)) if taken.session == theirs.session && !taken.heartbeat => {
                taken.heartbeat = true;
                Ok((agreed, None))
            }
            (Role::Heartbeat, _) => Err(refused(Answer::NoSession)),
        }
    }

    /// Lets one in, or says why not.
    fn admit(self: &Arc<Self>, mut stream: Stream) -> Result<Arrival, GreetError> {
        let until = Instant::now() + self.terms.patience;
        if let Some(tls) = &self.terms.tls {
            stream = stream.secure(tls.server()?.into(), until).map_err(|error| match error.kind() {
                ErrorKind::TimedOut => GreetError::Silent,
                _ => GreetError::Handshake(error),
            })?;
        }
        let theirs = greet::receive(&mut stream, until)?;
        let (role, session, disks) = (theirs.role, theirs.session, self.terms.disks.known());
        let ours = Hello { role, session, disks, ..self.terms.ours.clone() };
        match self.judge(&theirs) {
            Ok((agreed, seat)) => {
                // The seat is taken: nothing changes this any more before the session does.
                let held = self.terms.holding.get();
                greet::send(&mut stream, &Hello { answer: Answer::Taken, held, ..ours }, until)?;
                Ok(match seat {
                    Some(seat) => Arrival::Main { stream, agreed, seat },
                    None => Arrival::Heartbeat { stream, session: theirs.session },
                })
            }
            Err((answer, error)) => {
                // That it hears why is a courtesy.
                let _ = greet::send(&mut stream, &Hello { answer, ..ours }, until);
                Err(error)
            }
        }
    }

    /// Takes in who knocks, to be judged in a thread of its own.
    fn knock(self: &Arc<Self>, stream: Stream) -> io::Result<()> {
        let from = stream.peer();
        let mut state = self.lock();
        let put_out = if state.knocking.len() >= self.terms.places { state.most_frequent() } else { None };
        if let Some(out) = put_out {
            state.knocking.remove(out).hangup.hang_up();
        }
        if state.closed || state.threads >= 2 * self.terms.places {
            drop(state);
            self.refuse(from, &"too many are knocking");
            return Ok(());
        }
        let id = state.next;
        state.next += 1;
        state.threads += 1;
        state.knocking.push(Knock { id, from: from.map(|from| from.ip()), hangup: stream.hangup() });
        drop(state);
        let shared = Arc::clone(self);
        let started = sandbox::spawn("checkpoint-knock", Kind::Control, move || {
            let admitted = shared.admit(stream);
            let mut state = shared.lock();
            state.leave(id);
            let closed = state.closed;
            drop(state);
            match admitted {
                Err(error) => shared.refuse(from, &error),
                Ok(_) if closed => {}
                // Two can be on their way at most. If nobody wants them any more, they are let go.
                Ok(arrival) => drop(shared.arrivals.send(arrival)),
            }
        });
        if started.is_err() {
            self.lock().leave(id);
        }
        started.map(|_| ())
    }
}

impl State {
    fn leave(&mut self, id: u64) {
        self.knocking.retain(|knock| knock.id != id);
        self.threads -= 1;
    }

    /// The oldest of the address that knocks most.
    fn most_frequent(&self) -> Option<usize> {
        let count = |from| self.knocking.iter().filter(|knock| knock.from == from).count();
        // The first of those that are as frequent.
        (0..self.knocking.len()).rev().max_by_key(|at| self.knocking.get(*at).map(|knock| count(knock.from)))
    }
}

impl Door {
    /// Opens it. The listener is one of [`socket::listen`](super::socket::listen).
    pub fn open(listener: TcpListener, terms: Terms) -> io::Result<(Self, Receiver<Arrival>)> {
        let (arrivals, receiver) = sync_channel(2);
        let shared =
            Arc::new(Shared { terms, state: Mutex::default(), refused: AtomicU64::new(0), arrivals });
        let listener = Arc::new(listener);
        let (at, inside) = (Arc::clone(&listener), Arc::clone(&shared));
        let thread = sandbox::spawn("checkpoint-door", Kind::Control, move || keep(&at, &inside))?;
        Ok((Self { shared, listener, thread: Some(thread) }, receiver))
    }

    /// Where it is.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// How many were refused.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        state.knocking.iter().for_each(|knock| knock.hangup.hang_up());
        drop(state);
        // Who waits at a listener that is shut down is woken.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so.
            let _ = thread.join();
        }
    }
}

fn keep(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let day = Instant::now() + Duration::from_hours(24);
        let waited = wait(listener, PollFlags::IN, day);
        if shared.lock().closed {
            return;
        }
        let knocked = match waited {
            Err(error) if error.kind() == ErrorKind::TimedOut => Ok(()),
            Err(error) => Err(error),
            Ok(()) => accept(listener).and_then(|came| match came {
                Some((socket, from)) => shared.knock(Stream::plain(socket, from)),
                None => Ok(()),
            }),
        };
        if let Err(error) = knocked {
            // Descriptors or memory are short: that can pass, and poll would say so at once again.
            let speak = shared.lock().log.speak();
            if let Some(swallowed) = speak {
                tracing::warn!(swallowed, "a connection cannot be accepted: {error}");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}
