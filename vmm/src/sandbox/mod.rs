//! What a process that a guest has broken into can still do: little.
//!
//! ```text
//!   everything is open ─► give_up_privileges    no_new_privs, no capability, another user
//!                       ─► confine_files        Landlock: no file is opened, none removed but our sockets
//!                       ─► threads start, each: Sandbox::enter(kind)   seccomp: the calls it has use for
//!                                                │
//!                                                └ any other call ─► SIGSYS ─► a message with its name, exit 5
//! ```
//!
//! [`Confinement`] is the moment between: it is given to whoever opens everything, and gives the
//! [`Sandbox`] that threads need. The first two belong to a thread and to those that it starts, so they come before all threads. A
//! filter does too, and *adds* to those of the thread that starts another: a thread started from a vCPU
//! (as a virtio worker may be, when its driver becomes ready) can do what both filters let pass. That
//! is why a vCPU's list has a worker's in it.
//!
//! The lists are in `common`, `vcpu`, `worker`, `control` and `peer`, with a reason for each group. A panic says
//! what it has to say; the files that a backtrace (`RUST_BACKTRACE`) would open end the process after that.

mod calls;
mod common;
mod confine;
mod control;
mod files;
mod names;
mod peer;
mod privilege;
mod sys;
mod vcpu;
mod worker;

pub use confine::{ConfineError, Confinement};
pub use files::{FilesError, Landlocked, confine_files};
pub use privilege::{PrivilegeError, give_up_privileges};

use crate::config::SeccompMode;
use calls::Call;
use seccompiler::{BpfProgram, SeccompAction};
use std::cell::Cell;
use std::sync::Arc;
use std::thread::JoinHandle;
use thiserror::Error;

/// The exit code of a process that was ended for a call that it has no business with.
pub const VIOLATION: u8 = 5;

/// What a thread is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It runs a vCPU, and what its exits ask for.
    Vcpu,
    /// It moves data for a virtio device.
    Worker,
    /// It is the main thread, QMP, the console: it controls the others.
    Control,
    /// It keeps a guest on another host level with this one: it controls, and connects.
    Peer,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Vcpu, Self::Worker, Self::Control, Self::Peer];

    fn calls(self) -> Vec<Call> {
        let lists: &[&[Call]] = match self {
            Self::Vcpu => &[common::CALLS, vcpu::CALLS, worker::CALLS],
            Self::Worker => &[common::CALLS, worker::CALLS],
            Self::Control => &[common::CALLS, control::CALLS, vcpu::CALLS, worker::CALLS],
            Self::Peer => &[common::CALLS, control::CALLS, vcpu::CALLS, worker::CALLS, peer::CALLS],
        };
        lists.concat()
    }
}

/// A sandbox that cannot be made.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// A list that is no filter.
    #[error("the filter of {kind:?} threads cannot be made: {error}; this is a bug, --seccomp off avoids it")]
    Compile {
        /// Whose.
        kind: Kind,
        /// What is wrong.
        error: seccompiler::BackendError,
    },
    /// The kernel.
    #[error(
        "the filter of a {kind:?} thread cannot be installed: {error}; is CONFIG_SECCOMP_FILTER in this kernel? --seccomp off does without"
    )]
    Install {
        /// Whose.
        kind: Kind,
        /// What it said.
        error: seccompiler::Error,
    },
    /// The signal.
    #[error("SIGSYS cannot be handled: {0}; --seccomp off does without")]
    Signal(std::io::Error),
}

/// The filters, ready to be entered.
#[derive(Clone, Debug, Default)]
pub struct Sandbox(Option<Arc<[(Kind, BpfProgram)]>>);

impl Sandbox {
    /// Makes the filters. `before_end` is called when the process is about to be ended for a violation;
    /// it runs in a signal handler, and so may do what signal-safety(7) allows.
    pub fn new(mode: SeccompMode, before_end: fn()) -> Result<Self, SandboxError> {
        let mismatch = match mode {
            SeccompMode::Off => return Ok(Self(None)),
            SeccompMode::Log => SeccompAction::Log,
            SeccompMode::On => {
                sys::name_violations(before_end).map_err(SandboxError::Signal)?;
                SeccompAction::Trap
            }
        };
        let filter = |kind: Kind| {
            let program = calls::compile(&kind.calls(), mismatch.clone());
            program.map(|program| (kind, program)).map_err(|error| SandboxError::Compile { kind, error })
        };
        let filters: Result<Vec<_>, _> = Kind::ALL.into_iter().map(filter).collect();
        Ok(Self(Some(filters?.into())))
    }

    /// From now on the calling thread, and those that it starts, do what this kind of thread does.
    pub fn enter(&self, kind: Kind) -> Result<(), SandboxError> {
        let filters = self.0.iter().flat_map(|filters| filters.iter());
        for (_, filter) in filters.filter(|(of, _)| *of == kind) {
            seccompiler::apply_filter(filter).map_err(|error| SandboxError::Install { kind, error })?;
        }
        CURRENT.set(self.clone());
        Ok(())
    }
}

impl Sandbox {
    /// Starts a thread that enters this, from one that has not entered it. One that cannot enter does nothing, and
    /// says so in the log.
    pub fn spawn(
        &self,
        name: &str,
        kind: Kind,
        run: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        let sandbox = self.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || match sandbox.enter(kind) {
            Ok(()) => run(),
            Err(error) => tracing::error!("{error}"),
        })
    }
}

thread_local! {
    /// What this thread has entered.
    static CURRENT: Cell<Sandbox> = const { Cell::new(Sandbox(None)) };
}

/// Starts a thread that enters the sandbox of the one that starts it. One that cannot does nothing, and is
/// an error here or in the log.
pub fn spawn(name: &str, kind: Kind, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    let sandbox = CURRENT.take();
    CURRENT.set(sandbox.clone());
    sandbox.spawn(name, kind, run)
}

#[cfg(test)]
mod tests;
