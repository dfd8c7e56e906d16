//! Proof: one byte that differs is held back, a checkpoint is asked for, and after it exactly the
//! primary's bytes leave.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use colo_tests::netns::desk::Visit;
use colo_tests::netns::lab::{addresses, mac};
use colo_tests::netns::{Conduct, Desk, Flaw, Lab, Live, Options, Proxy, Recorder, released, until};

/// An answer that leaves a guest at once: no acknowledgement has to come back for it.
const AT_ONCE: u64 = 10_000;

fn a_changed_byte_is_held_back(options: Options, place: u64, size: u64) {
    let options = Options { neighbours: true, ..options };
    let lab = Lab::new(options).unwrap();
    let _desks =
        [Desk::open(&lab.pg[0], Flaw::None).unwrap(), Desk::open(&lab.sg[0], Flaw::Byte(place)).unwrap()];
    let [mut primary, secondary] = ["primary", "secondary"].map(|mode| Proxy::of(&lab, 0, mode));
    if size <= AT_ONCE {
        // Only the difference is to ask. After a checkpoint that made nothing equal the secondary is behind
        // for good in a longer one, and has to be given up soon, each time that it is waited for.
        primary = primary.patient();
    }
    let live = Live::of(&lab, primary, secondary, Conduct::Wait).unwrap();
    for address in addresses(0, 0) {
        let said = Recorder::start(&lab.pg[0], "eth0").unwrap();
        let left = Recorder::start(&lab.p, "uplink").unwrap();
        let before = live.toolstack.requests().unwrap();
        let mut visit = Visit::open(&lab.client, address).unwrap();
        visit.say(&format!("down {size} 5\n")).unwrap();
        let reader = std::thread::spawn(move || {
            visit.take(5, size)?;
            visit.end()
        });
        until("a checkpoint is asked for", || Ok((live.toolstack.requests()? > before).then_some(())))
            .unwrap();
        let left = left.stop().unwrap();
        let bytes: u64 = payload(&left);
        assert!(bytes <= place, "{bytes} bytes left, and byte {place} differs");
        let rest = Recorder::start(&lab.p, "uplink").unwrap();
        live.toolstack.go_on().unwrap();
        reader.join().unwrap().unwrap();
        let (said, rest) = (said.stop().unwrap(), rest.stop().unwrap());
        let all = left.outgoing().chain(rest.outgoing());
        let compared = released::is_the_primarys(said.outgoing(), all).unwrap();
        assert!(compared.tcp_bytes >= size, "{compared:?}");
        live.toolstack.hold_on();
    }
}

/// Bytes of TCP payload that the guest's host sent.
fn payload(record: &colo_tests::netns::Record) -> u64 {
    let of_guest = record.outgoing().filter(|frame| frame.source() == Some(mac(0, 0)));
    of_guest.map(|frame| released::tcp_payload(frame) as u64).sum()
}

#[test]
fn in_a_short_answer() {
    a_changed_byte_is_held_back(Options::default(), 100, 200);
}

#[test]
fn in_the_middle_of_a_long_one() {
    a_changed_byte_is_held_back(Options::default(), 1_000_000, 2_000_000);
}

#[test]
fn in_the_middle_of_a_long_one_without_offloads() {
    a_changed_byte_is_held_back(Options { offload: false, ..Options::default() }, 1_000_000, 2_000_000);
}

#[test]
fn the_first_and_the_last_byte() {
    a_changed_byte_is_held_back(Options::default(), 0, 200);
    a_changed_byte_is_held_back(Options::default(), 199_999, 200_000);
}
