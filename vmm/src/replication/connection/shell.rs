//! A connection's sockets and its clock: tokio, on a thread of its own.
//!
//! ```text
//!   any thread: start, restart, kill, report ─► Mutex<Inner> ◄─ poll ── the connection's thread
//!                                               machine              │ news, without the lock
//!                                               listener             ▼
//!                                               attempt, timer      callback
//! ```
//!
//! All sockets are in `Inner`, so that a kill closes them before it returns, on whichever thread. What is handed
//! out belongs to who gets it; a kill or a restart ends it (`shutdown`), the descriptor is closed by its owner.

mod inner;

use super::Config;
use super::machine::{Action, Counts, Event, Failure, Machine, Side, Status};
use super::role::{self, Role, RoleError};
use crate::sandbox::{self, Kind};
use inner::{Inner, Next};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use thiserror::Error;
use tokio::runtime::Builder;

/// What is told, once for each: the peer is there, or it was given up.
#[derive(Debug)]
pub enum Outcome {
    /// The peer is there.
    Established {
        /// Its connection: non-blocking, closed on exec, without delay, with keep-alive and a time limit for what
        /// nobody confirms. A kill ends it as long as this is kept; who needs it for
        /// itself clones the socket (`try_clone`), and keeps this beside.
        stream: Arc<TcpStream>,
        /// Who it is.
        peer: SocketAddr,
        /// Which end this host is.
        side: Side,
    },
    /// It is closed; it can be started again.
    Failed(Failure),
}

impl Outcome {
    /// As the first of these connections said it.
    pub const fn code(&self) -> i8 {
        match self {
            Self::Established { .. } => 0,
            Self::Failed(failure) => failure.code(),
        }
    }
}

/// A connection that cannot be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// It was already.
    #[error("the connection is in progress or established already; end it (kill) first")]
    Busy,
    /// Its thread has ended.
    #[error("the connection was dropped: nothing is started on it any more")]
    Gone,
    /// Nobody can be listened for.
    #[error(transparent)]
    Role(#[from] RoleError),
    /// The listener cannot be waited at, or the thread cannot be had.
    #[error("cannot wait for connections: {0}; are there too many open files or threads?")]
    Internal(#[source] io::Error),
}

impl StartError {
    /// As the first of these connections said it.
    pub fn code(&self) -> i8 {
        match self {
            Self::Role(error) => error.code(),
            Self::Busy | Self::Gone | Self::Internal(_) => -1,
        }
    }
}

/// What can be seen of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Where it stands.
    pub status: Status,
    /// Which end this is, once it was started.
    pub side: Option<Side>,
    /// What was counted.
    pub counts: Counts,
    /// The last error of an attempt or of an accept.
    pub last: Option<Errno>,
    /// Whether nobody is accepted for a while.
    pub paused: bool,
    /// Where it listens.
    pub listens: Option<SocketAddr>,
}

struct Shared {
    inner: Mutex<Inner>,
    runtime: tokio::runtime::Handle,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that holds it can panic half-way, so a poisoned lock is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        let mut inner = self.lock();
        inner.on(Event::Kill);
        inner.gone = true;
        inner.wake();
    }
}

/// What can be done to a connection, from any thread and from its callback.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.report()).finish()
    }
}

impl Handle {
    /// Starts it, and says which end this host is. It returns at once: what comes of it is told by the callback,
    /// on the connection's thread, never from in here.
    pub fn start(&self, role: Role) -> Result<Side, StartError> {
        let mut inner = self.0.lock();
        if role == Role::Client {
            return inner.start_client();
        }
        inner.may_start(Event::StartServer)?;
        let addresses = &inner.machine.config().addresses;
        let found = match role {
            Role::ByAddress => role::by_address(addresses),
            _ => role::bind(addresses).map(Some),
        };
        match found {
            Ok(Some(listener)) => self.listen(&mut inner, listener),
            Ok(None) => {
                inner.on(Event::ListenFailed);
                inner.start_client()
            }
            Err(error) => {
                inner.on(Event::ListenFailed);
                Err(error.into())
            }
        }
    }

    /// Starts it as the server of a listener that is there already (of [`role::bind`]): one that was made
    /// before the process was confined.
    pub fn start_on(&self, listener: TcpListener) -> Result<Side, StartError> {
        let mut inner = self.0.lock();
        inner.may_start(Event::StartServer)?;
        self.listen(&mut inner, listener)
    }

    fn listen(&self, inner: &mut Inner, listener: TcpListener) -> Result<Side, StartError> {
        let _inside = self.0.runtime.enter();
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                inner.listener = Some(listener);
                inner.on(Event::Listening);
                inner.wake();
                Ok(Side::Server)
            }
            Err(error) => {
                inner.on(Event::ListenFailed);
                Err(StartError::Internal(error))
            }
        }
    }

    /// The peer is lost: its connection is ended, and the next one is waited for, at the same listener. A client
    /// connects anew, after a moment. What is in progress stays so; what was not started, or was closed, is
    /// started as a server.
    pub fn restart(&self) -> Result<(), StartError> {
        let resting = matches!(self.report().status, Status::None | Status::Closed);
        if resting {
            return self.start(Role::Server).map(drop);
        }
        let mut inner = self.0.lock();
        // In between it may have been killed: then it stays so.
        if inner.machine.side().is_none() {
            return Err(if inner.gone { StartError::Gone } else { StartError::Busy });
        }
        inner.on(Event::Restart);
        inner.wake();
        Ok(())
    }

    /// Ends it, in any state: none of its sockets is open when this returns, and what was handed out has ended
    /// (its descriptor is its owner's). Of what happened before, the callback may be hearing on its thread yet.
    pub fn kill(&self) {
        let mut inner = self.0.lock();
        inner.on(Event::Kill);
        inner.wake();
    }

    /// What can be seen of it.
    pub fn report(&self) -> Report {
        let inner = self.0.lock();
        let machine = &inner.machine;
        Report {
            status: machine.status(),
            side: machine.side(),
            counts: machine.counts(),
            last: machine.last(),
            paused: machine.is_paused(),
            listens: inner.listener.as_ref().and_then(|listener| listener.local_addr().ok()),
        }
    }
}

/// A connection. It is ended when this is dropped, and nothing is told after that.
#[derive(Debug)]
pub struct Connection {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Connection {
    /// One that is not started yet. Each outcome is told in its thread, which waits for that: no socket of this
    /// connection moves meanwhile.
    pub fn new(
        config: Config,
        told: impl FnMut(&Handle, Outcome) + Send + 'static,
    ) -> Result<Self, StartError> {
        if config.addresses.is_empty() {
            return Err(RoleError::NoAddress.into());
        }
        let mut seed = [0; 8];
        getrandom(&mut seed, GetRandomFlags::empty()).map_err(|error| StartError::Internal(error.into()))?;
        let machine = Machine::new(config, u64::from_ne_bytes(seed));
        let runtime = Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(StartError::Internal)?;
        let inner = Mutex::new(Inner::new(machine));
        let handle = Handle(Arc::new(Shared { inner, runtime: runtime.handle().clone() }));
        let inside = handle.clone();
        let run = move || run(&runtime, &inside, told);
        let thread = sandbox::spawn("replication", Kind::Peer, run).map_err(StartError::Internal)?;
        Ok(Self { handle, thread: Some(thread) })
    }

    /// What can be done to it.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.handle.0.end();
        let Some(thread) = self.thread.take() else { return };
        // Its own callback may be who drops it.
        if thread.thread().id() != std::thread::current().id() {
            // If it panicked it has said so.
            let _ = thread.join();
        }
    }
}

/// Whatever ends the thread, a panic of the callback too, ends the connection.
struct Ended<'a>(&'a Handle);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.0.end();
    }
}

fn run(runtime: &tokio::runtime::Runtime, handle: &Handle, mut told: impl FnMut(&Handle, Outcome)) {
    let _ended = Ended(handle);
    loop {
        // The callback runs outside: it may wait for what it likes.
        match runtime.block_on(poll_fn(|context| poll(&handle.0, context))) {
            Next::Tell(outcome) => told(handle, outcome),
            Next::End => return,
        }
    }
}

fn poll(shared: &Shared, context: &mut Context<'_>) -> Poll<Next> {
    let mut inner = shared.lock();
    inner.remember(context);
    loop {
        if inner.gone {
            return Poll::Ready(Next::End);
        }
        let Poll::Ready(event) = inner.event(context) else { return Poll::Pending };
        if let Some(outcome) = inner.on(event) {
            return Poll::Ready(Next::Tell(outcome));
        }
    }
}

impl Inner {
    /// Asks the machine; the refusal is the caller's.
    fn may_start(&mut self, event: Event) -> Result<(), StartError> {
        if self.gone {
            return Err(StartError::Gone);
        }
        let actions = self.machine.on(event);
        if actions.contains(&Action::Busy) {
            return Err(StartError::Busy);
        }
        // Nothing is told here: no action of a start is news.
        actions.into_iter().for_each(|action| drop(self.perform(action)));
        Ok(())
    }

    fn start_client(&mut self) -> Result<Side, StartError> {
        self.may_start(Event::StartClient)?;
        self.wake();
        Ok(Side::Client)
    }
}
