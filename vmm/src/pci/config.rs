//! A configuration space of header type 0 (PCI Local Bus 3.0 §6).
//!
//! ```text
//!   0x00 vendor device │ command status │ revision class │ … type 0 …
//!   0x10 BAR 0 … BAR 5
//!   0x2c subsystem │ 0x34 ─► first capability ─► next … ─► 0
//! ```
//!
//! A register is its bytes and the mask of the bits that the guest can write. Sizing a BAR is then nothing
//! special: all ones leave zeros where the size is.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Its size.
pub const SIZE: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BARS: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
/// Capabilities begin after the header.
const FIRST_CAPABILITY: usize = 0x40;

const COMMAND_PORTS: u16 = 1;
const COMMAND_MEMORY: u16 = 2;
/// Ports, memory, bus master, interrupt disable.
const COMMAND_WRITABLE: u16 = 0x0407;
const STATUS_CAPABILITIES: u8 = 0x10;

/// What a BAR is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; it takes the next BAR's register too.
    Memory64,
    /// Ports.
    Ports,
}

/// The address space of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSpace {
    /// Memory.
    Memory,
    /// Ports.
    Ports,
}

/// What a function decodes through one BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// In which space.
    pub space: AddressSpace,
    /// The BAR's number.
    pub bar: u8,
    /// The first address.
    pub first: u64,
    /// The last one.
    pub last: u64,
}

/// What a function is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The vendor.
    pub vendor: u16,
    /// The device.
    pub device: u16,
    /// Base class, sub-class, programming interface.
    pub class: [u8; 3],
    /// The revision.
    pub revision: u8,
    /// The subsystem.
    pub subsystem: u16,
}

/// A space that cannot be made so. Only a mistake of ours leads here.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("a PCI configuration space has no room for {0}")]
pub struct Full(&'static str);

/// A saved space that is not this function's.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// It is not 256 bytes long.
    #[error("a saved PCI configuration space has {0} bytes, not 256")]
    Length(usize),
    /// What the guest cannot write differs.
    #[error(
        "the saved PCI configuration space is of another device: byte {at:#x} is {theirs:#x}, not {ours:#x}"
    )]
    Differs {
        /// Where.
        at: usize,
        /// What was saved.
        theirs: u8,
        /// What it is here.
        ours: u8,
    },
}

/// The plain state of a space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigState {
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The bytes of a space, checked to be of a certain function.
#[derive(Clone, Copy, Debug)]
pub struct Bytes([u8; SIZE]);

#[derive(Clone, Copy, Debug)]
struct Bar {
    kind: BarKind,
    size: u64,
}

/// A configuration space.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    bars: [Option<Bar>; 6],
    /// Where the next capability goes.
    free: usize,
    /// Where the pointer to it is.
    link: usize,
}

impl ConfigSpace {
    /// One without BARs and capabilities.
    pub fn new(identity: Identity) -> Self {
        let mut bytes = [0; SIZE];
        bytes[0..2].copy_from_slice(&identity.vendor.to_le_bytes());
        bytes[2..4].copy_from_slice(&identity.device.to_le_bytes());
        bytes[8] = identity.revision;
        let [base, sub, interface] = identity.class;
        bytes[9..12].copy_from_slice(&[interface, sub, base]);
        bytes[0x2c..0x2e].copy_from_slice(&identity.vendor.to_le_bytes());
        bytes[0x2e..0x30].copy_from_slice(&identity.subsystem.to_le_bytes());
        let mut writable = [0; SIZE];
        writable[COMMAND..COMMAND + 2].copy_from_slice(&COMMAND_WRITABLE.to_le_bytes());
        writable[INTERRUPT_LINE] = 0xff;
        Self { bytes, writable, bars: [None; 6], free: FIRST_CAPABILITY, link: CAPABILITIES }
    }

    /// Gives it a BAR at an address, and lets it decode.
    pub fn add_bar(&mut self, number: usize, kind: BarKind, size: u64, address: u64) -> Result<(), Full> {
        let wide = kind == BarKind::Memory64;
        let registers = if wide { 2 } else { 1 };
        let taken = |bar: usize| {
            let upper = bar.checked_sub(1).and_then(|below| self.bars.get(below).copied().flatten());
            self.bars.get(bar).is_none_or(Option::is_some)
                || upper.is_some_and(|bar| bar.kind == BarKind::Memory64)
        };
        let least = if kind == BarKind::Ports { 4 } else { 16 };
        let fits = size.is_power_of_two()
            && size >= least
            && (wide || size <= 1 << 31)
            && address.is_multiple_of(size);
        if !fits || (number..number + registers).any(taken) {
            return Err(Full("a BAR"));
        }
        let (kind_bits, enable) = match kind {
            BarKind::Memory32 => (0, COMMAND_MEMORY),
            BarKind::Memory64 => (4, COMMAND_MEMORY),
            BarKind::Ports => (1, COMMAND_PORTS),
        };
        let at = BARS + 4 * number;
        let len = 4 * registers;
        let mask = !(size - 1);
        self.bytes[at..at + len].copy_from_slice(&(address | kind_bits).to_le_bytes()[..len]);
        self.writable[at..at + len].copy_from_slice(&mask.to_le_bytes()[..len]);
        self.bytes[COMMAND] |= enable as u8;
        self.bars[number] = Some(Bar { kind, size });
        Ok(())
    }

    /// Appends a capability: its id, then `body`, of which the guest can write the bits in `writable`
    /// (which may be shorter). Gives where it begins.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<u8, Full> {
        let at = self.free;
        let end = at + 2 + body.len();
        if end > SIZE || writable.len() > body.len() {
            return Err(Full("a capability"));
        }
        self.bytes[at] = id;
        self.bytes[at + 2..end].copy_from_slice(body);
        self.writable[at + 2..at + 2 + writable.len()].copy_from_slice(writable);
        self.bytes[self.link] = at as u8;
        self.bytes[STATUS] |= STATUS_CAPABILITIES;
        self.link = at + 1;
        self.free = end.next_multiple_of(4);
        Ok(at as u8)
    }

    /// Reads; what is beyond the end stays.
    pub fn read(&self, offset: u8, data: &mut [u8]) {
        for (byte, value) in data.iter_mut().zip(self.bytes.iter().skip(usize::from(offset))) {
            *byte = *value;
        }
    }

    /// Writes what can be written.
    pub fn write(&mut self, offset: u8, data: &[u8]) {
        let place = self.bytes.iter_mut().zip(&self.writable).skip(usize::from(offset));
        for ((byte, mask), value) in place.zip(data) {
            *byte = *byte & !mask | value & mask;
        }
    }

    /// Two bytes, wherever they are.
    pub fn half(&self, offset: u8) -> u16 {
        let mut bytes = [0; 2];
        self.read(offset, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// Four bytes.
    pub fn word(&self, offset: u8) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// What it decodes now.
    pub fn regions(&self) -> Vec<Region> {
        let command = self.half(COMMAND as u8);
        let decode = |(number, bar): (usize, &Option<Bar>)| {
            let bar = (*bar)?;
            let at = (BARS + 4 * number) as u8;
            let low = u64::from(self.word(at));
            let (space, enable, address) = match bar.kind {
                BarKind::Memory32 => (AddressSpace::Memory, COMMAND_MEMORY, low & !0xf),
                BarKind::Memory64 => {
                    let high = u64::from(self.word(at + 4));
                    (AddressSpace::Memory, COMMAND_MEMORY, high << 32 | low & !0xf)
                }
                BarKind::Ports => (AddressSpace::Ports, COMMAND_PORTS, low & !0x3),
            };
            // Sizes are powers of two and addresses multiples of them: this cannot overflow.
            let region = Region { space, bar: number as u8, first: address, last: address + (bar.size - 1) };
            (command & enable != 0).then_some(region)
        };
        self.bars.iter().enumerate().filter_map(decode).collect()
    }

    /// Its plain state.
    pub fn save(&self) -> ConfigState {
        ConfigState { bytes: self.bytes.to_vec() }
    }

    /// Takes bytes that were checked.
    pub fn load(&mut self, bytes: Bytes) {
        self.bytes = bytes.0;
    }

    /// Gives the bytes of a state, if it is of such a function.
    pub fn check(&self, state: &ConfigState) -> Result<Bytes, ConfigError> {
        let bytes: [u8; SIZE] =
            state.bytes.as_slice().try_into().map_err(|_| ConfigError::Length(state.bytes.len()))?;
        for (at, ((&theirs, &ours), mask)) in bytes.iter().zip(&self.bytes).zip(&self.writable).enumerate() {
            if (theirs ^ ours) & !mask != 0 {
                return Err(ConfigError::Differs { at, theirs, ours });
            }
        }
        Ok(Bytes(bytes))
    }
}

#[cfg(test)]
mod tests;
