//! Proof: real clients use real servers of a protected guest and see one correct server. What leaves
//! is the primary's, and nothing of the secondary's reaches a bridge.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use colo_tests::netns::desk::Visit;
use colo_tests::netns::lab::{addresses, mac};
use colo_tests::netns::{
    Conduct, Desk, Flaw, Lab, Live, Options, Proxy, Recorder, released, services, until,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Everything that people run, once, in a lab like this.
fn one_correct_server(options: Options) {
    // A toolstack that copies no state cannot mend a neighbour that one guest alone has forgotten.
    let options = Options { neighbours: true, ..options };
    let lab = Lab::new(options).unwrap();
    let mut programs = Vec::new();
    let mut desks = Vec::new();
    for guest in lab.twins(0) {
        programs.push(services::nginx(&lab, guest).unwrap());
        programs.push(services::redis(&lab, guest).unwrap());
        programs.push(services::dns(&lab, guest).unwrap());
        desks.push(Desk::open(guest, Flaw::None).unwrap());
    }
    let silent = lab.s.counter("uplink", "tx", "packets").unwrap();
    let of_guest = |frame: &colo_tests::netns::packet::Frame| frame.source() == Some(mac(0, 0));
    let said = Recorder::start(&lab.pg[0], "eth0").unwrap();
    let left = Recorder::start(&lab.p, "uplink").unwrap();
    let seen = Recorder::of(&lab.lan, "s", 64, of_guest).unwrap();
    // One guest may be late on a busy machine; that alone is to ask for nothing.
    let patient = Proxy::of(&lab, 0, "primary").with("--compare-timeout 20000 --age-floor 20000");
    let mut live = Live::of(&lab, patient, Proxy::of(&lab, 0, "secondary"), Conduct::Perform).unwrap();

    // What answers alike needs no checkpoint.
    for address in addresses(0, 0) {
        Visit::download(&lab.client, address, 8 << 20, 1).unwrap();
        Visit::upload(&lab.client, address, 8 << 20, 2).unwrap();
        services::use_alike(&lab, &lab.client, address).unwrap();
        assert_eq!(live.toolstack.requests().unwrap(), 0, "{}", live.p.said());
    }
    // What does not costs some: a Date that is a second later, figures of how it went.
    for address in addresses(0, 0) {
        settle(&lab, &live);
        crossing(&live, || services::http(&lab, &lab.client, address, services::HTTP)).unwrap();
        for direction in services::DIRECTIONS {
            settle(&lab, &live);
            // It serves one at a time, and after an empty checkpoint the secondary's never hears that
            // one is done.
            let _servers = lab.twins(0).map(|guest| services::iperf3(&lab, guest).unwrap());
            crossing(&live, || services::load(&lab.client, address, 8 << 20, direction)).unwrap();
        }
    }
    assert!(live.toolstack.requests().unwrap() > 0, "figures differ");

    live.p.must_run().unwrap();
    live.s.must_run().unwrap();
    assert!(live.primary.kernel(&lab, "received").unwrap() > 0, "the secondary took part");
    assert_eq!(lab.s.counter("uplink", "tx", "packets").unwrap(), silent, "the secondary's host was silent");
    let seen = seen.stop().unwrap();
    assert_eq!(seen.incoming().count(), 0, "nothing of the guest's came from there");
    let (said, left) = (said.stop().unwrap(), left.stop().unwrap());
    let compared = released::is_the_primarys(said.outgoing(), left.outgoing()).unwrap();
    assert!(compared.tcp_bytes > 40 << 20, "{compared:?}");
    assert!(compared.messages >= 10, "{compared:?}");
}

/// Waits until nothing is held of what was open before, and both nodes have heard of every checkpoint:
/// one that they hear of later would make them forget the offset of a connection that is new then.
fn settle(lab: &Lab, live: &Live) {
    until("nothing is held, and no checkpoint is under way", || {
        live.toolstack.perform()?;
        let performed = live.toolstack.performed();
        let heard = |node: &Proxy| {
            until("a node hears of a checkpoint", || {
                let status = node.status(lab)?;
                Ok((status.checkpoints.completed >= performed).then_some(status))
            })
        };
        heard(&live.secondary)?;
        let held = heard(&live.primary)?.nics[0].held.unwrap_or_default();
        let quiet = held.iter().all(|side| side.frames == 0);
        Ok((quiet && live.toolstack.performed() == performed).then_some(()))
    })
    .unwrap();
}

/// Does something of which not all answers are alike. What is open at a checkpoint is not made equal
/// here, as it would be with real guests: from the first one on that is asked for meanwhile, the rest
/// can only leave with more of them, and is not to wait until each is asked for.
fn crossing(live: &Live, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let before = live.toolstack.requests()?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pushing = scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                if live.toolstack.requests()? > before {
                    live.toolstack.perform()?;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            anyhow::Ok(())
        });
        let outcome = work();
        done.store(true, Ordering::SeqCst);
        outcome.and(pushing.join().expect("it does not panic"))
    })
}

#[test]
fn real_programs_see_one_server_with_offloads() {
    one_correct_server(Options::default());
}

#[test]
fn real_programs_see_one_server_without_offloads() {
    one_correct_server(Options { offload: false, ..Options::default() });
}

#[test]
fn streams_see_one_server_without_offloads() {
    let lab = Lab::new(Options { offload: false, neighbours: true, ..Options::default() }).unwrap();
    let _desks = lab.twins(0).map(|guest| Desk::open(guest, Flaw::None).unwrap());
    let patient = Proxy::of(&lab, 0, "primary").patient();
    let live = Live::of(&lab, patient, Proxy::of(&lab, 0, "secondary"), Conduct::Wait).unwrap();
    for address in addresses(0, 0) {
        Visit::download(&lab.client, address, 8 << 20, 3).unwrap();
        Visit::upload(&lab.client, address, 8 << 20, 3).unwrap();
    }
    assert_eq!(live.toolstack.requests().unwrap(), 0, "all of it agrees");
}

#[test]
fn real_programs_see_one_server_over_jumbo_frames() {
    one_correct_server(Options { mtu: 9000, ..Options::default() });
}

#[test]
fn what_a_guest_says_on_a_vlan_of_its_own_is_compared_there_and_stays_tagged() {
    use colo_tests::netns::PacketSocket;
    let lab = Lab::new(Options::default()).unwrap();
    let live = Live::start(&lab, Conduct::Wait).unwrap();
    let left = Recorder::of(&lab.client, "eth0", 2000, |frame| frame.ethertype() == Some(0x8100)).unwrap();
    let [primary, secondary] = lab.twins(0).map(|guest| PacketSocket::sender(guest, "eth0").unwrap());
    // Datagrams of one guest on VLAN 7; every fourth is only the primary's.
    let datagram = |number: u32| {
        let mut udp = Vec::new();
        let builder = etherparse::PacketBuilder::ethernet2(mac(0, 0), colo_tests::netns::lab::CLIENT_MAC)
            .single_vlan(7.try_into().unwrap())
            .ipv4([10, 7, 0, 2], [10, 7, 0, 1], 64)
            .udp(1000 + number as u16, 2000);
        builder.write(&mut udp, format!("datagram {number} of the guest").as_bytes()).unwrap();
        udp
    };
    let agreed: Vec<Vec<u8>> = (0..400).map(datagram).collect();
    for (number, frame) in agreed.iter().enumerate() {
        primary.send(frame).unwrap();
        if number % 4 != 3 {
            secondary.send(frame).unwrap();
        }
    }
    until("what both said arrives", || Ok((left.seen() >= 300).then_some(()))).unwrap();
    until("a checkpoint is asked for", || Ok((live.toolstack.requests()? > 0).then_some(()))).unwrap();
    let before = left.seen();
    live.toolstack.go_on().unwrap();
    until("the rest arrives", || Ok((left.seen() >= 400).then_some(()))).unwrap();
    let mut arrived: Vec<Vec<u8>> =
        left.stop().unwrap().incoming().map(|frame| frame.bytes.clone()).collect();
    assert!(before < 400, "{before} frames left before the checkpoint, and only 300 had a twin");
    let mut sent = agreed;
    sent.sort();
    arrived.sort();
    assert_eq!(arrived, sent, "each once, as it was sent");
}
