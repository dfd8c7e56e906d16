//! Proof: the kernel's part copies and steers frames as it should, NIC by NIC.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use colo_tests::netns::desk::Visit;
use colo_tests::netns::lab::{addresses, mac, vif};
use colo_tests::netns::live::{command, must};
use colo_tests::netns::packet::Frame;
use colo_tests::netns::{
    Conduct, Desk, Flaw, Lab, Live, Options, PacketSocket, Proxy, Recorder, Snapshot, until,
};
use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, IpNumber, PacketBuilder};

/// Who sends the frames: nobody else, where the client's kernel may say something of its own.
const TESTER: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

const COUNT: u32 = 1000;

/// The kinds of frames, by what they are called when a proof fails.
const KINDS: [&str; 5] = ["IPv4", "ARP", "IPv6", "VLAN-tagged", "other ethertype"];

/// A frame for the guest that it has no answer to.
fn frame(kind: &str, number: u32) -> Vec<u8> {
    let payload: Vec<u8> = (0..number % 1200).map(|at| (at ^ number) as u8).collect();
    let payload = [&number.to_be_bytes()[..], &payload].concat();
    let ether = PacketBuilder::ethernet2(TESTER, mac(0, 0));
    let mut bytes = Vec::new();
    match kind {
        "IPv4" => {
            ether
                .ipv4([10, 99, 0, 1], [10, 99, 0, 2], 64)
                .write(&mut bytes, IpNumber(253), &payload)
                .unwrap();
        }
        "IPv6" => {
            let source = [0xfd, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
            let destination = [0xfd, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
            ether.ipv6(source, destination, 64).write(&mut bytes, IpNumber(253), &payload).unwrap();
        }
        "VLAN-tagged" => ether
            .single_vlan(((number % 4094 + 1) as u16).try_into().unwrap())
            .ipv4([10, 99, 0, 1], [10, 99, 0, 2], 64)
            .udp(1, 2)
            .write(&mut bytes, &payload)
            .unwrap(),
        "ARP" => {
            let [a, b, c, d] = number.to_be_bytes();
            let reply = ArpPacket::new(
                ArpHardwareId::ETHERNET,
                EtherType::IPV4,
                ArpOperation::REPLY,
                &TESTER,
                &[10, 99, 0, 1],
                &mac(0, 0),
                &[a, b, c, d],
            );
            ether.arp(reply.unwrap()).write(&mut bytes).unwrap();
        }
        _ => {
            bytes.extend([&mac(0, 0)[..], &TESTER, &[0x88, 0xb5]].concat());
            bytes.extend(payload);
        }
    }
    bytes
}

/// A copy as it is on the forward link: the tag, and the frame round which it is.
fn untagged(copy: &Frame) -> ([u8; 4], Vec<u8>) {
    let tag = copy.bytes[12..16].try_into().unwrap();
    (tag, [&copy.bytes[..12], &copy.bytes[16..]].concat())
}

#[test]
fn a_thousand_frames_of_each_kind_are_copied_byte_for_byte_and_reach_each_guest_once() {
    for mtu in [1500, 9000] {
        let lab = Lab::new(Options { mtu, neighbours: true, ..Options::default() }).unwrap();
        let live = Live::start(&lab, Conduct::Wait).unwrap();
        let sender = PacketSocket::sender(&lab.p, &vif(0, 0)).unwrap();
        for kind in KINDS {
            let sent: Vec<Vec<u8>> = (0..COUNT).map(|number| frame(kind, number)).collect();
            let ours = |frame: &Frame| !frame.outgoing && frame.source() == Some(TESTER);
            let copy = |frame: &Frame| frame.outgoing && frame.source() == Some(TESTER);
            let copies = Recorder::of(&lab.p, "fwd", 1 << 16, copy).unwrap();
            let at_primary = Recorder::of(&lab.pg[0], "eth0", 1 << 16, ours).unwrap();
            let at_secondary = Recorder::of(&lab.sg[0], "eth0", 1 << 16, ours).unwrap();
            for frame in &sent {
                sender.send(frame).unwrap();
            }
            until(&format!("{kind} frames arrive"), || {
                let all = [&copies, &at_primary, &at_secondary].iter().all(|r| r.seen() >= u64::from(COUNT));
                Ok(all.then_some(()))
            })
            .unwrap();
            let copies = copies.stop().unwrap();
            let copied: Vec<([u8; 4], Vec<u8>)> = copies.outgoing().map(untagged).collect();
            let differs = copied.iter().zip(&sent).position(|((_, copy), frame)| copy != frame);
            assert_eq!((copied.len(), differs), (sent.len(), None), "{kind}: the same bytes in order");
            assert!(copied.iter().all(|(tag, _)| tag[..2] == [0x88, 0xa8]), "{kind}: 802.1ad");
            assert!(copied.iter().all(|(tag, _)| tag[2..] == [0, 1 << 5 | 1]), "{kind}: index 0, epoch 1");
            for (who, record) in [("primary", at_primary), ("secondary", at_secondary)] {
                let record = record.stop().unwrap();
                let got = record.frames.iter().map(|frame| &frame.bytes);
                assert!(got.eq(&sent), "{kind}: the {who} guest sees each once and in order");
            }
        }
        assert_eq!(live.toolstack.requests().unwrap(), 0, "none of it has an answer");
    }
}

#[test]
fn two_guests_with_two_nics_each_share_a_forward_link_and_one_goes_without_the_other() {
    let lab = Lab::new(Options { vms: 2, nics: 2, neighbours: true, ..Options::default() }).unwrap();
    let hosts = lab.hosts();
    let clean = hosts.map(|host| Snapshot::of(&lab, host).unwrap());
    let _desks: Vec<Desk> =
        (0..2).flat_map(|vm| lab.twins(vm)).map(|guest| Desk::open(guest, Flaw::None).unwrap()).collect();
    let protect = |vm| {
        let (primary, secondary) = (Proxy::of(&lab, vm, "primary"), Proxy::of(&lab, vm, "secondary"));
        Live::of(&lab, primary, secondary, Conduct::Perform).unwrap()
    };
    let everybody_serves = |vms: std::ops::Range<u8>| {
        std::thread::scope(|scope| {
            for vm in vms {
                for address in (0..2).flat_map(|nic| addresses(vm, nic)) {
                    let lab = &lab;
                    scope.spawn(move || {
                        Visit::download(&lab.client, address, 2 << 20, u64::from(vm)).unwrap();
                        Visit::upload(&lab.client, address, 2 << 20, u64::from(vm)).unwrap();
                    });
                }
            }
        });
    };
    let silent = lab.s.counter("uplink", "tx", "packets").unwrap();
    let first = protect(0);
    let with_one = hosts.map(|host| Snapshot::of(&lab, host).unwrap());
    let mut second = protect(1);
    everybody_serves(0..2);
    for live in [&first, &second] {
        for nic in live.primary.status(&lab).unwrap().nics {
            assert!(
                nic.kernel["captured"] > 0 && nic.kernel["received"] > 0,
                "{}: {:?}",
                nic.vif,
                nic.kernel
            );
        }
    }
    // The guest that follows goes first: without a set-up it would be on the network as any other.
    for family in ["inet", "arp"] {
        let table = format!(
            "table {family} mute {{ chain output {{ type filter hook output priority 0; policy drop; }}; }}"
        );
        lab.sg[1].nft(&table).unwrap();
    }
    assert!(second.p.stop().unwrap().success());
    assert!(second.s.stop().unwrap().success());
    for (host, before) in hosts.iter().zip(&with_one) {
        let difference = before.difference(&Snapshot::of(&lab, host).unwrap());
        let ours = |line: &String| !line.contains(&format!("vm{}-", 1));
        assert_eq!(difference.into_iter().filter(ours).collect::<Vec<_>>(), [""; 0], "as before it came");
    }
    everybody_serves(0..1);
    assert_eq!(lab.s.counter("uplink", "tx", "packets").unwrap(), silent);

    // Teardown by command ends what runs, and doing it twice is as good as once.
    drop(first);
    for host in hosts {
        must(&lab, host, &["teardown", "--all"]).unwrap();
        must(&lab, host, &["teardown", "--all"]).unwrap();
        must(&lab, host, &["teardown", "--vif", "vif00"]).unwrap();
    }
    for (host, before) in hosts.iter().zip(&clean) {
        let difference = before.difference(&Snapshot::of(&lab, host).unwrap());
        assert_eq!(
            difference.into_iter().filter(|line| !line.contains("/run/")).collect::<Vec<_>>(),
            [""; 0]
        );
    }
}

#[test]
fn an_index_that_is_in_use_is_refused_and_the_one_that_has_it_goes_on() {
    let lab = Lab::new(Options { vms: 2, ..Options::default() }).unwrap();
    let _desks = lab.twins(0).map(|guest| Desk::open(guest, Flaw::None).unwrap());
    let live = Live::start(&lab, Conduct::Perform).unwrap();
    let before = Snapshot::of(&lab, &lab.p).unwrap();
    let mut other = Proxy::of(&lab, 1, "primary");
    other.vifs[0].1 = 0;
    let arguments = other.arguments(&lab);
    let mut words = vec!["run"];
    words.extend(arguments[..arguments.len() - 4].iter().map(String::as_str));
    let output = command(&lab, &lab.p, &words).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("index 0 is already in use on fwd"), "{said}");
    assert_eq!(before.difference(&Snapshot::of(&lab, &lab.p).unwrap()), [""; 0]);
    Visit::download(&lab.client, addresses(0, 0)[0], 1 << 20, 1).unwrap();
    drop(live);
}
