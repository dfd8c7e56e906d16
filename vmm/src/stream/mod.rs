//! The stream that a machine is saved in: QEMU's migration stream, version 3.
//!
//! ```text
//!   "QEVM" 3                                            header
//!   07 "colo-vm"                                        configuration
//!   01 ram: blocks          7e                          their names and sizes
//!   02 ram: pages           7e   …   03 ram: end  7e    the memory
//!   04 device: state        7e   …                      or, between hosts, all of them in one package
//!   00                                                  the end
//!   06 JSON                                             what the fields are
//! ```
//!
//! [`save`] and [`load`] are a whole file; [`ram`] and [`package`] what a checkpoint is made of. In a file the
//! devices stand one after the other, where QEMU's analyze-migration.py can read them; the state of a device is
//! preceded by its length, so that reading needs no description.

pub mod description;
pub mod error;
pub mod format;
pub mod inspect;
mod memory;
pub mod package;
pub mod ram;
pub mod reader;
pub mod source;
pub mod writer;

pub use error::{Place, StreamCause, StreamError};
pub use memory::{Memory, MemoryError, blocks};
pub use package::{
    Package, PackageError, RawDevice, read_devices, read_package, receive_package, write_package,
};
pub use ram::Block;
pub use reader::{Item, Reader};
pub use writer::{WriteError, Writer};

use crate::state::Encoded;
use description::Description;
use format::{PAGE_SIZE, Page};
use ram::Count;
use std::io::{Read, Write};

/// How many pages are copied out of the guest's memory at once.
const CHUNK: usize = 64;

/// Saves a machine that stands: all of its memory, then its devices.
pub fn save<W: Write>(out: W, memory: &impl Memory, devices: &[Encoded]) -> Result<Count, WriteError> {
    let blocks = memory.blocks();
    let out = std::io::BufWriter::with_capacity(1 << 20, out);
    let mut writer = Writer::begin(out, &blocks)?;
    let mut chunk = vec![0; CHUNK * PAGE_SIZE];
    for (block, Block { size, .. }) in blocks.iter().enumerate() {
        let mut at = 0;
        while at < *size {
            let mut part = writer.part()?;
            // A section has as many pages as make its head and footer cheap.
            let end = size.min(&(at + (1 << 24))).to_owned();
            while at < end {
                let len = (end - at).min(chunk.len() as u64) as usize;
                memory.read(block, at, &mut chunk[..len]).map_err(|error| WriteError::Io(error.into()))?;
                for page in chunk[..len].as_chunks::<PAGE_SIZE>().0 {
                    part.page(block, at, page)?;
                    at += PAGE_SIZE as u64;
                }
            }
            part.end()?;
        }
    }
    let (count, _) = writer.finish(devices)?;
    Ok(count)
}

/// Loads memory as it comes, and gives the devices' states when all of the stream was read and was right. Of an
/// error on the way only the memory can tell, so that is to be a fresh machine's.
pub fn load<R: Read>(input: R, memory: &impl Memory) -> Result<Vec<RawDevice<'static>>, StreamError> {
    let mut reader = Reader::new(input);
    let mut devices = Vec::new();
    loop {
        let offset = reader.offset();
        let refuse = |why: String| StreamError {
            offset,
            place: Place::Section(format::RAM.to_owned()),
            cause: StreamCause::Machinery(why),
        };
        match reader.next_item()? {
            Item::Blocks(blocks) => same_blocks(blocks, &memory.blocks()).map_err(refuse)?,
            Item::Page { block, offset, page } => {
                memory.write(block, offset, page).map_err(|error| refuse(error.to_string()))?;
            }
            Item::Zero { block, offset } => {
                clear(memory, block, offset).map_err(|error| refuse(error.to_string()))?;
            }
            Item::Device(device) => devices.push(device),
            Item::Package(body) => {
                let packed =
                    read_devices(&body).map_err(|error| reader.error(StreamCause::Package(error)))?;
                devices.extend(packed.into_iter().map(RawDevice::into_owned));
            }
            Item::Description(description) => {
                described(&description, &devices)
                    .map_err(|why| reader.error(StreamCause::Description(why)))?;
            }
            Item::Nothing => return Ok(devices),
            Item::Configuration(_) | Item::RamPart | Item::RamEnd | Item::End => {}
        }
    }
}

/// A page of zeros that is zero already is not touched: it takes no memory of the host then.
fn clear(memory: &impl Memory, block: usize, offset: u64) -> Result<(), MemoryError> {
    let mut page: Page = [0; PAGE_SIZE];
    memory.read(block, offset, &mut page)?;
    if ram::is_zero(&page) { Ok(()) } else { memory.write(block, offset, &[0; PAGE_SIZE]) }
}

fn same_blocks(theirs: &[Block], ours: &[Block]) -> Result<(), String> {
    let list = |blocks: &[Block]| {
        let all: Vec<String> =
            blocks.iter().map(|Block { name, size }| format!("{name} of {size:#x}")).collect();
        all.join(", ")
    };
    if theirs == ours {
        return Ok(());
    }
    Err(format!(
        "the saved memory is {}, this machine's is {}; use the --memory that it was saved with",
        list(theirs),
        list(ours)
    ))
}

/// A description of other devices is of another stream.
fn described(description: &Description, devices: &[RawDevice<'_>]) -> Result<(), String> {
    let theirs =
        description.devices.iter().map(|device| (&*device.name, device.instance_id, device.content.version));
    let ours = devices.iter().map(|device| (&*device.name, device.instance, device.version));
    if theirs.eq(ours) { Ok(()) } else { Err("is of other devices".to_owned()) }
}

#[cfg(test)]
mod tests;
