//! The `clsact` qdisc of a link: the place of filters that see all its frames, others' as well as ours.

use super::netlink::{ANSWER, Link, LinkError, Netlink};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcHandle, TcMessage};
use rustix::io::Errno;
use std::io;

/// The type of a message that tells of a filter (`RTM_NEWTFILTER`).
const FILTER: u16 = 44;
/// Bytes of a message's header (`netlink(7)`).
const HEADER: usize = 16;

impl Netlink {
    /// Removes the `clsact` qdisc of a link unless it has filters, which are others'. False if it has,
    /// or is gone already.
    ///
    /// The kernel has no way to ask for both in one: a filter that is added in between goes with it.
    pub fn remove_bare_clsact(&mut self, link: &Link) -> Result<bool, LinkError> {
        let what = || format!("remove the clsact qdisc of {}", link.name);
        let refused = |error| LinkError::Refused { what: what(), error };
        for minor in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
            if self.has_filters(link, minor).map_err(refused)? {
                return Ok(false);
            }
        }
        let mut message = TcMessage::with_index(link.index as i32);
        message.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
        message.header.parent = TcHandle::CLSACT;
        match self.ask(RouteNetlinkMessage::DelQueueDiscipline(message), NLM_F_REQUEST | NLM_F_ACK) {
            Ok(_) => Ok(true),
            Err(error) if is(&error, Errno::NOENT) || is(&error, Errno::INVAL) => Ok(false),
            Err(error) => Err(refused(error)),
        }
    }

    /// Whether there is a filter at one end of the qdisc. Only the messages' types are read: what is
    /// in another's filter is none of our business.
    fn has_filters(&mut self, link: &Link, minor: u16) -> io::Result<bool> {
        let mut message = TcMessage::with_index(link.index as i32);
        message.header.parent = TcHandle { major: TcHandle::CLSACT.major, minor };
        self.send(RouteNetlinkMessage::GetTrafficFilter(message), NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut found = false;
        let mut answer = Vec::with_capacity(ANSWER);
        loop {
            answer.clear();
            self.socket.recv(&mut answer, 0)?;
            let mut rest = answer.as_slice();
            while let Some((length, kind, sequence)) = header(rest) {
                if sequence == self.sequence {
                    match kind {
                        FILTER => found = true,
                        NLMSG_DONE => return Ok(found),
                        // There is no such qdisc, or no such link.
                        NLMSG_ERROR => return Ok(false),
                        _ => {}
                    }
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// Length, type and sequence number of the first message.
fn header(bytes: &[u8]) -> Option<(usize, u16, u32)> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    (length >= HEADER).then_some((length, kind, sequence))
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
