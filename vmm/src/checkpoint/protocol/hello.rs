//! Who speaks, and whether the two fit: before anything else is said.
//!
//! ```text
//!   0         8          12       16
//!   │ magic   │ version  │ length │ role · side · mode · answer · capabilities · generation · session · held: session,
//!   └ be64    └ be32     └ be32   └   epoch, room · run · epochs · VM · machine · blocks: count, then each a name and
//!                                     a size · disks
//! ```
//!
//! The primary connects and speaks first. The secondary answers with its own hello in any case, so that both
//! can say what does not fit, and with a word on whether it takes the connection. Every later field belongs to
//! the version: another version is refused by its first 16 bytes.

mod bytes;
pub mod disk;
mod mismatch;

pub use disk::{DISKS, Disk};
pub use mismatch::Mismatch;

use super::message::Limits;
use crate::block::guest_name;
use crate::config::Name;
use bytes::{Bytes, put_name};
use std::fmt;
use thiserror::Error;

/// What a connection of this protocol begins with.
pub const MAGIC: u64 = u64::from_be_bytes(*b"COLO-VM\n");
/// The version of what is in this module and in [`super::message`].
pub const VERSION: u32 = 3;
/// RAM blocks of a guest.
pub const BLOCKS: usize = 16;
/// The bytes before those that depend on the version.
pub const HEAD: usize = 16;
/// The most that a text which says what a machine is may have, in bytes.
pub const MACHINE: usize = 1024;
/// The most that a hello has after those.
pub const BODY: usize = 8192;

/// Makes an `enum` of what one byte can say.
macro_rules! bytes {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $variant:ident = $number:literal, $word:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[repr(u8)]
        pub enum $name { $($(#[$word_doc])* $variant = $number,)* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            fn take(bytes: &mut Bytes<'_>) -> Result<Self, HelloError> {
                let number = bytes.byte(stringify!($name))?;
                let known = Self::ALL.iter().find(|known| **known as u8 == number);
                known.copied().ok_or(HelloError::Number { field: stringify!($name), number })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)* })
            }
        }
    };
}

bytes! {
    /// What the connection is for.
    Role {
        /// Checkpoints.
        Main = 1, "main";
        /// Signs of life.
        Heartbeat = 2, "heartbeat";
    }
}

bytes! {
    /// Which of the two speaks.
    Side {
        /// The one that serves.
        Primary = 1, "primary";
        /// The one that is kept level.
        Secondary = 2, "secondary";
    }
}

bytes! {
    /// What the secondary's guest does between checkpoints.
    Mode {
        /// It runs, and its output is compared.
        Colo = 1, "colo";
        /// It stands.
        Periodic = 2, "periodic";
    }
}

bytes! {
    /// Whether a connection is taken.
    Answer {
        /// That is the question: from the one who connects.
        Asked = 0, "asked";
        /// It is.
        Taken = 1, "taken";
        /// The hellos do not fit.
        Mismatch = 2, "the hellos do not fit; the secondary's log has its reason";
        /// Another primary has it.
        Busy = 3, "it has a session already; end that one, or wait until it is noticed to be lost";
        /// A heartbeat without its main connection.
        NoSession = 4, "it has no session that this heartbeat belongs to; connect the main one first";
        /// It keeps the guest of another primary.
        Keeps = 5, "it keeps the guest of another primary, which it has lost; if that guest is to go on, say \
                    \"colo-vm takeover\" there; if this one is to be protected instead, end that secondary and start it anew";
    }
}

/// What a side can do, besides what every side can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u32);

impl Capabilities {
    /// Pages compressed with lz4.
    pub const LZ4: Self = Self(1);
    /// Pages as the difference to what was there.
    pub const XOR: Self = Self(2);

    /// Whether all of these are among them.
    pub const fn has(self, these: Self) -> bool {
        self.0 & these.0 == these.0
    }

    /// These and those.
    #[must_use]
    pub const fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Those that both have. Bits that this version does not know fall away here.
    #[must_use]
    pub const fn common(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }
}

/// A block of the guest's RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its name in RAM records.
    pub name: Name,
    /// Its bytes.
    pub size: u64,
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.name, self.size)
    }
}

/// What a secondary has of a primary that it has lost, so that not all memory has to come again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The session of its last complete checkpoint. No other primary ever chooses that number.
    pub session: u64,
    /// The epoch that this checkpoint ended; 0: it holds none.
    pub epoch: u64,
    /// How many pages may wait there for the rest of an epoch.
    pub room: u64,
}

/// What a side says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the connection is for.
    pub role: Role,
    /// Who speaks.
    pub side: Side,
    /// What the secondary's guest does.
    pub mode: Mode,
    /// Whether the connection is taken.
    pub answer: Answer,
    /// What it can do besides.
    pub capabilities: Capabilities,
    /// How often the VM has changed hosts, as far as this side knows: a primary that slept through a take-over
    /// is known by it.
    pub generation: u64,
    /// A number by which the two connections of a session find each other; the primary chooses it.
    pub session: u64,
    /// A secondary's: what it has. A primary has nothing to say here.
    pub held: Held,
    /// A primary's: which process this is. Another number is another run of the guest, whatever it is called.
    pub run: u64,
    /// A primary's: how many epochs its earlier sessions had. The epochs of disks are counted on, from session to
    /// session: the first of this one is the one after.
    pub epochs: u64,
    /// Which VM.
    pub vm: Name,
    /// What the machine is made of besides its memory, in words; both must say the same. What is longer than
    /// [`MACHINE`] bytes is cut off.
    pub machine: String,
    /// Its RAM.
    pub blocks: Vec<Block>,
    /// Its disks.
    pub disks: Vec<Disk>,
}

/// What two hellos come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// What the secondary's guest does.
    pub mode: Mode,
    /// What both can do.
    pub capabilities: Capabilities,
    /// The primary's.
    pub generation: u64,
    /// The primary's.
    pub session: u64,
    /// The primary's.
    pub run: u64,
    /// The primary's.
    pub epochs: u64,
    /// What the peer says of its disks: as many as ours, and as large.
    pub disks: Vec<Disk>,
    /// The secondary's, if both are of one generation.
    pub held: Held,
    /// How long messages may be.
    pub limits: Limits,
}

/// Bytes that are no hello.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum HelloError {
    /// Somebody else's protocol.
    #[error(
        "the peer began with {0:#018x}, which no colo-vm does ({MAGIC:#018x}); is this the right port, is TLS on at both ends?"
    )]
    Magic(u64),
    /// Another version.
    #[error(
        "the peer speaks version {0} of the protocol, and we speak version {VERSION}; run the same colo-vm on both hosts"
    )]
    Version(u32),
    /// Too long.
    #[error("the peer's hello has {0} bytes, and at most {BODY} are read")]
    Length(u32),
    /// Too short.
    #[error("the peer's hello ends within {0}")]
    Short(&'static str),
    /// Too long for what is in it.
    #[error("the peer's hello has {0} bytes after its end")]
    Trailing(usize),
    /// A byte that says nothing.
    #[error("the peer's hello has {number} as its {field}, which says nothing")]
    Number {
        /// Where.
        field: &'static str,
        /// What.
        number: u8,
    },
    /// A name that is none.
    #[error("the peer's hello has something for {0} that is no name")]
    Name(&'static str),
    /// A text that is none.
    #[error("the peer's hello has something for {0} that is no text")]
    Text(&'static str),
    /// Too many blocks.
    #[error("the peer's guest has {0} RAM blocks, and at most {BLOCKS} can be")]
    Blocks(u8),
    /// Too many disks.
    #[error("the peer's guest has {0} disks, and at most {DISKS} can be replicated")]
    Disks(u8),
}

impl Hello {
    /// On the wire. Names and blocks beyond what a hello can hold are left out, and then do not fit.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = vec![self.role as u8, self.side as u8, self.mode as u8, self.answer as u8];
        body.extend(self.capabilities.0.to_be_bytes());
        body.extend(self.generation.to_be_bytes());
        body.extend(self.session.to_be_bytes());
        body.extend(self.held.session.to_be_bytes());
        body.extend(self.held.epoch.to_be_bytes());
        body.extend(self.held.room.to_be_bytes());
        body.extend(self.run.to_be_bytes());
        body.extend(self.epochs.to_be_bytes());
        put_name(&mut body, &self.vm);
        let machine = self.machine.get(..self.machine.floor_char_boundary(MACHINE)).unwrap_or_default();
        body.extend((machine.len() as u16).to_be_bytes());
        body.extend(machine.as_bytes());
        let blocks = self.blocks.get(..BLOCKS).unwrap_or(&self.blocks);
        body.push(blocks.len() as u8);
        for block in blocks {
            put_name(&mut body, &block.name);
            body.extend(block.size.to_be_bytes());
        }
        let disks = self.disks.get(..DISKS).unwrap_or(&self.disks);
        body.push(disks.len() as u8);
        disks.iter().for_each(|disk| disk.put(&mut body));
        let mut bytes = MAGIC.to_be_bytes().to_vec();
        bytes.extend(VERSION.to_be_bytes());
        bytes.extend((body.len() as u32).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    /// How many bytes follow the first ones, if those are of a hello.
    pub fn body_len(head: [u8; HEAD]) -> Result<usize, HelloError> {
        let mut bytes = Bytes(&head);
        let magic = bytes.be64("the magic number")?;
        if magic != MAGIC {
            return Err(HelloError::Magic(magic));
        }
        let version = bytes.be32("the version")?;
        if version != VERSION {
            return Err(HelloError::Version(version));
        }
        let len = bytes.be32("the length")?;
        usize::try_from(len).ok().filter(|len| *len <= BODY).ok_or(HelloError::Length(len))
    }

    /// What follows them.
    pub fn from_body(body: &[u8]) -> Result<Self, HelloError> {
        let mut bytes = Bytes(body);
        let role = Role::take(&mut bytes)?;
        let side = Side::take(&mut bytes)?;
        let mode = Mode::take(&mut bytes)?;
        let answer = Answer::take(&mut bytes)?;
        let capabilities = Capabilities(bytes.be32("the capabilities")?);
        let generation = bytes.be64("the generation")?;
        let session = bytes.be64("the session")?;
        let held = Held {
            session: bytes.be64("the session that is held")?,
            epoch: bytes.be64("the epoch that is held")?,
            room: bytes.be64("the room for pages")?,
        };
        let run = bytes.be64("the run")?;
        let epochs = bytes.be64("the epochs before")?;
        let vm = bytes.name("the VM")?;
        let machine = bytes.text("the machine")?;
        let count = bytes.byte("the number of blocks")?;
        if usize::from(count) > BLOCKS {
            return Err(HelloError::Blocks(count));
        }
        let block = |_| Ok(Block { name: bytes.name("a block")?, size: bytes.be64("a block's size")? });
        let blocks = (0..count).map(block).collect::<Result<_, _>>()?;
        let count = bytes.byte("the number of disks")?;
        if usize::from(count) > DISKS {
            return Err(HelloError::Disks(count));
        }
        let disks = (0..count).map(|_| Disk::take(&mut bytes)).collect::<Result<_, _>>()?;
        if !bytes.0.is_empty() {
            return Err(HelloError::Trailing(bytes.0.len()));
        }
        Ok(Self {
            role,
            side,
            mode,
            answer,
            capabilities,
            generation,
            session,
            held,
            run,
            epochs,
            vm,
            machine,
            blocks,
            disks,
        })
    }

    /// Whether this side and the peer fit, and what they agree on. Whether the secondary takes the connection is
    /// not asked here: see [`Hello::taken`].
    pub fn compare(&self, peer: &Self) -> Result<Agreed, Mismatch> {
        if self.vm != peer.vm {
            return Err(Mismatch::Vm { ours: self.vm.clone(), theirs: peer.vm.clone() });
        }
        let (primary, secondary) = match (self.side, peer.side) {
            (Side::Primary, Side::Secondary) => (self, peer),
            (Side::Secondary, Side::Primary) => (peer, self),
            (both, _) => return Err(Mismatch::Side(both)),
        };
        if self.role != peer.role {
            return Err(Mismatch::Role { ours: self.role, theirs: peer.role });
        }
        if primary.generation < secondary.generation {
            let (primary, secondary) = (primary.generation, secondary.generation);
            return Err(Mismatch::Stale { primary, secondary });
        }
        if self.mode != peer.mode {
            return Err(Mismatch::Mode { ours: self.mode, theirs: peer.mode });
        }
        if self.blocks.len() != peer.blocks.len() {
            return Err(Mismatch::BlockCount { ours: self.blocks.len(), theirs: peer.blocks.len() });
        }
        for (ours, theirs) in self.blocks.iter().zip(&peer.blocks) {
            if ours != theirs {
                return Err(Mismatch::Block { ours: ours.clone(), theirs: theirs.clone() });
            }
        }
        if self.machine != peer.machine {
            return Err(Mismatch::Machine { ours: self.machine.clone(), theirs: peer.machine.clone() });
        }
        if self.disks.len() != peer.disks.len() {
            return Err(Mismatch::DiskCount { ours: self.disks.len(), theirs: peer.disks.len() });
        }
        if let Some((ours, theirs)) = self.disks.iter().zip(&peer.disks).find(|(a, b)| a.size != b.size) {
            let disk = guest_name(ours.place.into());
            return Err(Mismatch::DiskSize { disk, ours: ours.size, theirs: theirs.size });
        }
        Ok(Agreed {
            mode: self.mode,
            capabilities: self.capabilities.common(peer.capabilities),
            generation: primary.generation,
            session: primary.session,
            run: primary.run,
            epochs: primary.epochs,
            disks: peer.disks.clone(),
            held: if primary.generation == secondary.generation {
                secondary.held
            } else {
                Held { epoch: 0, ..secondary.held }
            },
            limits: Limits::of(&self.blocks),
        })
    }

    /// What the primary makes of the secondary's answer to its own hello: what does not fit comes first, as it
    /// says more than a refusal.
    pub fn taken(&self, answer: &Self) -> Result<Agreed, Mismatch> {
        let agreed = self.compare(answer)?;
        match answer.answer {
            Answer::Taken if answer.session == self.session => Ok(agreed),
            Answer::Taken => Err(Mismatch::Session { ours: self.session, theirs: answer.session }),
            refused => Err(Mismatch::Refused(refused)),
        }
    }
}

#[cfg(test)]
mod tests;
