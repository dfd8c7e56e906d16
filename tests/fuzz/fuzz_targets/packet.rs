//! Any bytes as a frame: the parser does not panic, points inside the frame, and agrees with
//! etherparse where that accepts a TCP frame.
#![no_main]

use arbitrary::Arbitrary;
use colo_proxy::packet::{
    self, Body, Checksum, Gso, Malformed, Offload, Packet, Parsed, PureAck, SackBlocks, Segment, Stamps,
    SynOptions, internet_checksum, lower_ack, pure_ack,
};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Case {
    partial: bool,
    gso: u8,
    wrap: Wrap,
    ack: u32,
    window: u16,
    bytes: Vec<u8>,
}

/// Headers put before the bytes, so that the fuzzer need not find lengths that fit.
#[derive(Arbitrary, Debug)]
enum Wrap {
    Nothing,
    Ethernet { ethertype: u16 },
    Ipv4 { proto: u8, vlan: bool, fragment: u16 },
    Ipv6 { proto: u8, vlan: bool },
}

impl Wrap {
    fn frame(&self, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![2; 12];
        let len = payload.len() as u16;
        let tag = |out: &mut Vec<u8>, vlan: bool| {
            if vlan {
                out.extend([0x81, 0, 0x20, 7]);
            }
        };
        match self {
            Self::Nothing => return payload.to_vec(),
            Self::Ethernet { ethertype } => out.extend(ethertype.to_be_bytes()),
            Self::Ipv4 { proto, vlan, fragment } => {
                tag(&mut out, *vlan);
                out.extend([8, 0, 0x45, 0]);
                out.extend(len.saturating_add(20).to_be_bytes());
                out.extend([0, 1]);
                out.extend(fragment.to_be_bytes());
                out.extend([64, *proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            }
            Self::Ipv6 { proto, vlan } => {
                tag(&mut out, *vlan);
                out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                out.extend(len.to_be_bytes());
                out.extend([*proto, 64]);
                out.extend([0xfd; 32]);
            }
        }
        out.extend(payload);
        out
    }
}

fuzz_target!(|case: Case| {
    let frame = case.wrap.frame(&case.bytes);
    let gso = match case.gso % 8 {
        1 => Gso::Tcp,
        2 => Gso::UdpFragments,
        3 => Gso::UdpDatagrams { size: case.window },
        _ => Gso::None,
    };
    let offload = Offload { partial_checksum: case.partial, gso, ..Offload::default() };
    let _ = Offload::parse(&case.bytes);
    let parsed = packet::parse(&frame, offload);
    match &parsed {
        Ok(Parsed::Whole(packet)) => {
            inside(packet, &frame);
            if let Body::Tcp(segment) = packet.body {
                rewrite(packet, &segment, &frame, &case);
            }
        }
        Ok(Parsed::Fragment(fragment)) => {
            let payload = fragment.payload.of(&frame);
            assert_eq!(payload.len(), fragment.payload.len as usize);
            assert!(fragment.offset as usize + payload.len() <= 65_535);
            let _ = fragment.datagram.ends.to_string();
            for data in [payload, &case.bytes] {
                if let Ok(packet) = packet::parse_datagram(&fragment.datagram, data) {
                    inside(&packet, data);
                }
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if gso == Gso::None {
        agrees(&parsed, &frame);
    }
});

/// Every position is inside the data.
fn inside(packet: &Packet, data: &[u8]) {
    let _ = (packet.key.to_string(), packet.key.guest(), packet.key.peer(), packet.key.vlans().count());
    match packet.body {
        Body::Tcp(segment) => {
            assert_eq!(segment.payload.of(data).len(), segment.payload.len as usize);
            assert!(segment.header + 20 <= segment.payload.start);
            assert!((segment.payload.start + segment.payload.len) as usize <= data.len());
            let _ = SynOptions::parse(data, segment.header);
        }
        Body::Message(message) => {
            for region in message.regions() {
                assert_eq!(region.of(data).len(), region.len as usize);
            }
            assert!(message.len() <= data.len());
        }
    }
}

/// A rewritten frame is what was asked for, and differs in nothing else.
fn rewrite(packet: &Packet, segment: &Segment, frame: &[u8], case: &Case) {
    let mut lowered = frame.to_vec();
    assert!(lower_ack(&mut lowered, segment.header, case.ack, case.window, case.partial));
    match packet::parse(&lowered, Offload::default()) {
        Ok(Parsed::Whole(Packet { key, body: Body::Tcp(now) })) => {
            assert_eq!((key, now.ack, now.window), (packet.key, case.ack, case.window));
            assert_eq!((now.seq, now.flags, now.payload), (segment.seq, segment.flags, segment.payload));
        }
        // Only a GSO frame may leave out its length.
        other => assert!(case.gso % 8 == 1, "{other:?}"),
    }
    let stamps = Stamps::read(frame, segment.header);
    if let Some(stamps) = stamps {
        let mut restamped = frame.to_vec();
        let mut new = stamps;
        new.value = case.ack;
        assert!(new.write(&mut restamped, segment.header, case.partial));
        assert_eq!(Stamps::read(&restamped, segment.header), Some(new));
    }
    let sack = SackBlocks::read(frame, segment.header);
    let says = PureAck { seq: segment.seq, ack: case.ack, window: case.window, stamps, sack };
    let Some(ack) = pure_ack(frame, segment, &says) else { return };
    let Ok(Parsed::Whole(Packet { key, body: Body::Tcp(now) })) = packet::parse(&ack, Offload::default())
    else {
        panic!("a pure acknowledgement that does not parse: {ack:02x?}");
    };
    assert_eq!((key, now.seq, now.ack, now.window), (packet.key, segment.seq, case.ack, case.window));
    assert_eq!((now.sequence_len(), now.payload.len, now.flags.ack()), (0, 0, true));
    let sliced = SlicedPacket::from_ethernet(&ack).expect("etherparse reads a pure acknowledgement");
    let tcp = &ack[now.header as usize..];
    let pseudo = Checksum::default().sum(&[0, 6]).sum(&(tcp.len() as u16).to_be_bytes());
    let pseudo = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            assert_eq!(internet_checksum(ip.header().slice()), 0);
            pseudo.sum(&ip.header().source()).sum(&ip.header().destination())
        }
        Some(NetSlice::Ipv6(ip)) => pseudo.sum(&ip.header().source()).sum(&ip.header().destination()),
        _ => return,
    };
    assert_eq!(pseudo.sum(tcp).finish(), 0, "the checksum of a pure acknowledgement");
}

/// Where etherparse reads a TCP segment, so do we, and it is the same.
fn agrees(parsed: &Result<Parsed, Malformed>, frame: &[u8]) {
    let Ok(sliced) = SlicedPacket::from_ethernet(frame) else { return };
    let (Some(net), Some(TransportSlice::Tcp(tcp))) = (&sliced.net, &sliced.transport) else { return };
    let plain = match net {
        NetSlice::Ipv4(ip) => ip.extensions().auth.is_none(),
        // A length of zero is a jumbogram to etherparse, and nothing at all to us.
        NetSlice::Ipv6(ip) => ip.header().payload_length() != 0 && ip.extensions().is_empty(),
        NetSlice::Arp(_) => return,
    };
    match parsed {
        Ok(Parsed::Whole(packet)) if matches!(packet.body, Body::Tcp(_)) => {
            let Body::Tcp(segment) = packet.body else { return };
            let ports = |end: Option<std::net::SocketAddr>| end.map(|end| end.port());
            assert_eq!(ports(packet.key.guest()), Some(tcp.source_port()));
            assert_eq!(ports(packet.key.peer()), Some(tcp.destination_port()));
            assert_eq!((segment.seq, segment.ack), (tcp.sequence_number(), tcp.acknowledgment_number()));
            assert_eq!(segment.window, tcp.window_size());
            assert_eq!(segment.payload.of(frame), tcp.payload());
        }
        Err(Malformed::Contradiction(_)) => {}
        other => assert!(!plain || sliced.link_exts.len() > 2, "etherparse reads TCP: {other:?}"),
    }
}
