//! Writes a stream, each part in its turn: a type for what may come next.

use super::description::Description;
use super::format::{
    BLOCK_LIMIT, CONFIGURATION, DESCRIPTION, DEVICE_ID, EOF, FOOTER, MACHINE, MAGIC, NAME_LIMIT,
    PACKAGE_LIMIT, PAGE_SIZE, Page, RAM, RAM_ID, RAM_VERSION, SECTION_END, SECTION_PART, SECTION_START,
    VERSION,
};
use super::package::write_device;
use super::ram::{Block, Count, FLAG_EOS, FLAG_MEM_SIZE, Records, header};
use crate::state::Encoded;
use std::collections::HashSet;
use std::io::{self, Write};
use thiserror::Error;

/// A stream that cannot be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The file, or what else it goes to.
    #[error("cannot write the stream: {0}")]
    Io(#[from] io::Error),
    /// What a reader would refuse.
    #[error("cannot write {what}: {why}")]
    Refused {
        /// Of what.
        what: String,
        /// Why.
        why: String,
    },
}

fn refused(what: impl Into<String>, why: impl Into<String>) -> WriteError {
    WriteError::Refused { what: what.into(), why: why.into() }
}

/// A stream of which the memory is being written.
#[derive(Debug)]
pub struct Writer<'b, W: Write> {
    out: W,
    blocks: &'b [Block],
    count: Count,
}

impl<'b, W: Write> Writer<'b, W> {
    /// Begins: header, configuration, and the list of blocks.
    pub fn begin(mut out: W, blocks: &'b [Block]) -> Result<Self, WriteError> {
        check_blocks(blocks)?;
        out.write_all(&MAGIC.to_be_bytes())?;
        out.write_all(&VERSION.to_be_bytes())?;
        out.write_all(&[CONFIGURATION])?;
        out.write_all(&(MACHINE.len() as u32).to_be_bytes())?;
        out.write_all(MACHINE.as_bytes())?;

        out.write_all(&[SECTION_START])?;
        out.write_all(&RAM_ID.to_be_bytes())?;
        out.write_all(&[RAM.len() as u8])?;
        out.write_all(RAM.as_bytes())?;
        out.write_all(&0_u32.to_be_bytes())?;
        out.write_all(&RAM_VERSION.to_be_bytes())?;
        let total = blocks.iter().map(|block| block.size).sum();
        out.write_all(&header(total, FLAG_MEM_SIZE))?;
        for block in blocks {
            out.write_all(&[block.name.len() as u8])?;
            out.write_all(block.name.as_bytes())?;
            out.write_all(&block.size.to_be_bytes())?;
        }
        out.write_all(&header(0, FLAG_EOS))?;
        footer(&mut out, RAM_ID)?;
        Ok(Self { out, blocks, count: Count::default() })
    }

    /// Begins a section of pages.
    pub fn part(&mut self) -> Result<Part<'_, 'b, W>, WriteError> {
        self.out.write_all(&[SECTION_PART])?;
        self.out.write_all(&RAM_ID.to_be_bytes())?;
        let records = Records::new(self.blocks);
        Ok(Part { out: &mut self.out, records, blocks: self.blocks, count: &mut self.count })
    }

    /// Writes the devices and what describes them, and that this is all. What was written of the memory, and
    /// where it went.
    pub fn finish(mut self, devices: &[Encoded]) -> Result<(Count, W), WriteError> {
        let description = check_devices(devices)?;
        self.out.write_all(&[SECTION_END])?;
        self.out.write_all(&RAM_ID.to_be_bytes())?;
        self.out.write_all(&header(0, FLAG_EOS))?;
        footer(&mut self.out, RAM_ID)?;
        for (id, device) in (DEVICE_ID..).zip(devices) {
            write_device(&mut self.out, id, device)?;
        }
        self.out.write_all(&[EOF, DESCRIPTION])?;
        self.out.write_all(&(description.len() as u32).to_be_bytes())?;
        self.out.write_all(&description)?;
        self.out.flush()?;
        Ok((self.count, self.out))
    }
}

/// A section of pages.
#[derive(Debug)]
pub struct Part<'w, 'b, W: Write> {
    out: &'w mut W,
    records: Records<'b>,
    blocks: &'b [Block],
    count: &'w mut Count,
}

impl<W: Write> Part<'_, '_, W> {
    /// Writes a page.
    pub fn page(&mut self, block: usize, offset: u64, page: &Page) -> Result<(), WriteError> {
        let size = self.blocks.get(block).map_or(0, |block| block.size);
        if offset >= size || !offset.is_multiple_of(PAGE_SIZE as u64) {
            let what = format!("the page at {offset:#x} of memory block {block}");
            return Err(refused(what, format!("it has {size:#x} bytes, in whole pages")));
        }
        Ok(self.records.page(self.out, block, offset, page)?)
    }

    /// Ends the section.
    pub fn end(self) -> Result<(), WriteError> {
        let count = self.records.end(self.out)?;
        footer(self.out, RAM_ID)?;
        self.count.pages += count.pages;
        self.count.zero_pages += count.zero_pages;
        Ok(())
    }
}

fn footer(out: &mut impl Write, id: u32) -> io::Result<()> {
    out.write_all(&[FOOTER])?;
    out.write_all(&id.to_be_bytes())
}

fn check_blocks(blocks: &[Block]) -> Result<(), WriteError> {
    let names: HashSet<&str> = blocks.iter().map(|block| block.name.as_str()).collect();
    let fine = |block: &Block| {
        (1..=NAME_LIMIT).contains(&block.name.len())
            && block.size > 0
            && block.size.is_multiple_of(PAGE_SIZE as u64)
    };
    let total = blocks.iter().try_fold(0_u64, |total, block| total.checked_add(block.size));
    if blocks.is_empty() || blocks.len() > BLOCK_LIMIT || names.len() < blocks.len() || total.is_none() {
        return Err(refused("the memory", "there must be blocks, 256 at most, each of its own name"));
    }
    match blocks.iter().find(|block| !fine(block)) {
        Some(Block { name, size }) => Err(refused(
            format!("memory block {name:?} of {size:#x} bytes"),
            "it needs a name of 1 to 255 bytes, and whole pages",
        )),
        None => Ok(()),
    }
}

fn check_devices(devices: &[Encoded]) -> Result<Vec<u8>, WriteError> {
    let mut keys = HashSet::new();
    for device in devices {
        let Encoded { name, instance, bytes, .. } = device;
        let what = || format!("device {name} (instance {instance})");
        if !(1..=NAME_LIMIT).contains(&name.len()) || name == RAM || !keys.insert((name, *instance)) {
            return Err(refused(what(), "its name is too long, empty or taken"));
        }
        if bytes.len() > PACKAGE_LIMIT as usize {
            return Err(refused(what(), format!("{} bytes, {PACKAGE_LIMIT} is the most", bytes.len())));
        }
        if device.fields.is_empty() && !bytes.is_empty() {
            return Err(refused(what(), "it is not described"));
        }
    }
    Description::of(devices).to_json().map_err(|why| refused("the description", why))
}
