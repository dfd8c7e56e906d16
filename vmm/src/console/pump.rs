//! The thread between a place and a guest.

use super::escape::Escape;
use super::place::Place;
use super::ring::Output;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Read or written at once: a terminal that is stopped (Ctrl-s) takes so much and no more.
const PIECE: usize = 512;
/// How soon a guest that had no room for input is asked again.
const RETRY: Duration = Duration::from_millis(10);
/// How long the last output may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Takes what was typed, as far as there is room: how much that was.
pub type Input = Box<dyn FnMut(&[u8]) -> usize + Send>;

/// A console that is open, and not read yet.
#[derive(Debug)]
pub struct Opened {
    place: Place,
    described: String,
    output: Output,
}

/// A console that is read and written. Dropping it writes what is left and makes the terminal what it was.
#[derive(Debug)]
pub struct Console {
    output: Output,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Opened {
    pub(super) fn new(place: Place, described: String, output: Output) -> Self {
        Self { place, described, output }
    }

    /// Where the serial port writes.
    pub fn output(&self) -> Output {
        self.output.clone()
    }

    /// Where it leads, for people.
    pub fn described(&self) -> &str {
        &self.described
    }

    /// Begins. `enter` is the first thing that the thread calls: it is where a sandbox begins. `input`
    /// takes what was typed and says how much of it it had room for; `quit` is called when the end was
    /// asked for by keyboard.
    pub fn start(
        self,
        enter: impl FnOnce() + Send + 'static,
        input: impl FnMut(&[u8]) -> usize + Send + 'static,
        quit: impl FnMut() + Send + 'static,
    ) -> io::Result<Console> {
        let end = Arc::new(AtomicBool::new(false));
        let output = self.output.clone();
        let mut pump = Pump {
            escape: matches!(self.place, Place::Stdio(Some(_))).then(Escape::default),
            reads: matches!(self.place, Place::Stdio(_) | Place::Pty { .. }),
            writes: !matches!(self.place, Place::None),
            place: self.place,
            output: self.output,
            waiting: Vec::new(),
            input: Box::new(input),
            quit: Box::new(quit),
            end: Arc::clone(&end),
        };
        let thread = thread::Builder::new().name("console".into()).spawn(move || {
            enter();
            pump.run();
        })?;
        Ok(Console { output, end, thread: Some(thread) })
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        self.output.wake();
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so.
            let _ = thread.join();
        }
    }
}

struct Pump {
    place: Place,
    output: Output,
    escape: Option<Escape>,
    /// Whether there is, or may be, something to read; not after the end of a file.
    reads: bool,
    /// Whether somebody is there to write to.
    writes: bool,
    /// What the guest had no room for.
    waiting: Vec<u8>,
    input: Input,
    quit: Box<dyn FnMut() + Send>,
    end: Arc<AtomicBool>,
}

impl fmt::Debug for Pump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump").field("place", &self.place).finish_non_exhaustive()
    }
}

/// What poll said.
struct Ready {
    listener: bool,
    input: bool,
    output: bool,
}

impl Pump {
    fn run(&mut self) {
        let mut until = None;
        loop {
            if until.is_none() && self.end.load(Ordering::SeqCst) {
                until = Some(Instant::now() + LAST_WORDS);
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let nothing = self.output.ring().is_empty() || !self.connected();
            if left.is_some_and(|left| nothing || left.is_zero()) {
                return;
            }
            match self.wait(left) {
                Ok(ready) => self.serve(&ready),
                Err(error) => {
                    tracing::warn!("the console ends, because it cannot poll: {error}");
                    return;
                }
            }
        }
    }

    fn connected(&self) -> bool {
        self.writes && !matches!(self.place, Place::Unix { client: None, .. })
    }

    fn wait(&self, left: Option<Duration>) -> Result<Ready, Errno> {
        let (listener, from, to) = self.fds();
        let from = from.filter(|_| self.reads && self.waiting.is_empty() && left.is_none());
        let to = to.filter(|_| self.writes && !self.output.ring().is_empty());
        let mut fds = vec![PollFd::new(self.output.wake_fd(), PollFlags::IN)];
        let places = (
            add(&mut fds, listener, PollFlags::IN),
            add(&mut fds, from, PollFlags::IN),
            add(&mut fds, to, PollFlags::OUT),
        );
        let retry = (!self.waiting.is_empty()).then_some(RETRY);
        let timeout = match (retry, left) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let timeout = timeout.map(|timeout| Timespec::try_from(timeout).unwrap_or_default());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let ready =
            |at: Option<usize>| at.and_then(|at| fds.get(at)).is_some_and(|fd| !fd.revents().is_empty());
        Ok(Ready { listener: ready(places.0), input: ready(places.1), output: ready(places.2) })
    }

    /// The listener, what is read, and what is written.
    fn fds(&self) -> (Option<BorrowedFd<'_>>, Option<BorrowedFd<'_>>, Option<BorrowedFd<'_>>) {
        match &self.place {
            Place::Stdio(_) => (None, Some(rustix::stdio::stdin()), Some(rustix::stdio::stdout())),
            Place::Pty { master, .. } => (None, Some(master.as_fd()), Some(master.as_fd())),
            Place::File(file) => (None, None, Some(file.as_fd())),
            Place::Unix { listener, client } => {
                let client = client.as_ref().map(std::os::fd::AsFd::as_fd);
                (Some(listener.as_fd()), client, client)
            }
            Place::None => (None, None, None),
        }
    }

    fn serve(&mut self, ready: &Ready) {
        // The counter is set back; it fails when nobody has woken us.
        let _ = rustix::io::read(self.output.wake_fd(), &mut [0; 8]);
        if !self.waiting.is_empty() {
            self.give();
        }
        if ready.input {
            self.read();
        }
        if ready.output {
            self.write();
        }
        if ready.listener {
            self.welcome();
        }
    }

    fn give(&mut self) {
        let taken = (self.input)(&self.waiting).min(self.waiting.len());
        self.waiting.drain(..taken);
    }

    fn read(&mut self) {
        let mut bytes = [0; PIECE];
        let read = match self.fds() {
            (_, Some(fd), _) => rustix::io::read(fd, &mut bytes),
            _ => return,
        };
        match read {
            Ok(0) => self.hang_up(),
            Ok(count) => {
                let typed = bytes.get(..count).unwrap_or_default();
                let (keys, end) = match &mut self.escape {
                    Some(escape) => escape.filter(typed),
                    None => (typed.to_vec(), false),
                };
                self.waiting = keys;
                self.give();
                if end {
                    self.reads = false;
                    (self.quit)();
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.hang_up(),
        }
    }

    fn write(&mut self) {
        let (place, bytes) = self.output.ring().oldest(PIECE);
        let written = match self.fds() {
            (_, _, Some(fd)) => rustix::io::write(fd, &bytes),
            _ => return,
        };
        match written {
            Ok(count) => self.output.ring().read_until(place + count as u64),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => {
                if !matches!(self.place, Place::Unix { .. }) {
                    tracing::warn!("the guest's console is shown no more: {error}");
                    self.writes = false;
                }
                self.hang_up();
            }
        }
    }

    /// The other side is gone; another may come to a socket.
    fn hang_up(&mut self) {
        match &mut self.place {
            Place::Unix { client, .. } => {
                *client = None;
                self.reads = false;
                self.waiting.clear();
            }
            _ => self.reads = false,
        }
    }

    fn welcome(&mut self) {
        let Place::Unix { listener, client } = &mut self.place else { return };
        match listener.accept() {
            Ok(Some(new)) if client.is_none() => {
                *client = Some(new);
                self.reads = true;
            }
            Ok(Some(mut second)) => {
                // It fits into an empty socket's buffer.
                let _ = io::Write::write_all(&mut second, b"another client has this console\r\n");
            }
            Ok(None) => {}
            Err(error) => {
                // Descriptors are short: a client waits, and poll would say so at once again.
                tracing::warn!("a client of the console cannot be accepted: {error}");
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Polls this as well. Gives its place.
fn add<'a>(fds: &mut Vec<PollFd<'a>>, fd: Option<BorrowedFd<'a>>, flags: PollFlags) -> Option<usize> {
    fds.push(PollFd::from_borrowed_fd(fd?, flags));
    Some(fds.len() - 1)
}
