//! The notify protocol on its socket.

use crate::engine::Nanos;
use crate::quiet::{Quiet, quietly};
use crate::socket::notify::{Message, Notify};
use crate::socket::port::{Port, Role};
use crate::socket::{Endpoint, OpenError};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// A toolstack that performs checkpoints, or the place where one may come.
#[derive(Debug)]
pub(super) struct Conversation {
    port: Port,
    notify: Notify,
    unknown: Quiet,
}

impl Conversation {
    pub(super) fn open(endpoint: &Endpoint) -> Result<Self, OpenError> {
        let port = Port::open(Role::NotifyDev, endpoint)?;
        Ok(Self { port, notify: Notify::new(false), unknown: Quiet::default() })
    }

    /// What it does now, in words.
    pub(super) fn describe(&self) -> String {
        self.port.describe()
    }

    /// Whether somebody is there.
    pub(super) fn is_up(&self) -> bool {
        self.port.peer().is_some()
    }

    /// A checkpoint is needed.
    pub(super) fn request(&mut self) {
        self.notify.request();
    }

    /// None is needed any more.
    pub(super) fn settled(&mut self) {
        self.notify.settled();
    }

    /// What to wait for: for a newcomer, for the peer.
    pub(super) fn interests<'a>(&'a mut self, now: Nanos, fds: &mut Vec<PollFd<'a>>) -> Watched {
        let mut wants = PollFlags::empty();
        wants.set(PollFlags::IN, self.notify.room() > 0);
        wants.set(PollFlags::OUT, !self.notify.output(now).is_empty());
        let mut watched = Watched::default();
        if let Some((fd, flags)) = self.port.newcomer(now) {
            watched.newcomer = Some(fds.len());
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        if let Some(peer) = self.port.peer() {
            watched.peer = Some(fds.len());
            fds.push(PollFd::new(peer, wants));
        }
        watched
    }

    /// When something is to be done even if nothing happens.
    pub(super) fn deadline(&self, now: Nanos) -> Option<Nanos> {
        self.port.deadline(now).into_iter().chain(self.notify.deadline(now)).min()
    }

    /// Acts on what `poll` said, and gives what the peer said.
    pub(super) fn turn(&mut self, ready: Readiness, now: Nanos) -> Vec<Message> {
        if ready.peer {
            self.read(now);
        }
        if self.port.advance(ready.newcomer, now) {
            self.notify.connected(now);
        }
        let mut messages = self.messages(now);
        while self.write(now) {
            messages.append(&mut self.messages(now));
        }
        messages
    }

    fn read(&mut self, now: Nanos) {
        let mut buffer = [0; 4096];
        let room = self.notify.room().min(buffer.len());
        let Some(peer) = self.port.peer().filter(|_| room > 0) else { return };
        match recv(peer, &mut buffer[..room], RecvFlags::empty()) {
            Ok((0, _)) => self.lost(&"it closed the connection", now),
            Ok((count, _)) => self.notify.feed(&buffer[..count]),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(error) => self.lost(&error, now),
        }
    }

    fn messages(&mut self, now: Nanos) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            match self.notify.next_message() {
                Ok(None) => return messages,
                Ok(Some(Message::Unknown)) => quietly!(
                    self.unknown,
                    now,
                    warn,
                    "the notify peer sent a message that means nothing; COLO_CHECKPOINT, COLO_FAILOVER \
                     and COLO_USERSPACE_PROXY_INIT are known"
                ),
                Ok(Some(message)) => messages.push(message),
                Err(error) => {
                    self.lost(&error, now);
                    return messages;
                }
            }
        }
    }

    /// Writes what there is to say. Whether something was written.
    fn write(&mut self, now: Nanos) -> bool {
        let Some(peer) = self.port.peer() else { return false };
        let output = self.notify.output(now);
        if output.is_empty() {
            return false;
        }
        match send(peer, output, SendFlags::NOSIGNAL) {
            Ok(count) => {
                self.notify.wrote(count);
                true
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => false,
            Err(error) => {
                self.lost(&error, now);
                false
            }
        }
    }

    fn lost(&mut self, why: &dyn std::fmt::Display, now: Nanos) {
        self.notify.disconnected();
        self.port.down(why, now);
    }
}

/// Where its descriptors are in a list for `poll`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watched {
    newcomer: Option<usize>,
    peer: Option<usize>,
}

/// What `poll` said of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Readiness {
    newcomer: bool,
    peer: bool,
}

impl Readiness {
    /// Whether there is anything to be done about it.
    pub(super) fn is_any(self) -> bool {
        self.newcomer || self.peer
    }
}

impl Watched {
    pub(super) fn readiness(self, fds: &[PollFd<'_>]) -> Readiness {
        let is_ready = |place: Option<usize>| {
            place.and_then(|place| fds.get(place)).is_some_and(|fd| !fd.revents().is_empty())
        };
        Readiness { newcomer: is_ready(self.newcomer), peer: is_ready(self.peer) }
    }
}
