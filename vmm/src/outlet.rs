//! Where a state is written to: a file, or a pipe or a socket whose reader may stop reading.
//!
//! ```text
//!   write ──► there is room ──────────────────────────► bytes
//!         └─► there is none: wait, but not for ever ─┬► bytes
//!                                                    └► cancelled, or nobody reads: an error, for good
//! ```
//!
//! A guest stands while its state is written. What reads it must not be able to make that last for ever.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long a reader may take nothing.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it takes at most until a cancellation is seen.
const LOOK: Duration = Duration::from_millis(20);

/// A descriptor that nothing can be written to.
#[derive(Debug, Error)]
pub enum OutletError {
    /// It cannot be looked at.
    #[error("the descriptor cannot be looked at: {0}; send another")]
    Descriptor(#[from] rustix::io::Errno),
    /// It is for reading.
    #[error("the descriptor cannot be written; open it for writing")]
    ReadOnly,
}

/// Why writing has ended.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
enum Stop {
    #[error("it was cancelled")]
    Cancelled,
    #[error(
        "whoever should read it has taken nothing for {} s; read faster, or write to a file",
        .0.as_secs()
    )]
    Stalled(Duration),
}

/// What ends it from outside.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends it, soon.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was to be ended.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A descriptor that is written to.
#[derive(Debug)]
pub struct Outlet {
    file: File,
    /// What its flags were.
    flags: OFlags,
    cancel: Cancel,
    patience: Duration,
    /// It has ended.
    stop: Option<Stop>,
}

impl Outlet {
    /// Makes it one that does not wait in the kernel.
    pub fn new(fd: OwnedFd, cancel: Cancel) -> Result<Self, OutletError> {
        let flags = fcntl_getfl(&fd)?;
        if flags & OFlags::RWMODE == OFlags::RDONLY || flags.contains(OFlags::PATH) {
            return Err(OutletError::ReadOnly);
        }
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self { file: fd.into(), flags, cancel, patience: PATIENCE, stop: None })
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    fn end(&mut self, stop: Stop) -> io::Error {
        self.stop = Some(stop);
        io::Error::other(stop)
    }
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(stop) = self.stop {
            return Err(io::Error::other(stop));
        }
        let begun = Instant::now();
        loop {
            if self.cancel.is_cancelled() {
                return Err(self.end(Stop::Cancelled));
            }
            match (&self.file).write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            if begun.elapsed() >= self.patience {
                return Err(self.end(Stop::Stalled(self.patience)));
            }
            let look = Timespec::try_from(LOOK).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], Some(&look)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Outlet {
    /// Others may have the same open file.
    fn drop(&mut self) {
        if let Err(error) = fcntl_setfl(&self.file, self.flags) {
            tracing::debug!(%error, "a descriptor that was written to stays as it is");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn pipe() -> (io::PipeReader, io::PipeWriter, Outlet, Cancel) {
        let (reader, writer) = io::pipe().unwrap();
        let cancel = Cancel::default();
        let outlet = Outlet::new(writer.try_clone().unwrap().into(), cancel.clone()).unwrap();
        (reader, writer, outlet, cancel)
    }

    #[test]
    fn a_slow_reader_gets_everything() {
        let (mut reader, writer, mut outlet, _cancel) = pipe();
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
        let sent = bytes.clone();
        let thread = std::thread::spawn(move || outlet.write_all(&sent));
        drop(writer);
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        thread.join().unwrap().unwrap();
        assert!(got == bytes);
    }

    #[test]
    fn nobody_reads_for_too_long() {
        let (_reader, _writer, mut outlet, _cancel) = pipe();
        outlet.patience = Duration::from_millis(1);
        let error = outlet.write_all(&vec![0; 1 << 20]).unwrap_err();
        assert!(error.to_string().contains("has taken nothing"), "{error}");
        // A buffer that is dropped tries again.
        outlet.patience = Duration::MAX;
        assert!(outlet.write(&[0]).is_err());
    }

    #[test]
    fn one_that_waits_is_cancelled() {
        let (_reader, _writer, mut outlet, cancel) = pipe();
        let thread = std::thread::spawn(move || outlet.write_all(&vec![0; 1 << 20]));
        assert!(!cancel.is_cancelled());
        cancel.cancel();
        assert_eq!(thread.join().unwrap().unwrap_err().to_string(), "it was cancelled");
    }

    #[test]
    fn what_has_the_same_file_open_gets_it_back_as_it_was() {
        let (_reader, writer, outlet, _cancel) = pipe();
        assert!(fcntl_getfl(&writer).unwrap().contains(OFlags::NONBLOCK));
        drop(outlet);
        assert!(!fcntl_getfl(&writer).unwrap().contains(OFlags::NONBLOCK));
    }

    #[test]
    fn what_is_for_reading_is_refused() {
        let file = File::open("/dev/null").unwrap();
        assert!(matches!(Outlet::new(file.into(), Cancel::default()), Err(OutletError::ReadOnly)));
    }
}
