//! What a node says when a guest has moved to it.
//!
//! * RARP request for the guest's own hardware address (RFC 903): moves it in every switch, whatever
//!   the guest speaks; this is what hypervisors send after a migration.
//! * Gratuitous ARP (RFC 5227 §1.1): moves its IPv4 addresses in neighbours' caches.
//! * Unsolicited neighbour advertisement with the override flag (RFC 4861 §7.2.6): the same for IPv6.

use crate::datapath::Known;
use etherparse::icmpv6::NeighborAdvertisementHeader;
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, Icmpv6Header, Icmpv6Type, IpNumber,
    Ipv6Header, SingleVlanHeader, VlanId,
};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The ethertype of RARP.
const RARP: EtherType = EtherType(0x8035);

/// `ARPOP_REVREQUEST`.
const REVERSE_REQUEST: ArpOperation = ArpOperation(3);

const BROADCAST: [u8; 6] = [0xff; 6];
/// All nodes on the link, as Ethernet addresses them (RFC 2464 §7).
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// One frame, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announcement {
    /// What is announced.
    what: String,
    /// The frame, from its Ethernet header on.
    pub(crate) frame: Vec<u8>,
}

impl fmt::Display for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// What is to be announced of a guest: each hardware address once for each VLAN, then each address.
pub(crate) fn all(known: &[Known]) -> Vec<Announcement> {
    let mut places: Vec<([u8; 6], [Option<u16>; 2])> =
        known.iter().map(|known| (known.mac, known.vlans)).collect();
    places.sort_unstable();
    places.dedup();
    let moved = places.into_iter().map(|(mac, vlans)| Announcement {
        what: hex(mac),
        frame: arp(RARP, REVERSE_REQUEST, mac, Ipv4Addr::UNSPECIFIED, vlans),
    });
    let addresses = known.iter().filter_map(|known| {
        let frame = match known.address {
            IpAddr::V4(address) if !address.is_unspecified() && !address.is_loopback() => {
                arp(EtherType::ARP, ArpOperation::REQUEST, known.mac, address, known.vlans)
            }
            IpAddr::V6(address) if !address.is_unspecified() && !address.is_multicast() => {
                advertisement(known.mac, address, known.vlans)?
            }
            _ => return None,
        };
        Some(Announcement { what: known.address.to_string(), frame })
    });
    moved.chain(addresses).collect()
}

fn hex(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The Ethernet header, and the tags of the VLANs.
fn link(destination: [u8; 6], source: [u8; 6], vlans: [Option<u16>; 2], ether_type: EtherType) -> Vec<u8> {
    let tags: Vec<u16> = vlans.into_iter().flatten().collect();
    let of_tag = |place: usize| match tags.len() - place {
        0 => ether_type,
        1 => EtherType::VLAN_TAGGED_FRAME,
        _ => EtherType::PROVIDER_BRIDGING,
    };
    let mut frame = Ethernet2Header { source, destination, ether_type: of_tag(0) }.to_bytes().to_vec();
    for (place, &vid) in tags.iter().enumerate() {
        let tag = SingleVlanHeader {
            vlan_id: VlanId::try_new(vid & 0xfff).unwrap_or_default(),
            ether_type: of_tag(place + 1),
            ..SingleVlanHeader::default()
        };
        frame.extend_from_slice(&tag.to_bytes());
    }
    frame
}

fn arp(
    ether_type: EtherType,
    operation: ArpOperation,
    mac: [u8; 6],
    address: Ipv4Addr,
    vlans: [Option<u16>; 2],
) -> Vec<u8> {
    let mut frame = link(BROADCAST, mac, vlans, ether_type);
    // A gratuitous request asks for the sender's own address; a reverse one, for its own hardware's.
    let target = if ether_type == RARP { mac } else { [0; 6] };
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &mac,
        &address.octets(),
        &target,
        &address.octets(),
    );
    if let Ok(packet) = packet {
        frame.extend_from_slice(&packet.to_bytes());
    }
    frame
}

/// None if a header cannot be made, which fixed sizes do not allow.
fn advertisement(mac: [u8; 6], address: Ipv6Addr, vlans: [Option<u16>; 2]) -> Option<Vec<u8>> {
    let mut body = address.octets().to_vec();
    // Target link-layer address, one unit of eight bytes.
    body.extend_from_slice(&[2, 1]);
    body.extend_from_slice(&mac);
    let header = NeighborAdvertisementHeader { router: false, solicited: false, r#override: true };
    let kind = Icmpv6Type::NeighborAdvertisement(header);
    let icmp = Icmpv6Header::with_checksum(kind, address.octets(), ALL_NODES.octets(), &body).ok()?;
    let ip = Ipv6Header {
        payload_length: (icmp.header_len() + body.len()) as u16,
        next_header: IpNumber::IPV6_ICMP,
        // RFC 4861 §7.1.2: anything less has been routed, and is not believed.
        hop_limit: 255,
        source: address.octets(),
        destination: ALL_NODES.octets(),
        ..Ipv6Header::default()
    };
    let mut frame = link(ALL_NODES_MAC, mac, vlans, EtherType::IPV6);
    frame.extend_from_slice(&ip.to_bytes());
    frame.extend_from_slice(&icmp.to_bytes());
    frame.extend_from_slice(&body);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn known(address: &str, vlans: [Option<u16>; 2]) -> Known {
        Known { address: address.parse().unwrap(), mac: MAC, vlans }
    }

    #[test]
    fn a_guest_is_announced_once_by_hardware_and_once_for_each_address() {
        let all = all(&[known("10.0.0.7", [None; 2]), known("fd00::7", [None; 2])]);
        let said: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(said, ["02:00:00:00:00:07", "10.0.0.7", "fd00::7"]);
        for announcement in &all {
            assert_eq!(announcement.frame[6..12], MAC, "the guest is the sender");
        }
    }

    #[test]
    fn gratuitous_arp_asks_for_the_senders_own_address() {
        let all = all(&[known("10.0.0.7", [Some(100), None])]);
        let packet = SlicedPacket::from_ethernet(&all[1].frame).unwrap();
        assert_eq!(packet.vlan_ids()[0].value(), 100);
        let Some(NetSlice::Arp(arp)) = packet.net else { panic!("no ARP") };
        assert_eq!((arp.sender_hw_addr(), arp.sender_protocol_addr()), (&MAC[..], &[10, 0, 0, 7][..]));
        assert_eq!(
            (arp.operation(), arp.target_protocol_addr()),
            (ArpOperation::REQUEST, &[10, 0, 0, 7][..])
        );
    }

    #[test]
    fn neighbour_advertisements_override_and_add_up() {
        let all = all(&[known("fd00::7", [None; 2])]);
        let packet = SlicedPacket::from_ethernet(&all[1].frame).unwrap();
        let Some(NetSlice::Ipv6(ip)) = &packet.net else { panic!("no IPv6") };
        assert_eq!(ip.header().hop_limit(), 255);
        let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("no ICMPv6") };
        assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
        let Icmpv6Type::NeighborAdvertisement(header) = icmp.icmp_type() else { panic!("no advertisement") };
        assert!(header.r#override && !header.solicited);
        assert_eq!(icmp.payload()[16..], [2, 1, 2, 0, 0, 0, 0, 7]);
    }

    #[test]
    fn what_nobody_can_be_reached_at_is_not_announced() {
        let all = all(&[known("0.0.0.0", [None; 2]), known("::", [None; 2])]);
        assert_eq!(all.len(), 1, "the hardware address alone");
    }
}
