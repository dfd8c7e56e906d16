//! A program that runs inside a namespace until it is told to stop, with what it says in a file.

use super::space::Space;
use super::wait::until;
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// A running program; killed when this is dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    what: String,
    log: PathBuf,
}

impl Program {
    /// Starts it; stdout and stderr go to `log`.
    pub fn start(space: &Space, command: &mut Command, log: &Path) -> Result<Self> {
        let what = format!("{command:?}");
        let file = File::create(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = space.enter(|| command.spawn()).with_context(|| format!("cannot start {what}"))?;
        Ok(Self { child, what, log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// An error, with its last words, if it has ended.
    pub fn must_run(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            anyhow::bail!("{} ended ({status}): {}", self.what, self.said());
        }
        Ok(())
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let what = format!("{} ends", self.what);
        until(&what, || self.ended())
    }

    /// Waits until it has ended, well.
    pub fn succeed(&mut self) -> Result<String> {
        let status = self.wait()?;
        ensure!(status.success(), "{}: {status}: {}", self.what, self.said());
        Ok(self.said())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("no process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Kills it without a word, as the death of a host would.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to stop and waits until it has.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.what, self.said());
        }
    }
}
