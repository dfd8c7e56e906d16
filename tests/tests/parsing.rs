//! The parser against `etherparse`: where both read a frame they read the same, and nothing makes
//! ours panic or point outside the frame.

use colo_proxy::packet::{Body, FlowKey, Offload, Packet, Parsed, Proto, parse};
use colo_tests::frames::{ACK, Ends, FIN, PSH, padded};
use etherparse::{NetSlice, SlicedPacket, TransportSlice, VlanSlice};
use proptest::prelude::*;

/// A frame of a known kind, perhaps padded, perhaps with some bytes changed.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let ends = (any::<bool>(), prop::option::of(0u16..4095), any::<u16>()).prop_map(|(v6, vlan, port)| {
        let ends = if v6 { Ends::v6() } else { Ends::v4() };
        Ends { vlan, ..ends }.peer_port(port)
    });
    let payload = prop::collection::vec(any::<u8>(), 0..200);
    let kind =
        (ends, payload, 0u8..4, any::<u32>(), any::<u32>()).prop_map(
            |(ends, payload, kind, a, b)| match kind {
                0 => ends.tcp(ACK | PSH, a, b).timestamps(a, b).sack(a, b).payload(&payload).frame(),
                1 => ends.tcp(ACK | FIN, a, b).payload(&payload).frame(),
                2 => ends.udp(&payload),
                _ => ends.echo_reply(a as u16, b as u16, &payload),
            },
        );
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (kind, changes, any::<bool>(), any::<prop::sample::Index>()).prop_map(|(frame, changes, pad, cut)| {
        let mut frame = if pad { padded(frame, 0xee) } else { frame };
        for (at, value) in changes {
            let at = at.index(frame.len().min(80));
            frame[at] = value;
        }
        if cut.index(8) == 0 {
            frame.truncate(cut.index(frame.len()));
        }
        frame
    })
}

/// Ports, for TCP the numbers, the payload, and the VLANs.
type Seen = (u16, u16, Option<(u32, u32)>, Vec<u8>, Vec<u16>);

/// What `etherparse` says of TCP and UDP frames.
fn oracle(frame: &[u8]) -> Option<Seen> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let vlans = sliced.vlan().map(|vlan| match vlan {
        VlanSlice::SingleVlan(one) => vec![one.vlan_identifier().value()],
        VlanSlice::DoubleVlan(two) => {
            vec![two.outer.vlan_identifier().value(), two.inner.vlan_identifier().value()]
        }
    });
    if matches!(&sliced.net, Some(NetSlice::Ipv4(ip)) if ip.is_payload_fragmented()) {
        return None;
    }
    let vlans = vlans.unwrap_or_default();
    match sliced.transport? {
        TransportSlice::Tcp(tcp) => {
            let numbers = (tcp.sequence_number(), tcp.acknowledgment_number());
            Some((tcp.source_port(), tcp.destination_port(), Some(numbers), tcp.payload().to_vec(), vlans))
        }
        TransportSlice::Udp(udp) => {
            Some((udp.source_port(), udp.destination_port(), None, udp.payload().to_vec(), vlans))
        }
        _ => None,
    }
}

fn ours(packet: &Packet, frame: &[u8]) -> Option<Seen> {
    let key: &FlowKey = &packet.key;
    if !matches!(key.proto(), Proto::Tcp | Proto::Udp) {
        return None;
    }
    let (numbers, payload) = match &packet.body {
        Body::Tcp(tcp) => (Some((tcp.seq, tcp.ack)), tcp.payload.of(frame).to_vec()),
        Body::Message(message) => (None, message.regions()[0].of(frame).to_vec()),
    };
    Some((key.guest()?.port(), key.peer()?.port(), numbers, payload, key.vlans().collect()))
}

/// Positions never leave the frame.
fn inside(packet: &Packet, frame: &[u8]) -> bool {
    let regions = match &packet.body {
        Body::Tcp(tcp) => vec![tcp.payload],
        Body::Message(message) => message.regions().to_vec(),
    };
    regions.iter().all(|region| (region.start + region.len) as usize <= frame.len())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: colo_tests::property_cases(20_000), ..ProptestConfig::default() })]

    #[test]
    fn what_both_can_read_they_read_alike(frame in frame()) {
        if let Ok(Parsed::Whole(packet)) = parse(&frame, Offload::default()) {
            prop_assert!(inside(&packet, &frame));
            if let (Some(theirs), Some(ours)) = (oracle(&frame), ours(&packet, &frame)) {
                // A UDP length of zero means "to the end" to the oracle and is malformed here.
                prop_assert_eq!(ours, theirs);
            }
        }
    }

    #[test]
    fn what_is_well_formed_is_read(ends in any::<bool>(), vlan in prop::option::of(0u16..4095), payload in prop::collection::vec(any::<u8>(), 0..1400)) {
        let ends = Ends { vlan, ..if ends { Ends::v6() } else { Ends::v4() } };
        for frame in [ends.tcp(ACK, 7, 8).mss(1460).payload(&payload).frame(), ends.udp(&payload)] {
            let parsed = parse(&frame, Offload::default());
            let Ok(Parsed::Whole(packet)) = parsed else { panic!("{parsed:?}") };
            prop_assert_eq!(ours(&packet, &frame), oracle(&frame));
        }
    }
}
