//! A machine's whole state in a file: written while it stands, read into one that waits for it.
//!
//! ```text
//!   save:     all stands ─► state ─► sections ─┐
//!                           RAM ───────────────┴─► a stream ─► the file ─► all goes on
//!   restore:  the file ─► RAM, sections ─► all of it was right? ─► state ─► it runs
//! ```

use super::sections::{Form, Found, SectionsError};
use super::{After, Freezer, LoadError, MachineState, StateError, Time};
use crate::control::{ControlError, Save, Saved};
use crate::memory::GuestRam;
use crate::outlet::Outlet;
use crate::state::EncodeError;
use crate::stream::{self, StreamError, WriteError};
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use thiserror::Error;

/// A state that did not get into its file.
#[derive(Debug, Error)]
enum SaveError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("the file is not on its medium: {0}")]
    Sync(io::Error),
}

/// A file that nothing can go on from.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// It is no state.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// It is not a machine's.
    #[error(transparent)]
    Sections(#[from] SectionsError),
    /// It is not this machine's.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The guest is being ended.
    #[error(transparent)]
    Guest(#[from] ControlError),
}

/// Counts what is written.
struct Counted<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Save for Freezer {
    fn save(&self, out: Outlet) -> Result<Saved, ControlError> {
        let (saved, times) = self.freeze(Time::Stands, move |frozen| {
            let mut out = Counted { out, bytes: 0 };
            let mut save = || {
                let sections = frozen.save()?.sections(Form::Described)?;
                let count = stream::save(&mut out, &**frozen.ram(), &sections)?;
                let bytes = out.bytes;
                match out.out.file().sync_all() {
                    // A pipe or a socket has no medium.
                    Err(error) if error.kind() != io::ErrorKind::InvalidInput => Err(SaveError::Sync(error)),
                    _ => Ok((count, bytes)),
                }
            };
            (save(), After::AsBefore)
        })?;
        let failed = |error: SaveError| ControlError { what: "save the guest", reason: error.to_string() };
        let (count, bytes) = saved.map_err(failed)?;
        Ok(Saved { bytes, pages: count.pages, zero_pages: count.zero_pages, stood: times.total })
    }
}

/// Goes on from a file, in a machine that waits for its first state.
pub fn restore(freezer: &Freezer, ram: &Arc<GuestRam>, file: File) -> Result<(), RestoreError> {
    let devices = stream::load(file, &**ram)?;
    let state = MachineState::from_sections(devices.iter().map(|device| Found {
        name: &device.name,
        instance: device.instance,
        version: device.version,
        bytes: &device.data,
    }))?;
    let (loaded, _) = freezer.freeze(Time::Stands, move |frozen| {
        let loaded = frozen.load(&state);
        let after = if loaded.is_ok() { After::Run } else { After::AsBefore };
        (loaded, after)
    })?;
    Ok(loaded?)
}
