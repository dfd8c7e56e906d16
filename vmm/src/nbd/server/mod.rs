//! A server's side of one connection: bytes in, bytes out, no socket and no clock.
//!
//! ```text
//!                 room, received                                            output, sent
//!   the peer's bytes ──► Buffer ──► step ─┬─ handshake: options ───► answers ──► Outgoing ──►
//!                                         └─ transmission: request ─► Export ─► reply
//!
//!   Flags ──► Options ──(STARTTLS)──► Options, anew, under TLS ──(GO, EXPORT_NAME)──► Transmission ──► ended
//! ```
//!
//! Who has the socket asks [`Session::step`] what to do next. One step is one message, so the requests of a
//! connection are served in the order in which they came, and their replies leave in that order.

mod options;
mod requests;
mod shell;

pub use shell::{Patience, ServeError, serve};

use super::export::Export;
use super::wire::WireError;
use super::wire::buffer::{Buffer, Outgoing, STEP};
use super::wire::numbers::{MAX_OPTION, handshake};
use super::wire::options::{Greeting, OptionHead};
use std::sync::Arc;
use thiserror::Error;

/// An export and what it is called.
#[derive(Clone, Debug)]
pub struct Offer {
    /// What a client asks for.
    pub name: String,
    /// What a person reads.
    pub description: String,
    /// What it gets.
    pub export: Arc<dyn Export>,
}

/// What is served, and to whom.
#[derive(Debug)]
pub struct Terms {
    /// The exports.
    pub offers: Vec<Offer>,
    /// Whether TLS comes before everything else. Without that there is none.
    pub tls: bool,
    /// Whether the empty name is the export, if there is but one.
    pub nameless: bool,
    /// What a handshake may take.
    pub limits: Limits,
}

impl Terms {
    /// These exports, also without a name, without TLS, within the usual limits.
    pub fn new(offers: Vec<Offer>) -> Self {
        Self { offers, tls: false, nameless: true, limits: Limits::default() }
    }

    fn offer(&self, name: &str) -> Option<&Offer> {
        match self.offers.as_slice() {
            [only] if name.is_empty() && self.nameless => Some(only),
            offers => offers.iter().find(|offer| offer.name == name),
        }
    }
}

/// What a client may take before it has chosen an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Options.
    pub options: u32,
    /// Bytes, of all options.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { options: 256, bytes: 1 << 20 }
    }
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A message was dealt with: ask again.
    Again,
    /// The output is to be sent first: what comes next may take its time, or much is waiting.
    Send,
    /// The output is to be sent, and more bytes are needed.
    Receive,
    /// The output is to be sent, then TLS begins; then [`Session::secured`] is to be called.
    Secure,
    /// The output is to be sent, and the connection ended.
    End,
}

/// A connection that cannot go on.
#[derive(Debug, Error)]
pub enum SessionError {
    /// What came is no message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A client of another time.
    #[error("the client's flags are {0:#x}; it does not speak fixed newstyle NBD, or more than we know")]
    Flags(u32),
    /// A handshake without end.
    #[error(
        "the client sent {options} options of {bytes} bytes and chose no export; that is no honest client"
    )]
    Handshake {
        /// How many.
        options: u32,
        /// How long.
        bytes: u64,
    },
    /// An export by a message that knows no refusal.
    #[error("the client cannot have the export {0:?}: {1}")]
    Export(String, &'static str),
    /// Bytes that would be taken for what was said under TLS.
    #[error("the client sent bytes behind STARTTLS before TLS began; somebody may be between us")]
    BehindStartTls,
    /// The peer ended in the middle of a message.
    #[error("the client hung up in the middle of a message")]
    HungUp,
}

#[derive(Debug)]
enum Phase {
    Flags,
    Options,
    /// The answer to STARTTLS is on its way.
    Securing,
    Transmission(Arc<dyn Export>),
    Ended,
}

/// What was agreed, besides the export.
#[derive(Debug, Default)]
struct Agreed {
    no_zeroes: bool,
    structured: bool,
    contexts: Contexts,
}

/// Contexts that were chosen, for which export.
#[derive(Clone, Debug, Default)]
struct Contexts {
    of: String,
    allocation: bool,
    epoch: bool,
    /// Which quarters of a sum.
    sums: [bool; 4],
}

impl Contexts {
    fn any(&self) -> bool {
        self.allocation || self.epoch || self.summed()
    }

    fn summed(&self) -> bool {
        self.sums.contains(&true)
    }
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    terms: Arc<Terms>,
    phase: Phase,
    secure: bool,
    agreed: Agreed,
    options: u32,
    bytes: u64,
    /// Bytes that are let go when they come: what belongs to a message that was refused.
    skip: u64,
    input: Buffer,
    output: Outgoing,
}

impl Session {
    /// A client has connected. The greeting is in the output.
    pub fn new(terms: Arc<Terms>) -> Self {
        let mut output = Outgoing::default();
        Greeting { flags: handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES }.push(output.end());
        Self {
            terms,
            phase: Phase::Flags,
            secure: false,
            agreed: Agreed::default(),
            options: 0,
            bytes: 0,
            skip: 0,
            input: Buffer::new(),
            output,
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

    /// What is to be sent.
    pub fn output(&self) -> &[u8] {
        self.output.bytes()
    }

    /// So much of it was.
    pub fn sent(&mut self, len: usize) {
        self.output.sent(len);
    }

    /// Whether no export was chosen yet: until then, who listens bounds the time.
    pub fn in_handshake(&self) -> bool {
        !matches!(self.phase, Phase::Transmission(_) | Phase::Ended)
    }

    /// Whether nothing is missing of a message: then the peer may end.
    pub fn between_messages(&self) -> bool {
        self.skip == 0 && self.input.bytes().is_empty()
    }

    /// How much memory its bytes take.
    pub fn memory(&mut self) -> usize {
        self.input.capacity() + self.output.end().capacity()
    }

    /// TLS is there. What was agreed before it is forgotten: somebody else may have agreed to it.
    pub fn secured(&mut self) {
        self.secure = true;
        let no_zeroes = self.agreed.no_zeroes;
        self.agreed = Agreed { no_zeroes, ..Agreed::default() };
        self.phase = Phase::Options;
    }

    /// Deals with one message, if all of it is there. After an error the output may still be sent; nothing else
    /// makes sense.
    pub fn step(&mut self) -> Result<Step, SessionError> {
        if self.skip > 0 {
            let gone = self.skip.min(self.input.bytes().len() as u64);
            self.input.consume(gone as usize);
            self.skip -= gone;
            if self.skip > 0 {
                self.input.want(1);
                return Ok(Step::Receive);
            }
        }
        // What a client does not fetch does not pile up.
        if self.output.bytes().len() >= STEP {
            return Ok(Step::Send);
        }
        match &self.phase {
            Phase::Ended => Ok(Step::End),
            Phase::Securing => Ok(Step::Secure),
            Phase::Flags => self.flags(),
            Phase::Options => self.option(),
            Phase::Transmission(export) => {
                let export = Arc::clone(export);
                self.request(&*export)
            }
        }
    }

    /// More is needed: so much, with what is there.
    fn receive(&mut self, wanted: usize) -> Step {
        self.input.want(wanted);
        Step::Receive
    }

    fn flags(&mut self) -> Result<Step, SessionError> {
        let Some(flags) = self.input.bytes().first_chunk().copied().map(u32::from_be_bytes) else {
            return Ok(self.receive(4));
        };
        self.input.consume(4);
        let known = u32::from(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
        if flags & u32::from(handshake::FIXED_NEWSTYLE) == 0 || flags & !known != 0 {
            return Err(SessionError::Flags(flags));
        }
        self.agreed.no_zeroes = flags & u32::from(handshake::NO_ZEROES) != 0;
        self.phase = Phase::Options;
        Ok(Step::Again)
    }

    fn option(&mut self) -> Result<Step, SessionError> {
        let Some(head) = OptionHead::parse(self.input.bytes())? else {
            return Ok(self.receive(OptionHead::SIZE));
        };
        let bytes = self.bytes.saturating_add(u64::from(head.len));
        if self.options >= self.terms.limits.options || bytes > self.terms.limits.bytes {
            return Err(SessionError::Handshake { options: self.options.saturating_add(1), bytes });
        }
        let whole = OptionHead::SIZE + head.len as usize;
        if head.len > MAX_OPTION {
            self.count(head);
            self.input.consume(OptionHead::SIZE);
            self.skip = head.len.into();
            self.refuse_long(head.option)?;
            return Ok(Step::Again);
        }
        let Some(data) = self.input.bytes().get(OptionHead::SIZE..whole) else {
            return Ok(self.receive(whole));
        };
        let data = data.to_vec();
        self.count(head);
        self.input.consume(whole);
        self.choose(head.option, &data)
    }

    fn count(&mut self, head: OptionHead) {
        self.options += 1;
        self.bytes += u64::from(head.len);
    }
}
