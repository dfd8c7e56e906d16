//! Every step against a check that does not use the step's own means: the oracle's reassembly, raw bytes, or `etherparse`.

use super::{Mac, apply, parse};
use crate::pcaps::oracle::{Finding, Flow, Output, Stream, compare};
use crate::pcaps::{Capture, MS, Packet, io, pairs, record::net::GUEST_MAC, rows, wire};
use etherparse::{SlicedPacket, TransportSlice};
use std::collections::BTreeSet;

fn guest() -> Mac {
    rows::mac(GUEST_MAC).unwrap()
}

fn load(name: &str) -> Capture {
    io::read(&pairs::dir().join(name)).unwrap().0
}

fn derive(capture: &Capture, steps: &str) -> Capture {
    apply(&parse(steps).unwrap(), capture.clone(), guest()).unwrap()
}

fn streams(capture: &Capture) -> Vec<(Flow, Stream)> {
    Output::new(capture, Some(guest()), None).unwrap().streams.into_iter().collect()
}

/// Nothing differs: by the oracle.
fn same(a: &Capture, b: &Capture) -> bool {
    compare(a, b, Some(guest())).unwrap().values().all(|finding| *finding == Finding::Same)
}

/// The one flow that is not the same.
fn odd_one(a: &Capture, b: &Capture) -> Finding {
    let findings = compare(a, b, Some(guest())).unwrap();
    let odd: Vec<_> = findings.values().filter(|finding| **finding != Finding::Same).collect();
    assert_eq!(odd.len(), 1, "{findings:?}");
    *odd[0]
}

/// Every TCP and IPv4 checksum, by `etherparse`.
fn sealed(capture: &Capture) {
    for packet in capture {
        let sliced = SlicedPacket::from_ethernet(&packet.data).unwrap();
        let Some(net) = &sliced.net else { continue };
        if let Some(ip) = net.ipv4_ref() {
            assert_eq!(ip.header().to_header().calc_header_checksum(), ip.header().header_checksum());
        }
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { continue };
        let check = if let Some(ip) = net.ipv4_ref() {
            tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap()
        } else {
            let ip = net.ipv6_ref().unwrap();
            tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()).unwrap()
        };
        assert_eq!(check, tcp.checksum());
    }
}

fn ordered(capture: &Capture) {
    assert!(capture.is_sorted_by_key(|packet| packet.time));
}

/// Steps after which nothing may differ, on captures where each has something to do.
const HARMLESS: &[(&str, &str)] = &[
    ("http.pcap", "recut seed=1"),
    ("http.pcap", "recut seed=1 max=100"),
    ("lossy.pcapng", "clean"),
    ("lossy.pcapng", "recut seed=2, overlap seed=3, duplicate seed=4, reorder seed=5"),
    ("http-small.pcap", "overlap seed=3"),
    ("http-small.pcap", "duplicate seed=3"),
    ("http-small.pcap", "reorder seed=5"),
    ("http-small.pcap", "retime seed=5 ms=20"),
    ("http-small.pcap", "mss flow=1"),
    ("upload.pcapng", "late-acks ms=30"),
    ("ssh.pcap", "isn-own seed=5"),
    ("active.pcap", "isn-own seed=5"),
    ("active.pcap", "isn-translated seed=5"),
    ("ipv6.pcap", "noise seed=5"),
    ("ipv6.pcap", "refragment seed=6"),
    ("ping.pcap", "refragment seed=7"),
    ("ping.pcap", "pad seed=7"),
    ("vlan.pcap", "recut seed=8, isn-own seed=9, noise seed=1"),
];

#[test]
fn harmless_steps_change_frames_and_no_stream() {
    for (file, steps) in HARMLESS {
        let before = load(file);
        let after = derive(&before, steps);
        assert_ne!(before, after, "{file}: {steps}");
        assert!(same(&before, &after), "{file}: {steps}");
        // Which space a translated connection is in, only the primary's SYN says.
        assert!(steps.contains("translated") || same(&after, &before), "{file}: {steps}, backwards");
        ordered(&after);
        sealed(&after);
        assert_eq!(after, derive(&before, steps), "the same seed gives the same capture");
    }
}

#[test]
fn recut_makes_other_segments_of_the_same_bytes() {
    let before = load("http.pcap");
    let (a, b) = (streams(&before), streams(&derive(&before, "recut seed=1")));
    assert!(a[0].1.data().len() > 200_000);
    assert_eq!(a[0].1.data(), b[0].1.data());
    assert!(b[0].1.segments > a[0].1.segments);
}

#[test]
fn clean_leaves_each_byte_once_and_in_order() {
    let after = derive(&load("lossy.pcapng"), "clean");
    let mut next = None;
    for packet in after.iter().filter(|packet| wire::is_from(&packet.data, guest())) {
        let Some(tcp) = wire::Tcp::parse(&packet.data).filter(|tcp| !tcp.data.is_empty()) else { continue };
        assert!(next.is_none_or(|next| next == tcp.seq));
        next = Some(tcp.seq.wrapping_add(tcp.data.len() as u32));
    }
    let sent: usize = after.len();
    assert!(sent < load("lossy.pcapng").len(), "there were retransmissions");
}

#[test]
fn overlap_and_duplicate_add_segments() {
    let before = load("http-small.pcap");
    for steps in ["overlap seed=3", "duplicate seed=3"] {
        assert!(derive(&before, steps).len() > before.len(), "{steps}");
    }
}

#[test]
fn reorder_keeps_the_set_of_frames() {
    let before = load("dns.pcapng");
    let after = derive(&before, "reorder seed=22");
    let order = |capture: &Capture| capture.iter().map(|packet| packet.data.clone()).collect::<Vec<_>>();
    let set = |capture: &Capture| order(capture).into_iter().collect::<BTreeSet<_>>();
    assert_eq!(set(&before), set(&after));
    assert_ne!(order(&before), order(&after));
}

#[test]
fn retime_delays_by_no_more_than_it_says_and_keeps_the_order() {
    let before = load("http-small.pcap");
    let after = derive(&before, "retime seed=1 ms=20");
    let mine = |capture: &Capture| -> Capture {
        capture.iter().filter(|packet| wire::is_from(&packet.data, guest())).cloned().collect()
    };
    for (a, b) in mine(&before).iter().zip(mine(&after)) {
        assert_eq!(a.data, b.data);
        assert!(b.time >= a.time && b.time <= a.time + 21 * MS);
    }
}

#[test]
fn isn_own_wraps_and_moves_the_clients_acks_and_sack_with_it() {
    let before = load("lossy.pcapng");
    let after = derive(&before, "isn-own seed=4");
    let new = streams(&after)[0].1.isn.unwrap();
    let shift = new.wrapping_sub(streams(&before)[0].1.isn.unwrap());
    assert!(new > u32::MAX - 3000);
    let mut blocks = 0;
    for (a, b) in before.iter().zip(&after) {
        let (Some(x), Some(y)) = (wire::Tcp::parse(&a.data), wire::Tcp::parse(&b.data)) else { continue };
        let mine = wire::is_from(&a.data, guest());
        let moved = |by: bool| if by { shift } else { 0 };
        assert_eq!(y.seq.wrapping_sub(x.seq), moved(mine));
        assert_eq!(y.ack.wrapping_sub(x.ack), moved(!mine && x.has(wire::flag::ACK)));
        if let Some(at) = x.option(&a.data, 5) {
            for edge in (at + 2..at + usize::from(a.data[at + 1])).step_by(4) {
                assert_eq!(wire::get32(&b.data, edge).wrapping_sub(wire::get32(&a.data, edge)), shift);
                blocks += 1;
            }
        }
    }
    assert!(blocks > 4, "the capture has SACK");
}

#[test]
fn isn_translated_touches_only_the_syn() {
    let before = load("http-small.pcap");
    let after = derive(&before, "isn-translated seed=4");
    let changed: Vec<&Packet> = before.iter().zip(&after).filter(|(a, b)| a != b).map(|(_, b)| b).collect();
    assert_eq!(changed.len(), 3);
    assert!(changed.iter().all(|packet| wire::Tcp::parse(&packet.data).unwrap().has(wire::flag::SYN)));
}

#[test]
fn late_acks_are_late_and_all_come() {
    let before = load("upload.pcapng");
    let after = derive(&before, "late-acks ms=30");
    let acked = |capture: &Capture, until: u64| {
        let early: Capture = capture.iter().filter(|packet| packet.time < until).cloned().collect();
        streams(&early)[0].1.acked.unwrap()
    };
    assert_eq!(acked(&before, u64::MAX), acked(&after, u64::MAX));
    let middle = before[before.len() / 2].time + 1;
    assert!((acked(&before, middle).wrapping_sub(acked(&after, middle)) as i32) > 0);
}

#[test]
fn refragment_has_other_borders() {
    for file in ["ping.pcap", "ipv6.pcap"] {
        let before = load(file);
        let borders = |capture: &Capture| -> BTreeSet<usize> {
            let mine = capture.iter().filter(|packet| wire::is_from(&packet.data, guest()));
            mine.filter_map(|packet| wire::parse(&packet.data)?.fragment).map(|f| f.offset).collect()
        };
        let (a, b) = (borders(&before), borders(&derive(&before, "refragment seed=1")));
        assert!(a.len() > 1 && b.len() > a.len(), "{file}: {a:?} {b:?}");
    }
}

#[test]
fn pad_makes_every_frame_sixty_bytes() {
    let after = derive(&load("ping.pcap"), "pad seed=1");
    let mine: Vec<_> = after.iter().filter(|packet| wire::is_from(&packet.data, guest())).collect();
    assert!(mine.iter().all(|packet| packet.data.len() >= 60));
    assert!(
        mine.iter().any(|packet| packet.data.len() == 60 && packet.data[42..].iter().any(|byte| *byte != 0))
    );
}

#[test]
fn guest_only_leaves_one_sender() {
    let after = derive(&load("http-small.pcap"), "guest-only");
    assert!(after.iter().all(|packet| packet.data[6..12] == guest()));
}

#[test]
fn steps_that_break_break_what_they_say() {
    let small = load("http-small.pcap");
    let end = streams(&small)[2].1.fin.unwrap();
    for (file, steps, finding) in [
        ("http.pcap", "recut seed=1, byte flow=0 at=150000", Finding::Differs("payload", Some(150_000))),
        ("lossy.pcapng", "byte flow=0 at=0", Finding::Differs("payload", Some(0))),
        ("dns.pcapng", "datagram-byte proto=17 n=3", Finding::Differs("payload", None)),
        ("ping.pcap", "datagram-byte proto=1 n=1", Finding::Differs("payload", None)),
        ("ping.pcap", "arp-address n=0", Finding::Differs("fields", None)),
        ("http-small.pcap", "wscale flow=1", Finding::Differs("syn", None)),
        ("http-small.pcap", "no-timestamps flow=1", Finding::Differs("syn", None)),
        ("http-small.pcap", "rst-for-fin flow=2", Finding::Differs("fin", Some(end))),
        ("http-small.pcap", "extra flow=2 bytes=7", Finding::Differs("fin", Some(end))),
        ("http-small.pcap", "no-fin flow=2", Finding::Missing),
        ("http-small.pcap", "silent flow=1", Finding::Missing),
        ("rst.pcap", "drop-tail keep=7", Finding::Missing),
    ] {
        let before = load(file);
        let after = derive(&before, steps);
        assert_eq!(odd_one(&before, &after), finding, "{file}: {steps}");
        ordered(&after);
        sealed(&after);
    }
}

#[test]
fn extra_bytes_move_the_fin_on() {
    let before = load("http-small.pcap");
    let after = derive(&before, "extra flow=2 bytes=7");
    let (a, b) = (&streams(&before)[2].1, &streams(&after)[2].1);
    assert_eq!(b.fin.unwrap(), a.fin.unwrap() + 7);
    assert_eq!(b.data().len(), a.data().len() + 7);
    assert!(b.data().starts_with(&a.data()));
}

#[test]
fn what_cannot_be_done_is_an_error() {
    let before = load("http-small.pcap");
    for steps in [
        "recut",
        "recut seed=1 more=2",
        "nothing",
        "byte flow=9 at=0",
        "byte flow=0 at=99999999",
        "datagram-byte proto=17 n=0",
        "pad seed=x",
    ] {
        let done = parse(steps).and_then(|steps| apply(&steps, before.clone(), guest()));
        assert!(done.is_err(), "{steps}");
    }
}

#[test]
fn seal_agrees_with_a_real_kernel() {
    for file in ["http-small.pcap", "ping.pcap", "ipv6.pcap", "dns.pcapng", "vlan.pcap"] {
        for packet in load(file) {
            let mut again = packet.data.clone();
            wire::seal(&mut again);
            assert_eq!(again, packet.data, "{file}");
        }
    }
}
