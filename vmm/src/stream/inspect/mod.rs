//! What is in a saved machine, by its description alone: ours, and those of QEMU as far as it tells.
//!
//! ```text
//!   file ─► Reader ─► sections, pages, devices' bytes ──┐
//!      └──► description at its end ─► lengths, fields ──┴─► Report ─► text, JSON
//! ```

mod fields;
mod text;

pub use fields::Value;

use super::description::{Description, LENGTH};
use super::error::{Place, StreamCause, StreamError};
use super::format::{DESCRIPTION, DESCRIPTION_LIMIT, MACHINE, RAM};
use super::package::read_devices;
use super::ram::Block;
use super::reader::{Item, Lengths, Reader};
use crate::state::Struct;
use serde::Serialize;
use std::io::{self, Read, Seek, SeekFrom};

/// What is in a saved machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The machine's name.
    pub machine: String,
    /// How many bytes the stream has.
    pub bytes: u64,
    /// Its sections in their order.
    pub sections: Vec<SectionReport>,
    /// The memory.
    pub ram: RamReport,
    /// The devices.
    pub devices: Vec<DeviceReport>,
}

/// A section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SectionReport {
    /// Its name, and for the memory which part.
    pub name: String,
    /// Where it begins.
    pub offset: u64,
    /// How many bytes it has, with its head and its footer.
    pub bytes: u64,
}

/// The memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RamReport {
    /// Its blocks.
    pub blocks: Vec<BlockReport>,
    /// Pages with content, in all blocks.
    pub pages: u64,
    /// Pages full of zeros.
    pub zero_pages: u64,
}

/// A block of the memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockReport {
    /// Its name and size.
    #[serde(flatten)]
    pub block: Block,
    /// Pages with content.
    pub pages: u64,
    /// Pages full of zeros.
    pub zero_pages: u64,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceReport {
    /// Its name.
    pub name: String,
    /// Which of several of that name.
    pub instance: u32,
    /// The version of its layout.
    pub version: u32,
    /// Where its section begins.
    pub offset: u64,
    /// How many bytes its state has.
    pub bytes: u64,
    /// What it says.
    pub fields: Value,
}

/// Lengths by a description; our own streams say them.
#[derive(Debug)]
struct Described {
    ours: bool,
    description: Option<Description>,
}

impl Lengths for Described {
    fn machine(&mut self, name: &str) -> bool {
        self.ours = name == MACHINE;
        true
    }

    fn length(&mut self, name: &str, instance: u32) -> Result<Option<u64>, String> {
        if self.ours {
            return Ok(None);
        }
        let description = self.description.as_ref();
        let description =
            description.ok_or("is not at the file's end, so nothing is known of this device")?;
        let device = find(description, name, instance).ok_or("knows nothing of this device")?;
        Ok(Some(fields::size(device)))
    }
}

fn find<'a>(description: &'a Description, name: &str, instance: u32) -> Option<&'a Struct> {
    let mut devices = description.devices.iter();
    devices.find(|device| device.name == name && device.instance_id == instance).map(|device| &device.content)
}

/// A device whose fields are not known before the end.
struct Raw {
    name: String,
    instance: u32,
    version: u32,
    offset: u64,
    data: Vec<u8>,
}

/// Reads all of it.
pub fn inspect(mut file: impl Read + Seek) -> Result<Report, StreamError> {
    let failed = |error| StreamError { offset: 0, place: Place::Header, cause: StreamCause::Io(error) };
    let described = Described { ours: false, description: at_end(&mut file).map_err(failed)? };
    let mut reader = Reader::with(file, described);
    let mut report = Report {
        machine: String::new(),
        bytes: 0,
        sections: Vec::new(),
        ram: RamReport::default(),
        devices: Vec::new(),
    };
    let (mut devices, mut description, mut begin) = (Vec::new(), None, 0);
    loop {
        let section = match reader.next_item()? {
            Item::Configuration(name) => {
                report.machine = name;
                "configuration".to_owned()
            }
            Item::Blocks(blocks) => {
                let fresh = |block: &Block| BlockReport { block: block.clone(), pages: 0, zero_pages: 0 };
                report.ram.blocks = blocks.iter().map(fresh).collect();
                format!("{RAM} (blocks)")
            }
            Item::Page { block, .. } => {
                report.ram.pages += 1;
                report.ram.blocks[block].pages += 1;
                continue;
            }
            Item::Zero { block, .. } => {
                report.ram.zero_pages += 1;
                report.ram.blocks[block].zero_pages += 1;
                continue;
            }
            Item::RamPart => format!("{RAM} (pages)"),
            Item::RamEnd => format!("{RAM} (end)"),
            Item::Device(device) => {
                let name = format!("{} ({})", device.name, device.instance);
                let (instance, version) = (device.instance, device.version);
                let (owned, data) = (device.name.into_owned(), device.data.into_owned());
                devices.push(Raw { name: owned, instance, version, offset: begin, data });
                name
            }
            Item::Package(body) => {
                let packed =
                    read_devices(&body).map_err(|error| reader.error(StreamCause::Package(error)))?;
                devices.extend(packed.into_iter().map(|device| Raw {
                    name: device.name.into_owned(),
                    instance: device.instance,
                    version: device.version,
                    offset: begin,
                    data: device.data.into_owned(),
                }));
                "package".to_owned()
            }
            Item::End => {
                begin = reader.offset();
                continue;
            }
            Item::Description(found) => {
                description = Some(found);
                "description".to_owned()
            }
            Item::Nothing => break,
        };
        let offset = reader.offset();
        report.sections.push(SectionReport { name: section, offset: begin, bytes: offset - begin });
        begin = offset;
    }
    report.bytes = reader.offset();
    let ours = report.machine == MACHINE;
    let mut budget = fields::BUDGET;
    for device in devices {
        let bad = |why| StreamError {
            offset: device.offset,
            place: Place::Section(format!("{} (instance {})", device.name, device.instance)),
            cause: StreamCause::Description(why),
        };
        let described = description.as_ref().and_then(|all| find(all, &device.name, device.instance));
        let described = described.ok_or_else(|| bad("knows nothing of this device".to_owned()))?;
        let own = without_length(described, ours).map_err(bad)?;
        let fields = fields::read(&own, &device.data, &mut budget).map_err(bad)?;
        let Raw { name, instance, version, offset, data } = device;
        report.devices.push(DeviceReport {
            name,
            instance,
            version,
            offset,
            bytes: data.len() as u64,
            fields,
        });
    }
    Ok(report)
}

/// Our sections say their length, which the reader has taken already.
fn without_length(content: &Struct, ours: bool) -> Result<Struct, String> {
    let mut content = content.clone();
    if ours {
        if content.fields.first().is_none_or(|field| field.name != LENGTH || field.size != 4) {
            return Err(format!("does not begin with {LENGTH}"));
        }
        content.fields.remove(0);
    }
    Ok(content)
}

/// The description at the end of a file, if one is there. The file then stands at its beginning.
fn at_end(file: &mut (impl Read + Seek)) -> io::Result<Option<Description>> {
    let size = file.seek(SeekFrom::End(0))?;
    let len = size.min(u64::from(DESCRIPTION_LIMIT) + 5);
    file.seek(SeekFrom::Start(size - len))?;
    let mut tail = Vec::new();
    file.take(len).read_to_end(&mut tail)?;
    file.seek(SeekFrom::Start(0))?;
    let heads = tail.windows(6).enumerate().rev();
    let found = heads.filter(|(at, head)| {
        let [kind, l0, l1, l2, l3, first] = **head else { return false };
        let len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        kind == DESCRIPTION && first == b'{' && at + 5 + len == tail.len()
    });
    let mut parsed = found.filter_map(|(at, _)| serde_json::from_slice(&tail[at + 5..]).ok());
    Ok(parsed.next())
}

#[cfg(test)]
mod tests;
