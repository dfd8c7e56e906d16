//! Proof: whatever fails, nothing unverified leaves, nothing is left behind, and service goes on as
//! soon as it can.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use colo_proxy::live::spec::{Guest, Mode, Nic, OnCrash, Places};
use colo_proxy::setup::{Charge, SetupError, install};
use colo_tests::netns::desk::Visit;
use colo_tests::netns::lab::{CLIENT_MAC, addresses, mac};
use colo_tests::netns::live::embedded;
use colo_tests::netns::live::{command, must};
use colo_tests::netns::packet::Frame;
use colo_tests::netns::program::Program;
use colo_tests::netns::{
    Conduct, Desk, Flaw, Lab, Live, Options, PacketSocket, Proxy, Recorder, Snapshot, Toolstack, released,
    until,
};
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

fn desks(lab: &Lab) -> [Desk; 2] {
    lab.twins(0).map(|guest| Desk::open(guest, Flaw::None).unwrap())
}

fn of_guest(frame: &Frame) -> bool {
    frame.source() == Some(mac(0, 0))
}

/// A guest as the library takes it, whose vif is to join a bridge.
fn guest(mode: Mode, on_crash: OnCrash) -> (Guest, Nic) {
    let guest = embedded(mode, "0").unwrap();
    let nic = Nic { bridge: Some("br0".parse().unwrap()), ..guest.nics[0].clone() };
    (Guest { on_crash, nics: vec![nic.clone()], ..guest }, nic)
}

#[test]
fn a_set_up_that_fails_at_any_step_leaves_everything_as_it_was() {
    let lab = Lab::new(Options::default()).unwrap();
    let places = Places { run: lab.dir().join("run"), bpffs: lab.bpffs() };
    for (host, mode) in [(&lab.p, Mode::Primary), (&lab.s, Mode::Secondary)] {
        // The vif is nobody's port, so that joining the bridge is a step as well.
        host.run("ip link set dev vif00 nomaster").unwrap();
        host.run("ip link set dev fwd down").unwrap();
        for on_crash in [OnCrash::Closed, OnCrash::Open] {
            let (guest, nic) = guest(mode, on_crash);
            let before = Snapshot::of(&lab, host).unwrap();
            let mut failed = Vec::new();
            loop {
                let mut step = 0;
                let mut last = String::new();
                let mut stop = |name: &str| {
                    last = name.to_owned();
                    step += 1;
                    if step > failed.len() { Err(SetupError::Stopped { step: name.into() }) } else { Ok(()) }
                };
                let attempt = host.enter(|| install(&guest, &nic, &places, Charge::This, &mut stop));
                let difference = |before: &Snapshot| before.difference(&Snapshot::of(&lab, host).unwrap());
                match attempt {
                    Err(error) => {
                        assert!(matches!(error, SetupError::Stopped { .. }), "{error}");
                        assert_eq!(difference(&before), [""; 0], "{mode}, failed before: {last}");
                        failed.push(last);
                    }
                    Ok(installed) => {
                        let ours = difference(&before);
                        assert!(ours.iter().any(|line| line.starts_with("+ tcx vif00")), "{ours:#?}");
                        host.enter(|| installed.remove(&places)).unwrap();
                        assert_eq!(difference(&before), [""; 0], "{mode}, removed after all went well");
                        break;
                    }
                }
            }
            assert!(failed.len() >= 8, "{failed:?}");
        }
    }
}

#[test]
fn a_command_that_cannot_be_done_says_why_and_changes_nothing() {
    let lab = Lab::new(Options::default()).unwrap();
    let before = Snapshot::of(&lab, &lab.p).unwrap();
    let refused = |line: &str, code: i32, says: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let output = command(&lab, &lab.p, &words).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        assert!(said.contains(says), "{line}: {said}");
        assert_eq!(before.difference(&Snapshot::of(&lab, &lab.p).unwrap()), [""; 0], "{line}");
    };
    refused("run --vif vif00 --forward nosuch", 1, "nosuch");
    refused("run --vif nosuch --forward fwd", 1, "nosuch");
    refused("run --vif vif00 --forward fwd --bridge nosuch", 1, "nosuch");
    refused("run --vif vif00 --forward fwd --index 101", 2, "index");
    refused("run --vif vif00 --vif vif00 --forward fwd", 2, "vif00");
    lab.p.run("ip link set dev fwd mtu 1400").unwrap();
    let before = Snapshot::of(&lab, &lab.p).unwrap();
    let output = command(&lab, &lab.p, &["run", "--vif", "vif00", "--forward", "fwd"]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("MTU too small: fwd takes packets of 1400 bytes and vif00 has 1500"), "{said}");
    assert_eq!(before.difference(&Snapshot::of(&lab, &lab.p).unwrap()), [""; 0]);
}

/// A loopback device is no bridge, which is found out when everything else is in its place.
const FAILS: [&str; 11] =
    ["run", "--name", "vm0", "--vif", "vif00", "--forward", "fwd", "--index", "0", "--bridge", "lo"];

#[test]
fn one_that_is_killed_while_it_sets_up_or_takes_over_leaves_nothing_that_teardown_does_not_find() {
    let lab = Lab::new(Options { neighbours: true, ..Options::default() }).unwrap();
    let before = Snapshot::of(&lab, &lab.p).unwrap();
    let proxy = Proxy::of(&lab, 0, "primary");
    let mut proxies: Vec<Program> = Vec::new();
    for round in 0..6 {
        // Three in a row, each killed a little later than the one before: the next finds what it left.
        for turn in 1..4 {
            let mut command = Command::new(colo_tests::binary::colo_proxy().unwrap());
            command.arg("run").args(proxy.arguments(&lab));
            let log = lab.dir().join("killed.log");
            let mut program = Program::start(&lab.p, &mut command, &log).unwrap();
            std::thread::sleep(Duration::from_millis(25 * round + 40 * turn));
            program.kill().unwrap();
            proxies.push(program);
        }
        must(&lab, &lab.p, &["teardown", "--all"]).unwrap();
        let difference = before.difference(&Snapshot::of(&lab, &lab.p).unwrap());
        let ours = |line: &String| !line.contains(".notify") && !line.contains(".log");
        assert_eq!(difference.into_iter().filter(ours).collect::<Vec<_>>(), [""; 0], "round {round}");
    }
}

#[test]
fn with_on_crash_closed_nothing_leaves_until_another_proxy_takes_over() {
    let lab = Lab::new(Options { neighbours: true, ..Options::default() }).unwrap();
    let _desks = desks(&lab);
    let address = addresses(0, 0)[0];
    let mut live = Live::start(&lab, Conduct::Perform).unwrap();
    Visit::download(&lab.client, address, 100_000, 1).unwrap();
    let left = Recorder::of(&lab.p, "uplink", 64, |frame| frame.outgoing && of_guest(frame)).unwrap();
    let said = Recorder::of(&lab.pg[0], "eth0", 64, |frame| frame.outgoing).unwrap();
    live.p.kill().unwrap();
    drop(live.toolstack);
    let left_before = left.stop().unwrap().frames.len();
    let left = Recorder::of(&lab.p, "uplink", 64, |frame| frame.outgoing && of_guest(frame)).unwrap();
    let connection = std::thread::scope(|scope| {
        let connecting = scope.spawn(|| Visit::download(&lab.client, address, 100_000, 2));
        // The guest answers the client's SYN, again and again.
        let before = said.seen();
        until("the guest has answered", || Ok((said.seen() >= before + 3).then_some(()))).unwrap();
        // One that cannot take over leaves it as closed as it was.
        let output = command(&lab, &lab.p, &FAILS).unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        let before = said.seen();
        until("the guest has answered again", || Ok((said.seen() >= before + 3).then_some(()))).unwrap();
        let held = left.stop().unwrap();
        assert_eq!(held.frames.len(), 0, "nothing left ({left_before} before)");
        // Another one takes over what was left, without a gap.
        let p = live.primary.run(&lab).unwrap();
        let toolstack = Toolstack::start(
            &live.primary.notify(&lab),
            Some(&live.secondary.notify(&lab)),
            Conduct::Perform,
        );
        let outcome = connecting.join().unwrap();
        drop((p, toolstack));
        outcome
    });
    connection.unwrap();
}

#[test]
fn with_on_crash_open_the_guest_goes_on_alone() {
    let lab = Lab::new(Options { neighbours: true, ..Options::default() }).unwrap();
    let _desks = desks(&lab);
    let primary = Proxy::of(&lab, 0, "primary").with("--on-crash open");
    let mut live = Live::of(&lab, primary, Proxy::of(&lab, 0, "secondary"), Conduct::Perform).unwrap();
    for address in addresses(0, 0) {
        Visit::download(&lab.client, address, 100_000, 1).unwrap();
    }
    live.p.kill().unwrap();
    for address in addresses(0, 0) {
        Visit::download(&lab.client, address, 1 << 20, 2).unwrap();
    }
    must(&lab, &lab.p, &["teardown", "--all"]).unwrap();
}

#[test]
fn a_forward_link_that_goes_down_costs_checkpoints_and_comes_back() {
    let lab = Lab::new(Options { neighbours: true, ..Options::default() }).unwrap();
    let _desks = desks(&lab);
    let live = Live::start(&lab, Conduct::Perform).unwrap();
    let visit = |seed| {
        for address in addresses(0, 0) {
            Visit::download(&lab.client, address, 20_000, seed).unwrap();
        }
    };
    visit(1);
    lab.s.run("ip link set dev fwd down").unwrap();
    let before = live.toolstack.performed();
    visit(2);
    assert!(live.toolstack.performed() > before, "what the secondary did not say left by checkpoints");
    lab.s.run("ip link set dev fwd up").unwrap();
    let received = live.primary.kernel(&lab, "received").unwrap();
    visit(3);
    assert!(live.primary.kernel(&lab, "received").unwrap() > received, "the secondary takes part again");
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_flood_that_only_the_primary_sends_is_bounded_and_counted_and_passes() {
    let lab = Lab::new(Options { neighbours: true, ..Options::default() }).unwrap();
    let _desks = desks(&lab);
    let mut live = Live::start(&lab, Conduct::Wait).unwrap();
    let left = Recorder::of(&lab.p, "uplink", 64, |_| false).unwrap();
    let to = SocketAddr::from((colo_tests::netns::lab::client_addresses(0)[0], 9));
    let socket = lab.pg[0].enter(|| UdpSocket::bind("0.0.0.0:9000")).unwrap();
    let before = resident(live.p.pid());
    let mut most = 0;
    for round in 0..300_000u32 {
        // A full queue is the guest's own affair.
        let _ = socket.send_to(&[round as u8; 1200], to);
        if round % 1000 == 0 {
            most = most.max(resident(live.p.pid()));
        }
    }
    live.p.must_run().unwrap();
    // 64 MiB may be held of a side, and twice that before the kernel drops.
    assert!(most < before + (400 << 20), "{} MiB resident", most >> 20);
    until("a checkpoint is asked for", || Ok((live.toolstack.requests()? > 0).then_some(()))).unwrap();
    let status = live.primary.status(&lab).unwrap();
    assert!(status.nics[0].kernel["captured"] > 0, "{status:?}");
    live.toolstack.go_on().unwrap();
    until("what was held leaves", || Ok((left.seen() > 1000).then_some(()))).unwrap();
    Visit::download(&lab.client, addresses(0, 0)[0], 1 << 20, 1).unwrap();
    live.p.must_run().unwrap();
}

/// Bytes by chance, the same in every run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// A frame as nobody sends it, most of them with a tag that could be ours.
    fn frame(&mut self) -> Vec<u8> {
        let length = 14 + (self.next() % 1450) as usize;
        let mut frame = [&CLIENT_MAC[..], &mac(0, 0)].concat();
        match self.next() % 8 {
            0 => {}
            1 => frame.extend([0x88, 0xa8, self.next() as u8, self.next() as u8]),
            // Index 0, any epoch, sometimes with the bit that never is on the wire.
            2 => frame.extend([0x88, 0xa8, 0x10, 0x20 | self.next() as u8 & 31]),
            _ => frame.extend([0x88, 0xa8, 0, 0x20 | self.next() as u8 & 31]),
        }
        let kinds: [[u8; 2]; 6] = [[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0], [0x88, 0xa8], [0x88, 0xb5]];
        frame.extend(kinds[(self.next() % 6) as usize]);
        if self.next().is_multiple_of(2) {
            // The beginning of an IPv4 header and of a TCP one.
            frame.extend([
                0x45,
                0,
                0,
                self.next() as u8,
                0,
                0,
                0x40,
                0,
                64,
                6,
                0,
                0,
                10,
                77,
                0,
                10,
                10,
                77,
                0,
                1,
            ]);
        }
        let rest = self.bytes(length);
        frame.extend(rest);
        frame.truncate(1500);
        frame
    }
}

#[test]
fn a_hostile_secondary_gets_nothing_out_and_stops_nothing() {
    let lab = Lab::new(Options { neighbours: true, ..Options::default() }).unwrap();
    let _desks = desks(&lab);
    let mut live = Live::start(&lab, Conduct::Perform).unwrap();
    let said = Recorder::start(&lab.pg[0], "eth0").unwrap();
    let left = Recorder::start(&lab.p, "uplink").unwrap();
    let sender = PacketSocket::sender(&lab.s, "fwd").unwrap();
    std::thread::scope(|scope| {
        let hostile = scope.spawn(|| {
            let mut chance = Chance(0x00c0_10c0_10c0_10c0);
            for _ in 0..50_000 {
                sender.send(&chance.frame()).unwrap();
            }
        });
        for round in 0..3 {
            for address in addresses(0, 0) {
                Visit::download(&lab.client, address, 100_000, round).unwrap();
                Visit::upload(&lab.client, address, 100_000, round).unwrap();
            }
        }
        hostile.join().unwrap();
    });
    live.p.must_run().unwrap();
    live.s.must_run().unwrap();
    let (said, left) = (said.stop().unwrap(), left.stop().unwrap());
    let of_guest = left.outgoing().filter(|frame| of_guest(frame));
    let compared = released::is_the_primarys(said.outgoing(), of_guest).unwrap();
    assert!(compared.tcp_bytes >= 600_000, "{compared:?}");
    assert_eq!(left.outgoing().filter(|frame| frame.source() == Some(CLIENT_MAC)).count(), 0);
    // As soon as it behaves, all is well.
    Visit::download(&lab.client, addresses(0, 0)[0], 1 << 20, 1).unwrap();
}
