//! What is between two hosts: it passes bytes on, until it does not.
//!
//! ```text
//!   primary ═ socket 0 ── buffer ──► socket 1 ═ secondary          Ahead
//!                      ◄── buffer ──                               Back
//!   after so many frames or bytes of a direction: both sockets are closed, or reset
//! ```

use super::tcp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size, set_socket_send_buffer_size};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// From whom to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Ahead,
    Back,
}

/// Where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    Frames(usize),
    Bytes(usize),
}

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// What was passed on arrives, and then the end.
    Close,
    Reset,
}

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mode {
    Pass,
    /// A few KB each second.
    Slow,
    /// Nothing, in neither direction, and nobody is told.
    Stall,
}

const MODES: [Mode; 3] = [Mode::Pass, Mode::Slow, Mode::Stall];

/// What went through.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// In each direction.
    pub(super) frames: [usize; 2],
    /// It ended where it was to end.
    pub(super) cut: bool,
}

/// It, at work.
pub(super) struct Proxy {
    mode: Arc<AtomicU8>,
    thread: JoinHandle<Passed>,
}

impl Proxy {
    /// And the sockets of the two hosts.
    pub(super) fn new(cut: Option<(Way, Until, How)>) -> (Self, [TcpStream; 2]) {
        let ([ours, one], [other, theirs]) = (tcp(), tcp());
        for socket in [&one, &other] {
            socket.set_nonblocking(true).unwrap();
            // The kernel is to keep little of what does not arrive; with less than a few segments, TCP stalls.
            set_socket_recv_buffer_size(socket, 256 << 10).unwrap();
            set_socket_send_buffer_size(socket, 64 << 10).unwrap();
        }
        set_socket_send_buffer_size(&ours, 64 << 10).unwrap();
        let mode = Arc::new(AtomicU8::new(Mode::Pass as u8));
        let pump = Pump { sockets: [one, other], ways: [Flow::new(true), Flow::new(false)], cut };
        let thread = {
            let mode = mode.clone();
            std::thread::spawn(move || pump.run(&mode))
        };
        (Self { mode, thread }, [ours, theirs])
    }

    pub(super) fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// Waits for its end, which comes with that of one of the hosts.
    pub(super) fn ended(self) -> Passed {
        self.set(Mode::Pass);
        self.thread.join().unwrap()
    }
}

/// One direction.
struct Flow {
    /// On their way.
    bytes: Vec<u8>,
    frames: Frames,
    passed: usize,
}

impl Flow {
    fn new(requests: bool) -> Self {
        Self {
            bytes: Vec::new(),
            frames: Frames { requests, head: Vec::new(), left: 0, count: 0 },
            passed: 0,
        }
    }

    /// How many of these bytes are passed on, and whether that is the end.
    fn allow(&mut self, bytes: &[u8], until: Option<Until>) -> (usize, bool) {
        let most = match until {
            Some(Until::Bytes(most)) => bytes.len().min(most - self.passed),
            _ => bytes.len(),
        };
        let frames = if let Some(Until::Frames(frames)) = until { frames } else { usize::MAX };
        let allowed = self.frames.pass(&bytes[..most], frames);
        self.passed += allowed;
        let end = match until {
            None => false,
            Some(Until::Bytes(bytes)) => self.passed == bytes,
            Some(Until::Frames(frames)) => self.frames.count == frames,
        };
        (allowed, end)
    }
}

struct Pump {
    sockets: [TcpStream; 2],
    ways: [Flow; 2],
    cut: Option<(Way, Until, How)>,
}

impl Pump {
    fn run(mut self, mode: &AtomicU8) -> Passed {
        let cut = loop {
            let mode = MODES[usize::from(mode.load(Ordering::SeqCst))];
            if mode == Mode::Stall {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            self.wait();
            match self.turn(if mode == Mode::Slow { 128 } else { 64 << 10 }) {
                Some(cut) => break cut,
                None if mode == Mode::Slow => std::thread::sleep(Duration::from_millis(20)),
                None => {}
            }
        };
        let [one, other] = &self.ways;
        let frames = [one.frames.count, other.frames.count];
        let passed = Passed { frames, cut };
        match self.cut {
            Some((.., How::Reset)) if cut => {
                for socket in &self.sockets {
                    set_socket_linger(socket, Some(Duration::ZERO)).unwrap();
                }
            }
            _ => self.drain(),
        }
        passed
    }

    fn wait(&self) {
        let flags = |socket: usize| {
            let empty = |way: usize| self.ways[way].bytes.is_empty();
            // A socket is the beginning of one way and the end of the other.
            let receive = if empty(socket) { PollFlags::IN } else { PollFlags::empty() };
            receive | if empty(1 - socket) { PollFlags::empty() } else { PollFlags::OUT }
        };
        let [one, other] = &self.sockets;
        let mut fds = [PollFd::new(one, flags(0)), PollFd::new(other, flags(1))];
        let moment = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        poll(&mut fds, Some(&moment)).unwrap();
    }

    /// Passes on what it can, at most so much in each direction. Says how it ends, if it does: at the cut?
    fn turn(&mut self, most: usize) -> Option<bool> {
        let Self { sockets, ways, cut } = self;
        let mut buffer = vec![0; most];
        for (from, way) in ways.iter_mut().enumerate() {
            let until = cut.filter(|(which, ..)| *which as usize == from).map(|(_, until, _)| until);
            let mut last = way.allow(&[], until).1;
            if way.bytes.is_empty() && !last {
                match (&sockets[from]).read(&mut buffer) {
                    Ok(0) => return Some(false),
                    Ok(count) => {
                        let (allowed, end) = way.allow(&buffer[..count], until);
                        way.bytes.extend(&buffer[..allowed]);
                        last = end;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return Some(false),
                }
            }
            match (&sockets[1 - from]).write(&way.bytes) {
                Ok(count) => drop(way.bytes.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Some(false),
            }
            if last && way.bytes.is_empty() {
                return Some(true);
            }
        }
        None
    }

    /// Takes what still comes, so that the end is not a reset.
    fn drain(&self) {
        for socket in &self.sockets {
            let _ = socket.shutdown(Shutdown::Write);
            socket.set_nonblocking(false).unwrap();
        }
        for socket in &self.sockets {
            let mut socket = socket;
            let mut buffer = [0; 4096];
            while socket.read(&mut buffer).is_ok_and(|count| count > 0) {}
        }
    }
}

/// Where messages of the protocol end, in one direction.
struct Frames {
    /// They are a client's.
    requests: bool,
    head: Vec<u8>,
    /// Bytes behind the head.
    left: usize,
    count: usize,
}

impl Frames {
    /// How many of these bytes there are up to the end of so many messages.
    fn pass(&mut self, bytes: &[u8], most: usize) -> usize {
        let mut at = 0;
        while at < bytes.len() && self.count < most {
            if self.left > 0 {
                let step = self.left.min(bytes.len() - at);
                (self.left, at) = (self.left - step, at + step);
            } else {
                self.head.push(bytes[at]);
                at += 1;
                let Some(rest) = self.rest() else { continue };
                self.head.clear();
                self.left = rest;
            }
            self.count += usize::from(self.left == 0);
        }
        at
    }

    /// What follows the head, once that is whole.
    fn rest(&self) -> Option<usize> {
        let head = &self.head[..];
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap()) as usize;
        let (size, rest): (usize, &dyn Fn() -> usize) = match (self.count, head.len()) {
            // The server's greeting, and what the client says to it.
            (0, _) => (if self.requests { 4 } else { 18 }, &|| 0),
            (_, ..4) => return None,
            _ => match number(0) {
                // An option, and an answer to one.
                0x4948_4156 => (16, &|| number(12)),
                0x0003_e889 => (20, &|| number(16)),
                // A request, of which writes have bytes.
                0x2560_9513 => (28, &|| if head[6..8] == [0, 1] { number(24) } else { 0 }),
                // A simple reply, and a chunk.
                0x6744_6698 => (16, &|| 0),
                0x668e_33ef => (20, &|| number(16)),
                other => panic!("{other:#x} begins no message"),
            },
        };
        (head.len() == size).then(rest)
    }
}
