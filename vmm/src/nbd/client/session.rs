//! Orders on their way: waiting, sent, under way.
//!
//! Where the server keeps the order of a connection (it has `colo:epoch`), everything is sent at once. With any
//! other, an order waits for those under way that it overlaps with, and a flush for all that were written: NBD
//! promises neither order nor that a flush covers what is not answered yet. Those behind it wait, too.

use super::handshake::Facts;
use super::replies::Reply;
use crate::nbd::wire::buffer::Buffer;
use crate::nbd::wire::numbers::{command, flag, transmission};
use crate::nbd::wire::{Errno, Extent, Request, WireError};
use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use thiserror::Error;

/// The most pieces of memory that are given to a socket at once.
const PARTS: usize = 64;

/// How much may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Orders.
    pub requests: usize,
    /// Bytes that they read and write. One order alone may have more.
    pub bytes: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { requests: 128, bytes: 16 << 20 }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<P> {
    /// Read.
    Read {
        /// Where.
        offset: u64,
        /// How much.
        len: u32,
    },
    /// Write.
    Write {
        /// Where.
        offset: u64,
        /// What. It is let go once it is sent.
        data: P,
        /// Whether it is stable when it is answered.
        fua: bool,
    },
    /// Make it read as zeros.
    Zero {
        /// Where.
        offset: u64,
        /// How much.
        len: u32,
        /// Whether the space may be let go.
        unmap: bool,
        /// Whether only if that is fast.
        fast: bool,
        /// Whether it is stable when it is answered.
        fua: bool,
    },
    /// The bytes do not matter any more.
    Trim {
        /// Where.
        offset: u64,
        /// How much.
        len: u32,
        /// Whether it is stable when it is answered.
        fua: bool,
    },
    /// Make stable what was done before.
    Flush,
    /// What the agreed contexts say.
    Status {
        /// Where.
        offset: u64,
        /// How much.
        len: u32,
        /// Whether one extent will do.
        one: bool,
    },
}

/// A command for an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order<P> {
    /// The caller's name for it.
    pub token: u64,
    /// The epoch that it belongs to, modulo 2³². It is sent if the server knows what that is.
    pub epoch: u32,
    /// What is to be done.
    pub command: Command<P>,
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The order's.
    pub token: u64,
    /// The order's.
    pub epoch: u32,
    /// What the server says; or why not, and its words.
    pub result: Result<Answer, (Errno, String)>,
}

/// What an order brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// What was read.
    Data(Vec<u8>),
    /// What each context says, from the order's offset on.
    Status(Vec<(u32, Vec<Extent>)>),
}

/// An order that is not taken. It comes back.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum Refused<P> {
    /// Later.
    #[error("as much is under way as may be; an order is to wait until one is answered")]
    Full(Order<P>),
    /// Never, here.
    #[error("the NBD server does not do that: {1}")]
    Unsupported(Order<P>, &'static str),
    /// Never.
    #[error("an order does not fit the export: {1}; this is a bug")]
    Wrong(Order<P>, &'static str),
}

/// A connection that cannot go on. What was under way may or may not have been done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClientError {
    /// What came is no message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A reply to nothing.
    #[error("the NBD server answers a request that was not made ({0:#x}); it is broken")]
    Cookie(u64),
    /// A reply that is none to what was asked.
    #[error("the NBD server's reply makes no sense: {0}; it is broken")]
    Reply(&'static str),
}

/// One that was sent.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) token: u64,
    pub(super) epoch: u32,
    pub(super) cookie: u64,
    pub(super) command: u16,
    pub(super) offset: u64,
    pub(super) len: u32,
    pub(super) reply: Reply,
}

/// What is on its way into the socket.
#[derive(Debug)]
struct Piece<P> {
    head: [u8; Request::SIZE],
    data: Option<P>,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Not yet.
    Open,
    /// Once everything is answered.
    Wanted,
    /// Good-bye is on its way.
    Said,
}

/// A connection to an export.
#[derive(Debug)]
pub struct Client<P> {
    pub(super) facts: Facts,
    window: Window,
    waiting: VecDeque<Order<P>>,
    outgoing: VecDeque<Piece<P>>,
    /// Of the first of them.
    sent: usize,
    /// By the lower half of their cookies.
    pub(super) flights: BTreeMap<u32, Flight>,
    /// Bytes of what waits and what is under way.
    pub(super) bytes: u64,
    next: u32,
    end: End,
    pub(super) input: Buffer,
    pub(super) reading: super::replies::Reading,
}

fn shape<P: AsRef<[u8]>>(command: &Command<P>) -> (u16, u16, u64, u64) {
    let on = |so: &bool, flag: u16| if *so { flag } else { 0 };
    match command {
        Command::Read { offset, len } => (command::READ, 0, *offset, (*len).into()),
        Command::Write { offset, data, fua } => {
            (command::WRITE, on(fua, flag::FUA), *offset, data.as_ref().len() as u64)
        }
        Command::Zero { offset, len, unmap, fast, fua } => {
            let flags = on(fua, flag::FUA) | on(fast, flag::FAST_ZERO) | on(&!unmap, flag::NO_HOLE);
            (command::WRITE_ZEROES, flags, *offset, (*len).into())
        }
        Command::Trim { offset, len, fua } => (command::TRIM, on(fua, flag::FUA), *offset, (*len).into()),
        Command::Flush => (command::FLUSH, 0, 0, 0),
        Command::Status { offset, len, one } => {
            (command::BLOCK_STATUS, on(one, flag::REQ_ONE), *offset, (*len).into())
        }
    }
}

/// What of it counts against the window.
pub(super) fn weight(command: u16, len: u64) -> u64 {
    if matches!(command, command::READ | command::WRITE) { len } else { 0 }
}

pub(super) fn changes(command: u16) -> bool {
    matches!(command, command::WRITE | command::WRITE_ZEROES | command::TRIM)
}

impl<P: AsRef<[u8]>> Client<P> {
    /// After a handshake; `input` is what came behind it.
    pub fn new(facts: Facts, input: Buffer, window: Window) -> Self {
        Self {
            facts,
            window,
            waiting: VecDeque::new(),
            outgoing: VecDeque::new(),
            sent: 0,
            flights: BTreeMap::new(),
            bytes: 0,
            next: 0,
            end: End::Open,
            input,
            reading: super::replies::Reading::Head,
        }
    }

    /// What the server has.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Orders that are not answered yet.
    pub fn unanswered(&self) -> usize {
        self.waiting.len() + self.flights.len()
    }

    /// Their tokens, those that were sent first.
    pub fn tokens(&self) -> impl Iterator<Item = u64> + '_ {
        self.flights.values().map(|flight| flight.token).chain(self.waiting.iter().map(|order| order.token))
    }

    /// Takes an order, if the window has room for it.
    pub fn submit(&mut self, order: Order<P>) -> Result<(), Refused<P>> {
        let (command, flags, offset, len) = shape(&order.command);
        if let Err(why) = self.supported(command, flags) {
            return Err(Refused::Unsupported(order, why));
        }
        if let Err(why) = self.fits(command, offset, len) {
            return Err(Refused::Wrong(order, why));
        }
        let full = self.unanswered() >= self.window.requests
            || self.bytes.saturating_add(weight(command, len)) > self.window.bytes;
        if full && self.unanswered() > 0 {
            return Err(Refused::Full(order));
        }
        self.bytes = self.bytes.saturating_add(weight(command, len));
        self.waiting.push_back(order);
        self.advance();
        Ok(())
    }

    fn supported(&self, command: u16, flags: u16) -> Result<(), &'static str> {
        let can = |flag| self.facts.can(flag);
        match command {
            _ if changes(command) && self.facts.read_only() => Err("the export cannot be written"),
            command::FLUSH if !can(transmission::SEND_FLUSH) => Err("it has no flush"),
            command::TRIM if !can(transmission::SEND_TRIM) => Err("it has no trim"),
            command::WRITE_ZEROES if !can(transmission::SEND_WRITE_ZEROES) => Err("it has no write-zeroes"),
            command::BLOCK_STATUS if !self.facts.status() => Err("it has no block status"),
            _ if flags & flag::FUA != 0 && !can(transmission::SEND_FUA) => Err("it has no FUA"),
            _ if flags & flag::FAST_ZERO != 0 && !can(transmission::SEND_FAST_ZERO) => {
                Err("it has no fast zeroes")
            }
            _ => Ok(()),
        }
    }

    fn fits(&self, command: u16, offset: u64, len: u64) -> Result<(), &'static str> {
        if self.end != End::Open {
            return Err("the connection was told good-bye");
        }
        if command == command::FLUSH {
            return Ok(());
        }
        if len == 0 {
            return Err("it is of no bytes");
        }
        if weight(command, len) > u64::from(self.facts.maximum) {
            return Err("it is longer than the server takes at once");
        }
        if (offset | len) & u64::from(self.facts.minimum).saturating_sub(1) != 0 {
            return Err("it is no multiple of the server's blocks");
        }
        match offset.checked_add(len) {
            Some(end) if end <= self.facts.size => Ok(()),
            _ => Err("it is beyond the end"),
        }
    }

    /// Says good-bye behind everything that was sent. Nothing is taken after it.
    pub fn disconnect(&mut self) {
        if self.end == End::Open {
            self.end = End::Wanted;
            self.advance();
        }
    }

    /// Whether everything was answered, and good-bye is on its way.
    pub fn closed(&self) -> bool {
        self.end == End::Said
    }

    /// Sends what need not wait.
    pub(super) fn advance(&mut self) {
        while let Some(order) = self.waiting.front() {
            if self.facts.epoch.is_none() && self.overlaps(order) {
                return;
            }
            let Some(order) = self.waiting.pop_front() else { return };
            let (command, flags, offset, len) = shape(&order.command);
            // The window is far smaller than what a cookie can count.
            while self.flights.contains_key(&self.next) {
                self.next = self.next.wrapping_add(1);
            }
            let low = self.next;
            self.next = low.wrapping_add(1);
            let epoch = if self.facts.epoch.is_some() { order.epoch } else { 0 };
            let cookie = u64::from(epoch) << 32 | u64::from(low);
            let head = Request { flags, command, cookie, offset, len: len as u32 }.to_bytes();
            let (token, epoch, len) = (order.token, order.epoch, len as u32);
            let flight = Flight { token, epoch, cookie, command, offset, len, reply: Reply::default() };
            self.flights.insert(low, flight);
            let data = match order.command {
                Command::Write { data, .. } => Some(data),
                _ => None,
            };
            self.outgoing.push_back(Piece { head, data });
        }
        if self.end == End::Wanted && self.flights.is_empty() {
            self.end = End::Said;
            let cookie = u64::from(self.next);
            let bye = Request { flags: 0, command: command::DISC, cookie, offset: 0, len: 0 };
            self.outgoing.push_back(Piece { head: bye.to_bytes(), data: None });
        }
    }

    fn overlaps(&self, order: &Order<P>) -> bool {
        let (command, _, offset, len) = shape(&order.command);
        let end = offset.saturating_add(len);
        self.flights.values().any(|flight| {
            if command == command::FLUSH {
                return changes(flight.command);
            }
            let apart = flight.offset >= end || flight.offset.saturating_add(flight.len.into()) <= offset;
            !apart && (changes(command) || changes(flight.command))
        })
    }

    /// What is to be sent, as much as a socket takes at once.
    pub fn parts(&self) -> Vec<IoSlice<'_>> {
        let mut skip = self.sent;
        let mut out = Vec::new();
        for piece in &self.outgoing {
            let data = piece.data.as_ref().map_or(&[][..], AsRef::as_ref);
            for part in [&piece.head[..], data] {
                let cut = skip.min(part.len());
                skip -= cut;
                if let Some(rest) = part.get(cut..).filter(|rest| !rest.is_empty()) {
                    out.push(IoSlice::new(rest));
                }
            }
            if out.len() >= PARTS {
                break;
            }
        }
        out
    }

    /// Whether anything is to be sent.
    pub fn wants_to_send(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// So many bytes of it were.
    pub fn sent(&mut self, len: usize) {
        self.sent += len;
        while let Some(piece) = self.outgoing.front() {
            let whole = piece.head.len() + piece.data.as_ref().map_or(0, |data| data.as_ref().len());
            if self.sent < whole {
                return;
            }
            self.sent -= whole;
            self.outgoing.pop_front();
        }
    }

    /// Where the next bytes from the peer go.
    pub fn room(&mut self) -> &mut [u8] {
        self.input.room()
    }

    /// So many were put there.
    pub fn received(&mut self, len: usize) {
        self.input.filled(len);
    }

    /// Takes bytes from memory.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.input.feed(bytes);
    }

    /// How much memory its bytes and those that were read take.
    pub fn memory(&self) -> usize {
        self.input.capacity() + self.flights.values().map(|flight| flight.reply.memory()).sum::<usize>()
    }
}
