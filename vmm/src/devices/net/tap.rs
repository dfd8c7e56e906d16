//! A tap with vnet headers, of one queue or several.
//!
//! ```text
//!   guest's queue pair n ◄──► descriptor n ─┐
//!                                           ├─ tap ── bridge, TC, …
//!   guest's queue pair m ◄──► descriptor m ─┘   (the kernel steers flows to queues that are in use)
//! ```

use super::features::Offloads;
use super::sys;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;

/// Bytes of the vnet header: `virtio_net_hdr_v1`.
pub const VNET_HDR: usize = 12;

/// A tap that cannot be had.
#[derive(Debug, Error)]
pub enum TapError {
    /// The device node cannot be opened.
    #[error("cannot open /dev/net/tun: {0}; is the tun module loaded, and may this process use it?")]
    Open(io::Error),
    /// There is none.
    #[error(
        "there is no tap {name}; make it with `ip tuntap add {name} mode tap vnet_hdr{}`", several(*queues)
    )]
    Missing {
        /// Which.
        name: String,
        /// How many queues were wanted.
        queues: u16,
    },
    /// Another process has it.
    #[error("the tap {name} is in use by another process; each guest needs a tap of its own")]
    Busy {
        /// Which.
        name: String,
    },
    /// It is of another kind.
    #[error(
        "{name} is no tap of {queues} queue(s): {error}; make one with `ip tuntap add NAME mode tap vnet_hdr{}`",
        several(*queues)
    )]
    Kind {
        /// Which.
        name: String,
        /// How many queues were wanted.
        queues: u16,
        /// What the kernel said.
        error: io::Error,
    },
    /// The kernel does not do it.
    #[error("cannot use the tap {name}: {error}; this needs CAP_NET_ADMIN, or a tap that this user owns")]
    Use {
        /// Which.
        name: String,
        /// What the kernel said.
        error: io::Error,
    },
}

/// What `ip tuntap` has to be told of a tap with queues.
fn several(queues: u16) -> &'static str {
    if queues > 1 { " multi_queue" } else { "" }
}

/// A tap, by its queues.
#[derive(Debug)]
pub struct Tap {
    name: String,
    queues: Vec<Queue>,
    /// Whether the kernel is told of offloads and of the queues in use.
    told: bool,
    /// Whether the kernel knows UDP segmentation (6.2).
    uso: bool,
}

#[derive(Debug)]
struct Queue {
    fd: OwnedFd,
    used: AtomicBool,
}

impl Tap {
    /// Opens a tap that somebody has made. The kernel would make one that nobody knows of where the name
    /// is a mistake.
    pub fn attach(name: &str, queues: u16) -> Result<Self, TapError> {
        let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None);
        match socket.and_then(|socket| name_to_index(socket, name)) {
            Err(Errno::NODEV) => Err(TapError::Missing { name: name.to_owned(), queues }),
            Err(errno) => Err(TapError::Use { name: name.to_owned(), error: errno.into() }),
            Ok(_) => Self::open(name, queues),
        }
    }

    /// Opens a tap, or makes one that goes away with it. `%d` in the name is replaced by a number.
    pub fn open(name: &str, queues: u16) -> Result<Self, TapError> {
        let queues = queues.max(1);
        let (first, mut name) = open_queue(name, queues > 1).or_else(|error| match error {
            // A tap made for several queues can serve one.
            TapError::Kind { .. } if queues == 1 => open_queue(name, true).map_err(|_| error),
            error => Err(error),
        })?;
        let mut all = vec![first];
        for _ in 1..queues {
            let (queue, same) = open_queue(&name, true)?;
            all.push(queue);
            name = same;
        }
        let first = all[0].fd.as_fd();
        let failed = |error: Errno| TapError::Use { name: name.clone(), error: error.into() };
        sys::set_vnet_header(first, VNET_HDR as i32).map_err(failed)?;
        let uso =
            sys::set_offload(first, Offloads { checksum: true, uso: true, ..Offloads::default() }.bits());
        sys::set_offload(first, 0).map_err(failed)?;
        Ok(Self { name, queues: all, told: true, uso: uso.is_ok() })
    }

    /// Sockets in a tap's place: each message is a frame with its vnet header. Whoever has the other ends
    /// takes and cuts whatever comes; nobody needs a right for that.
    pub fn of_sockets(name: &str, sockets: Vec<OwnedFd>) -> io::Result<Self> {
        if sockets.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a card needs a socket for its frames"));
        }
        for socket in &sockets {
            rustix::io::ioctl_fionbio(socket, true)?;
        }
        let queues = sockets.into_iter().map(|fd| Queue { fd, used: AtomicBool::new(true) }).collect();
        Ok(Self { name: name.into(), queues, told: false, uso: true })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many queues there are.
    pub fn queues(&self) -> u16 {
        self.queues.len() as u16
    }

    /// Whether the kernel can cut UDP.
    pub fn uso(&self) -> bool {
        self.uso
    }

    /// A queue's descriptor; it does not block.
    pub fn queue(&self, number: u16) -> Option<BorrowedFd<'_>> {
        self.queues.get(usize::from(number)).map(|queue| queue.fd.as_fd())
    }

    /// Says which unfinished frames the kernel may give to the guest.
    pub fn set_offloads(&self, offloads: Offloads) -> Result<(), TapError> {
        if !self.told {
            return Ok(());
        }
        let failed = |error: Errno| TapError::Use { name: self.name.clone(), error: error.into() };
        sys::set_offload(self.queues[0].fd.as_fd(), offloads.bits()).map_err(failed)
    }

    /// Lets the kernel steer flows to the first `count` queues only.
    pub fn use_queues(&self, count: u16) -> Result<(), TapError> {
        // The only queue of a tap is always in use.
        for (number, queue) in self.queues.iter().enumerate().skip(1) {
            let wanted = number < usize::from(count);
            if self.told && queue.used.load(Ordering::Relaxed) != wanted {
                sys::use_queue(queue.fd.as_fd(), wanted)
                    .map_err(|error| TapError::Use { name: self.name.clone(), error: error.into() })?;
                queue.used.store(wanted, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

fn open_queue(name: &str, several: bool) -> Result<(Queue, String), TapError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty())
        .map_err(|error| TapError::Open(error.into()))?;
    let own = || name.to_owned();
    let got = sys::attach(fd.as_fd(), name, several).map_err(|error| match error {
        Errno::BUSY => TapError::Busy { name: own() },
        Errno::INVAL => {
            TapError::Kind { name: own(), queues: if several { 2 } else { 1 }, error: error.into() }
        }
        error => TapError::Use { name: own(), error: error.into() },
    })?;
    Ok((Queue { fd, used: AtomicBool::new(true) }, got))
}
