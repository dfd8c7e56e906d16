//! A comparator that goes on when the command that began it is done.
//!
//! ```text
//!   setup ── starts ──► run --detached     in a session of its own, with a log for its stderr
//!     │ ◄── a line for each NIC ──┤
//!     │ ◄── an empty line ────────┤        it runs
//!     ▼                           ▼
//!   done                        goes on until teardown
//! ```

use super::spec::Spec;
use crate::setup::{SetupError, Store};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, set_parent_process_death_signal, setsid};
use rustix::stdio::dup2_stdout;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use thiserror::Error;

/// A comparator that could not be left running.
#[derive(Debug, Error)]
pub enum DetachError {
    /// It cannot be started.
    #[error("cannot start {} in the background: {error}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Its log cannot be written.
    #[error("cannot write the log {}: {error}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It ended before it was ready.
    #[error("{0}")]
    Ended(String),
    /// There is no place for its log.
    #[error(transparent)]
    Place(#[from] SetupError),
}

/// The longest log that is kept of the process before.
const OLD_LOG: u64 = 1 << 20;

/// Starts `program` with `args`, which make it protect this and call [`ready`], and waits until it does.
/// Gives the lines that it said. Its log is beside its control socket until it is torn down.
pub fn spawn(program: &Path, args: &[OsString], spec: &Spec) -> Result<Vec<String>, DetachError> {
    let store = Store::open(&spec.places)?;
    let log = store.folder().join(spec.file("log"));
    // It may be that of a process that runs, and that this one is refused because of.
    let is_ours = !log.exists();
    let outcome = spawn_with(program, args, &log);
    if is_ours && matches!(outcome, Err(DetachError::Ended(_))) {
        // What it said is said again by who asked for it.
        let _ = fs::remove_file(&log);
    }
    store.tidy()?;
    outcome
}

fn spawn_with(program: &Path, args: &[OsString], log: &Path) -> Result<Vec<String>, DetachError> {
    let logged = |error| DetachError::Log { path: log.to_owned(), error };
    if fs::metadata(log).is_ok_and(|file| file.len() > OLD_LOG) {
        fs::remove_file(log).map_err(logged)?;
    }
    let mut file = File::options().create(true).append(true).open(log).map_err(logged)?;
    let begin = file.seek(SeekFrom::End(0)).map_err(logged)?;
    let started = |error| DetachError::Start { program: program.to_owned(), error };
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file)
        .spawn()
        .map_err(started)?;
    let mut lines = Vec::new();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            match line {
                Ok(line) if line.is_empty() => return Ok(lines),
                Ok(line) => lines.push(line),
                Err(_) => break,
            }
        }
    }
    let status = child.wait().map_err(started)?;
    Err(DetachError::Ended(last_words(log, begin).unwrap_or_else(|| format!("it ended with {status}"))))
}

/// What it wrote to its log, without the word that introduces an error.
fn last_words(log: &Path, begin: u64) -> Option<String> {
    let text = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(text.get(usize::try_from(begin).ok()?..)?).into_owned();
    let last = text.lines().rfind(|line| !line.trim().is_empty())?;
    Some(last.strip_prefix("error: ").unwrap_or(last).to_owned())
}

/// Until it is [`ready`], this process ends with the command that began it: who interrupts that wants
/// nothing to be set up.
pub fn until_ready() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // One that was gone before that sends no signal; but nobody reads what we say.
    let stdout = io::stdout();
    let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec::default()))?;
    if fds[0].revents().contains(PollFlags::ERR) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    Ok(())
}

/// Tells the command that began this process that it runs, and lets go of it.
pub fn ready(lines: &[String]) -> io::Result<()> {
    set_parent_process_death_signal(None)?;
    // One that leads a session already need not begin another.
    let _ = setsid();
    // Paths that were given are open or absolute by now, and no file system is to be kept busy.
    std::env::set_current_dir("/")?;
    let mut output = io::stdout().lock();
    for line in lines {
        writeln!(output, "{line}")?;
    }
    writeln!(output)?;
    output.flush()?;
    dup2_stdout(File::options().write(true).open("/dev/null")?)?;
    Ok(())
}
