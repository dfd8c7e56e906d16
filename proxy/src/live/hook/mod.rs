//! A command that performs checkpoints: `--checkpoint-command CMD`.
//!
//! ```text
//!   data thread ── Hook ──pipe: Trigger──►  runner (same program, its own session,  ──► /bin/sh -c CMD
//!   (no privileges)    ◄──pipe: Outcome───          all privileges)                      COLO_GUEST, …
//! ```
//!
//! The process that looks at what strangers send gives its privileges up, and what it starts after
//! that has none. So the runner is started before, and waits. It runs one command at a time, ends
//! one that takes too long with everything that it started, in whatever session that is by then, puts
//! what it says on standard error into the log, and goes with its parent. Only where somebody kills the
//! runner itself does a process that left its session get away. What a command leaves behind when it is done stays, and should write
//! elsewhere: nobody reads its standard error any more.
//!
//! * `message` is what they say to each other and `lines` what goes into the log, both sans-I/O.
//! * `runner` is the other process.

mod lines;
mod message;
mod runner;

pub use message::Trigger;
pub use runner::{RunnerError, run};

use super::group::kill_session;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, read, write};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use thiserror::Error;

/// The subcommand that makes this program a runner.
pub const SUBCOMMAND: &str = "hook-runner";

/// How long a command that is to end may clean up before it is killed.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// How a run of the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The checkpoint is complete.
    Complete,
    /// It is not.
    Failed(Failure),
}

/// Why it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    /// The command says so.
    #[error("the checkpoint command ended with exit status {0}")]
    Exit(i32),
    /// Somebody killed it.
    #[error("the checkpoint command was ended by signal {0}")]
    Signal(i32),
    /// We killed it.
    #[error("the checkpoint command took longer than --command-timeout allows, and was killed")]
    TimedOut,
    /// There is no shell, or no process for it.
    #[error("the checkpoint command cannot be started: {error}", error = io::Error::from_raw_os_error(*.0))]
    NotStarted(i32),
    /// Somebody killed the process that runs it.
    #[error("the process that runs the checkpoint command is gone; start this one again")]
    RunnerGone,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str("complete"),
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

/// A trigger that starts no command.
#[derive(Debug, Error)]
pub enum HookError {
    /// One runs already; its outcome comes first.
    #[error("the checkpoint command still runs")]
    Busy,
    /// The names are too long to be handed over.
    #[error("the guest's name and its interfaces are too much for the checkpoint command's variables: {0}")]
    TooMuch(String),
    /// The runner is not there any more.
    #[error(transparent)]
    Gone(Failure),
}

/// The runner, seen from the process that wants checkpoints. Dropping it ends the runner and what it
/// runs, and waits for that: a few seconds if the command does not want to.
#[derive(Debug)]
pub struct Hook {
    /// None when it is gone.
    runner: Option<Runner>,
    received: Vec<u8>,
    busy: bool,
}

#[derive(Debug)]
struct Runner {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
}

impl Hook {
    /// Starts a runner with the privileges of the calling thread, so before they are given up.
    pub fn start(command: &str, timeout: Duration) -> io::Result<Self> {
        // The file of this process, even if another one has its name by now.
        Self::start_as("/proc/self/exe".as_ref(), command, timeout)
    }

    /// Like [`start`](Self::start), with this program as the runner.
    pub fn start_as(program: &Path, command: &str, timeout: Duration) -> io::Result<Self> {
        let mut child = Command::new(program)
            .arg0("colo-proxy")
            .args([SUBCOMMAND, "--timeout-ms", &timeout.as_millis().to_string(), "--", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("a pipe that was asked for is not there"));
        };
        // Nobody here waits for the runner: what it does not take at once, it does not get.
        for end in [to.as_fd(), from.as_fd()] {
            fcntl_setfl(end, fcntl_getfl(end)? | OFlags::NONBLOCK)?;
        }
        Ok(Self { runner: Some(Runner { child, to, from }), received: Vec::new(), busy: false })
    }

    /// Readable when there is something for [`read`](Self::read). None when the runner is gone and
    /// nothing comes any more.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.runner.as_ref().map(|runner| runner.from.as_fd())
    }

    /// Whether a command runs, or its outcome was not read yet.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Runs the command. It is at work when this returns; [`read`](Self::read) says how it ended.
    pub fn run(&mut self, trigger: &Trigger) -> Result<(), HookError> {
        if self.busy {
            return Err(HookError::Busy);
        }
        let gone = || HookError::Gone(Failure::RunnerGone);
        let message = trigger.encode().map_err(|error| HookError::TooMuch(error.to_string()))?;
        let runner = self.runner.as_mut().ok_or_else(gone)?;
        loop {
            match write(&runner.to, &message) {
                Ok(_) => {
                    self.busy = true;
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(error) => {
                    self.lose(&io::Error::from(error));
                    return Err(gone());
                }
            }
        }
    }

    /// How the command ended, if it has. Does not wait. When the runner is gone, so is the command,
    /// and it has failed.
    pub fn read(&mut self) -> Option<Outcome> {
        match self.receive() {
            Ok(None) => None,
            Ok(Some(outcome)) => {
                self.busy = false;
                Some(outcome)
            }
            Err(error) => self.lose(&error),
        }
    }

    fn receive(&mut self) -> io::Result<Option<Outcome>> {
        let Some(runner) = &self.runner else { return Ok(None) };
        let mut buffer = [0; 64];
        match read(&runner.from, &mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.received.extend(&buffer[..count]),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        match Outcome::decode(&mut self.received).map_err(io::Error::other)? {
            Some(_) if !self.busy => Err(io::Error::other("an outcome that nobody asked for")),
            outcome => Ok(outcome),
        }
    }

    /// The runner is gone, or is not to be trusted any more: ends it and what it ran.
    fn lose(&mut self, error: &io::Error) -> Option<Outcome> {
        if let Some(runner) = self.runner.take() {
            tracing::error!("{} ({error})", Failure::RunnerGone);
            bury(runner.child);
        }
        std::mem::take(&mut self.busy).then_some(Outcome::Failed(Failure::RunnerGone))
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        let Some(Runner { mut child, to, from }) = self.runner.take() else { return };
        // The end of these is its end.
        drop((to, from));
        let deadline = Instant::now() + 2 * GRACE;
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                return bury(child);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Ends a runner and everything that it started, in whatever state they are.
fn bury(mut child: Child) {
    kill_session(child.id());
    // These fail only where there is nothing left to do.
    let _ = child.kill();
    let _ = child.wait();
}
