//! The bare relay: what any comparer behind four stream sockets must at least do, and nothing else.
//!
//! It stands for the machine's limit. The plain form reads both sides, throws the secondary's bytes away and
//! passes the primary's on unseen. The framed form walks the length fields of both sides and lets a primary
//! frame go only when the secondary has delivered as many frames: that is a comparer that believes in equality.

use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, write};
use rustix::net::sockopt::set_socket_send_buffer_size;

/// How a relay is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen: primary-in, secondary-in, outdev, notify-dev.
    pub paths: [PathBuf; 4],
    /// Whether frames are counted, and let go only in pairs.
    pub framed: bool,
    /// Whether a length is followed by a second word, that of the vnet header.
    pub vnet: bool,
    /// The most that one read asks for.
    pub read_size: usize,
    /// The most that one write hands over.
    pub write_size: usize,
    /// `SO_SNDBUF` of outdev, if not the system's.
    pub send_buffer: Option<usize>,
    /// How long to look again before sleeping in poll.
    pub spin: Duration,
}

/// Runs until both inputs have ended, or one of the peers is gone.
pub fn run(options: &Options) -> Result<()> {
    let listeners = options
        .paths
        .iter()
        .map(|path| UnixListener::bind(path).with_context(|| format!("listen on {}", path.display())))
        .collect::<Result<Vec<_>>>()?;
    let mut streams = Vec::new();
    for listener in &listeners {
        let (stream, _) = listener.accept().context("accept")?;
        stream.set_nonblocking(true)?;
        streams.push(stream);
    }
    let [primary, secondary, out, _notify] = streams.as_slice() else { anyhow::bail!("four sockets") };
    if let Some(size) = options.send_buffer {
        set_socket_send_buffer_size(out, size).context("SO_SNDBUF")?;
    }
    Relay::new(options).pump(primary, secondary, out)
}

struct Relay<'a> {
    options: &'a Options,
    /// Primary bytes not yet written: `[start, free)` may go, `[free, end)` wait for the secondary.
    held: Vec<u8>,
    start: usize,
    free: usize,
    end: usize,
    scratch: Vec<u8>,
    counter: Counter,
    /// Frames the secondary has delivered and the primary has not been let go for.
    credit: u64,
}

/// What one attempt at a socket brought.
enum Step {
    Moved(usize),
    Blocked,
    Ended,
}

fn step(result: rustix::io::Result<usize>) -> Result<Step> {
    match result {
        Ok(0) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(Step::Ended),
        Ok(n) => Ok(Step::Moved(n)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Step::Blocked),
        Err(errno) => Err(errno.into()),
    }
}

impl<'a> Relay<'a> {
    fn new(options: &'a Options) -> Self {
        let read_size = options.read_size.max(1);
        Self {
            options,
            held: vec![0; 4 * read_size.max(1 << 18)],
            start: 0,
            free: 0,
            end: 0,
            scratch: vec![0; read_size],
            counter: Counter::new(options.vnet),
            credit: 0,
        }
    }

    fn pump(&mut self, primary: &UnixStream, secondary: &UnixStream, out: &UnixStream) -> Result<()> {
        let mut idle_since: Option<Instant> = None;
        loop {
            let mut moved = false;
            if let Some(room) = self.room() {
                match step(read(primary, &mut self.held[room]))? {
                    Step::Moved(n) => {
                        self.end += n;
                        moved = true;
                    }
                    Step::Blocked => {}
                    Step::Ended => return Ok(()),
                }
            }
            match step(read(secondary, self.scratch.as_mut_slice()))? {
                Step::Moved(n) => {
                    if self.options.framed {
                        self.credit += self.counter.count(&self.scratch[..n]);
                    }
                    moved = true;
                }
                Step::Blocked => {}
                Step::Ended => return Ok(()),
            }
            self.release();
            if self.start < self.free {
                let until = self.free.min(self.start + self.options.write_size.max(1));
                match step(write(out, &self.held[self.start..until]))? {
                    Step::Moved(n) => {
                        self.start += n;
                        moved = true;
                    }
                    Step::Blocked => {}
                    Step::Ended => return Ok(()),
                }
            }
            if moved {
                idle_since = None;
            } else if self.options.spin.is_zero()
                || idle_since.get_or_insert_with(Instant::now).elapsed() >= self.options.spin
            {
                self.sleep(primary, secondary, out)?;
                idle_since = None;
            }
        }
    }

    /// Where the next primary bytes may be read to, if there is room for them.
    fn room(&mut self) -> Option<std::ops::Range<usize>> {
        if self.start == self.end {
            (self.start, self.free, self.end) = (0, 0, 0);
        } else if self.held.len() - self.end < self.scratch.len() && self.start >= self.held.len() / 2 {
            // At most as much is moved as has been written since the last time.
            self.held.copy_within(self.start..self.end, 0);
            self.free -= self.start;
            self.end -= self.start;
            self.start = 0;
        }
        let until = self.held.len().min(self.end + self.scratch.len());
        (self.end < until).then_some(self.end..until)
    }

    fn release(&mut self) {
        if !self.options.framed {
            self.free = self.end;
            return;
        }
        while self.credit > 0 {
            let waiting = &self.held[self.free..self.end];
            let Some(head) = waiting.first_chunk::<4>() else { return };
            let frame = framed_length(*head, self.options.vnet);
            if waiting.len() < frame {
                return;
            }
            self.free += frame;
            self.credit -= 1;
        }
    }

    fn sleep(&self, primary: &UnixStream, secondary: &UnixStream, out: &UnixStream) -> Result<()> {
        let room = self.end < self.held.len();
        let input = if room { PollFlags::IN } else { PollFlags::empty() };
        let output = if self.start < self.free { PollFlags::OUT } else { PollFlags::empty() };
        let mut fds = [
            PollFd::from_borrowed_fd(primary.as_fd(), input),
            PollFd::from_borrowed_fd(secondary.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(out.as_fd(), output),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn framed_length(head: [u8; 4], vnet: bool) -> usize {
    u32::from_be_bytes(head) as usize + if vnet { 8 } else { 4 }
}

/// Counts the frames of a stream that comes in any pieces, without keeping it.
struct Counter {
    vnet: bool,
    head: [u8; 4],
    have: usize,
    skip: usize,
}

impl Counter {
    fn new(vnet: bool) -> Self {
        Self { vnet, head: [0; 4], have: 0, skip: 0 }
    }

    /// How many frames end in these bytes.
    fn count(&mut self, mut bytes: &[u8]) -> u64 {
        let mut frames = 0;
        loop {
            if self.have == 4 {
                if bytes.len() < self.skip {
                    self.skip -= bytes.len();
                    return frames;
                }
                bytes = &bytes[self.skip..];
                self.have = 0;
                frames += 1;
            }
            while self.have < 4 {
                let Some((first, rest)) = bytes.split_first() else { return frames };
                self.head[self.have] = *first;
                self.have += 1;
                bytes = rest;
            }
            self.skip = framed_length(self.head, self.vnet) - 4;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    fn stream(vnet: bool, lengths: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for length in lengths {
            bytes.extend((*length as u32).to_be_bytes());
            if vnet {
                bytes.extend(12_u32.to_be_bytes());
            }
            bytes.extend(vec![0xa5; *length]);
        }
        bytes
    }

    #[test]
    fn the_counter_does_not_mind_how_a_stream_is_cut() {
        for vnet in [false, true] {
            let bytes = stream(vnet, &[1, 60, 1500, 2, 65_000, 0, 9]);
            for piece in [1, 3, 64, 1 << 20] {
                let mut counter = Counter::new(vnet);
                let frames: u64 = bytes.chunks(piece).map(|chunk| counter.count(chunk)).sum();
                assert_eq!(frames, 7, "{vnet} {piece}");
            }
        }
    }

    #[test]
    fn a_framed_relay_lets_go_no_more_than_the_secondary_has_sent() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["p", "s", "o", "n"].map(|name| dir.path().join(name));
        let options = Options {
            paths: paths.clone(),
            framed: true,
            vnet: false,
            read_size: 5,
            write_size: usize::MAX / 2,
            send_buffer: None,
            spin: Duration::ZERO,
        };
        let relay = std::thread::spawn(move || run(&options));
        let mut streams = paths.map(|path| {
            loop {
                if let Ok(stream) = UnixStream::connect(&path) {
                    break stream;
                }
                std::thread::yield_now();
            }
        });
        let primary = stream(false, &[3, 4, 5]);
        streams[0].write_all(&primary).unwrap();
        streams[1].write_all(&stream(false, &[9, 0])).unwrap();
        let mut out = vec![0; 7 + 8];
        streams[2].read_exact(&mut out).unwrap();
        assert_eq!(out, primary[..15]);
        streams[1].write_all(&stream(false, &[1])).unwrap();
        let mut rest = vec![0; 9];
        streams[2].read_exact(&mut rest).unwrap();
        assert_eq!(rest, primary[15..]);
        drop(streams);
        relay.join().unwrap().unwrap();
    }
}
