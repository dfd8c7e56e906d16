//! Reads a stream, one record after the other, and believes nothing of it.
//!
//! ```text
//!   header ─► configuration ─► ram start ─► ram part* ─► ram end ─► device* (or a package) ─► EOF ─► description
//! ```
//!
//! A record is given out when it is all there and its section's order, name, version and size are right. What is
//! given of a page is a view into the buffer: nothing is allocated for it.

use super::description::Description;
use super::error::{Place, StreamCause, StreamError};
use super::format::{
    BLOCK_LIMIT, COMMAND, CONFIGURATION, DESCRIPTION, DESCRIPTION_LIMIT, EOF, FOOTER, MACHINE, MAGIC,
    NAME_LIMIT, PACKAGE_LIMIT, PACKAGED, PAGE_SIZE, Page, RAM, RAM_VERSION, SECTION_END, SECTION_FULL,
    SECTION_PART, SECTION_START, VERSION,
};
use super::package::{RawDevice, check_length, read_devices};
use super::ram::{Block, FLAG_EOS, FLAG_MEM_SIZE, Head, Reading, RecordError, content};
use super::source::{Buffered, Source as _, SourceError, array};
use std::borrow::Cow;
use std::collections::HashSet;
use std::io::Read;

/// What a stream is made of.
#[derive(Debug)]
pub enum Item<'a> {
    /// The machine's name.
    Configuration(String),
    /// The blocks of the guest's memory.
    Blocks(&'a [Block]),
    /// A page of it.
    Page {
        /// The block's place in the list.
        block: usize,
        /// The page's place in the block.
        offset: u64,
        /// The content.
        page: &'a Page,
    },
    /// A page full of zeros.
    Zero {
        /// The block's place in the list.
        block: usize,
        /// The page's place in the block.
        offset: u64,
    },
    /// A section of the memory's is over.
    RamPart,
    /// All of the memory was there.
    RamEnd,
    /// A device's state.
    Device(RawDevice<'static>),
    /// The states of devices in one piece: what [`read_devices`] reads, which it was.
    Package(Vec<u8>),
    /// There are no more sections.
    End,
    /// What describes them.
    Description(Description),
    /// Not a byte is left.
    Nothing,
}

/// How long a device's state is: QEMU's sections do not say.
pub trait Lengths {
    /// Whether streams of a machine of this name can be read.
    fn machine(&mut self, name: &str) -> bool;

    /// The length of a device's state, if it is known from elsewhere; else its first four bytes say it.
    fn length(&mut self, name: &str, instance: u32) -> Result<Option<u64>, String>;
}

/// Those of our own machines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ours;

impl Lengths for Ours {
    fn machine(&mut self, name: &str) -> bool {
        name == MACHINE
    }

    fn length(&mut self, _: &str, _: u32) -> Result<Option<u64>, String> {
        Ok(None)
    }
}

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Header,
    RamStart,
    /// In a section of the memory's.
    Pages {
        last: bool,
    },
    Ram,
    Devices,
    Description,
    Over,
}

/// Reads.
#[derive(Debug)]
pub struct Reader<R, L = Ours> {
    source: Buffered<R>,
    lengths: L,
    phase: Phase,
    place: Place,
    blocks: Vec<Block>,
    ram_id: u32,
    records: Reading,
    keys: HashSet<(String, u32)>,
    ids: HashSet<u32>,
}

type Result<T, E = StreamCause> = std::result::Result<T, E>;

impl From<SourceError> for StreamCause {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Short { wanted, got } => Self::Short { wanted: wanted as u64, got: got as u64 },
            SourceError::Io(error) => Self::Io(error),
        }
    }
}

impl From<RecordError> for StreamCause {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Short { wanted, got } => Self::Short { wanted: wanted as u64, got: got as u64 },
            RecordError::Io(error) => Self::Io(error),
            error => Self::Record(error),
        }
    }
}

impl<R: Read> Reader<R> {
    /// Reads what one of our machines wrote.
    pub fn new(reader: R) -> Self {
        Self::with(reader, Ours)
    }
}

impl<R: Read, L: Lengths> Reader<R, L> {
    /// Reads, and knows the lengths of devices' states so.
    pub fn with(reader: R, lengths: L) -> Self {
        Self {
            source: Buffered::new(reader),
            lengths,
            phase: Phase::Header,
            place: Place::Header,
            blocks: Vec::new(),
            ram_id: 0,
            records: Reading::default(),
            keys: HashSet::new(),
            ids: HashSet::new(),
        }
    }

    /// How many bytes were read.
    pub fn offset(&self) -> u64 {
        self.source.offset()
    }

    /// The blocks of memory, once they are known.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// What is wrong here, in the words of a stream's errors.
    pub fn error(&self, cause: StreamCause) -> StreamError {
        StreamError { offset: self.source.offset(), place: self.place.clone(), cause }
    }

    /// The next record. After [`Item::Nothing`] there is nothing more.
    pub fn next_item(&mut self) -> Result<Item<'_>, StreamError> {
        let begin = self.source.offset();
        let at = |offset, place: &Place, cause| StreamError { offset, place: place.clone(), cause };
        if let Phase::Pages { last } = self.phase {
            match self.records.head(&mut self.source, &self.blocks) {
                Err(error) => return Err(at(begin, &self.place, error.into())),
                Ok(Head::Page { block, offset }) => {
                    return match content(&mut self.source) {
                        Ok(page) => Ok(Item::Page { block, offset, page }),
                        Err(error) => Err(at(begin, &self.place, error.into())),
                    };
                }
                Ok(Head::Zero { block, offset }) => return Ok(Item::Zero { block, offset }),
                Ok(Head::End) => {}
            }
            let id = self.ram_id;
            self.footer(id).map_err(|cause| at(begin, &self.place, cause))?;
            (self.phase, self.place) = (if last { Phase::Devices } else { Phase::Ram }, Place::Between);
            return Ok(if last { Item::RamEnd } else { Item::RamPart });
        }
        match self.section() {
            Ok(Step::Blocks) => Ok(Item::Blocks(&self.blocks)),
            Ok(Step::Item(item)) => Ok(item),
            Ok(Step::Pages) => self.next_item(),
            // Where a field begins says less than where its section does, but for the end of all.
            Err(cause) => {
                let offset =
                    if matches!(cause, StreamCause::Short { .. }) { self.source.offset() } else { begin };
                Err(at(offset, &self.place, cause))
            }
        }
    }

    fn number(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(array(&mut self.source)?))
    }

    fn name(&mut self, len: usize) -> Result<String> {
        let name = std::str::from_utf8(self.source.take(len)?);
        Ok(name.map_err(|_| StreamCause::Name)?.to_owned())
    }

    fn short_name(&mut self) -> Result<String> {
        let [len] = array(&mut self.source)?;
        self.name(usize::from(len))
    }

    fn footer(&mut self, expected: u32) -> Result<()> {
        let [byte, id @ ..] = array::<5>(&mut self.source)?;
        let found = u32::from_be_bytes(id);
        if byte != FOOTER || found != expected {
            return Err(StreamCause::Footer { expected, byte, found });
        }
        Ok(())
    }

    fn section(&mut self) -> Result<Step> {
        match self.phase {
            Phase::Header => self.header(),
            Phase::Description => self.description(),
            Phase::Over => Ok(Step::Item(Item::Nothing)),
            Phase::RamStart | Phase::Ram | Phase::Devices | Phase::Pages { .. } => {
                self.place = Place::Between;
                let [kind] = array(&mut self.source)?;
                match (self.phase, kind) {
                    (Phase::RamStart, SECTION_START) => self.ram_start(),
                    (Phase::Ram, SECTION_PART | SECTION_END) => {
                        self.place = Place::Section(RAM.to_owned());
                        let id = self.number()?;
                        if id != self.ram_id {
                            return Err(out_of_order(format!("a part of section {id}"), "one of ram's"));
                        }
                        self.phase = Phase::Pages { last: kind == SECTION_END };
                        Ok(Step::Pages)
                    }
                    (Phase::Devices, SECTION_FULL) => self.device(),
                    (Phase::Devices, COMMAND) => self.package(),
                    (Phase::Devices, EOF) => {
                        (self.phase, self.place) = (Phase::Description, Place::Description);
                        Ok(Step::Item(Item::End))
                    }
                    (phase, kind) => Err(out_of_order(describe(kind), expected(phase))),
                }
            }
        }
    }

    fn header(&mut self) -> Result<Step> {
        let magic = self.number()?;
        if magic != MAGIC {
            return Err(StreamCause::Magic(magic));
        }
        let version = self.number()?;
        if version != VERSION {
            return Err(StreamCause::Version(version));
        }
        self.place = Place::Configuration;
        let [kind] = array(&mut self.source)?;
        if kind != CONFIGURATION {
            return Err(out_of_order(describe(kind), "the machine's name"));
        }
        let len = self.number()?;
        bounded("a machine's name", len.into(), NAME_LIMIT as u64)?;
        let machine = self.name(len as usize)?;
        if !self.lengths.machine(&machine) {
            return Err(StreamCause::Machine(machine));
        }
        (self.phase, self.place) = (Phase::RamStart, Place::Between);
        Ok(Step::Item(Item::Configuration(machine)))
    }

    fn ram_start(&mut self) -> Result<Step> {
        self.ram_id = self.number()?;
        let name = self.short_name()?;
        if name != RAM {
            return Err(out_of_order(format!("section {name}"), "section ram"));
        }
        self.place = Place::Section(name);
        self.number()?;
        let found = self.number()?;
        if found != RAM_VERSION {
            return Err(StreamCause::SectionVersion { found, known: RAM_VERSION });
        }
        self.ids.insert(self.ram_id);
        let word = u64::from_be_bytes(array(&mut self.source)?);
        let page = PAGE_SIZE as u64;
        if word % page != FLAG_MEM_SIZE {
            return Err(StreamCause::Blocks("are not listed before the first page".into()));
        }
        let mut left = word - word % page;
        let mut names = HashSet::new();
        while left > 0 {
            if self.blocks.len() == BLOCK_LIMIT {
                return Err(StreamCause::Blocks(format!("are more than {BLOCK_LIMIT}")));
            }
            let name = self.short_name()?;
            let size = u64::from_be_bytes(array(&mut self.source)?);
            let wrong = |what: String| Err(StreamCause::Blocks(format!("{name:?}, {size:#x} bytes: {what}")));
            if size == 0 || !size.is_multiple_of(page) {
                return wrong("not whole pages".into());
            }
            if size > left {
                return wrong(format!("only {left:#x} of the total are left"));
            }
            if !names.insert(name.clone()) {
                return wrong("the second of that name".into());
            }
            left -= size;
            self.blocks.push(Block { name, size });
        }
        if u64::from_be_bytes(array(&mut self.source)?) != FLAG_EOS {
            return Err(StreamCause::Blocks("go on after their total size".into()));
        }
        let id = self.ram_id;
        self.footer(id)?;
        (self.phase, self.place) = (Phase::Ram, Place::Between);
        Ok(Step::Blocks)
    }

    fn device(&mut self) -> Result<Step> {
        let id = self.number()?;
        let name = self.short_name()?;
        let instance = self.number()?;
        self.place = Place::Section(format!("{name} (instance {instance})"));
        let version = self.number()?;
        if !self.ids.insert(id) || !self.keys.insert((name.clone(), instance)) {
            return Err(StreamCause::Twice(format!("device {name} (instance {instance}), or its id {id},")));
        }
        let known = self.lengths.length(&name, instance).map_err(StreamCause::Description)?;
        let len = match known {
            Some(len) => len,
            None => self.number()?.into(),
        };
        bounded("a device's state", len, PACKAGE_LIMIT.into())?;
        let data = self.source.vec(len as usize)?;
        self.footer(id)?;
        self.place = Place::Between;
        let (name, data) = (Cow::Owned(name), Cow::Owned(data));
        Ok(Step::Item(Item::Device(RawDevice { name, instance, version, data })))
    }

    fn package(&mut self) -> Result<Step> {
        self.place = Place::Package;
        let command = u16::from_be_bytes(array(&mut self.source)?);
        if command != PACKAGED {
            return Err(StreamCause::Command(command));
        }
        let data = u16::from_be_bytes(array(&mut self.source)?);
        let len = self.number()?;
        let len = check_length(data, len).map_err(StreamCause::Package)?;
        let body = self.source.vec(len)?;
        for device in read_devices(&body).map_err(StreamCause::Package)? {
            if !self.keys.insert((device.name.clone().into_owned(), device.instance)) {
                return Err(StreamCause::Twice(format!(
                    "device {} (instance {})",
                    device.name, device.instance
                )));
            }
        }
        self.place = Place::Between;
        Ok(Step::Item(Item::Package(body)))
    }

    fn description(&mut self) -> Result<Step> {
        let [kind] = array(&mut self.source)?;
        if kind != DESCRIPTION {
            return Err(out_of_order(describe(kind), "the description"));
        }
        let len = self.number()?;
        bounded("a description", len.into(), DESCRIPTION_LIMIT.into())?;
        let json = self.source.vec(len as usize)?;
        let description = serde_json::from_slice(&json)
            .map_err(|error| StreamCause::Description(format!("is no such: {error}")))?;
        if !self.source.is_at_end()? {
            return Err(StreamCause::Trailing);
        }
        self.phase = Phase::Over;
        Ok(Step::Item(Item::Description(description)))
    }
}

/// What reading a section came to.
enum Step {
    Blocks,
    Pages,
    Item(Item<'static>),
}

fn bounded(what: &'static str, size: u64, limit: u64) -> Result<()> {
    if size > limit { Err(StreamCause::TooLarge { what, size, limit }) } else { Ok(()) }
}

fn out_of_order(found: String, expected: &'static str) -> StreamCause {
    StreamCause::Order { found, expected }
}

fn describe(kind: u8) -> String {
    let what = match kind {
        EOF => "the end",
        SECTION_START => "the start of a section",
        SECTION_PART => "a part of a section",
        SECTION_END => "the end of a section",
        SECTION_FULL => "a device",
        CONFIGURATION => "the machine's name",
        COMMAND => "a command",
        DESCRIPTION => "the description",
        FOOTER => "a footer",
        other => return format!("{other:#04x}"),
    };
    what.to_owned()
}

fn expected(phase: Phase) -> &'static str {
    match phase {
        Phase::RamStart => "the start of section ram",
        Phase::Ram | Phase::Pages { .. } => "a part of section ram",
        Phase::Devices => "a device or the end",
        Phase::Header | Phase::Description | Phase::Over => "something else",
    }
}
