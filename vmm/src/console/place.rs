//! The places that a serial port can lead to, opened.

use super::pump::Opened;
use super::ring::Output;
use super::terminal::{self, Raw};
use crate::block::lock::{self, LockError, lock};
use crate::config;
use colo_proxy::listener::{ListenError, Listener};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What is kept for a reader who is slow or not there.
pub(super) const KEPT: usize = 256 << 10;

/// A console that cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file.
    #[error("cannot write the console to {}: {error}; choose another file:PATH", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The file, which is somebody's.
    #[error("the console cannot be {}: {why}; choose another file:PATH", path.display())]
    Taken {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        why: String,
    },
    /// The socket.
    #[error("no console: {0}")]
    Socket(#[from] ListenError),
    /// Everything else.
    #[error("cannot {what}: {error}; another --console may do: stdio, pty, file:PATH, unix:PATH, none")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
}

/// A place, open.
#[derive(Debug)]
pub(super) enum Place {
    /// Standard input and output; raw, if that is a terminal.
    Stdio(Option<Raw>),
    /// The master's side. The other side is kept open: a reader who goes leaves no hang-up behind.
    Pty { master: OwnedFd, _slave: OwnedFd },
    /// For output.
    File(File),
    /// For one client at a time.
    Unix { listener: Listener, client: Option<UnixStream> },
    /// Nothing is read or written.
    None,
}

/// Opens what is configured.
pub fn open(console: &config::Console) -> Result<Opened, OpenError> {
    let failed = |what| move |error: io::Error| OpenError::Failed { what, error };
    let errno = |what| move |error: rustix::io::Errno| failed(what)(error.into());
    let (place, described, capacity) = match console {
        config::Console::Stdio => {
            let raw = terminal::make_raw().map_err(failed("make the terminal raw"))?;
            let advice = raw.as_ref().map_or_else(String::new, |_| format!("; {}", super::escape::ADVICE));
            (Place::Stdio(raw), format!("console on this terminal{advice}"), KEPT)
        }
        config::Console::Pty => {
            let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
                .map_err(errno("make a pseudo-terminal"))?;
            grantpt(&master).and_then(|()| unlockpt(&master)).map_err(errno("unlock a pseudo-terminal"))?;
            let path = ptsname(&master, Vec::new()).map_err(errno("name a pseudo-terminal"))?;
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            let slave = rustix::fs::open(&path, flags, rustix::fs::Mode::empty())
                .map_err(errno("open a pseudo-terminal"))?;
            // Otherwise it would send the guest's output back as its input.
            let mut modes = tcgetattr(&slave).map_err(errno("read a pseudo-terminal's modes"))?;
            modes.make_raw();
            tcsetattr(&slave, OptionalActions::Now, &modes).map_err(errno("make a pseudo-terminal raw"))?;
            let flags = fcntl_getfl(&master).map_err(errno("read a pseudo-terminal's flags"))?;
            fcntl_setfl(&master, flags | OFlags::NONBLOCK).map_err(errno("set a pseudo-terminal's flags"))?;
            let described = format!("console on {}", path.to_string_lossy());
            (Place::Pty { master, _slave: slave }, described, KEPT)
        }
        config::Console::File(path) => {
            let file = open_file(path)?;
            (Place::File(file), format!("console in {}", path.display()), KEPT)
        }
        config::Console::Unix(endpoint) => {
            let listener = Listener::bind(endpoint.path())?;
            (Place::Unix { listener, client: None }, format!("console on {endpoint}"), KEPT)
        }
        config::Console::None => (Place::None, "no console".to_owned(), 0),
    };
    let output = Output::new(capacity).map_err(failed("make an eventfd"))?;
    Ok(Opened::new(place, described, output))
}

/// Opens a file to append to, for this guest alone.
fn open_file(path: &Path) -> Result<File, OpenError> {
    let failed = |error| OpenError::File { path: path.to_owned(), error };
    // What was said before is kept. A lock takes the right to read.
    let fifo = path.metadata().is_ok_and(|file| file.file_type().is_fifo());
    let mut options = OpenOptions::new();
    options.read(!fifo).append(true).create(true).mode(0o600);
    // A FIFO would wait for its reader, with no signal to end that.
    options.custom_flags(OFlags::NONBLOCK.bits() as i32);
    let file = options.open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_file() {
        // A disk is locked, this one's and others'; so is another guest's console.
        lock(&file, path, true).map_err(|error| match error {
            LockError::Taken { pids, .. } => {
                OpenError::Taken { path: path.to_owned(), why: format!("{} it", lock::holders(&pids)) }
            }
            LockError::Unable { source, .. } => failed(source),
        })?;
    }
    Ok(file)
}
