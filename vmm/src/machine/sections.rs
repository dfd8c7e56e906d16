//! A machine's state as sections of a stream, and back.
//!
//! ```text
//!   MachineState ─► "machine", "kvmclock", "cpu" × n, "irqchip", "serial", "rtc", "pm", "reset", "pci", "virtio" × n
//!                                           └ instance: the vCPU's number            the card's place ┘
//! ```
//!
//! Each is there exactly once, and nothing else is: what is read is all of a machine, or an error.

use super::state::{ClockState, MachineState, Shape};
use crate::devices::i8042::ResetState;
use crate::devices::pm::PmState;
use crate::devices::rtc::RtcState;
use crate::devices::serial::SerialState;
use crate::kvm::Chips;
use crate::pci::root::RootState;
use crate::state::{self, DecodeError, EncodeError, Encoded, Section};
use crate::vcpu::VcpuState;
use crate::virtio::pci::CardState;
use std::collections::BTreeMap;
use thiserror::Error;

macro_rules! sections {
    ($($state:ty = $name:literal, $version:literal;)*) => {
        $(impl Section for $state {
            const NAME: &'static str = $name;
            const VERSION: u32 = $version;
        })*
    };
}

sections! {
    Shape = "machine", 1;
    ClockState = "kvmclock", 1;
    VcpuState = "cpu", 1;
    Chips = "irqchip", 1;
    SerialState = "serial", 1;
    RtcState = "rtc", 1;
    PmState = "pm", 1;
    ResetState = "reset", 1;
    RootState = "pci", 1;
    CardState = "virtio", 1;
}

/// Sections that are no machine.
#[derive(Debug, Error)]
pub enum SectionsError {
    /// One cannot be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// One is missing.
    #[error("the state has no section {name:?} of instance {instance}")]
    Missing {
        /// Its name.
        name: &'static str,
        /// Which of that name.
        instance: u32,
    },
    /// One is there twice.
    #[error("the state has the section {name:?} of instance {instance} twice")]
    Twice {
        /// Its name.
        name: String,
        /// Which of that name.
        instance: u32,
    },
    /// One that no machine has.
    #[error("the state has a section {name:?} of instance {instance}, which this machine does not know")]
    Unknown {
        /// Its name.
        name: String,
        /// Which of that name.
        instance: u32,
    },
}

/// A section as it was found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Its name.
    pub name: &'a str,
    /// Which of that name.
    pub instance: u32,
    /// The version of its layout.
    pub version: u32,
    /// The fields.
    pub bytes: &'a [u8],
}

/// How a section becomes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// With a description of its fields, as files have it.
    Described,
    /// Without, which is quicker: for checkpoints.
    Bare,
}

impl Form {
    fn encode<T: Section>(self, state: &T) -> Result<Encoded, EncodeError> {
        match self {
            Self::Described => state::encode(state),
            Self::Bare => state::encode_bare(state),
        }
    }
}

impl MachineState {
    /// As sections.
    pub fn sections(&self, form: Form) -> Result<Vec<Encoded>, EncodeError> {
        let mut sections = vec![form.encode(&self.shape)?, form.encode(&self.clock)?];
        for (instance, vcpu) in (0..).zip(&self.vcpus) {
            sections.push(form.encode(vcpu)?.instance(instance));
        }
        sections.extend([
            form.encode(&self.chips)?,
            form.encode(&self.serial)?,
            form.encode(&self.rtc)?,
            form.encode(&self.pm)?,
            form.encode(&self.reset)?,
            form.encode(&self.pci)?,
        ]);
        for (instance, card) in (0..).zip(&self.cards) {
            sections.push(form.encode(card)?.instance(instance));
        }
        Ok(sections)
    }

    /// From sections, in any order.
    pub fn from_sections<'a>(found: impl IntoIterator<Item = Found<'a>>) -> Result<Self, SectionsError> {
        let mut all = BTreeMap::new();
        for section in found {
            let Found { name, instance, .. } = section;
            if all.insert((name, instance), section).is_some() {
                return Err(SectionsError::Twice { name: name.to_owned(), instance });
            }
        }
        let mut all = Sections(all);
        let state = Self {
            shape: all.take()?,
            clock: all.take()?,
            vcpus: all.take_all()?,
            chips: all.take()?,
            serial: all.take()?,
            rtc: all.take()?,
            pm: all.take()?,
            reset: all.take()?,
            pci: all.take()?,
            cards: all.take_all()?,
        };
        match all.0.into_keys().next() {
            None => Ok(state),
            Some((name, instance)) => Err(SectionsError::Unknown { name: name.to_owned(), instance }),
        }
    }
}

/// Those that nobody has read yet.
struct Sections<'a>(BTreeMap<(&'a str, u32), Found<'a>>);

impl Sections<'_> {
    fn take<T: Section>(&mut self) -> Result<T, SectionsError> {
        let missing = SectionsError::Missing { name: T::NAME, instance: 0 };
        self.find(0)?.ok_or(missing)
    }

    /// All of one name, without a gap.
    fn take_all<T: Section>(&mut self) -> Result<Vec<T>, SectionsError> {
        let mut taken = Vec::new();
        while let Some(state) = self.find(taken.len() as u32)? {
            taken.push(state);
        }
        Ok(taken)
    }

    fn find<T: Section>(&mut self, instance: u32) -> Result<Option<T>, SectionsError> {
        let found = self.0.remove(&(T::NAME, instance));
        Ok(found.map(|found| state::decode(found.version, found.bytes)).transpose()?)
    }
}

#[cfg(test)]
mod tests;
