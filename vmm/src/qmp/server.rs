//! Sessions on sockets: one thread polls them all and performs one command at a time.
//!
//! ```text
//!   listeners ─┐               ┌─► Session ─► Command ─► Desk ─► Controls
//!   clients ───┼─ poll ─► loop ┤
//!   wake ──────┘               └─► what is to be sent, per client, bounded
//!    ▲
//!    └── mailbox ◄── a thread that waits for Control's events; a migration
//! ```
//!
//! A client that does not read is not read either once [`READ_UNTIL`] bytes wait for it, and is let go at
//! [`KEPT`], which only events reach.

use super::command::{Command, Plain};
use super::descriptors::Descriptors;
use super::perform::Desk;
use super::session::{News, Output, Session};
use crate::control::{Control, Controls, Event, RunState};
use colo_proxy::listener::Listener;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// Clients at one time.
const CLIENTS: usize = 8;
/// What may wait for a client before no more of it is read.
const READ_UNTIL: usize = 64 << 10;
/// What may wait for a client before it is let go.
const KEPT: usize = 1 << 20;
/// Events that wait for the loop.
const EVENTS: usize = 1024;
/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// QMP is spoken while this lives.
#[derive(Debug)]
pub struct Server {
    mailbox: Arc<Mailbox>,
    control: Arc<dyn Control>,
    thread: Option<JoinHandle<()>>,
}

/// What the loop is told by others.
#[derive(Debug)]
struct Mailbox {
    mail: Mutex<Mail>,
    changed: Condvar,
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct Mail {
    events: VecDeque<(News, Duration)>,
    /// Whether there will be no more events.
    ended: bool,
    /// Whether the server is ending.
    closed: bool,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Mail> {
        // No invariant spans an unlock.
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // It fails when the counter is full, and then it is awake.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Hands something over; false if nobody wants it any more.
    fn post(&self, news: News) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut mail = self.lock();
        if mail.closed {
            return false;
        }
        if mail.events.len() < EVENTS {
            mail.events.push_back((news, now));
        }
        drop(mail);
        self.wake();
        true
    }

    /// Hands events over until there are no more, or nobody wants them.
    fn forward(&self, events: &Receiver<Event>) {
        while let Ok(event) = events.recv() {
            if !self.post(event.into()) {
                return;
            }
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }
}

impl Server {
    /// Speaks QMP on these sockets. `enter` is the first thing that each of its threads calls: it is
    /// where a sandbox begins.
    pub fn start(
        listeners: Vec<Listener>,
        controls: Controls,
        name: &str,
        enter: impl Fn() + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let mailbox = Arc::new(Mailbox { mail: Mutex::default(), changed: Condvar::new(), wake });
        let control = Arc::clone(&controls.guest);
        let events = control.events();
        let (mail, begin) = (Arc::clone(&mailbox), enter.clone());
        thread::Builder::new().name("qmp-events".into()).spawn(move || {
            begin();
            mail.forward(&events);
        })?;
        let mail = Arc::clone(&mailbox);
        let desk = Desk::new(controls, name, move |stage| {
            mail.post(News::Migration(stage));
        });
        let mut sessions = Sessions { listeners, clients: Vec::new(), desk, mailbox: Arc::clone(&mailbox) };
        let thread = thread::Builder::new().name("qmp".into()).spawn(move || {
            enter();
            sessions.run();
        })?;
        Ok(Self { mailbox, control, thread: Some(thread) })
    }
}

impl Drop for Server {
    /// Clients hear the last event before they are let go.
    fn drop(&mut self) {
        let mail = self.mailbox.lock();
        let mut mail = if self.control.state() == RunState::Shutdown {
            let waited = self.mailbox.changed.wait_timeout_while(mail, LAST_WORDS, |mail| !mail.ended);
            waited.unwrap_or_else(PoisonError::into_inner).0
        } else {
            mail
        };
        mail.closed = true;
        drop(mail);
        self.mailbox.wake();
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so.
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Sessions {
    listeners: Vec<Listener>,
    clients: Vec<Client>,
    desk: Desk,
    mailbox: Arc<Mailbox>,
}

#[derive(Debug)]
struct Client {
    socket: UnixStream,
    session: Session,
    descriptors: Descriptors,
    out: VecDeque<u8>,
    /// It is let go once it has read what waits.
    closing: bool,
    /// It is gone.
    gone: bool,
}

impl Sessions {
    fn run(&mut self) {
        loop {
            let (closed, events) = {
                let mut mail = self.mailbox.lock();
                (mail.closed, std::mem::take(&mut mail.events))
            };
            for (event, at) in events {
                self.clients.iter_mut().for_each(|client| client.event(event, at));
            }
            if closed {
                let until = Instant::now() + LAST_WORDS;
                self.clients.iter_mut().for_each(|client| client.flush_until(until));
                return;
            }
            if let Err(error) = self.turn() {
                // Memory or descriptors are short: that can pass, and the guest goes on meanwhile.
                tracing::warn!("QMP pauses for a second, because it cannot poll: {error}");
                thread::sleep(Duration::from_secs(1));
            }
        }
    }

    /// Waits for something, and does what there is to do.
    fn turn(&mut self) -> io::Result<()> {
        let mut fds = vec![PollFd::new(&self.mailbox.wake, PollFlags::IN)];
        fds.extend(self.listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
        fds.extend(self.clients.iter().map(|client| PollFd::new(&client.socket, client.interest())));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        let (at_wake, rest) = ready.split_first().map_or((PollFlags::empty(), &[][..]), |(w, r)| (*w, r));
        let (at_listeners, at_clients) = rest.split_at(self.listeners.len().min(rest.len()));
        if !at_wake.is_empty() {
            let _ = rustix::io::read(&self.mailbox.wake, &mut [0; 8]);
        }
        let mut quit = false;
        for (client, ready) in self.clients.iter_mut().zip(at_clients) {
            quit |= client.serve(*ready, &self.desk);
        }
        self.clients.retain(|client| !client.gone);
        for at in 0..self.listeners.len() {
            if at_listeners.get(at).is_some_and(|ready| !ready.is_empty()) {
                self.welcome(at);
            }
        }
        if quit {
            self.desk.quit();
        }
        Ok(())
    }

    fn welcome(&mut self, listener: usize) {
        match self.listeners.get(listener).map(Listener::accept) {
            Some(Ok(Some(mut socket))) if self.clients.len() >= CLIENTS => {
                // It fits into an empty socket's buffer.
                let _ = socket.write_all(&Session::full());
            }
            Some(Ok(Some(socket))) => {
                let (session, greeting) = Session::begin();
                let out = greeting.into();
                let descriptors = Descriptors::default();
                let mut client = Client { socket, session, descriptors, out, closing: false, gone: false };
                client.flush();
                self.clients.push(client);
            }
            Some(Err(error)) => {
                // Descriptors are short: a client waits, and poll would say so at once again.
                tracing::warn!("a QMP client cannot be accepted: {error}");
                thread::sleep(Duration::from_millis(100));
            }
            _ => {}
        }
    }
}

impl Client {
    fn interest(&self) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, !self.closing && self.out.len() < READ_UNTIL);
        interest.set(PollFlags::OUT, !self.out.is_empty());
        interest
    }

    /// Reads, performs, writes. Says whether the guest is to be ended.
    fn serve(&mut self, ready: PollFlags, desk: &Desk) -> bool {
        let mut quit = false;
        if ready.contains(PollFlags::IN) && self.interest().contains(PollFlags::IN) {
            let mut bytes = [0; 4096];
            match self.descriptors.receive(&self.socket, &mut bytes) {
                Ok(0) => self.gone = true,
                Ok(count) => quit = self.input(bytes.get(..count).unwrap_or_default(), desk),
                Err(error) if transient(&error) => {}
                Err(_) => self.gone = true,
            }
        } else if ready.intersects(PollFlags::HUP | PollFlags::ERR) {
            self.gone = true;
        }
        self.flush();
        if quit {
            self.flush_until(Instant::now() + LAST_WORDS);
        }
        quit
    }

    fn input(&mut self, bytes: &[u8], desk: &Desk) -> bool {
        for output in self.session.feed(bytes) {
            match output {
                Output::Send(bytes) => self.out.extend(bytes),
                Output::Run { command, id } => {
                    let quit = command == Command::Plain(Plain::Quit);
                    self.out.extend(Session::reply(id, desk.run(command, &mut self.descriptors)));
                    if quit {
                        return true;
                    }
                }
                Output::Close => {
                    self.closing = true;
                    return false;
                }
            }
        }
        false
    }

    fn event(&mut self, event: News, at: Duration) {
        if let Some(message) = self.session.event(event, at).filter(|_| !self.closing) {
            self.out.extend(message);
            self.flush();
            if self.out.len() > KEPT {
                tracing::warn!("a QMP client that does not read is let go; {KEPT} bytes wait for it");
                self.gone = true;
            }
        }
    }

    /// Writes what can be written at once.
    fn flush(&mut self) {
        while !self.gone && !self.out.is_empty() {
            let (bytes, _) = self.out.as_slices();
            match self.socket.write(bytes) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if transient(&error) => return,
                Err(_) => self.gone = true,
            }
        }
        self.gone |= self.closing && self.out.is_empty();
    }

    /// Writes everything, if that can be done in time.
    fn flush_until(&mut self, until: Instant) {
        self.flush();
        while !self.gone && !self.out.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap_or_default();
            let mut fds = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::OUT)];
            if left.is_zero() || !matches!(poll(&mut fds, Some(&timeout)), Ok(1..)) {
                return;
            }
            self.flush();
        }
    }
}

fn transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
