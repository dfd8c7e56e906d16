//! What was started below this process, however it tried to get away.
//!
//! ```text
//!   this process, who adopts orphans below it (PR_SET_CHILD_SUBREAPER)
//!     ├─ a group that an earlier command left on purpose ─ …        spared
//!     ├─ the leader of the command ─ its children ─ …               killed
//!     └─ setsid, fork, exit: its grandchild, an orphan by now       killed
//! ```

use super::group::{Process, processes, read_process};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, pidfd_open, pidfd_send_signal,
    set_child_subreaper, waitid,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long what was killed may take to be gone. It is gone at once, unless the kernel is stuck, or it
/// makes more of itself all the time.
const BURIAL: Duration = Duration::from_secs(1);

/// How long is waited before it is looked again.
const GLANCE: Duration = Duration::from_millis(5);

/// Adopts orphans from now on: nothing that is started below this process gets out from under it.
pub(super) fn adopt() -> Result<(), Errno> {
    set_child_subreaper(Some(getpid()))
}

/// The groups of processes that are below this process at one time. What one of them starts later is
/// theirs.
#[derive(Debug, Default)]
pub(super) struct Earlier(BTreeSet<i32>);

impl Earlier {
    /// Those of now.
    pub(super) fn now() -> Self {
        let all = table();
        Self(all.values().filter(|one| is_below(one, &all)).map(|one| one.group).collect())
    }

    /// Kills everything below this process that is none of these, and waits until it is gone.
    pub(super) fn kill_others(&self) {
        let deadline = Instant::now() + BURIAL;
        loop {
            let all = table();
            let others = all.values().filter(|one| one.lives && is_below(one, &all) && !self.has(one, &all));
            let mut found = false;
            for other in others {
                found = true;
                kill(other);
            }
            if !found || Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// Whether a process is one of these, or was started by one.
    fn has(&self, process: &Process, all: &BTreeMap<i32, Process>) -> bool {
        ancestry(process, all).any(|one| self.0.contains(&one.group))
    }
}

/// Buries children that have ended: adopted ones have nobody else who does. Only while there is no
/// child that somebody else waits for.
pub(super) fn bury_dead() {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    while matches!(waitid(WaitId::All, options), Ok(Some(_))) {}
}

fn table() -> BTreeMap<i32, Process> {
    processes().map(|process| (process.pid, process)).collect()
}

/// A process and those above it, up to this one, which is left out; nothing if it is not below.
fn ancestry<'a>(process: &'a Process, all: &'a BTreeMap<i32, Process>) -> impl Iterator<Item = &'a Process> {
    let this = getpid().as_raw_nonzero().get();
    // As many as there are: what is looked at one after the other may seem to go round in circles.
    std::iter::successors(Some(process), |one| all.get(&one.parent))
        .take(all.len())
        .take_while(move |one| one.pid != this)
}

fn is_below(process: &Process, all: &BTreeMap<i32, Process>) -> bool {
    let this = getpid().as_raw_nonzero().get();
    process.pid != this && ancestry(process, all).last().is_some_and(|top| top.parent == this)
}

fn kill(process: &Process) {
    let Some(pid) = Pid::from_raw(process.pid) else { return };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    // The number may have changed hands before the descriptor was there, not after it.
    if read_process(process.pid).is_some_and(|now| now.started == process.started) {
        // It fails only where there is nobody left.
        let _ = pidfd_send_signal(pidfd, Signal::KILL);
    }
}
