//! The lab by itself, with nothing protected: what later proofs stand on.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use colo_tests::netns::desk::Visit;
use colo_tests::netns::lab::{addresses, mac};
use colo_tests::netns::{
    Desk, Flaw, Lab, Options, PacketSocket, Recorder, Snapshot, released, services, until,
};

#[test]
fn the_client_reaches_the_primary_guest_over_both_families_and_nobody_is_doubled() {
    let lab = Lab::new(Options::default()).unwrap();
    // Two guests with one address on one bridge would fight; without protection only one is connected.
    lab.s.run("ip link set dev uplink down").unwrap();
    let desk = Desk::open(&lab.pg[0], Flaw::None).unwrap();
    let other = Desk::open(&lab.sg[0], Flaw::None).unwrap();
    for address in addresses(0, 0) {
        lab.client.run(&format!("ping -n -c 3 -i 0.05 -W 20 {address}")).unwrap();
        Visit::download(&lab.client, address, 4 << 20, 3).unwrap();
        Visit::upload(&lab.client, address, 4 << 20, 4).unwrap();
    }
    assert_eq!(desk.work().accepted.load(std::sync::atomic::Ordering::SeqCst), 4);
    assert_eq!(other.work().accepted.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[test]
fn a_recorder_sees_every_frame_with_its_tags_and_says_which_way_it_went() {
    let lab = Lab::new(Options { mtu: 9000, ..Options::default() }).unwrap();
    let there = Recorder::start(&lab.s, "fwd").unwrap();
    let here = Recorder::start(&lab.p, "fwd").unwrap();
    let sender = PacketSocket::sender(&lab.p, "fwd").unwrap();
    let frames: Vec<Vec<u8>> = (0..1000u32)
        .map(|number| {
            let mut frame = [[2; 6], mac(0, 0)].concat();
            if number % 2 == 1 {
                frame.extend([0x88, 0xa8, 0, 7]);
            }
            if number % 4 >= 2 {
                frame.extend([0x81, 0, 0, 9]);
            }
            frame.extend([0x88, 0xb5]);
            frame.extend(number.to_be_bytes());
            frame.resize(60 + number as usize * 8, number as u8);
            frame
        })
        .collect();
    for frame in &frames {
        sender.send(frame).unwrap();
    }
    until("they arrive", || Ok((there.seen() >= 1000).then_some(()))).unwrap();
    let record = there.stop().unwrap();
    let arrived: Vec<&Vec<u8>> = record.incoming().map(|frame| &frame.bytes).collect();
    assert!(arrived.iter().copied().eq(&frames), "as they were sent, in order");
    let record = here.stop().unwrap();
    assert_eq!((record.sent, record.arrived), (1000, 0));
    let compared = released::is_the_primarys(frames_of(&record), frames_of(&record)).unwrap();
    assert_eq!(compared.messages, 1000);
}

fn frames_of(record: &colo_tests::netns::Record) -> impl Iterator<Item = &colo_tests::netns::packet::Frame> {
    record.outgoing()
}

#[test]
fn the_programs_that_people_run_are_there() {
    let lab = Lab::new(Options::default()).unwrap();
    lab.s.run("ip link set dev uplink down").unwrap();
    let (guest, client) = (&lab.pg[0], &lab.client);
    let _programs = [
        services::nginx(&lab, guest).unwrap(),
        services::redis(&lab, guest).unwrap(),
        services::iperf3(&lab, guest).unwrap(),
        services::dns(&lab, guest).unwrap(),
    ];
    services::use_all(&lab, client, 0).unwrap();
}

#[test]
fn a_snapshot_shows_what_was_added_and_nothing_else() {
    let lab = Lab::new(Options::default()).unwrap();
    let before = Snapshot::of(&lab, &lab.p).unwrap();
    lab.client.run(&format!("ping -n -c 1 -W 20 {}", addresses(0, 0)[0])).unwrap();
    assert_eq!(before.difference(&Snapshot::of(&lab, &lab.p).unwrap()), [""; 0]);
    lab.p.run("ip link add extra type dummy").or_else(|_| lab.p.run("ip tuntap add extra mode tap")).unwrap();
    let difference = before.difference(&Snapshot::of(&lab, &lab.p).unwrap());
    assert!(difference.iter().any(|line| line.contains("extra")), "{difference:?}");
    assert!(difference.iter().all(|line| line.starts_with("+ ")), "{difference:?}");
}

#[test]
fn a_lab_leaves_nothing_behind_even_when_its_test_panics() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let test = std::thread::spawn(move || {
        let lab = Lab::new(Options::default()).unwrap();
        let _redis = services::redis(&lab, &lab.pg[0]).unwrap();
        sender.send((lab.p.name().to_owned(), lab.dir().to_owned())).unwrap();
        panic!("on purpose");
    });
    assert!(test.join().is_err());
    let (name, dir) = receiver.recv().unwrap();
    assert!(!std::path::Path::new("/run/netns").join(name).exists());
    assert!(!dir.exists());
}
