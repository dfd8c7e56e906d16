//! From the greeting to an export.

use crate::nbd::wire::WireError;
use crate::nbd::wire::buffer::{Buffer, Outgoing};
use crate::nbd::wire::numbers::{
    BASE_ALLOCATION, COLO_EPOCH, COLO_SUMS, MAX_PAYLOAD, MAX_STRING, answer, handshake, info, option,
    transmission,
};
use crate::nbd::wire::options::{AnswerHead, Choice, Greeting, Info, Queries, parse_context, push_option};
use thiserror::Error;

/// The most answers to one option that are taken.
const MAX_ANSWERS: u32 = 64;

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub struct Ask {
    /// The export.
    pub name: String,
    /// Whether TLS comes first. If the server has none, there is no connection.
    pub tls: bool,
    /// Whether requests are to carry epochs, if the server knows what these are.
    pub epochs: bool,
    /// Whether block status is wanted, if the server has it.
    pub allocation: bool,
    /// Whether the sums of regions are wanted, if the server makes them.
    pub sums: bool,
}

/// What the server has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The export's size in bytes.
    pub size: u64,
    /// What it can do, of [`transmission`].
    pub flags: u16,
    /// What requests are multiples of.
    pub minimum: u32,
    /// What they are best multiples of.
    pub preferred: u32,
    /// What one reads or writes at most.
    pub maximum: u32,
    /// Whether replies come in chunks.
    pub structured: bool,
    /// What `colo:epoch` is called here, if it was agreed.
    pub epoch: Option<u32>,
    /// What `base:allocation` is called here, if it was agreed.
    pub allocation: Option<u32>,
    /// What `colo:sum-0` to `colo:sum-3` are called here, if all of them were agreed.
    pub sums: Option<[u32; 4]>,
}

impl Facts {
    /// Whether one of the flags of [`transmission`] is set.
    pub fn can(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Whether any context was agreed.
    pub fn status(&self) -> bool {
        self.allocation.or(self.epoch).is_some() || self.sums.is_some()
    }

    /// Whether it cannot be written.
    pub fn read_only(&self) -> bool {
        self.can(transmission::READ_ONLY)
    }
}

/// No export.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// What came is no message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A server of another time.
    #[error("the NBD server does not speak fixed newstyle (its flags are {0:#x}); a newer one is needed")]
    Old(u16),
    /// A refusal.
    #[error("the NBD server refuses {what} ({code:#x}): {message}{}", hint(*code))]
    Refused {
        /// What was asked.
        what: &'static str,
        /// Of [`answer`].
        code: u32,
        /// What it says.
        message: String,
    },
    /// An answer that is none to what was asked.
    #[error("the NBD server answers {what} with {answer:#x}, which is no answer to it; the server is broken")]
    Answer {
        /// What was asked.
        what: &'static str,
        /// Of [`answer`].
        answer: u32,
    },
    /// Bytes that would be taken for what was said under TLS.
    #[error("the NBD server sent bytes before TLS began; somebody may be between us")]
    BeforeTls,
    /// An export that cannot be used.
    #[error("the NBD server says nothing sensible of the export: {0}; the server is broken")]
    Export(&'static str),
}

fn hint(code: u32) -> &'static str {
    match code {
        answer::ERR_TLS_REQD => "; it demands TLS",
        answer::ERR_UNKNOWN => "; is the export's name right? nbdinfo --list shows what is there",
        answer::ERR_UNSUP | answer::ERR_POLICY => "; is it configured for that?",
        _ => "",
    }
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The output is to be sent, and more bytes are needed.
    Receive,
    /// The output is to be sent, then TLS begins; then [`Handshake::secured`] is to be called.
    Secure,
    /// It is done: [`Handshake::finish`].
    Ready,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Greeting,
    /// STARTTLS was sent.
    Tls,
    /// TLS begins.
    Securing,
    Structured,
    Contexts,
    Go,
    Ready,
}

impl Stage {
    fn option(self) -> (u32, &'static str) {
        match self {
            Self::Tls | Self::Greeting | Self::Securing => (option::STARTTLS, "TLS"),
            Self::Structured => (option::STRUCTURED_REPLY, "structured replies"),
            Self::Contexts => (option::SET_META_CONTEXT, "contexts"),
            Self::Go | Self::Ready => (option::GO, "the export"),
        }
    }
}

/// A handshake under way.
#[derive(Debug)]
pub struct Handshake {
    ask: Ask,
    stage: Stage,
    /// Of the server's size, which has to come.
    sized: bool,
    /// What the contexts of sums are called, as far as they were named.
    sums: [Option<u32>; 4],
    answers: u32,
    facts: Facts,
    input: Buffer,
    output: Outgoing,
}

impl Handshake {
    /// Wants this.
    pub fn new(ask: Ask) -> Self {
        let facts = Facts { minimum: 1, preferred: 4096, maximum: MAX_PAYLOAD, ..Facts::default() };
        let (input, output) = (Buffer::new(), Outgoing::default());
        Self { ask, stage: Stage::Greeting, sized: false, sums: [None; 4], answers: 0, facts, input, output }
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

    /// How much memory its bytes take.
    pub fn memory(&mut self) -> usize {
        self.input.capacity() + self.output.end().capacity()
    }

    /// TLS is there.
    pub fn secured(&mut self) {
        if self.stage == Stage::Securing {
            self.structured();
        }
    }

    /// What the server has, and bytes that came behind that.
    pub fn finish(self) -> (Facts, Buffer) {
        (self.facts, self.input)
    }

    /// Goes as far as what came allows.
    pub fn step(&mut self) -> Result<Progress, HandshakeError> {
        loop {
            let more = match self.stage {
                Stage::Ready => return Ok(Progress::Ready),
                Stage::Securing => return Ok(Progress::Secure),
                Stage::Greeting => self.greeting()?,
                Stage::Tls | Stage::Structured | Stage::Contexts | Stage::Go => self.answer()?,
            };
            if !more {
                return Ok(Progress::Receive);
            }
        }
    }

    fn greeting(&mut self) -> Result<bool, HandshakeError> {
        let Some(Greeting { flags }) = Greeting::parse(self.input.bytes())? else {
            self.input.want(Greeting::SIZE);
            return Ok(false);
        };
        self.input.consume(Greeting::SIZE);
        if flags & handshake::FIXED_NEWSTYLE == 0 {
            return Err(HandshakeError::Old(flags));
        }
        let ours = handshake::FIXED_NEWSTYLE | (flags & handshake::NO_ZEROES);
        self.output.end().extend(u32::from(ours).to_be_bytes());
        if self.ask.tls {
            self.stage = Stage::Tls;
            push_option(self.output.end(), option::STARTTLS, &[]);
        } else {
            self.structured();
        }
        Ok(true)
    }

    fn begin(&mut self, stage: Stage, data: &[u8]) {
        self.stage = stage;
        self.answers = 0;
        push_option(self.output.end(), stage.option().0, data);
    }

    fn structured(&mut self) {
        self.begin(Stage::Structured, &[]);
    }

    fn contexts(&mut self) {
        let wanted = [(self.ask.allocation, BASE_ALLOCATION), (self.ask.epochs, COLO_EPOCH)].into_iter();
        let wanted = wanted.chain(COLO_SUMS.map(|name| (self.ask.sums, name)));
        let queries: Vec<&str> = wanted.filter(|(so, _)| *so).map(|(_, name)| name).collect();
        if self.facts.structured && !queries.is_empty() {
            let data = Queries { name: &self.ask.name, queries }.to_bytes();
            self.begin(Stage::Contexts, &data);
        } else {
            self.go();
        }
    }

    fn go(&mut self) {
        let data = Choice { name: &self.ask.name, infos: vec![info::BLOCK_SIZE] }.to_bytes();
        self.begin(Stage::Go, &data);
    }

    fn answer(&mut self) -> Result<bool, HandshakeError> {
        let Some(head) = AnswerHead::parse(self.input.bytes())? else {
            self.input.want(AnswerHead::SIZE);
            return Ok(false);
        };
        let whole = AnswerHead::SIZE + head.len as usize;
        let Some(data) = self.input.bytes().get(AnswerHead::SIZE..whole).map(<[u8]>::to_vec) else {
            self.input.want(whole);
            return Ok(false);
        };
        self.input.consume(whole);
        let (option, what) = self.stage.option();
        self.answers += 1;
        if head.option != option || self.answers > MAX_ANSWERS {
            return Err(HandshakeError::Answer { what, answer: head.answer });
        }
        if head.answer & answer::ERROR != 0 {
            self.refused(head.answer, what, &data)?;
            return Ok(true);
        }
        match (self.stage, head.answer) {
            (Stage::Tls, answer::ACK) if !self.input.bytes().is_empty() => {
                return Err(HandshakeError::BeforeTls);
            }
            (Stage::Tls, answer::ACK) => self.stage = Stage::Securing,
            (Stage::Structured, answer::ACK) => {
                self.facts.structured = true;
                self.contexts();
            }
            (Stage::Contexts, answer::META_CONTEXT) => match parse_context(&data) {
                Some((id, COLO_EPOCH)) if self.ask.epochs => self.facts.epoch = Some(id),
                Some((id, BASE_ALLOCATION)) if self.ask.allocation => self.facts.allocation = Some(id),
                Some((id, name)) if self.ask.sums => match COLO_SUMS.iter().position(|sum| *sum == name) {
                    Some(at) => self.sums[at] = Some(id),
                    None => return Err(HandshakeError::Answer { what, answer: head.answer }),
                },
                _ => return Err(HandshakeError::Answer { what, answer: head.answer }),
            },
            (Stage::Contexts, answer::ACK) => {
                if let [Some(one), Some(two), Some(three), Some(four)] = self.sums {
                    self.facts.sums = Some([one, two, three, four]);
                }
                self.go();
            }
            (Stage::Go, answer::INFO) => self.info(&data)?,
            (Stage::Go, answer::ACK) if self.sized => self.stage = Stage::Ready,
            (Stage::Go, answer::ACK) => return Err(HandshakeError::Export("its size is missing")),
            (_, answer) => return Err(HandshakeError::Answer { what, answer }),
        }
        Ok(true)
    }

    /// Does without what can be done without.
    fn refused(&mut self, code: u32, what: &'static str, data: &[u8]) -> Result<(), HandshakeError> {
        match (self.stage, code) {
            (Stage::Structured, answer::ERR_UNSUP | answer::ERR_POLICY) => self.contexts(),
            (Stage::Contexts, answer::ERR_UNSUP | answer::ERR_POLICY) => {
                (self.facts.epoch, self.facts.allocation) = (None, None);
                self.go();
            }
            _ => {
                let message = String::from_utf8_lossy(data.get(..data.len().min(MAX_STRING)).unwrap_or(data));
                return Err(HandshakeError::Refused { what, code, message: message.into_owned() });
            }
        }
        Ok(())
    }

    fn info(&mut self, data: &[u8]) -> Result<(), HandshakeError> {
        let facts = &mut self.facts;
        match Info::parse(data) {
            None => Err(HandshakeError::Export("an answer about it is malformed")),
            Some(Info::Export { size, flags }) if flags & transmission::HAS_FLAGS != 0 => {
                (facts.size, facts.flags, self.sized) = (size, flags, true);
                if size > i64::MAX as u64 {
                    return Err(HandshakeError::Export("its size is none that a file can have"));
                }
                Ok(())
            }
            Some(Info::Export { .. }) => Err(HandshakeError::Export("its flags are missing")),
            Some(Info::BlockSize { minimum, preferred, maximum }) => {
                let sensible = minimum.is_power_of_two()
                    && minimum <= 64 << 10
                    && preferred.is_power_of_two()
                    && preferred >= minimum
                    && maximum >= minimum
                    && (maximum.is_multiple_of(minimum) || maximum == u32::MAX);
                if !sensible {
                    return Err(HandshakeError::Export("the sizes of its requests fit nothing"));
                }
                facts.minimum = minimum;
                facts.preferred = preferred;
                facts.maximum = maximum.min(MAX_PAYLOAD);
                Ok(())
            }
            Some(Info::Name(_) | Info::Description(_) | Info::Other(_)) => Ok(()),
        }
    }
}
