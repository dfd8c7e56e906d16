//! Messages over a connection: the checks that are the same in every phase.
//!
//! ```text
//!   header ─► is there such a code? ─► may it come now? ─► is it of this epoch? ─► is it short enough?
//!          ─► only then is there memory for its payload, and only as much as has come
//! ```

use super::buffer::Buffer;
use super::error::{Error, Part, Phase, Sender, Wanted};
use super::message::{Code, Header, Limits};
use std::io::{self, ErrorKind, IoSlice};
use std::time::{Duration, Instant};

/// A connection to the peer.
///
/// A call that is not done at its instant gives [`ErrorKind::TimedOut`]. The instant is that of the whole call: a
/// peer that sends a byte now and then gets no more time by it.
pub trait Channel {
    /// Sends all of this, in as few writes as it takes.
    fn send(&mut self, parts: &mut [IoSlice<'_>], until: Instant) -> io::Result<()>;

    /// Fills the buffer, and gives its length; gives less only if the peer sends no more.
    fn receive(&mut self, buffer: &mut [u8], until: Instant) -> io::Result<usize>;
}

impl<C: Channel + ?Sized> Channel for &mut C {
    fn send(&mut self, parts: &mut [IoSlice<'_>], until: Instant) -> io::Result<()> {
        (**self).send(parts, until)
    }

    fn receive(&mut self, buffer: &mut [u8], until: Instant) -> io::Result<usize> {
        (**self).receive(buffer, until)
    }
}

/// How long what may take. A message may take `step` and, for each byte of it, what `rate` allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// An answer, or the next message of a checkpoint.
    pub step: Duration,
    /// The first message after a checkpoint: longer than the longest time between two checkpoints. A peer that
    /// dies meanwhile is noticed by the heartbeat.
    pub idle: Duration,
    /// Bytes in a second that a peer has to take or to send at least.
    pub rate: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self { step: Duration::from_secs(10), idle: Duration::from_mins(10), rate: 1 << 20 }
    }
}

impl Patience {
    /// What a message of so many bytes may take.
    fn of(&self, len: u64) -> Duration {
        let millis = u128::from(len).saturating_mul(1000) / u128::from(self.rate.max(1));
        self.step.saturating_add(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)))
    }
}

/// The longest that is waited: an instant further away may not be expressible.
const EVER: Duration = Duration::from_hours(7 * 24);

fn after(time: Duration) -> Instant {
    Instant::now() + time.min(EVER)
}

/// What is due from the peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) wanted: &'static [Code],
    pub(super) phase: Phase,
    /// Whether the peer may leave us waiting: nothing has begun.
    pub(super) idle: bool,
}

/// A connection, and where the session stands.
#[derive(Debug)]
pub(super) struct Wire<C> {
    channel: C,
    limits: Limits,
    patience: Patience,
    epoch: u64,
    /// A message was not sent whole: what follows it would be read as its rest.
    broken: bool,
}

impl<C: Channel> Wire<C> {
    pub(super) fn new(channel: C, limits: Limits, patience: Patience) -> Self {
        Self { channel, limits, patience, epoch: 0, broken: false }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The next epoch begins.
    pub(super) fn advance(mut self) -> Self {
        // 2⁶⁴ checkpoints take longer than any machine has.
        self.epoch = self.epoch.wrapping_add(1);
        self
    }

    #[cfg(test)]
    pub(super) fn channel(&mut self) -> &mut C {
        &mut self.channel
    }

    pub(super) fn into_channel(self) -> C {
        self.channel
    }

    /// Says something, in one write where the connection takes it.
    pub(super) fn send(&mut self, code: Code, payload: &[IoSlice<'_>]) -> Result<(), Error> {
        let len = payload.iter().fold(0u64, |sum, part| sum.saturating_add(part.len() as u64));
        let max = self.limits.max(code);
        if len > max {
            return Err(Error::Length { sender: Sender::Us, code, len, max });
        }
        if self.broken {
            return Err(Error::Broken(code));
        }
        let header = Header { code: code.number(), epoch: self.epoch, len }.to_bytes();
        let waited = self.patience.of(len);
        let sent = if payload.is_empty() {
            self.channel.send(&mut [IoSlice::new(&header)], after(waited))
        } else {
            let mut parts = Vec::with_capacity(payload.len() + 1);
            parts.push(IoSlice::new(&header));
            parts.extend_from_slice(payload);
            self.channel.send(&mut parts, after(waited))
        };
        sent.map_err(|source| {
            self.broken = true;
            match source.kind() {
                ErrorKind::TimedOut => Error::Stuck { code, len, waited },
                _ => Error::Send { code, source },
            }
        })
    }

    /// Receives the next message, which has to be one of those that are due.
    pub(super) fn receive(&mut self, due: Due, into: &mut Buffer) -> Result<Code, Error> {
        into.clear();
        let mut bytes = [0; Header::SIZE];
        let waited = if due.idle { self.patience.idle } else { self.patience.step };
        let got =
            self.channel.receive(&mut bytes, after(waited)).map_err(|error| lost(error, due, waited))?;
        match got {
            0 => return Err(Error::Closed(due.phase)),
            Header::SIZE => {}
            got => {
                let (got, of) = (got as u64, Header::SIZE as u64);
                return Err(Error::Truncated { what: Part::Header, got, of, phase: due.phase });
            }
        }
        let header = Header::from_bytes(bytes);
        let code = self.judge(header, due)?;
        self.payload(code, header.len, due, into)?;
        Ok(code)
    }

    fn judge(&self, header: Header, due: Due) -> Result<Code, Error> {
        let Due { wanted, phase, .. } = due;
        let code = Code::from_number(header.code).ok_or(Error::InvalidCommand(header.code, phase))?;
        if !wanted.contains(&code) {
            return Err(Error::Unexpected { got: code, wanted: Wanted(wanted), phase });
        }
        if header.epoch != self.epoch {
            return Err(Error::Epoch { code, got: header.epoch, wanted: self.epoch, phase });
        }
        let max = self.limits.max(code);
        if header.len > max {
            return Err(Error::Length { sender: Sender::Peer, code, len: header.len, max });
        }
        Ok(code)
    }

    fn payload(&mut self, code: Code, len: u64, due: Due, into: &mut Buffer) -> Result<(), Error> {
        let waited = self.patience.of(len);
        let until = after(waited);
        let of = usize::try_from(len).map_err(|_| Error::NoMemory { code, len })?;
        let mut done = 0;
        while done < of {
            let room = into.room(of - done).map_err(|_| Error::NoMemory { code, len })?;
            let asked = room.len();
            let got = self.channel.receive(room, until).map_err(|error| lost(error, due, waited))?;
            into.filled(got);
            done += got;
            if got < asked {
                let (got, what) = (done as u64, Part::Payload(code));
                return Err(Error::Truncated { what, got, of: len, phase: due.phase });
            }
        }
        Ok(())
    }
}

fn lost(source: io::Error, due: Due, waited: Duration) -> Error {
    let Due { wanted, phase, .. } = due;
    match source.kind() {
        ErrorKind::TimedOut => Error::Silent { waited, wanted: Wanted(wanted), phase },
        _ => Error::Receive { phase, source },
    }
}
