//! A file for pages that wait when memory for them is short.
//!
//! ```text
//!   accept: piece ─► memory, up to a bound ─► full: file      apply: memory, and the file, in the order they came
//! ```
//!
//! The file has no name, and is opened before the process is confined. It is not durable and need not be: what
//! waits is worth nothing after the process.

use rustix::fs::{Mode, OFlags, fstatfs, open};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// `TMPFS_MAGIC` and `RAMFS_MAGIC` (linux/magic.h).
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// A directory that no such file can be in.
#[derive(Debug, Error)]
pub enum SpillError {
    /// It cannot be made.
    #[error(
        "cannot make a file for waiting pages in {directory}: {source}; name a directory with --spill that exists, \
         can be written, and whose file system has O_TMPFILE (ext4, xfs, btrfs)"
    )]
    Open {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It would be memory again.
    #[error(
        "{0} is in memory (tmpfs), so that waiting pages would take as much there; name a directory on a disk"
    )]
    Memory(PathBuf),
}

/// The file.
#[derive(Debug)]
pub struct Spill {
    file: File,
    end: u64,
}

impl Spill {
    /// A new one, in a directory.
    pub fn new(directory: &Path) -> Result<Self, SpillError> {
        let failed = |source: io::Error| SpillError::Open { directory: directory.to_owned(), source };
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = open(directory, flags, Mode::RUSR | Mode::WUSR).map_err(|error| failed(error.into()))?;
        let system = fstatfs(&file).map_err(|error| failed(error.into()))?;
        #[allow(clippy::useless_conversion, reason = "its type differs between targets")]
        if IN_MEMORY.contains(&i64::from(system.f_type)) {
            return Err(SpillError::Memory(directory.to_owned()));
        }
        Ok(Self { file: file.into(), end: 0 })
    }

    #[cfg(test)]
    pub(super) fn of(file: File) -> Self {
        Self { file, end: 0 }
    }

    /// Puts bytes in: where they are then.
    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let at = self.end;
        self.file.write_all_at(bytes, at)?;
        self.end += bytes.len() as u64;
        Ok(at)
    }

    /// Gets bytes back.
    pub(super) fn get(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, at)
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.end) > 0 {
            // What cannot be given back is written over.
            let _ = self.file.set_len(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_no_place_for_it_and_what_is_wrong_is_said() {
        let error = Spill::new(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("/nowhere") && error.contains("--spill"), "{error}");
        // A file system in memory is there on every host where programs have threads.
        let error = Spill::new(Path::new("/dev/shm")).unwrap_err();
        assert!(matches!(&error, SpillError::Memory(at) if at == Path::new("/dev/shm")), "{error}");
    }
}
