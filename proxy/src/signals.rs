//! Signals as bytes in a socket, so that they are waited for together with everything else.

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::low_level::pipe;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// The signals that mean something to a comparer.
#[derive(Debug)]
pub(crate) struct Signals {
    stop: UnixStream,
    report: UnixStream,
}

impl Signals {
    /// Takes the signals over, for the whole process and for good.
    pub(crate) fn install() -> io::Result<Self> {
        let (stop, send_stop) = UnixStream::pair()?;
        let (report, send_report) = UnixStream::pair()?;
        pipe::register(SIGINT, send_stop.try_clone()?)?;
        pipe::register(SIGTERM, send_stop)?;
        pipe::register(SIGUSR1, send_report)?;
        Ok(Self { stop, report })
    }

    /// What to wait on.
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.stop.as_fd(), self.report.as_fd()]
    }

    /// Whether SIGINT or SIGTERM came.
    pub(crate) fn stop(&self) -> bool {
        came(&self.stop)
    }

    /// Whether SIGUSR1 came since the last call.
    pub(crate) fn report(&self) -> bool {
        came(&self.report)
    }
}

fn came(socket: &UnixStream) -> bool {
    let mut any = false;
    loop {
        match recv(socket, &mut [0; 64][..], RecvFlags::DONTWAIT) {
            Ok((1.., _)) => any = true,
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return any,
        }
    }
}
