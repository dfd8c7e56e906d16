//! One writer per image, among processes.
//!
//! ```text
//!   byte 100 + p   held shared: I do p          p: 0 read, 1 write, 3 resize
//!   byte 200 + p   held shared: nobody else may do p
//! ```
//!
//! This is QEMU's scheme, with QEMU's bytes, so that its tools and we refuse each other's images. The
//! locks belong to the open file (`F_OFD_SETLK`): they end with it, however the process ends. To take
//! first and to look afterwards leaves no gap; two that begin at once may both be refused.

use super::sys;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

const DOES: i64 = 100;
const FORBIDS: i64 = 200;
const READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// An image that cannot be locked.
#[derive(Debug, Error)]
pub enum LockError {
    /// Somebody else works on it.
    #[error(
        "cannot lock {} for {}: {} it. Two guests that write to one disk destroy it; stop the other, or give \
         each a disk of its own (an overlay: qemu-img create -f qcow2 -b DISK -F FORMAT OVERLAY)",
        path.display(), what(*write), holders(pids)
    )]
    Taken {
        /// The file.
        path: PathBuf,
        /// Whether it was to be written.
        write: bool,
        /// Who holds it, as far as this process may see.
        pids: Vec<u32>,
    },
    /// The file system has no locks.
    #[error("cannot lock {}: {source}; disks must be on a file system with locks", path.display())]
    Unable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn what(write: bool) -> &'static str {
    if write { "writing" } else { "reading" }
}

/// Who uses a file.
pub(crate) fn holders(pids: &[u32]) -> String {
    let mut out = match pids {
        [] => "another process uses".to_owned(),
        [one] if *one == std::process::id() => return "this very guest uses".to_owned(),
        [one] => return format!("process {one} uses"),
        _ => "processes".to_owned(),
    };
    for pid in pids {
        let _ = write!(out, " {pid}");
    }
    if !pids.is_empty() {
        out.push_str(" use");
    }
    out
}

/// Locks an open image, for reading with other readers, or for writing alone.
///
/// A process that was killed with requests in flight holds its locks for some milliseconds longer, until the
/// kernel has taken its ring apart. So a lock that no process holds is tried again.
pub fn lock(file: &File, path: &Path, write: bool) -> Result<(), LockError> {
    const TRIES: u32 = 20;
    for _ in 0..TRIES {
        match try_lock(file, path, write) {
            Err(LockError::Taken { pids, .. }) if pids.is_empty() => std::thread::sleep(PATIENCE / TRIES),
            result => return result,
        }
    }
    try_lock(file, path, write)
}

/// How long a lock that no process holds is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

fn try_lock(file: &File, path: &Path, write: bool) -> Result<(), LockError> {
    let unable = |source| LockError::Unable { path: path.to_owned(), source };
    let taken = || LockError::Taken { path: path.to_owned(), write, pids: who(file) };
    let does: &[i64] = if write { &[READ, WRITE, RESIZE] } else { &[READ] };
    // A reader does not bear a writer either: it would see half-written metadata.
    for byte in does.iter().map(|act| DOES + act).chain([FORBIDS + WRITE, FORBIDS + RESIZE]) {
        match sys::share_byte(file, byte) {
            Ok(()) => {}
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::PermissionDenied) =>
            {
                return Err(taken());
            }
            Err(error) => return Err(unable(error)),
        }
    }
    for byte in does.iter().map(|act| FORBIDS + act).chain([DOES + WRITE, DOES + RESIZE]) {
        // Our own locks do not count, being of the same open file.
        if sys::byte_is_held(file, byte).map_err(unable)? {
            return Err(taken());
        }
    }
    Ok(())
}

/// The processes that hold locks of an open file's kind on the same file. `/proc/locks` does not know
/// whose such a lock is; what is open in each process does.
fn who(file: &File) -> Vec<u32> {
    let Ok(ours) = file.metadata() else { return Vec::new() };
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| holds(*pid, &ours, file)).take(8).collect()
}

fn holds(pid: u32, ours: &fs::Metadata, file: &File) -> bool {
    use std::os::fd::AsRawFd;
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.flatten().any(|entry| {
        let myself =
            pid == std::process::id() && entry.file_name().to_str() == Some(&file.as_raw_fd().to_string());
        let same = fs::metadata(entry.path())
            .is_ok_and(|theirs| (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()));
        let info = Path::new("/proc").join(pid.to_string()).join("fdinfo").join(entry.file_name());
        !myself && same && fs::read_to_string(info).is_ok_and(|info| info.contains("OFDLCK"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(path: &Path) -> File {
        File::options().read(true).write(true).open(path).unwrap()
    }

    #[test]
    fn one_writes_or_several_read() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        let path = disk.path();
        let (first, second) = (opened(path), opened(path));
        lock(&first, path, false).unwrap();
        lock(&second, path, false).unwrap();
        drop(first);
        drop(second);
        let writer = opened(path);
        lock(&writer, path, true).unwrap();
        for write in [false, true] {
            let other = opened(path);
            let text = lock(&other, path, write).unwrap_err().to_string();
            assert!(text.contains(path.to_str().unwrap()), "{text}");
            assert!(text.contains("this very guest uses it"), "{text}");
        }
        drop(writer);
        lock(&opened(path), path, true).unwrap();
    }

    #[test]
    fn a_reader_keeps_writers_away() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        let reader = opened(disk.path());
        lock(&reader, disk.path(), false).unwrap();
        let error = lock(&opened(disk.path()), disk.path(), true).unwrap_err();
        assert!(matches!(error, LockError::Taken { write: true, .. }), "{error}");
    }
}
