//! A file for pages that wait when memory for them is short.
//!
//! ```text
//!   accept: piece ─► memory, up to a bound ─► full: file      apply: memory, and the file, in the order they came
//! ```
//!
//! A thread of its own reads and writes it, and is not waited for beyond a bound: a disk that hangs must not keep a guest
//! from being taken over.
//!
//! The file has no name, and is opened before the process is confined. It is not durable and need not be: what
//! waits is worth nothing after the process.

use crate::sandbox::{self, Kind};
use crate::spill;
pub use crate::spill::SpillError;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

/// How long the file may take for a piece, before it is no help any more.
const PATIENCE: Duration = Duration::from_secs(5);

/// The file.
#[derive(Debug)]
pub struct Spill {
    file: Arc<File>,
    end: u64,
    clerk: Option<Clerk>,
    patience: Duration,
}

impl Spill {
    /// A new one, in a directory.
    pub fn new(directory: &Path) -> Result<Self, SpillError> {
        Ok(Self::of(spill::open(directory)?, PATIENCE))
    }

    pub(super) fn of(file: File, patience: Duration) -> Self {
        Self { file: Arc::new(file), end: 0, clerk: None, patience }
    }

    /// Puts bytes in: where they are then.
    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let at = self.end;
        self.clerk()?.ask(|mut buffer| {
            buffer.clear();
            buffer.extend_from_slice(bytes);
            Job::Put { at, bytes: buffer }
        })?;
        self.end += bytes.len() as u64;
        Ok(at)
    }

    /// Gets bytes back.
    pub(super) fn get(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let clerk = self.clerk()?;
        clerk.ask(|mut buffer| {
            buffer.resize(len, 0);
            Job::Get { at, into: buffer }
        })?;
        Ok(&clerk.buffer)
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.end) > 0
            && let Some(clerk) = &mut self.clerk
        {
            // What cannot be given back is written over.
            let _ = clerk.ask(Job::Clear);
        }
    }

    /// The first that asks for it starts its thread, which enters what this one has entered.
    fn clerk(&mut self) -> io::Result<&mut Clerk> {
        let clerk = match self.clerk.take() {
            Some(clerk) => clerk,
            None => Clerk::start(&self.file, self.patience)?,
        };
        Ok(self.clerk.insert(clerk))
    }
}

/// What a thread of its own does: a disk that hangs, hangs that, and not who has a guest to look after.
enum Job {
    Put { at: u64, bytes: Vec<u8> },
    Get { at: u64, into: Vec<u8> },
    Clear(Vec<u8>),
}

impl Job {
    /// Gives the buffer back.
    fn perform(self, file: &File) -> (io::Result<()>, Vec<u8>) {
        match self {
            Self::Put { at, bytes } => (file.write_all_at(&bytes, at), bytes),
            Self::Get { at, mut into } => (file.read_exact_at(&mut into, at), into),
            Self::Clear(buffer) => (file.set_len(0), buffer),
        }
    }
}

/// Who asks that thread, one thing after the other.
#[derive(Debug)]
struct Clerk {
    jobs: SyncSender<Job>,
    answers: Receiver<(io::Result<()>, Vec<u8>)>,
    /// Empty while a job has it.
    buffer: Vec<u8>,
    patience: Duration,
    /// Answers that were not waited for.
    late: usize,
}

impl Clerk {
    fn start(file: &Arc<File>, patience: Duration) -> io::Result<Self> {
        let (jobs, asked) = sync_channel::<Job>(1);
        let (answer, answers) = sync_channel(1);
        let file = Arc::clone(file);
        sandbox::spawn("checkpoint-spill", Kind::Peer, move || {
            for job in asked {
                if answer.send(job.perform(&file)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { jobs, answers, buffer: Vec::new(), patience, late: 0 })
    }

    /// Has something done, if that does not take too long, and nothing before it still does.
    fn ask(&mut self, job: impl FnOnce(Vec<u8>) -> Job) -> io::Result<()> {
        let stuck = || {
            io::Error::new(
                io::ErrorKind::TimedOut,
                "the disk of --spill has not answered for seconds; look after it",
            )
        };
        let gone = || io::Error::other("the thread of --spill has ended, which is a bug");
        while self.late > 0 {
            match self.answers.try_recv() {
                Ok((_, buffer)) => (self.buffer, self.late) = (buffer, self.late - 1),
                Err(TryRecvError::Empty) => return Err(stuck()),
                Err(TryRecvError::Disconnected) => return Err(gone()),
            }
        }
        // It waits for this, so there is room.
        self.jobs.send(job(std::mem::take(&mut self.buffer))).map_err(|_| gone())?;
        match self.answers.recv_timeout(self.patience) {
            Ok((outcome, buffer)) => {
                self.buffer = buffer;
                outcome
            }
            Err(RecvTimeoutError::Timeout) => {
                self.late += 1;
                Err(stuck())
            }
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_hangs_is_not_waited_for_and_may_come_back() {
        // Each thing that is done waits for a word: no file can be made to hang at will.
        let (go, gate) = sync_channel::<()>(0);
        let (jobs, asked) = sync_channel::<Job>(1);
        let (answer, answers) = sync_channel(1);
        let worker = std::thread::spawn(move || {
            let file = tempfile::tempfile().unwrap();
            for job in asked {
                gate.recv().unwrap();
                answer.send(job.perform(&file)).unwrap();
            }
        });
        let mut clerk =
            Clerk { jobs, answers, buffer: Vec::new(), patience: Duration::from_millis(1), late: 0 };
        let put = |_| Job::Put { at: 0, bytes: b"abc".to_vec() };
        assert_eq!(clerk.ask(put).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(clerk.ask(put).unwrap_err().kind(), io::ErrorKind::TimedOut);
        go.send(()).unwrap();
        clerk.patience = Duration::from_mins(1);
        let back = std::thread::spawn(move || {
            // Until the late answer is there it is refused, and then it is as it was.
            let get = |_| Job::Get { at: 0, into: vec![0; 3] };
            while clerk.late > 0 && clerk.ask(get).is_err() {
                std::thread::yield_now();
            }
            clerk.ask(get).unwrap();
            clerk.buffer
        });
        go.send(()).unwrap();
        let _ = go.send(());
        assert_eq!(back.join().unwrap(), b"abc");
        drop(go);
        worker.join().unwrap();
    }
}
