//! Descriptors that a client sends along with its words (unix(7), `SCM_RIGHTS`), and calls by names.
//!
//! ```text
//!   bytes + descriptor ── receive ──► pending (the last one) ── getfd NAME ──► named (≤ 4) ── migrate ──► taken
//!                                                                                └ closefd ──► closed
//! ```
//!
//! All of a client's are closed when it goes.

use super::command::FdName;
use super::request::Refusal;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// Names at one time.
const MOST: usize = 4;

/// A client's.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    pending: Option<OwnedFd>,
    named: Vec<(FdName, OwnedFd)>,
}

impl Descriptors {
    /// Reads what a client sent. Of several descriptors that come with one message the first is kept; one
    /// that nobody has named when the next comes is closed.
    pub(super) fn receive(&mut self, socket: &UnixStream, bytes: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        // The kernel closes what finds no room.
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut sent) = message
                && let Some(first) = sent.next()
            {
                self.pending = Some(first);
            }
        }
        Ok(received.bytes)
    }

    /// Gives the one that came last a name; one that had it is closed.
    pub(super) fn name(&mut self, name: FdName) -> Result<(), Refusal> {
        let others = self.named.iter().filter(|(other, _)| *other != name).count();
        if others >= MOST {
            return Err(Refusal::generic(format!(
                "{MOST} descriptors have names, and there is no room for more; closefd one of them"
            )));
        }
        let Some(fd) = self.pending.take() else {
            return Err(Refusal::generic(
                "no descriptor came; send it with the command (sendmsg with SCM_RIGHTS), or before it",
            ));
        };
        self.named.retain(|(other, _)| *other != name);
        self.named.push((name, fd));
        Ok(())
    }

    /// Takes the one of this name.
    pub(super) fn take(&mut self, name: &FdName) -> Result<OwnedFd, Refusal> {
        let at = self.named.iter().position(|(other, _)| other == name);
        let at = at.ok_or_else(|| {
            Refusal::generic(format!(
                "no descriptor of this client is called {:?}; send it with getfd first",
                name.as_str()
            ))
        })?;
        Ok(self.named.swap_remove(at).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::io::{IoSlice, Read as _};
    use std::os::fd::AsFd as _;

    fn name(text: &str) -> FdName {
        text.to_owned().try_into().unwrap()
    }

    /// Sends this many writing ends of one pipe, whose reading end is at its end once all are closed.
    fn send(socket: &UnixStream, count: usize) -> io::PipeReader {
        let (reader, writer) = io::pipe().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let all = vec![writer.as_fd(); count];
        assert!(control.push(SendAncillaryMessage::ScmRights(&all)));
        sendmsg(socket, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
        reader
    }

    fn is_closed(mut reader: &io::PipeReader) -> bool {
        rustix::io::ioctl_fionbio(reader, true).unwrap();
        matches!(reader.read(&mut [0]), Ok(0))
    }

    #[test]
    fn the_last_is_named_and_what_is_too_much_is_closed() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut descriptors = Descriptors::default();
        assert!(descriptors.name(name("a")).is_err(), "none came");
        let first = send(&theirs, 1);
        assert_eq!(descriptors.receive(&ours, &mut [0; 64]).unwrap(), 1);
        assert!(!is_closed(&first));
        let second = send(&theirs, 8);
        descriptors.receive(&ours, &mut [0; 64]).unwrap();
        assert!(is_closed(&first), "it was not named in time");
        descriptors.name(name("a")).unwrap();
        assert!(descriptors.name(name("a")).is_err(), "it has a name already");
        let kept = descriptors.take(&name("a")).unwrap();
        assert!(!is_closed(&second));
        drop(kept);
        assert!(is_closed(&second), "one of eight was kept");
        assert!(descriptors.take(&name("a")).is_err());
    }

    #[test]
    fn four_have_names_and_a_name_is_given_anew() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut descriptors = Descriptors::default();
        let mut give = |text: &str| {
            let reader = send(&theirs, 1);
            descriptors.receive(&ours, &mut [0; 64]).unwrap();
            (reader, descriptors.name(name(text)).is_ok())
        };
        let (first, _) = give("a");
        assert!(["b", "c", "d"].map(|text| give(text).1).iter().all(|&given| given));
        assert!(!give("e").1);
        assert!(!is_closed(&first));
        assert!(give("a").1);
        assert!(is_closed(&first), "another has its name");
    }
}
