//! What other threads want of a guest's thread.
//!
//! ```text
//!   control socket ─┐                        ┌─► poll wakes up ─► take
//!   VMM            ─┼─► Handle ─► channel ───┤
//!   signals        ─┘                 └─ a byte ┘
//! ```

use crate::control::status::GuestStatus;
use crate::engine::{Cause, Mode};
use crate::live::spec::OnCrash;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use thiserror::Error;

/// Requests that may wait; beyond it who asks is told to come again.
const CAPACITY: usize = 256;

/// How long an answer may take: a thread's turn is far shorter.
const PATIENCE: Duration = Duration::from_secs(5);

/// What can be wanted.
#[derive(Debug)]
pub(super) enum Want {
    /// Its status.
    Status(SyncSender<GuestStatus>),
    /// A checkpoint.
    Checkpoint(Cause),
    /// A checkpoint begins: the primary's state is captured; answered when what is captured of the
    /// guest's output from then on is of the next epoch.
    Begin(SyncSender<()>),
    /// It is complete.
    Done,
    /// It came to nothing.
    Failed,
    /// Another mode.
    Mode(Mode),
    /// To serve; answered by what was announced, or why it cannot.
    Promote(SyncSender<Result<String, String>>),
    /// To end.
    Stop,
}

/// A guest's thread that cannot be asked.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AskError {
    /// It has ended: it was stopped, or the guest has failed, and then its status says why.
    #[error("the guest is not looked after any more; 'colo-proxy status' says why")]
    Gone,
    /// It has too much to do.
    #[error("the guest's thread does not answer; is the machine overloaded?")]
    Busy,
}

/// A guest that is protected, for whoever performs its checkpoints (the VMM) and whoever asks.
#[derive(Clone, Debug)]
pub struct Handle {
    name: Arc<str>,
    sender: SyncSender<Want>,
    wake: Arc<UnixStream>,
    /// Not a want among others: it must never find the mailbox full.
    stop: Arc<AtomicBool>,
    /// What is to be said of it once it cannot go on.
    failure: Arc<OnceLock<Failure>>,
}

/// A guest that could not go on.
#[derive(Debug)]
pub(super) struct Failure {
    /// How it stood, and why.
    pub(super) status: GuestStatus,
    /// What became of its NICs.
    pub(super) on_crash: OnCrash,
}

/// The other end.
#[derive(Debug)]
pub(super) struct Mailbox {
    receiver: Receiver<Want>,
    wake: UnixStream,
    stop: Arc<AtomicBool>,
}

/// Makes both ends.
pub(super) fn mailbox(name: &str) -> io::Result<(Handle, Mailbox)> {
    let (sender, receiver) = sync_channel(CAPACITY);
    let (wake, woken) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    woken.set_nonblocking(true)?;
    let stop = Arc::new(AtomicBool::new(false));
    let handle = Handle {
        name: name.into(),
        sender,
        wake: Arc::new(wake),
        stop: Arc::clone(&stop),
        failure: Arc::default(),
    };
    Ok((handle, Mailbox { receiver, wake: woken, stop }))
}

impl Handle {
    /// The guest's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn tell(&self, want: Want) -> Result<(), AskError> {
        use std::sync::mpsc::TrySendError;
        self.sender.try_send(want).map_err(|error| match error {
            TrySendError::Full(_) => AskError::Busy,
            TrySendError::Disconnected(_) => AskError::Gone,
        })?;
        self.wake()
    }

    fn wake(&self) -> Result<(), AskError> {
        // A full pipe is awake already.
        match send(&*self.wake, &[1], SendFlags::NOSIGNAL) {
            Err(Errno::PIPE | Errno::CONNRESET) => Err(AskError::Gone),
            _ => Ok(()),
        }
    }

    fn ask<T>(&self, want: impl FnOnce(SyncSender<T>) -> Want) -> Result<T, AskError> {
        let (answer, answered) = sync_channel(1);
        self.tell(want(answer))?;
        answered.recv_timeout(PATIENCE).map_err(|error| match error {
            std::sync::mpsc::RecvTimeoutError::Timeout => AskError::Busy,
            std::sync::mpsc::RecvTimeoutError::Disconnected => AskError::Gone,
        })
    }

    /// How it stands. One that has failed is in the state `failed` from then on.
    pub fn status(&self) -> Result<GuestStatus, AskError> {
        let asked = if self.failure.get().is_none() { self.ask(Want::Status) } else { Err(AskError::Gone) };
        // It may have failed while it was asked.
        asked.or_else(|error| self.failure.get().map(|failure| failure.status.clone()).ok_or(error))
    }

    /// Why the guest could not go on; none while it does. A VMM looks at this now and then, and when a
    /// call says [`AskError::Gone`]: nobody asks for checkpoints of such a guest any more.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get()?.status.failure.as_deref()
    }

    pub(super) fn failed(&self) -> Option<&Failure> {
        self.failure.get()
    }

    pub(super) fn fail(&self, failure: Failure) {
        // The first one counts.
        let _ = self.failure.set(failure);
    }

    /// Asks for a checkpoint, as an operator or a timer does.
    pub fn request_checkpoint(&self, cause: Cause) -> Result<(), AskError> {
        self.tell(Want::Checkpoint(cause))
    }

    /// The primary's state is captured: what it sends from here on is of the next epoch. To be said
    /// while the primary's guest stands still, before it goes on: it may once this has returned. Nothing
    /// is to be said to the secondary's handle.
    pub fn checkpoint_begin(&self) -> Result<(), AskError> {
        self.ask(Want::Begin)
    }

    /// On the secondary's handle: the guest was made equal to the primary, and has not gone on yet. On
    /// the primary's, after that: the checkpoint is complete, and what was held of the epoch that it
    /// ends leaves. Without a [`checkpoint_begin`](Self::checkpoint_begin) before it, it counts as
    /// captured now.
    pub fn checkpoint_done(&self) -> Result<(), AskError> {
        self.tell(Want::Done)
    }

    /// On the primary's handle: the checkpoint came to nothing. What is held stays held, both guests are
    /// still of the epoch that was to end, and a new [`Request`](super::Request) comes if one is needed.
    pub fn checkpoint_failed(&self) -> Result<(), AskError> {
        self.tell(Want::Failed)
    }

    /// Changes what the guest's output is worth.
    pub fn set_mode(&self, mode: Mode) -> Result<(), AskError> {
        self.tell(Want::Mode(mode))
    }

    /// Lets a secondary's guest serve: its output goes to its bridge, and it is announced. The inner
    /// value says what was announced, or why it cannot serve.
    pub fn promote(&self) -> Result<Result<String, String>, AskError> {
        self.ask(Want::Promote)
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // One that has ended need not be stopped.
        let _ = self.wake();
    }
}

impl Mailbox {
    /// What was wanted since the last call.
    pub(super) fn take(&self) -> Vec<Want> {
        let mut bytes = [0; CAPACITY];
        while matches!(recv(&self.wake, &mut bytes[..], RecvFlags::DONTWAIT), Ok((1.., _))) {}
        if self.stop.load(Ordering::Acquire) {
            return vec![Want::Stop];
        }
        self.receiver.try_iter().collect()
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
