//! Where a socket is: `unix:PATH` or `tcp:HOST:PORT`, and whether we listen there or connect.
//!
//! ```text
//!   unix:/run/colo/pri.sock            listen (the default, as QEMU's server=on,wait=off)
//!   tcp:127.0.0.1:9001,server=off      connect, and connect again whenever the peer goes
//! ```

use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
use thiserror::Error;

/// An address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix stream socket in the file system.
    Unix(PathBuf),
    /// A TCP host and port, as text.
    Tcp(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp:{host}"),
        }
    }
}

/// An address, and who waits for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where.
    pub address: Address,
    /// Whether we listen; otherwise we connect.
    pub server: bool,
}

/// A text that names no endpoint.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{why}; write unix:PATH or tcp:HOST:PORT, and append ,server=off to connect instead of listening")]
pub struct EndpointError {
    why: String,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let error = |why: &str| Err(EndpointError { why: why.to_owned() });
        let (rest, server) = match text.rsplit_once(",server=") {
            None => (text, true),
            Some((rest, "on")) => (rest, true),
            Some((rest, "off")) => (rest, false),
            Some((_, other)) => return error(&format!("server={other} is neither on nor off")),
        };
        let address = match rest.split_once(':') {
            Some(("unix", "")) => return error("the path is empty"),
            Some(("unix", path)) => Address::Unix(PathBuf::from(path)),
            Some(("tcp", host)) => match host.rsplit_once(':') {
                Some(("", _)) => return error("the host is empty (0.0.0.0 or [::] is every interface)"),
                Some((_, port)) if port.parse::<u16>().is_ok() => Address::Tcp(host.to_owned()),
                _ => return error("the port is missing or not a number up to 65535"),
            },
            _ => return error(&format!("'{text}' is neither")),
        };
        Ok(Self { address, server })
    }
}

/// An endpoint that cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Somebody listens there.
    #[error("{0} is in use by a process that is alive; stop it, or choose another path")]
    InUse(Address),
    /// What is there is not ours to remove.
    #[error("{0} exists and is not a socket; remove it, or choose another path")]
    NotASocket(Address),
    /// A name without an address.
    #[error("cannot find the address of {0}: {1}; check the name, or write the address itself")]
    Resolve(Address, io::Error),
    /// Everything else.
    #[error("cannot listen on {0}: {1}; {hint}", hint = hint(.1))]
    Listen(Address, io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "choose a place that this user may write to",
        io::ErrorKind::NotFound => "make the directory first",
        io::ErrorKind::AddrInUse => "stop who listens there, or choose another port",
        io::ErrorKind::AddrNotAvailable => "choose an address of this host",
        io::ErrorKind::InvalidInput => "a socket's path has at most 107 bytes",
        _ => "choose another address",
    }
}

/// The file of a socket we listen on; removed with it, unless it is another one's by then.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // Nobody is left who could do anything about a failure.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener, SocketFile),
    Tcp(TcpListener),
}

/// A socket that peers connect to.
#[derive(Debug)]
pub struct Listener(Socket);

impl Listener {
    /// Listens. A unix socket that a dead process left behind is replaced.
    pub fn open(address: &Address) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Listen(address.clone(), error);
        let socket = match address {
            Address::Tcp(host) => {
                let listener = TcpListener::bind(host.as_str()).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                Socket::Tcp(listener)
            }
            Address::Unix(path) => {
                remove_stale(path, address)?;
                let listener = UnixListener::bind(path).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                let identity = identity(path).map_err(failed)?;
                Socket::Unix(listener, SocketFile { path: path.clone(), identity })
            }
        };
        Ok(Self(socket))
    }

    /// Where it listens: with the port that was chosen, if port 0 was asked for.
    pub fn address(&self) -> Address {
        match &self.0 {
            Socket::Unix(_, file) => Address::Unix(file.path.clone()),
            Socket::Tcp(listener) => Address::Tcp(
                listener.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string()),
            ),
        }
    }

    /// The next peer, if one waits.
    pub fn accept(&self) -> Result<Option<OwnedFd>, Errno> {
        match net::accept_with(self, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(peer) => {
                prepare(&peer, matches!(self.0, Socket::Tcp(_)));
                Ok(Some(peer))
            }
            Err(Errno::WOULDBLOCK | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Socket::Unix(listener, _) => listener.as_fd(),
            Socket::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// Makes room at a path where nobody listens any more.
fn remove_stale(path: &Path, address: &Address) -> Result<(), OpenError> {
    let Ok(file) = fs::symlink_metadata(path) else { return Ok(()) };
    if !file.file_type().is_socket() {
        return Err(OpenError::NotASocket(address.clone()));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!("{address} was left behind by a process that is gone; it is replaced");
            fs::remove_file(path).map_err(|error| OpenError::Listen(address.clone(), error))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(OpenError::Listen(address.clone(), error))
        }
        _ => Err(OpenError::InUse(address.clone())),
    }
}

/// How much output the kernel may keep for a unix peer. What it allows is taken.
const SEND_BUFFER: usize = 256 << 10;

/// Settings that make a connection better and whose failure makes it no worse.
fn prepare(peer: &OwnedFd, tcp: bool) {
    use rustix::net::sockopt::{
        set_socket_keepalive, set_socket_send_buffer_size, set_socket_send_buffer_size_force,
        set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_nodelay,
    };
    use std::time::Duration;
    if tcp {
        // Frames leave in batches already, and a host that died silently is to be noticed.
        let _ = set_tcp_nodelay(peer, true);
        let _ = set_socket_keepalive(peer, true)
            .and_then(|()| set_tcp_keepidle(peer, Duration::from_secs(10)))
            .and_then(|()| set_tcp_keepintvl(peer, Duration::from_secs(5)))
            .and_then(|()| set_tcp_keepcnt(peer, 3));
    } else if set_socket_send_buffer_size_force(peer, SEND_BUFFER).is_err() {
        let _ = set_socket_send_buffer_size(peer, SEND_BUFFER);
    }
}

/// Connects to where somebody else listens.
#[derive(Debug)]
pub struct Connector {
    targets: Vec<Target>,
    next: usize,
}

#[derive(Debug)]
enum Target {
    Unix(net::SocketAddrUnix),
    Tcp(SocketAddr),
}

/// What became of an attempt to connect.
#[derive(Debug)]
pub enum Attempt {
    /// The peer is there.
    Done(OwnedFd),
    /// It will be known once the socket is writable: see [`finish`].
    UnderWay(OwnedFd),
}

impl Connector {
    /// Finds the address. A name is looked up here once: a lookup can take long, and later there
    /// are frames to see to.
    pub fn open(address: &Address) -> Result<Self, OpenError> {
        let targets = match address {
            Address::Unix(path) => {
                let target = net::SocketAddrUnix::new(path);
                vec![Target::Unix(target.map_err(|error| OpenError::Resolve(address.clone(), error.into()))?)]
            }
            Address::Tcp(host) => {
                let found = host.to_socket_addrs().map_err(|e| OpenError::Resolve(address.clone(), e))?;
                found.map(Target::Tcp).collect()
            }
        };
        Ok(Self { targets, next: 0 })
    }

    /// Tries the next address without waiting.
    pub fn attempt(&mut self) -> Result<Attempt, Errno> {
        let index = self.next % self.targets.len().max(1);
        self.next = index + 1;
        let target = self.targets.get(index).ok_or(Errno::ADDRNOTAVAIL)?;
        let family = match target {
            Target::Unix(_) => AddressFamily::UNIX,
            Target::Tcp(SocketAddr::V4(_)) => AddressFamily::INET,
            Target::Tcp(SocketAddr::V6(_)) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
        prepare(&socket, matches!(target, Target::Tcp(_)));
        let connected = match target {
            Target::Unix(address) => net::connect(&socket, address),
            Target::Tcp(address) => net::connect(&socket, address),
        };
        match connected {
            Ok(()) => Ok(Attempt::Done(socket)),
            Err(Errno::INPROGRESS) => Ok(Attempt::UnderWay(socket)),
            Err(error) => Err(error),
        }
    }
}

/// Whether a connection that was under way has come to be.
pub fn finish(socket: &OwnedFd) -> Result<(), Errno> {
    net::sockopt::socket_error(socket)??;
    // A TCP socket that tries a port of its own host where nobody listens can meet itself there.
    if Some(net::getsockname(socket)?) == net::getpeername(socket)? {
        return Err(Errno::CONNREFUSED);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary() -> (tempfile::TempDir, Address) {
        let directory = tempfile::tempdir().unwrap();
        let address = Address::Unix(directory.path().join("socket"));
        (directory, address)
    }

    fn path(address: &Address) -> &Path {
        let Address::Unix(path) = address else { panic!("a unix socket") };
        path
    }

    #[test]
    fn reads_and_writes_endpoints() {
        let unix = |path: &str, server| Endpoint { address: Address::Unix(path.into()), server };
        let tcp = |host: &str, server| Endpoint { address: Address::Tcp(host.into()), server };
        assert_eq!("unix:/run/a.sock".parse(), Ok(unix("/run/a.sock", true)));
        assert_eq!("unix:a,b,server=on".parse(), Ok(unix("a,b", true)));
        assert_eq!("tcp:host.example:9001,server=off".parse(), Ok(tcp("host.example:9001", false)));
        assert_eq!("tcp:[::1]:9001".parse(), Ok(tcp("[::1]:9001", true)));
        for wrong in
            ["", "unix:", "/run/a", "tcp:9001", "tcp::9001", "tcp:a:b", "tcp:a:70000", "unix:a,server=no"]
        {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
        assert_eq!(tcp("[::1]:1", true).address.to_string(), "tcp:[::1]:1");
    }

    #[test]
    fn a_listener_removes_its_own_file_and_no_other() {
        let (_directory, address) = temporary();
        let listener = Listener::open(&address).unwrap();
        assert!(path(&address).exists());
        drop(listener);
        assert!(!path(&address).exists());

        let listener = Listener::open(&address).unwrap();
        fs::remove_file(path(&address)).unwrap();
        let _other = UnixListener::bind(path(&address)).unwrap();
        drop(listener);
        assert!(path(&address).exists());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let (_directory, address) = temporary();
        drop(UnixListener::bind(path(&address)).unwrap());
        let _alive = Listener::open(&address).unwrap();
        assert!(matches!(Listener::open(&address), Err(OpenError::InUse(_))));
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let (_directory, address) = temporary();
        fs::write(path(&address), "mine").unwrap();
        assert!(matches!(Listener::open(&address), Err(OpenError::NotASocket(_))));
        assert_eq!(fs::read(path(&address)).unwrap(), b"mine");
    }

    #[test]
    fn connects_over_tcp() {
        let listener = Listener::open(&Address::Tcp("127.0.0.1:0".into())).unwrap();
        let mut connector = Connector::open(&listener.address()).unwrap();
        let socket = match connector.attempt().unwrap() {
            Attempt::Done(socket) | Attempt::UnderWay(socket) => socket,
        };
        while listener.accept().unwrap().is_none() {}
        assert_eq!(finish(&socket), Ok(()));
    }

    #[test]
    fn a_socket_that_met_itself_is_no_connection() {
        let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let own = SocketAddr::try_from(net::getsockname(&socket).unwrap()).unwrap();
        net::connect(&socket, &own).unwrap();
        assert_eq!(finish(&socket), Err(Errno::CONNREFUSED));
    }

    #[test]
    fn nobody_there_is_an_error_at_once_for_unix() {
        let (_directory, address) = temporary();
        assert_eq!(Connector::open(&address).unwrap().attempt().unwrap_err(), Errno::NOENT);
    }
}
