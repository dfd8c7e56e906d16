//! Links by rtnetlink(7): one request, one answer.

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use std::io;
use thiserror::Error;

/// What is known of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number, which stays the same when it is renamed.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The longest packet, Ethernet header not included.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether somebody asked it to take in all frames (`IFF_PROMISC`).
    pub promiscuous: bool,
    /// The bridge (or bond, …) that it is a port of.
    pub master: Option<u32>,
    /// Its hardware address, if it has one like Ethernet's.
    pub mac: Option<[u8; 6]>,
    /// Frames that it dropped for want of room on their way out.
    pub tx_dropped: u64,
}

/// A link that cannot be read or changed.
#[derive(Debug, Error)]
pub enum LinkError {
    /// There is no such link.
    #[error("no network device {0}; 'ip link' lists those that there are")]
    Missing(String),
    /// The kernel says no.
    #[error("cannot {what}: {error}{}", hint(error))]
    Refused {
        /// What was tried.
        what: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// The kernel's answer makes no sense.
    #[error("cannot {what}: the kernel's answer is not one ({why})")]
    Garbled {
        /// What was tried.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(code) if code == Errno::PERM.raw_os_error() => "; this needs CAP_NET_ADMIN",
        Some(code) if code == Errno::BUSY.raw_os_error() => {
            "; the device belongs to another bridge or bond already"
        }
        _ => "",
    }
}

/// A conversation with the kernel about links of this network namespace.
#[derive(Debug)]
pub struct Netlink {
    pub(super) socket: Socket,
    pub(super) sequence: u32,
}

/// One answer, with its attributes, fits easily.
pub(super) const ANSWER: usize = 64 << 10;

impl Netlink {
    /// Begins one.
    pub fn open() -> Result<Self, LinkError> {
        let refused = |error| LinkError::Refused { what: "open a netlink socket".into(), error };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(refused)?;
        socket.bind_auto().map_err(refused)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(refused)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The link with this name.
    pub fn get(&mut self, name: &str) -> Result<Link, LinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        self.find(message, name)
    }

    /// The link with this number.
    pub fn get_by_index(&mut self, index: u32) -> Result<Link, LinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.find(message, &format!("number {index}"))
    }

    fn find(&mut self, message: LinkMessage, name: &str) -> Result<Link, LinkError> {
        let what = || format!("look at the network device {name}");
        let answer = match self.ask(RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST) {
            Err(error) if is_missing(&error) => return Err(LinkError::Missing(name.into())),
            answer => answer.map_err(|error| LinkError::Refused { what: what(), error })?,
        };
        match answer {
            Some(RouteNetlinkMessage::NewLink(link)) => Ok(read(link)),
            other => Err(LinkError::Garbled { what: what(), why: format!("{other:?}") }),
        }
    }

    /// Sets a link up or down.
    pub fn set_up(&mut self, link: &Link, up: bool) -> Result<(), LinkError> {
        let what = || format!("set {} {}", link.name, if up { "up" } else { "down" });
        self.set_flag(link, LinkFlags::Up, up).map_err(|error| LinkError::Refused { what: what(), error })
    }

    /// Lets a link take in frames for any address, or not.
    pub fn set_promiscuous(&mut self, link: &Link, on: bool) -> Result<(), LinkError> {
        let what = || format!("switch promiscuous mode of {} {}", link.name, if on { "on" } else { "off" });
        self.set_flag(link, LinkFlags::Promisc, on)
            .map_err(|error| LinkError::Refused { what: what(), error })
    }

    fn set_flag(&mut self, link: &Link, flag: LinkFlags, on: bool) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.header.change_mask = flag;
        message.header.flags = if on { flag } else { LinkFlags::empty() };
        self.change(message)
    }

    /// Makes a link a port of a bridge, or of none.
    pub fn set_master(&mut self, link: &Link, master: Option<&Link>) -> Result<(), LinkError> {
        let what = || match master {
            Some(master) => format!("make {} a port of {}", link.name, master.name),
            None => format!("take {} out of its bridge", link.name),
        };
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.attributes.push(LinkAttribute::Controller(master.map_or(0, |master| master.index)));
        self.change(message).map_err(|error| LinkError::Refused { what: what(), error })
    }

    /// Sets up a link that only ever carries frames of others: its queue, its MTU, and no addresses
    /// of its own, so that the kernel sends nothing there on its own account.
    pub fn set_carrier_only(&mut self, link: &Link, mtu: u32, queue: u32) -> Result<(), LinkError> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.header.change_mask = LinkFlags::Noarp;
        message.header.flags = LinkFlags::Noarp;
        message.attributes.push(LinkAttribute::Mtu(mtu));
        message.attributes.push(LinkAttribute::TxQueueLen(queue));
        let what = || format!("set MTU {mtu} and a queue of {queue} frames on {}", link.name);
        self.change(message).map_err(|error| LinkError::Refused { what: what(), error })?;
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
            AfSpecInet6::AddrGenMode(In6AddrGenMode::None),
        ])]));
        // A kernel without IPv6 has nothing to switch off.
        let _ = self.change(message);
        Ok(())
    }

    fn change(&mut self, message: LinkMessage) -> io::Result<()> {
        self.ask(RouteNetlinkMessage::SetLink(message), NLM_F_REQUEST | NLM_F_ACK).map(|_| ())
    }

    pub(super) fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Sends a request and reads its answer; none if it is a mere acknowledgement.
    pub(super) fn ask(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Option<RouteNetlinkMessage>> {
        self.send(message, flags)?;
        let mut answer = Vec::with_capacity(ANSWER);
        loop {
            answer.clear();
            self.socket.recv(&mut answer, 0)?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            // What is left of a request that was given up.
            if answer.header.sequence_number != self.sequence {
                continue;
            }
            return match answer.payload {
                NetlinkPayload::InnerMessage(message) => Ok(Some(message)),
                NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
                _ => Ok(None),
            };
        }
    }
}

fn is_missing(error: &io::Error) -> bool {
    let missing = [Errno::NODEV, Errno::NXIO, Errno::NOENT, Errno::RANGE];
    missing.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn read(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        promiscuous: message.header.flags.contains(LinkFlags::Promisc),
        master: None,
        mac: None,
        tx_dropped: 0,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(master) => link.master = Some(master).filter(|&master| master != 0),
            LinkAttribute::Address(address) => link.mac = address.try_into().ok(),
            LinkAttribute::Stats64(stats) => link.tx_dropped = stats.tx_dropped,
            _ => {}
        }
    }
    link
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_there_and_nonsense_is_not() {
        let mut netlink = Netlink::open().unwrap();
        let lo = netlink.get("lo").unwrap();
        assert_eq!((lo.name.as_str(), lo.mac), ("lo", Some([0; 6])));
        assert_eq!(netlink.get_by_index(lo.index).unwrap().name, "lo");
        assert!(matches!(netlink.get("no-such-device"), Err(LinkError::Missing(_))));
        assert!(matches!(netlink.get("a-name-that-is-far-too-long"), Err(LinkError::Missing(_))));
    }
}
