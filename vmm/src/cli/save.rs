//! `colo-vm save`: the state of a guest that runs, in a file.
//!
//! ```text
//!   FILE.tmp (0600, locked) ── getfd, migrate ──► the guest's process writes ── completed ──► fsync ─► FILE
//!                                                          └ failed, ^C ──► FILE.tmp is removed
//! ```
//!
//! Under its name there is never a file that is not whole.

use super::Failure;
use crate::config::Endpoint;
use crate::qmp::client::Client;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::fs::{FlockOperation, RenameFlags, flock, fsync, renameat_with};
use rustix::io::Errno;
use serde::Deserialize;
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;
use thiserror::Error;

/// Its words.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  colo-vm save web.state --qmp unix:/run/web.qmp
  colo-vm run --config web.toml --restore web.state       goes on from there, later
  colo-vm inspect web.state                               what is in it

The guest stands while its state is written, and goes on after that; a primary is saved only while its secondary is
not there, which would take it for dead. Its disks are not in the file: copy
them, too, if they are to be as they were.

Exit codes: 0 it is saved, 1 it is not, and there is no file, 2 wrong usage.")]
pub(super) struct Args {
    /// Where to
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The guest's QMP socket: what its --qmp says
    #[arg(long, value_name = "unix:PATH")]
    qmp: Endpoint,
    /// Replace the file if there is one
    #[arg(long)]
    force: bool,
}

/// A state that is not saved.
#[derive(Debug, Error)]
enum SaveError {
    /// There is one already.
    #[error("{} exists; choose another name, or --force to replace it", .0.display())]
    Exists(PathBuf),
    /// It is a device, a directory, a link.
    #[error("{} is no regular file, and a state does not replace anything else; choose another name", .0.display())]
    Kind(PathBuf),
    /// Somebody writes there.
    #[error("{} is being written by another colo-vm save; wait for that, or choose another name", .0.display())]
    Taken(PathBuf),
    /// The file.
    #[error("cannot {doing} {}: {error}; choose a place where this user may write", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What came of it.
        error: io::Error,
    },
    /// The guest's process.
    #[error("the state is not saved: {0}")]
    Failed(String),
    /// A signal.
    #[error("the state is not saved: a signal came")]
    Interrupted,
}

impl SaveError {
    fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::File { doing, path, error }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Migration {
    status: String,
    error_desc: Option<String>,
    downtime: Option<u64>,
    ram: Option<Ram>,
}

#[derive(Deserialize)]
struct Ram {
    transferred: u64,
    normal: u64,
    duplicate: u64,
}

/// The file while it is not whole; it goes with this.
struct Unfinished {
    path: PathBuf,
    file: File,
    done: bool,
}

impl Unfinished {
    fn create(target: &Path) -> Result<Self, SaveError> {
        let mut path = OsString::from(target);
        path.push(".tmp");
        let path = PathBuf::from(path);
        let failed = |error| SaveError::file("write", &path)(error);
        // What was left by one that was killed is written anew. A guest's memory is nobody else's business.
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path)
            .map_err(failed)?;
        // The guest's process holds the lock as well, for as long as it writes.
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(SaveError::Taken(path)),
            Err(error) => return Err(failed(error.into())),
        }
        let kept = file.metadata().map_err(failed)?;
        let there =
            fs::symlink_metadata(&path).is_ok_and(|it| (it.dev(), it.ino()) == (kept.dev(), kept.ino()));
        if !kept.is_file() || !there {
            return Err(SaveError::Taken(path));
        }
        let unfinished = Self { path, file, done: false };
        unfinished.file.set_len(0).map_err(SaveError::file("empty", &unfinished.path))?;
        Ok(unfinished)
    }

    /// It is whole: gives it its name.
    fn finish(mut self, target: &Path, force: bool) -> Result<(), SaveError> {
        fsync(&self.file).map_err(|error| SaveError::file("write", &self.path)(error.into()))?;
        let flags = if force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let here = rustix::fs::CWD;
        let renamed = match renameat_with(here, &self.path, here, target, flags) {
            // A file system that cannot tell.
            Err(Errno::INVAL | Errno::NOSYS) if !target.exists() => fs::rename(&self.path, target),
            Err(Errno::EXIST) => return Err(SaveError::Exists(target.to_owned())),
            renamed => renamed.map_err(Into::into),
        };
        renamed.map_err(SaveError::file("write", target))?;
        self.done = true;
        let folder =
            target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(SaveError::file("keep the name of", target))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.done {
            // Nobody is left who could do anything about a failure; the next one writes it anew.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Args {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let there = fs::symlink_metadata(&self.file);
        if there.as_ref().is_ok_and(|there| !there.is_file()) {
            return Err(SaveError::Kind(self.file.clone()).into());
        }
        if !self.force && there.is_ok() {
            return Err(SaveError::Exists(self.file.clone()).into());
        }
        let mut client = Client::connect(self.qmp.path())?;
        let stopped = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&stopped))?;
        }
        let unfinished = Unfinished::create(&self.file)?;
        client.give("getfd", json!({"fdname": "state"}), &unfinished.file)?;
        client.ask("migrate", Some(json!({"uri": "fd:state"})))?;
        let done = wait(&mut client, &stopped)?;
        let bytes = unfinished.file.metadata().map_err(SaveError::file("look at", &unfinished.path))?.len();
        unfinished.finish(&self.file, self.force)?;
        let (pages, zeros) = done.ram.map_or((0, 0), |ram| (ram.normal, ram.duplicate));
        let stood = done.downtime.map_or_else(String::new, |ms| format!("; the guest stood for {ms} ms"));
        let file = self.file.display();
        let line = format!("saved to {file}: {bytes} bytes, {pages} pages and {zeros} that are zero{stood}");
        Ok(writeln!(io::stdout(), "{line}")?)
    }
}

/// Looks on until all is written. On a terminal the progress is shown.
fn wait(client: &mut Client, stopped: &AtomicBool) -> Result<Migration, Failure> {
    let style =
        ProgressStyle::with_template("{spinner} {binary_bytes} written, {binary_bytes_per_sec}, {elapsed}");
    let bar = ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    loop {
        if stopped.load(Ordering::Relaxed) {
            client.ask("migrate_cancel", None)?;
            return Err(SaveError::Interrupted.into());
        }
        let migration: Migration = serde_json::from_value(client.ask("query-migrate", None)?)?;
        if let Some(ram) = &migration.ram {
            bar.set_position(ram.transferred);
        }
        match migration.status.as_str() {
            "completed" => {
                bar.finish_and_clear();
                return Ok(migration);
            }
            "setup" | "active" => sleep(Duration::from_millis(50)),
            other => {
                let why = migration.error_desc.unwrap_or_else(|| format!("its state is {other}"));
                return Err(SaveError::Failed(why).into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_is_not_finished_goes_and_what_is_has_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let (target, temporary) = (directory.path().join("s"), directory.path().join("s.tmp"));
        fs::write(&temporary, "left behind").unwrap();
        let mut unfinished = Unfinished::create(&target).unwrap();
        assert!(matches!(Unfinished::create(&target), Err(SaveError::Taken(_))), "one at a time");
        assert_eq!(fs::metadata(&temporary).unwrap().len(), 0);
        drop(unfinished);
        assert!(!temporary.exists());
        unfinished = Unfinished::create(&target).unwrap();
        assert_eq!(fs::metadata(&temporary).unwrap().permissions().mode() & 0o777, 0o600);
        (&unfinished.file).write_all(b"whole").unwrap();
        unfinished.finish(&target, false).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"whole");
        assert!(!temporary.exists());
    }

    #[test]
    fn a_file_is_replaced_if_that_was_said() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("s");
        let unfinished = Unfinished::create(&target).unwrap();
        // It came meanwhile.
        fs::write(&target, "mine").unwrap();
        assert!(matches!(unfinished.finish(&target, false), Err(SaveError::Exists(_))));
        assert_eq!(fs::read(&target).unwrap(), b"mine");
        Unfinished::create(&target).unwrap().finish(&target, true).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"");
        std::os::unix::fs::symlink("/dev/null", directory.path().join("t.tmp")).unwrap();
        assert!(matches!(Unfinished::create(&directory.path().join("t")), Err(SaveError::File { .. })));
    }
}
