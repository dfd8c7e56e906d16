//! A unix socket in the file system: who may use it, and whose it is.
//!
//! ```text
//!   lock the directory ─► is a file there? ─► nobody listens: remove it   ─► bind (0600), listen ─► unlock
//!                                          └► somebody does, or no socket: refuse
//! ```
//!
//! The lock keeps two processes of one path from both finding a dead socket and each removing the
//! other's. The mode is set before the name appears, so at no time can another user connect.

use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A socket that cannot be listened on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Somebody answers there.
    #[error("another process listens on {}; stop it, or choose another path", .0.display())]
    Taken(PathBuf),
    /// What is there is not ours to remove.
    #[error("{} exists and is not a socket; remove it, or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// Everything else.
    #[error("cannot {doing} for the socket {}: {error}; choose a path in a directory that exists and that this user may write to", path.display())]
    Failed {
        /// What was tried.
        doing: &'static str,
        /// For which socket.
        path: PathBuf,
        /// What came of it.
        error: io::Error,
    },
}

/// A socket that is listened on, without blocking. Its file goes when this does.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl Listener {
    /// Listens on this path, in a directory that exists; replaces a socket that a dead process left behind.
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let failed = |doing| move |error: io::Error| ListenError::Failed { doing, path: path.into(), error };
        let errno = |doing| move |errno: Errno| failed(doing)(errno.into());
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let lock =
            open(directory.unwrap_or(Path::new(".")), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(errno("open the directory"))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(errno("lock the directory"))?;
        remove_stale(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(errno("make a socket"))?;
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(errno("set the mode"))?;
        let address = SocketAddrUnix::new(path).map_err(errno("bind"))?;
        bind(&socket, &address).map_err(errno("bind"))?;
        let file = fs::symlink_metadata(path).map_err(failed("look at the file"))?;
        // From here on the file is removed if anything fails.
        let listener = Self {
            socket: UnixListener::from(socket),
            path: path.to_owned(),
            identity: (file.dev(), file.ino()),
        };
        listen(&listener.socket, 32).map_err(errno("listen"))?;
        Ok(listener)
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket itself, for those who accept in their own way.
    pub(crate) fn socket(&self) -> &UnixListener {
        &self.socket
    }

    /// The next client, if one waits; its socket does not block either.
    pub fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.socket.accept() {
            Ok((client, _)) => {
                client.set_nonblocking(true)?;
                Ok(Some(client))
            }
            // A client that has gone again is none.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let own = |file: fs::Metadata| (file.dev(), file.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(own) {
            // Nobody is left who could do anything about a failure; the next one replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes room at a path where nobody listens any more.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let failed = |doing| move |error: io::Error| ListenError::Failed { doing, path: path.into(), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look for an older one")(error)),
        Ok(file) if !file.file_type().is_socket() => return Err(ListenError::NotASocket(path.into())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!("{} was left behind by a process that is gone; it is replaced", path.display());
            fs::remove_file(path).map_err(failed("remove an older one"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(failed("connect to an older one")(error))
        }
        _ => Err(ListenError::Taken(path.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn only_the_owner_may_connect_and_the_file_goes_with_the_listener() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.qmp");
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(listener.accept().unwrap().is_none(), "nobody is there, and it does not block");
        let _client = UnixStream::connect(listener.path()).unwrap();
        assert!(listener.accept().unwrap().is_some());
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_living_socket_is_left_alone_and_a_dead_one_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.qmp");
        let alive = Listener::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&path), Err(ListenError::Taken(_))));
        assert!(path.exists());
        drop(alive);
        // A std listener leaves its file behind, as a killed process does.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _replaced = Listener::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn of_many_that_find_a_dead_socket_one_gets_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.qmp");
        for _ in 0..20 {
            drop(UnixListener::bind(&path).unwrap());
            let start = std::sync::Barrier::new(4);
            let bound: Vec<_> = std::thread::scope(|scope| {
                let bind = || {
                    start.wait();
                    Listener::bind(&path)
                };
                let all: Vec<_> = (0..4).map(|_| scope.spawn(bind)).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            assert_eq!(bound.iter().filter(|one| one.is_ok()).count(), 1);
            UnixStream::connect(&path).unwrap();
            drop(bound);
            assert!(!path.exists());
        }
    }

    #[test]
    fn what_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.qmp");
        let listener = Listener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        drop(listener);
        assert!(matches!(Listener::bind(&path), Err(ListenError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        let error = Listener::bind(&directory.path().join("none/x")).unwrap_err().to_string();
        assert!(error.starts_with("cannot open the directory") && error.contains("No such file"), "{error}");
    }
}
