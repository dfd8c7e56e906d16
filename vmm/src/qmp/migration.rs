//! A guest's state on its way into a descriptor, in a thread of its own.
//!
//! ```text
//!   migrate ─► Setup ── thread ──► Active ── dyn Save ──► Completed
//!                                     ├─────────────────► Failed
//!                                     └─ migrate_cancel ► Cancelled
//! ```
//!
//! The guest goes on afterwards as it did before: this is how it is saved, not how it moves away.

use super::request::Refusal;
use crate::checkpoint::ram::PAGE;
use crate::control::{Save, Saved};
use crate::outlet::{Cancel, Outlet};
use crate::sandbox::{self, Kind};
use rustix::fs::{SeekFrom, seek};
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How far it is, in QEMU's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Nothing was asked for yet.
    None,
    /// It is about to begin.
    Setup,
    /// It is being written.
    Active,
    /// All is written.
    Completed,
    /// It came to nothing.
    Failed,
    /// Nobody wanted it any more.
    Cancelled,
}

/// Who is told of each stage.
type Tell = Box<dyn Fn(Stage) + Send + Sync>;

/// The one that is under way, or was the last.
pub(super) struct Migration {
    state: Mutex<State>,
    tell: Tell,
}

enum State {
    None,
    Setup { since: Instant, cancel: Cancel },
    Active { since: Instant, cancel: Cancel, written: Option<Written> },
    Completed { saved: Saved, took: Duration },
    Failed { why: String, took: Duration },
    Cancelled { took: Duration },
}

/// A file whose place says how much is written.
struct Written {
    file: File,
    from: u64,
}

impl Written {
    fn begin(file: &File) -> Option<Self> {
        let file = file.try_clone().ok()?;
        let from = seek(&file, SeekFrom::Current(0)).ok()?;
        Some(Self { file, from })
    }

    fn bytes(&self) -> Option<u64> {
        Some(seek(&self.file, SeekFrom::Current(0)).ok()?.saturating_sub(self.from))
    }
}

impl State {
    const fn stage(&self) -> Stage {
        match self {
            Self::None => Stage::None,
            Self::Setup { .. } => Stage::Setup,
            Self::Active { .. } => Stage::Active,
            Self::Completed { .. } => Stage::Completed,
            Self::Failed { .. } => Stage::Failed,
            Self::Cancelled { .. } => Stage::Cancelled,
        }
    }
}

impl fmt::Debug for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Migration").field(&self.lock().stage()).finish()
    }
}

impl Migration {
    pub(super) fn new(tell: impl Fn(Stage) + Send + Sync + 'static) -> Self {
        Self { state: Mutex::new(State::None), tell: Box::new(tell) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, state: State) {
        let stage = state.stage();
        *self.lock() = state;
        (self.tell)(stage);
    }

    /// Begins, if none is under way; how it goes on is asked for later.
    pub(super) fn begin(self: &Arc<Self>, save: Arc<dyn Save>, fd: OwnedFd) -> Result<(), Refusal> {
        let cancel = Cancel::default();
        let out = Outlet::new(fd, cancel.clone()).map_err(|error| Refusal::generic(error.to_string()))?;
        let (since, this) = (Instant::now(), Arc::clone(self));
        self.set_up(State::Setup { since, cancel: cancel.clone() })?;
        let write = move || Underway { migration: this, since, over: false }.write(&*save, out, &cancel);
        if let Err(error) = sandbox::spawn("qmp-migrate", Kind::Control, write) {
            let why = format!("cannot start the thread that writes it: {error}");
            self.enter(State::Failed { why: why.clone(), took: since.elapsed() });
            return Err(Refusal::generic(why));
        }
        Ok(())
    }

    /// Sets it up, unless another one is under way.
    fn set_up(&self, setup: State) -> Result<(), Refusal> {
        let mut state = self.lock();
        if matches!(state.stage(), Stage::Setup | Stage::Active) {
            return Err(Refusal::generic(
                "the state of this guest is being written already; query-migrate says when that is done, and \
                 migrate_cancel ends it",
            ));
        }
        let stage = setup.stage();
        *state = setup;
        drop(state);
        (self.tell)(stage);
        Ok(())
    }

    /// Ends the one that is under way, if there is one: soon it is cancelled, unless it is complete before.
    pub(super) fn cancel(&self) {
        if let State::Setup { cancel, .. } | State::Active { cancel, .. } = &*self.lock() {
            cancel.cancel();
        }
    }

    /// What `query-migrate` says: figures are 0 as long as they are not known.
    pub(super) fn describe(&self) -> Value {
        let state = self.lock();
        let ms = |time: Duration| time.as_millis() as u64;
        let mut said = json!({"status": state.stage()});
        match &*state {
            State::None => {}
            State::Setup { since, .. } => said["total-time"] = json!(ms(since.elapsed())),
            State::Active { since, written, .. } => {
                said["total-time"] = json!(ms(since.elapsed()));
                said["ram"] = ram(written.as_ref().and_then(Written::bytes).unwrap_or_default(), 0, 0);
            }
            State::Completed { saved, took } => {
                said["total-time"] = json!(ms(*took));
                said["downtime"] = json!(ms(saved.stood));
                said["ram"] = ram(saved.bytes, saved.pages, saved.zero_pages);
            }
            State::Failed { why, took } => {
                said["total-time"] = json!(ms(*took));
                said["error-desc"] = json!(why);
            }
            State::Cancelled { took } => said["total-time"] = json!(ms(*took)),
        }
        said
    }
}

/// With the members that QEMU's schema says are always there.
fn ram(transferred: u64, normal: u64, duplicate: u64) -> Value {
    let page = PAGE as u64;
    json!({
        "transferred": transferred,
        "remaining": 0,
        "total": (normal + duplicate) * page,
        "duplicate": duplicate,
        "skipped": 0,
        "normal": normal,
        "normal-bytes": normal * page,
        "dirty-pages-rate": 0,
        "mbps": 0,
        "dirty-sync-count": 1,
        "postcopy-requests": 0,
        "page-size": page,
        "multifd-bytes": 0,
        "pages-per-second": 0,
    })
}

/// It ends in one way or the other, even by a panic.
struct Underway {
    migration: Arc<Migration>,
    since: Instant,
    /// It has ended. The stage does not say so: it may be the next one's already.
    over: bool,
}

impl Underway {
    fn write(mut self, save: &dyn Save, out: Outlet, cancel: &Cancel) {
        let Self { migration, since, over } = &mut self;
        let written = Written::begin(out.file());
        migration.enter(State::Active { since: *since, cancel: cancel.clone(), written });
        let outcome = save.save(out);
        let took = since.elapsed();
        *over = true;
        migration.enter(match outcome {
            Ok(saved) => State::Completed { saved, took },
            Err(_) if cancel.is_cancelled() => State::Cancelled { took },
            Err(error) => State::Failed { why: error.to_string(), took },
        });
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        if !self.over {
            let why = "an error inside colo-vm; its messages say more".to_owned();
            self.migration.enter(State::Failed { why, took: self.since.elapsed() });
        }
    }
}

#[cfg(test)]
mod tests;
