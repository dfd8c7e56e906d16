//! The one call that needs `unsafe`: putting a child on a CPU, and under its parent's fate, before it runs.
#![allow(unsafe_code, reason = "`pre_exec` is unsafe: its closure runs between fork and exec")]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal, setpriority_process};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Has the command run on one CPU (all its threads inherit that), and be killed when this thread ends,
/// however it ends.
pub(super) fn bind(command: &mut Command, cpu: usize) -> &mut Command {
    let set = one(cpu);
    // SAFETY: the closure makes two raw system calls on values it owns: no allocation, no lock, no libc
    // state, so it is fit to run in the child of a fork.
    unsafe {
        command.pre_exec(move || {
            sched_setaffinity(None, &set)?;
            set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        })
    }
}

/// Puts the calling thread on one CPU.
pub(super) fn pin(cpu: usize) -> io::Result<()> {
    Ok(sched_setaffinity(None, &one(cpu))?)
}

/// Puts the calling thread, and what it starts from now on, before others that want the same CPUs.
pub(super) fn raise(nice: i32) -> io::Result<()> {
    Ok(setpriority_process(None, nice)?)
}

fn one(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    if cpu < CpuSet::MAX_CPU {
        set.set(cpu);
    }
    set
}
