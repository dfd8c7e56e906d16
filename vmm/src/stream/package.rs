//! A package: the state of all devices in one piece (`MIG_CMD_PACKAGED`).
//!
//! ```text
//!   08  be16 7  be16 4  be32 length │ 04 id name instance version  be32 n, n bytes  7e id │ … │ 00
//!   command     of its data         └───────────────── length bytes ───────────────────────────┘
//! ```
//!
//! What it does at the other end: nothing, until all of it is there. Then the devices in it count as if they had
//! come in its place, and the stream goes on behind its last byte. It is never empty, holds no package, and
//! ends with its last device. [`PACKAGE_LIMIT`] is looked at before a byte is written, and before a byte
//! is allocated for one that comes.

use super::format::{COMMAND, DEVICE_ID, EOF, FOOTER, NAME_LIMIT, PACKAGE_LIMIT, PACKAGED, SECTION_FULL};
use super::source::{Slice, Source as _, SourceError, array};
use crate::state::{DecodeError, Encoded, Section, decode};
use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{self, Read, Write};
use thiserror::Error;

/// The command with its length of the data, and the data: the package's length.
const HEAD: usize = 9;
/// A device without its name and state: kind, id, length of the name, instance, version, length, footer.
const AROUND: usize = 1 + 4 + 1 + 4 + 4 + 4 + 5;

/// A device's state as it stands in a stream: complete, and not looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawDevice<'a> {
    /// The section's name.
    pub name: Cow<'a, str>,
    /// Which of several of that name.
    pub instance: u32,
    /// The version of its layout.
    pub version: u32,
    /// The fields.
    pub data: Cow<'a, [u8]>,
}

impl RawDevice<'_> {
    /// The same, of its own.
    pub fn into_owned(self) -> RawDevice<'static> {
        let (name, data) = (Cow::Owned(self.name.into_owned()), Cow::Owned(self.data.into_owned()));
        RawDevice { name, instance: self.instance, version: self.version, data }
    }

    /// What it says.
    pub fn decode<T: Section>(&self) -> Result<T, DecodeError> {
        decode(self.version, &self.data)
    }
}

/// A package that cannot be written or read.
#[derive(Debug, Error)]
pub enum PackageError {
    /// Too large, on either side.
    #[error("a package of {size} bytes: unreasonably large, {PACKAGE_LIMIT} is the most")]
    TooLarge {
        /// How large.
        size: u64,
    },
    /// Nothing in it.
    #[error("a package of 0 bytes")]
    Empty,
    /// A name that its length cannot be said of.
    #[error("a device's name of {0} bytes, 255 is the most")]
    Name(usize),
    /// The command's data is not a length.
    #[error("MIG_CMD_PACKAGED with {0} bytes of data, 4 is right")]
    CommandLength(u16),
    /// Another command.
    #[error("command {0} where MIG_CMD_PACKAGED (7) should be")]
    NotPackaged(u16),
    /// Not even a command.
    #[error("{0:#04x} where a command (0x08) should be")]
    NotCommand(u8),
    /// A package in the package.
    #[error("byte {0} of the package: a package in a package")]
    Nested(usize),
    /// A command in it.
    #[error("byte {offset} of the package: command {command} means nothing here")]
    Command {
        /// Where.
        offset: usize,
        /// Which.
        command: u16,
    },
    /// Neither a device nor the end.
    #[error("byte {offset} of the package: {kind:#04x} where a device or the end should be")]
    Kind {
        /// Where.
        offset: usize,
        /// What is there.
        kind: u8,
    },
    /// A device is there twice.
    #[error("byte {offset} of the package: device {name} (instance {instance}) or its id is there twice")]
    Twice {
        /// Where.
        offset: usize,
        /// Which.
        name: String,
        /// Which of several.
        instance: u32,
    },
    /// A device's end does not name it.
    #[error("byte {offset} of the package: device {name} has no footer of its own")]
    Footer {
        /// Where.
        offset: usize,
        /// Which.
        name: String,
    },
    /// A name that is no text.
    #[error("byte {0} of the package: a name that is not UTF-8")]
    NameText(usize),
    /// It ends before its end.
    #[error("byte {offset} of the package: it ends, {wanted} bytes are wanted, {got} are there")]
    Short {
        /// Where.
        offset: usize,
        /// How many should be there.
        wanted: usize,
        /// How many are.
        got: usize,
    },
    /// It ends before its last device.
    #[error("{0} bytes are left after the package's end")]
    Trailing(usize),
    /// It cannot be read or written.
    #[error("the package cannot be moved: {0}")]
    Io(#[from] io::Error),
}

/// Devices that fit a package, and how long it is.
#[derive(Clone, Copy, Debug)]
pub struct Package<'a> {
    devices: &'a [Encoded],
    len: u32,
}

impl<'a> Package<'a> {
    /// Looks whether they fit.
    pub fn new(devices: &'a [Encoded]) -> Result<Self, PackageError> {
        if let Some(device) = devices.iter().find(|device| device.name.len() > NAME_LIMIT) {
            return Err(PackageError::Name(device.name.len()));
        }
        let lens = devices.iter().map(|device| (AROUND + device.name.len() + device.bytes.len()) as u64);
        let size = lens.sum::<u64>() + 1;
        match u32::try_from(size) {
            Ok(len) if len <= PACKAGE_LIMIT => Ok(Self { devices, len }),
            _ => Err(PackageError::TooLarge { size }),
        }
    }

    /// How many bytes are written.
    pub fn size(&self) -> usize {
        HEAD + self.len as usize
    }

    /// Writes it, straight from the states.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&[COMMAND])?;
        out.write_all(&PACKAGED.to_be_bytes())?;
        out.write_all(&4_u16.to_be_bytes())?;
        out.write_all(&self.len.to_be_bytes())?;
        let mut left = Exactly { out, left: self.len as usize };
        for (id, device) in (DEVICE_ID..).zip(self.devices) {
            write_device(&mut left, id, device)?;
        }
        left.write_all(&[EOF])?;
        if left.left != 0 {
            return Err(io::Error::other(format!("the package is {} bytes shorter than it says", left.left)));
        }
        Ok(())
    }
}

/// Writes as much as was said, and no more.
struct Exactly<'a, W> {
    out: &'a mut W,
    left: usize,
}

impl<W: Write> Write for Exactly<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.left {
            return Err(io::Error::other("the package is longer than it says"));
        }
        let written = self.out.write(bytes)?;
        self.left -= written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A device's section. Its state is preceded by its length, so that a reader needs no description.
pub(super) fn write_device(out: &mut impl Write, id: u32, device: &Encoded) -> io::Result<()> {
    let name = device.name.as_bytes();
    let name_len = u8::try_from(name.len()).map_err(|_| io::Error::other("a device's name is too long"))?;
    let len =
        u32::try_from(device.bytes.len()).map_err(|_| io::Error::other("a device's state is too long"))?;
    out.write_all(&[SECTION_FULL])?;
    out.write_all(&id.to_be_bytes())?;
    out.write_all(&[name_len])?;
    out.write_all(name)?;
    for number in [device.instance, device.version, len] {
        out.write_all(&number.to_be_bytes())?;
    }
    out.write_all(&device.bytes)?;
    out.write_all(&[FOOTER])?;
    out.write_all(&id.to_be_bytes())
}

/// A package of these devices, in memory.
pub fn write_package(devices: &[Encoded]) -> Result<Vec<u8>, PackageError> {
    let package = Package::new(devices)?;
    let mut bytes = Vec::with_capacity(package.size());
    package.write_to(&mut bytes)?;
    Ok(bytes)
}

/// The devices of a package that is all there, with its command. Nothing is copied.
pub fn read_package(bytes: &[u8]) -> Result<Vec<RawDevice<'_>>, PackageError> {
    let (head, body) = bytes.split_first_chunk::<HEAD>().ok_or(PackageError::Short {
        offset: 0,
        wanted: HEAD,
        got: bytes.len(),
    })?;
    let len = length(*head)?;
    match body.len().checked_sub(len) {
        Some(0) => read_devices(body),
        Some(more) => Err(PackageError::Trailing(more)),
        None => Err(PackageError::Short { offset: 0, wanted: len, got: body.len() }),
    }
}

/// What is in a package that comes next in a stream, without its command; the reader then stands behind it.
pub fn receive_package(reader: &mut impl Read) -> Result<Vec<u8>, PackageError> {
    let mut head = [0; HEAD];
    exactly(reader, &mut head)?;
    let mut body = vec![0; length(head)?];
    exactly(reader, &mut body)?;
    Ok(body)
}

fn exactly(reader: &mut impl Read, into: &mut [u8]) -> Result<(), PackageError> {
    let (wanted, mut got) = (into.len(), 0);
    while got < wanted {
        match reader.read(&mut into[got..]) {
            Ok(0) => return Err(PackageError::Short { offset: 0, wanted, got }),
            Ok(read) => got += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// How long the package after this head is.
fn length([kind, c0, c1, l0, l1, len @ ..]: [u8; HEAD]) -> Result<usize, PackageError> {
    if kind != COMMAND {
        return Err(PackageError::NotCommand(kind));
    }
    match u16::from_be_bytes([c0, c1]) {
        PACKAGED => check_length(u16::from_be_bytes([l0, l1]), u32::from_be_bytes(len)),
        other => Err(PackageError::NotPackaged(other)),
    }
}

/// A length that can be allocated.
pub(super) fn check_length(data: u16, len: u32) -> Result<usize, PackageError> {
    match (data, len) {
        (4, 0) => Err(PackageError::Empty),
        (4, 1..=PACKAGE_LIMIT) => Ok(len as usize),
        (4, _) => Err(PackageError::TooLarge { size: u64::from(len) }),
        (other, _) => Err(PackageError::CommandLength(other)),
    }
}

/// The devices in what [`receive_package`] got.
pub fn read_devices(body: &[u8]) -> Result<Vec<RawDevice<'_>>, PackageError> {
    let mut source = Slice::new(body);
    let (mut devices, mut keys, mut ids) = (Vec::new(), HashSet::new(), HashSet::new());
    loop {
        let offset = source.offset() as usize;
        let short = |error| match error {
            SourceError::Short { wanted, got } => PackageError::Short { offset, wanted, got },
            SourceError::Io(error) => PackageError::Io(error),
        };
        match array(&mut source).map_err(short)? {
            [SECTION_FULL] => {}
            [EOF] if source.rest().is_empty() => return Ok(devices),
            [EOF] => return Err(PackageError::Trailing(source.rest().len())),
            [COMMAND] => {
                let command = u16::from_be_bytes(array(&mut source).map_err(short)?);
                let nested = command == PACKAGED;
                return Err(if nested {
                    PackageError::Nested(offset)
                } else {
                    PackageError::Command { offset, command }
                });
            }
            [kind] => return Err(PackageError::Kind { offset, kind }),
        }
        let id = u32::from_be_bytes(array(&mut source).map_err(short)?);
        let [name_len] = array(&mut source).map_err(short)?;
        let name = source.slice(usize::from(name_len)).map_err(short)?;
        let name = std::str::from_utf8(name).map_err(|_| PackageError::NameText(offset))?;
        let instance = u32::from_be_bytes(array(&mut source).map_err(short)?);
        let version = u32::from_be_bytes(array(&mut source).map_err(short)?);
        let len = u32::from_be_bytes(array(&mut source).map_err(short)?);
        let data = source.slice(len as usize).map_err(short)?;
        let [footer, footer_id @ ..] = array::<5>(&mut source).map_err(short)?;
        if footer != FOOTER || u32::from_be_bytes(footer_id) != id {
            return Err(PackageError::Footer { offset, name: name.to_owned() });
        }
        if !keys.insert((name, instance)) || !ids.insert(id) {
            return Err(PackageError::Twice { offset, name: name.to_owned(), instance });
        }
        devices.push(RawDevice { name: Cow::Borrowed(name), instance, version, data: Cow::Borrowed(data) });
    }
}
