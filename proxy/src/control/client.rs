//! Finds the processes that run in this network namespace, and asks them.
//!
//! ```text
//!   <run>/<inode of the network namespace>/web.sock ─► status ─┐
//!                                          db.sock  ─► status ─┼─► Survey ─► which one is meant
//!   set-ups without a process ────────────► Orphans ───────────┘
//! ```

use super::protocol::{Answer, Reply, Request};
use super::status::NodeStatus;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// How long a process may take for an answer; longer than it gives itself, so that it can say why.
const PATIENCE: Duration = Duration::from_secs(12);
/// The longest answer: 101 NICs with 1000 flows each fit.
const MAX_ANSWER: u64 = 64 << 20;

/// The set-ups that were left without a process, below this run directory.
pub type Orphans<'a> = &'a dyn Fn(&Path) -> Vec<NodeStatus>;

/// Why a question has no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Which network namespace this is.
    #[error("cannot tell the network namespace (/proc/thread-self/ns/net): {0}; is /proc mounted?")]
    Namespace(io::Error),
    /// The directory of the sockets.
    #[error("cannot look for control sockets in {}: {error}; are you root? (--run-dir names another place)", path.display())]
    Directory {
        /// Where.
        path: PathBuf,
        /// What came of it.
        error: io::Error,
    },
    /// A process that cannot be talked to.
    #[error("cannot {doing} {}: {error}; {}", socket.display(), advice(error))]
    Talk {
        /// What was tried.
        doing: &'static str,
        /// With whom.
        socket: PathBuf,
        /// What came of it.
        error: io::Error,
    },
    /// It answered something else.
    #[error("{} answers in a language of its own ({what}); is it another version of colo-proxy?", socket.display())]
    Language {
        /// Who.
        socket: PathBuf,
        /// What was odd.
        what: String,
    },
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// Nobody is meant by it.
    #[error(
        "no colo-proxy runs here{wanted}; running: {running}; start one with 'colo-proxy run --vif VIF --forward DEV'{}",
        other_namespace(running)
    )]
    Nobody {
        /// Whom it was about.
        wanted: Wanted,
        /// Who runs.
        running: Names,
    },
    /// Somebody is there who could be meant, and does not say.
    #[error("cannot tell who runs here{wanted}: {}", why.join("; "))]
    Unheard {
        /// Whom it was about.
        wanted: Wanted,
        /// Why they do not say.
        why: Vec<String>,
    },
    /// Several could be meant.
    #[error("which guest? Running: {0}; choose one with --name or --vif")]
    Several(Names),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "only the user it runs as may talk to it; try as root (sudo)",
        ErrorKind::ConnectionRefused => "the process is gone and left its socket behind",
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "the process hangs or is very busy, look at its log",
        _ => "look at the process's log",
    }
}

fn other_namespace(running: &Names) -> &'static str {
    if running.0.is_empty() { " (or look in the network namespace where the vif is)" } else { "" }
}

/// Guests, and their vifs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names(Vec<(String, Vec<String>)>);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let texts: Vec<String> =
            self.0.iter().map(|(guest, vifs)| format!("{guest} ({})", vifs.join(", "))).collect();
        f.write_str(&texts.join(", "))
    }
}

/// Which guest is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Any, or all.
    #[default]
    Any,
    /// The one with this interface.
    Vif(String),
    /// The one of this name.
    Name(String),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => Ok(()),
            Self::Vif(vif) => write!(f, " for vif {vif}"),
            Self::Name(name) => write!(f, " for a guest named {name}"),
        }
    }
}

impl Wanted {
    fn is(&self, guest: &super::status::GuestStatus) -> bool {
        match self {
            Self::Any => true,
            Self::Vif(vif) => guest.nics.iter().any(|nic| nic.vif == *vif),
            Self::Name(name) => guest.name == *name,
        }
    }

    /// What of this is meant: nodes with only those guests.
    fn of(&self, mut node: NodeStatus) -> Option<NodeStatus> {
        node.guests.retain(|guest| self.is(guest));
        (!node.guests.is_empty()).then_some(node)
    }
}

/// Where the processes of this network namespace keep their control sockets.
pub fn directory(run: &Path) -> Result<PathBuf, ClientError> {
    let namespace = fs::metadata("/proc/thread-self/ns/net").map_err(ClientError::Namespace)?;
    Ok(run.join(namespace.ino().to_string()))
}

/// Asks one process.
pub fn ask(socket: &Path, request: &Request) -> Result<Answer, ClientError> {
    ask_within(socket, request, PATIENCE)
}

/// Asks one process; each step may take this long.
pub fn ask_within(socket: &Path, request: &Request, patience: Duration) -> Result<Answer, ClientError> {
    let failed = |doing| move |error: io::Error| ClientError::Talk { doing, socket: socket.into(), error };
    let odd = |what: String| ClientError::Language { socket: socket.into(), what };
    let mut stream = open(socket, patience).map_err(failed("connect to"))?;
    let mut line = serde_json::to_vec(request).map_err(|error| odd(error.to_string()))?;
    line.push(b'\n');
    // Who is one too many is told so without having been heard, and then the line cannot be sent.
    let sent = stream.write_all(&line);
    let mut answer = Vec::new();
    let read = BufReader::new(stream).take(MAX_ANSWER).read_until(b'\n', &mut answer);
    if answer.is_empty() {
        sent.map_err(failed("write to"))?;
    }
    read.map_err(failed("read from"))?;
    if answer.last() != Some(&b'\n') {
        return Err(failed("read from")(ErrorKind::UnexpectedEof.into()));
    }
    match serde_json::from_slice(&answer).map_err(|error| odd(error.to_string()))? {
        Reply::Ok(answer) => Ok(answer),
        Reply::Error(why) => Err(ClientError::Refused(why)),
    }
}

fn open(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // A connection waits for room in the queue of a process that hangs: as long as a send may.
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(patience))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// A process that answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// Its control socket.
    pub socket: PathBuf,
    /// What it says.
    pub status: NodeStatus,
}

/// All that is protected in this network namespace.
#[derive(Debug, Default)]
pub struct Survey {
    /// Processes that answered.
    pub running: Vec<Process>,
    /// Set-ups without a process.
    pub orphans: Vec<NodeStatus>,
    /// Processes that are there and did not answer.
    pub silent: Vec<ClientError>,
}

impl Survey {
    /// Asks everybody. A socket that a dead process left behind counts for nothing.
    pub fn take(run: &Path, orphans: Orphans<'_>) -> Result<Self, ClientError> {
        let mut survey = Self::default();
        for socket in sockets(&directory(run)?)? {
            match ask(&socket, &Request::Status {}) {
                Ok(Answer::Status(status)) => survey.running.push(Process { socket, status: *status }),
                Ok(other) => {
                    let what = format!("to status it says {other:?}");
                    survey.silent.push(ClientError::Language { socket, what });
                }
                Err(ClientError::Talk { error, .. })
                    if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => {}
                Err(error) => survey.silent.push(error),
            }
        }
        let vifs = |node: &NodeStatus| -> BTreeSet<String> {
            node.guests.iter().flat_map(|guest| &guest.nics).map(|nic| nic.vif.clone()).collect()
        };
        let served: BTreeSet<String> = survey.running.iter().flat_map(|one| vifs(&one.status)).collect();
        survey.orphans = orphans(run).into_iter().filter(|node| vifs(node).is_disjoint(&served)).collect();
        Ok(survey)
    }

    /// What they say of those that are meant, running ones first.
    pub fn nodes(self, wanted: &Wanted) -> Result<Vec<NodeStatus>, ClientError> {
        let nobody = self.nobody(wanted);
        let all = self.running.into_iter().map(|one| one.status).chain(self.orphans);
        let nodes: Vec<NodeStatus> = match wanted {
            Wanted::Any => all.collect(),
            _ => all.filter_map(|node| wanted.of(node)).collect(),
        };
        if nodes.is_empty() && *wanted != Wanted::Any {
            return Err(nobody);
        }
        Ok(nodes)
    }

    /// The process and the guest that are meant: exactly one.
    pub fn guest(&self, wanted: &Wanted) -> Result<(&Path, &str), ClientError> {
        let all = self.running.iter().flat_map(|one| {
            one.status
                .guests
                .iter()
                .filter(|guest| wanted.is(guest))
                .map(|guest| (&*one.socket, &*guest.name))
        });
        let all: Vec<(&Path, &str)> = all.collect();
        match all[..] {
            [only] => Ok(only),
            [] => Err(self.nobody(wanted)),
            _ => Err(ClientError::Several(self.names())),
        }
    }

    /// That none of those who answered is meant. One who does not answer may be.
    fn nobody(&self, wanted: &Wanted) -> ClientError {
        let wanted = wanted.clone();
        match &self.silent[..] {
            [] => ClientError::Nobody { wanted, running: self.names() },
            silent => ClientError::Unheard { wanted, why: silent.iter().map(ToString::to_string).collect() },
        }
    }

    fn names(&self) -> Names {
        let guests = self.running.iter().flat_map(|one| &one.status.guests);
        let vifs =
            |guest: &super::status::GuestStatus| guest.nics.iter().map(|nic| nic.vif.clone()).collect();
        Names(guests.map(|guest| (guest.name.clone(), vifs(guest))).collect())
    }
}

/// The control sockets in a directory, in order. None if there is no directory.
fn sockets(directory: &Path) -> Result<Vec<PathBuf>, ClientError> {
    let failed = |error| ClientError::Directory { path: directory.into(), error };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut sockets = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "sock") {
            sockets.push(path);
        }
    }
    sockets.sort();
    Ok(sockets)
}
