//! What can go wrong with a request, as a number.

use std::fmt;
use std::io::{self, ErrorKind};

/// The protocol's errors. Their numbers are Linux's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Errno {
    /// Not allowed: the export cannot be written.
    Perm = 1,
    /// The disk failed.
    Io = 5,
    /// No memory.
    Nomem = 12,
    /// The request is wrong.
    Inval = 22,
    /// No space, or beyond the end.
    Nospc = 28,
    /// Too much for one chunk.
    Overflow = 75,
    /// Not done here, or not fast.
    Notsup = 95,
    /// The server is about to end.
    Shutdown = 108,
}

impl Errno {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Perm,
        Self::Io,
        Self::Nomem,
        Self::Inval,
        Self::Nospc,
        Self::Overflow,
        Self::Notsup,
        Self::Shutdown,
    ];

    /// Of a number that a peer sent. What the protocol does not know is "wrong", as it demands.
    pub fn from_number(number: u32) -> Self {
        Self::ALL.into_iter().find(|errno| *errno as u32 == number).unwrap_or(Self::Inval)
    }

    /// What a peer is told of an error of this host.
    pub fn of(error: &io::Error) -> Self {
        use rustix::io::Errno as Os;
        if let Some(os) = Os::from_io_error(error) {
            return match os {
                Os::PERM | Os::ACCESS | Os::ROFS => Self::Perm,
                Os::NOMEM => Self::Nomem,
                Os::INVAL => Self::Inval,
                Os::NOSPC | Os::DQUOT | Os::FBIG => Self::Nospc,
                Os::OVERFLOW => Self::Overflow,
                Os::OPNOTSUPP | Os::NOSYS => Self::Notsup,
                Os::SHUTDOWN => Self::Shutdown,
                _ => Self::Io,
            };
        }
        match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Self::Perm,
            ErrorKind::OutOfMemory => Self::Nomem,
            ErrorKind::InvalidInput => Self::Inval,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Self::Nospc,
            ErrorKind::Unsupported => Self::Notsup,
            _ => Self::Io,
        }
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno as i32)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Perm => "it cannot be written (EPERM)",
            Self::Io => "the disk failed (EIO)",
            Self::Nomem => "memory is short (ENOMEM)",
            Self::Inval => "the request is wrong (EINVAL)",
            Self::Nospc => "there is no space (ENOSPC)",
            Self::Overflow => "it is too much at once (EOVERFLOW)",
            Self::Notsup => "it is not supported (ENOTSUP)",
            Self::Shutdown => "the server is about to end (ESHUTDOWN)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_way_through_this_host_and_the_wire() {
        for errno in Errno::ALL {
            assert_eq!(Errno::of(&io::Error::from(errno)), errno);
            assert_eq!(Errno::from_number(errno as u32), errno);
        }
        assert_eq!(Errno::of(&rustix::io::Errno::ROFS.into()), Errno::Perm);
        assert_eq!(Errno::of(&ErrorKind::StorageFull.into()), Errno::Nospc);
        assert_eq!(Errno::of(&ErrorKind::UnexpectedEof.into()), Errno::Io);
        assert_eq!(Errno::from_number(3), Errno::Inval);
    }
}
