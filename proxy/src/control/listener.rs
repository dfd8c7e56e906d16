//! The control socket and the metrics' address: where a node listens.

use crate::listener::{ListenError, Listener};
use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A socket that cannot be listened on.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error("a colo-proxy of this name runs already (it listens on {}); stop it, or choose another --name", .0.display())]
    Running(PathBuf),
    /// What is there is not ours to remove.
    #[error("{} exists and is not a socket; remove it, or choose another --name or --run-dir", .0.display())]
    NotASocket(PathBuf),
    /// Everything else.
    #[error("cannot {doing} for the control socket {}: {error}; choose a --run-dir that this user may write to, with a path of less than 108 bytes", path.display())]
    Failed {
        /// What was tried.
        doing: &'static str,
        /// For which socket.
        path: PathBuf,
        /// What came of it.
        error: io::Error,
    },
    /// The metrics' address.
    #[error("cannot serve metrics on {0}: {1}; choose another --metrics HOST:PORT")]
    Metrics(SocketAddr, io::Error),
}

/// Where metrics are served, listening.
#[derive(Debug)]
pub struct MetricsListener(pub(super) std::net::TcpListener);

impl MetricsListener {
    /// Listens.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let failed = |error| BindError::Metrics(address, error);
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self(listener))
    }

    /// Where: with the port that was chosen, if port 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl From<ListenError> for BindError {
    fn from(error: ListenError) -> Self {
        match error {
            ListenError::Taken(path) => Self::Running(path),
            ListenError::NotASocket(path) => Self::NotASocket(path),
            ListenError::Failed { doing, path, error } => Self::Failed { doing, path, error },
        }
    }
}

/// Listens on a control socket; makes its directory if need be.
pub fn listen(path: &Path) -> Result<Listener, BindError> {
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o755).create(directory).map_err(|error| BindError::Failed {
            doing: "make the directory",
            path: path.into(),
            error,
        })?;
    }
    Ok(Listener::bind(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_directory_is_made_and_one_node_of_a_name_runs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/er/web.sock");
        let _alive = listen(&path).unwrap();
        let error = listen(&path).unwrap_err().to_string();
        assert!(error.starts_with("a colo-proxy of this name runs already"), "{error}");
    }

    #[test]
    fn errors_say_what_was_tried() {
        let directory = tempfile::tempdir().unwrap();
        let error = listen(&directory.path().join("x".repeat(120))).unwrap_err().to_string();
        assert!(error.starts_with("cannot bind") && error.contains("108 bytes"), "{error}");
        let taken = MetricsListener::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let error = MetricsListener::bind(taken.address().unwrap()).unwrap_err().to_string();
        assert!(error.contains("cannot serve metrics on 127.0.0.1:"), "{error}");
    }
}
