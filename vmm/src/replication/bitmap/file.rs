//! Where the record is kept: a file with two places for it.
//!
//! ```text
//!   create   PATH.<pid>.tmp: both places written, fsync ──► renamed to PATH, the directory fsync'ed
//!   write    the place of the older one ──► fdatasync: until then the newer one holds
//!   open     the one with the higher sequence; if one is damaged, the other, and nothing of it is to be relied on
//! ```
//!
//! It is opened before the process is confined and needs no name after that; its places are there from the
//! beginning, so a full disk does not keep a record from being closed.

use super::record::{self, Record, RecordError};
use rustix::fs::{FlockOperation, flock};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use thiserror::Error;

const PAGE: u64 = 4096;

/// A record that cannot be kept or had.
#[derive(Debug, Error)]
pub enum FileError {
    /// The file.
    #[error(
        "cannot {what} the record {path}: {source}; is there such a directory, is there space, may it be written to?"
    )]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody has it.
    #[error("the record {0} is in use by another process; does a guest run on this disk?")]
    Taken(PathBuf),
    /// What is in it.
    #[error("the record {path}: {source}")]
    Record {
        /// In which file.
        path: PathBuf,
        /// What is wrong.
        source: RecordError,
    },
    /// It is another disk's, or this one has grown.
    #[error(
        "the record {path} is of a disk of {found} bytes, and this one has {expected}; is it the right file? If the disk was resized, remove it and sync with --sync verify"
    )]
    Size {
        /// Which file.
        path: PathBuf,
        /// Its disk.
        found: u64,
        /// Ours.
        expected: u64,
    },
}

/// The file, open and ours.
#[derive(Debug)]
pub struct RecordFile {
    path: PathBuf,
    file: File,
    disk: u64,
    /// Of the newest that is in it.
    sequence: u64,
}

impl RecordFile {
    fn io(path: &Path, what: &'static str) -> impl Fn(io::Error) -> FileError {
        move |source| FileError::Io { what, path: path.to_owned(), source }
    }

    fn record(path: &Path) -> impl Fn(RecordError) -> FileError {
        move |source| FileError::Record { path: path.to_owned(), source }
    }

    /// Where the second place is.
    fn stride(&self) -> Result<u64, FileError> {
        let length = record::length(self.disk).map_err(Self::record(&self.path))?;
        Ok((length as u64).next_multiple_of(PAGE))
    }

    fn take(path: &Path, file: &File) -> Result<(), FileError> {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(FileError::Taken(path.to_owned())),
            Err(error) => Err(Self::io(path, "lock")(error.into())),
        }
    }

    /// Makes one; whatever has its name is replaced when it is whole.
    pub fn create(path: &Path, record: &mut Record) -> Result<Self, FileError> {
        let mut temporary = OsString::from(path);
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let failed = |what| Self::io(&temporary, what);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&temporary)
            .map_err(failed("create"))?;
        Self::take(&temporary, &file)?;
        let mut made = Self { path: path.to_owned(), file, disk: record.disk, sequence: 0 };
        // The first has sequence 1 and is in the second place; the second is what counts.
        made.write(record)?;
        made.write(record)?;
        made.file.sync_all().map_err(failed("write"))?;
        fs::rename(&temporary, path).map_err(Self::io(path, "put in place"))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(Self::io(path, "keep the name of"))?;
        Ok(made)
    }

    /// Opens that of a disk of this size.
    pub fn open(path: &Path, disk: u64) -> Result<(Self, Record), FileError> {
        let failed = |what| Self::io(path, what);
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(failed("open"))?;
        Self::take(path, &file)?;
        let mut found = Self { path: path.to_owned(), file, disk, sequence: 0 };
        let stride = found.stride()?;
        let (one, other) = (found.read(0)?, found.read(stride)?);
        let record = match (one, other) {
            (Ok(one), Ok(other)) => {
                if other.sequence > one.sequence {
                    other
                } else {
                    one
                }
            }
            (Ok(older), Err(error)) | (Err(error), Ok(older)) => {
                // It may be the newer that is damaged: what that would have said, nobody knows.
                tracing::warn!("the record {} is damaged, its older half is used: {error}", path.display());
                Record { open: true, alone: true, ..older }
            }
            (Err(error), Err(_)) => return Err(found.another(error)),
        };
        if record.disk != disk {
            return Err(FileError::Size { path: found.path, found: record.disk, expected: disk });
        }
        found.sequence = record.sequence;
        Ok((found, record))
    }

    /// Why there is none: the header may say that it is of another disk.
    fn another(&self, error: RecordError) -> FileError {
        let mut size = [0; 8];
        let said = self.file.read_exact_at(&mut size, 16).map(|()| u64::from_le_bytes(size));
        match (said, &error) {
            (Ok(found), RecordError::Length { .. }) if found != self.disk => {
                FileError::Size { path: self.path.clone(), found, expected: self.disk }
            }
            _ => Self::record(&self.path)(error),
        }
    }

    /// What is in a place; the size of the disk says how much to read.
    fn read(&self, at: u64) -> Result<Result<Record, RecordError>, FileError> {
        let length = record::length(self.disk).map_err(Self::record(&self.path))?;
        let mut bytes = Vec::new();
        let mut reader = Place { file: &self.file, at }.take(length as u64);
        reader.read_to_end(&mut bytes).map_err(Self::io(&self.path, "read"))?;
        Ok(Record::parse(&bytes))
    }

    /// Keeps this one; it is on the disk when this returns. Its sequence is set.
    pub fn write(&mut self, record: &mut Record) -> Result<(), FileError> {
        if record.disk != self.disk {
            let path = self.path.clone();
            return Err(FileError::Size { path, found: record.disk, expected: self.disk });
        }
        record.sequence = self.sequence.wrapping_add(1);
        let bytes = record.to_bytes().map_err(Self::record(&self.path))?;
        let at = if record.sequence.is_multiple_of(2) { 0 } else { self.stride()? };
        let written = self.file.write_all_at(&bytes, at).and_then(|()| self.file.sync_data());
        written.map_err(Self::io(&self.path, "write"))?;
        self.sequence = record.sequence;
        Ok(())
    }
}

/// A place in a file, to be read from.
struct Place<'a> {
    file: &'a File,
    at: u64,
}

impl io::Read for Place<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
