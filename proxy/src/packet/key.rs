//! Which conversation a frame belongs to.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What kind of conversation a flow is. The number is the IP protocol or the ethertype.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proto {
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// UDP over IPv4 or IPv6.
    Udp,
    /// `ICMPv4`.
    Icmp,
    /// `ICMPv6` without neighbour discovery.
    Icmpv6,
    /// Neighbour discovery (RFC 4861).
    Nd,
    /// ARP (RFC 826).
    Arp,
    /// Any other IP protocol.
    Ip(u8),
    /// Any other ethertype; 0 stands for IEEE 802.3 frames that carry a length.
    Ether(u16),
}

impl Proto {
    /// Whether the two 16-bit numbers of the key are ports.
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Icmp => f.write_str("icmp"),
            Self::Icmpv6 => f.write_str("icmpv6"),
            Self::Nd => f.write_str("nd"),
            Self::Arp => f.write_str("arp"),
            Self::Ip(number) => write!(f, "ip/{number}"),
            Self::Ether(0) => f.write_str("ieee802.3"),
            Self::Ether(kind) => write!(f, "ether/{kind:#06x}"),
        }
    }
}

/// No VLAN tag at this place of the stack.
const UNTAGGED: u16 = 0xffff;

/// One conversation of the guest, seen from the guest: VLANs, protocol, both addresses, and ports
/// or the identifier that stands for them.
///
/// IPv4 addresses are kept as IPv4-mapped IPv6 (RFC 4291 §2.5.5.2), so that one layout serves both;
/// non-IP flows keep MAC addresses in the last six bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey {
    guest: u128,
    peer: u128,
    guest_id: u16,
    peer_id: u16,
    vlans: [u16; 2],
    proto: Proto,
}

impl FlowKey {
    /// A flow between two addresses. `guest_id` and `peer_id` are ports, an ICMP identifier, or 0.
    pub(super) fn new(proto: Proto, vlans: [u16; 2], guest: u128, peer: u128) -> Self {
        Self { guest, peer, guest_id: 0, peer_id: 0, vlans, proto }
    }

    /// The same flow with these ports or identifiers.
    pub(super) fn with_ids(mut self, guest_id: u16, peer_id: u16) -> Self {
        self.guest_id = guest_id;
        self.peer_id = peer_id;
        self
    }

    /// The same ends for another kind of conversation.
    pub(super) fn with_proto(mut self, proto: Proto) -> Self {
        self.proto = proto;
        self
    }

    /// The kind of conversation.
    pub const fn proto(&self) -> Proto {
        self.proto
    }

    /// The guest's address; none for non-IP flows.
    pub fn guest(&self) -> Option<SocketAddr> {
        self.socket(self.guest, self.guest_id)
    }

    /// The other end's address; none for non-IP flows.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.socket(self.peer, self.peer_id)
    }

    /// The VLAN identifiers, outermost first.
    pub fn vlans(&self) -> impl Iterator<Item = u16> {
        self.vlans.into_iter().filter(|&vid| vid != UNTAGGED)
    }

    /// The guest's end as text: `ip:port`, `ip`, or a MAC address.
    pub fn guest_text(&self) -> String {
        self.text(self.guest, self.guest_id)
    }

    /// The other end as text: `ip:port`, `ip`, or a MAC address.
    pub fn peer_text(&self) -> String {
        self.text(self.peer, self.peer_id)
    }

    fn socket(&self, address: u128, id: u16) -> Option<SocketAddr> {
        match self.proto {
            Proto::Ether(_) => None,
            proto => Some(SocketAddr::new(ip(address), if proto.has_ports() { id } else { 0 })),
        }
    }

    fn text(&self, address: u128, id: u16) -> String {
        match self.socket(address, id) {
            Some(socket) if self.proto.has_ports() => socket.to_string(),
            Some(socket) => socket.ip().to_string(),
            None => {
                let mac: Vec<String> =
                    address.to_be_bytes()[10..].iter().map(|byte| format!("{byte:02x}")).collect();
                mac.join(":")
            }
        }
    }
}

fn ip(address: u128) -> IpAddr {
    Ipv6Addr::from(address).to_canonical()
}

/// An IPv4 address as the key keeps it.
pub(super) fn mapped(address: [u8; 4]) -> u128 {
    Ipv4Addr::from(address).to_ipv6_mapped().to_bits()
}

/// A MAC address as the key keeps it.
pub(super) fn mac(address: [u8; 6]) -> u128 {
    address.into_iter().fold(0, |all, byte| all << 8 | u128::from(byte))
}

/// The stack of VLAN identifiers as the key keeps it.
pub(super) fn vlan_stack(outer: Option<u16>, inner: Option<u16>) -> [u16; 2] {
    [outer.unwrap_or(UNTAGGED), inner.unwrap_or(UNTAGGED)]
}

impl Hash for FlowKey {
    // Words instead of one call per byte: this runs once per frame.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let proto = match self.proto {
            Proto::Tcp => 0x1_0000,
            Proto::Udp => 0x2_0000,
            Proto::Icmp => 0x3_0000,
            Proto::Icmpv6 => 0x4_0000,
            Proto::Nd => 0x5_0000,
            Proto::Arp => 0x6_0000,
            Proto::Ip(number) => 0x7_0000 | u64::from(number),
            Proto::Ether(kind) => 0x8_0000 | u64::from(kind),
        };
        let high = |address: u128| (address >> 64) as u64;
        state.write_u64(high(self.guest) ^ high(self.peer).rotate_left(32));
        state.write_u64(self.guest as u64);
        state.write_u64(self.peer as u64);
        state.write_u64(
            u64::from(self.guest_id)
                | u64::from(self.peer_id) << 16
                | u64::from(self.vlans[0]) << 32
                | u64::from(self.vlans[1]) << 48,
        );
        state.write_u64(proto);
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > {}", self.proto, self.guest_text(), self.peer_text())?;
        self.vlans().try_for_each(|vid| write!(f, " vlan {vid}"))
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
impl FlowKey {
    pub(crate) fn for_tests(proto: Proto, guest: u128, peer: u128) -> Self {
        Self::new(proto, vlan_stack(None, None), guest, peer)
    }

    pub(crate) fn ids_for_tests(self, guest_id: u16, peer_id: u16) -> Self {
        self.with_ids(guest_id, peer_id)
    }
}
