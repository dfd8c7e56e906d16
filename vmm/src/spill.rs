//! A file without a name, for what waits and has no room in memory: pages of an epoch, writes of a disk.
//!
//! It is opened before the process is confined, and is gone with it.

use rustix::fs::{Mode, OFlags, fstatfs};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// `TMPFS_MAGIC` and `RAMFS_MAGIC` (linux/magic.h).
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// A directory that no such file can be in.
#[derive(Debug, Error)]
pub enum SpillError {
    /// It cannot be made.
    #[error(
        "cannot make a file for what waits in {directory}: {source}; name a directory with --spill that exists, \
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
        "{0} is in memory (tmpfs), so that what waits would take as much there; name a directory on a disk"
    )]
    Memory(PathBuf),
}

/// Makes one in a directory.
pub fn open(directory: &Path) -> Result<File, SpillError> {
    let failed = |source: io::Error| SpillError::Open { directory: directory.to_owned(), source };
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = rustix::fs::open(directory, flags, mode).map_err(|error| failed(error.into()))?;
    let system = fstatfs(&file).map_err(|error| failed(error.into()))?;
    #[allow(clippy::useless_conversion, reason = "its type differs between targets")]
    if IN_MEMORY.contains(&i64::from(system.f_type)) {
        return Err(SpillError::Memory(directory.to_owned()));
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_no_place_for_it_and_what_is_wrong_is_said() {
        let error = open(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("/nowhere") && error.contains("--spill"), "{error}");
        // A file system in memory is there on every host where programs have threads.
        let error = open(Path::new("/dev/shm")).unwrap_err();
        assert!(matches!(&error, SpillError::Memory(at) if at == Path::new("/dev/shm")), "{error}");
    }
}
