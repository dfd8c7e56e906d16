//! The programs attached to devices, in a network namespace of our own: a copy that one node's program
//! sends over the forward link meets the other node's program.
//!
//! ```text
//!   vif_egress (run) ─ copy, tagged ─► fwd-a ═══ fwd-b ─► forward_ingress ─ marked ─► vif ─► vif_egress
//!        sender's maps                                     └────────── receiver's maps ──────────┘
//! ```
#![allow(clippy::unwrap_used, reason = "what a test needs is there, or the test fails")]

use aya::programs::TcAttachType;
use colo_ebpf_shared::layout::{Counter, Nic, Role, STALE_MS, nic_flags};
use colo_tests::frames::ACK;
use colo_tests::kernel::segment::Segment;
use colo_tests::kernel::{NEXT, Programs};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const MARK: u32 = 77;
const INDEX: u32 = 100;
/// How often it is looked whether a frame has arrived before that counts as a failure.
const PATIENCE: u32 = 1000;
/// How often it is looked again when the device has it and nothing was counted.
const GRACE: u32 = 20;

/// A namespace that this thread is in, gone with it.
struct Namespace(String);

impl Namespace {
    fn enter() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("colo-k-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&format!("netns add {name}"));
        let there = Self(name);
        let file = fs::File::open(format!("/run/netns/{}", there.0)).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        there
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.0));
    }
}

fn ip(args: &str) {
    let status = Command::new("ip").args(args.split(' ')).status().unwrap();
    assert!(status.success(), "ip {args}: {status}");
}

fn number(device: &str) -> u32 {
    let line = Command::new("ip").args(["-o", "link", "show", device]).output().unwrap().stdout;
    String::from_utf8(line).unwrap().split(':').next().unwrap().parse().unwrap()
}

/// Both nodes' programs.
struct Chain {
    sender: Programs,
    receiver: Programs,
    _namespace: Namespace,
}

impl Chain {
    /// A sender of the NIC `index`, and a receiver of [`INDEX`].
    fn new(index: u32) -> Self {
        let namespace = Namespace::enter();
        for pair in [["fwd-a", "fwd-b"], ["vif", "guest"]] {
            ip(&format!("link add {} type veth peer name {}", pair[0], pair[1]));
            for device in pair {
                fs::write(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"), "1").unwrap();
                ip(&format!("link set {device} up"));
            }
        }
        let mut chain = Self {
            sender: Programs::load(index, 16).unwrap(),
            receiver: Programs::load(INDEX, 16).unwrap(),
            _namespace: namespace,
        };
        chain.receiver.program("forward_ingress").unwrap().attach("fwd-b", TcAttachType::Ingress).unwrap();
        chain.receiver.program("vif_egress").unwrap().attach("vif", TcAttachType::Egress).unwrap();
        chain
    }

    /// Sends one frame in this epoch, and returns what the receiver counted.
    fn send(&mut self, epoch: u32, receiver: Role, its_epoch: u32) -> Vec<(&'static str, u64)> {
        self.receive_as(receiver, its_epoch, 0);
        self.go(epoch)
    }

    /// What the receiver is from now on.
    fn receive_as(&mut self, role: Role, epoch: u32, flags: u32) {
        let (vif, capture) = (number("vif"), number("guest"));
        let nic = Nic { mark: MARK, forward: number("fwd-a"), forward_frame: 1514, ..Nic::default() };
        let nic = Nic { role: role as u32, epoch, oldest: epoch, generation: 1, flags, vif, capture, ..nic };
        self.receiver.set_nic(nic).unwrap();
    }

    /// Sends one frame in this epoch to the receiver as it is.
    fn go(&mut self, epoch: u32) -> Vec<(&'static str, u64)> {
        let nic = Nic { mark: MARK, forward: number("fwd-a"), forward_frame: 1514, ..Nic::default() };
        self.sender.set_nic(Nic { role: Role::Primary as u32, epoch, ..nic }).unwrap();
        let arrived = packets("fwd-b");
        let before = self.receiver.counted().unwrap();
        let mirrored = self.sender.count(Counter::Mirrored).unwrap();
        let frame = Segment::inwards(ACK, 1, 2).payload(&[1; 100]).frame();
        let ran = self.sender.run("vif_egress", &frame, 0).unwrap();
        assert_eq!((ran.verdict, ran.frame), (NEXT, frame), "the guest's own frame stays as it is");
        assert_eq!(self.sender.count(Counter::Mirrored).unwrap(), mirrored + 1);
        self.settle(arrived, &before)
    }

    /// What was counted since, once the frame has gone all its way: the kernel may leave that to a
    /// thread of its own, and a frame that is none of ours shows in the device's count alone.
    fn settle(&mut self, arrived: u64, before: &[(&'static str, u64)]) -> Vec<(&'static str, u64)> {
        let was = |name| before.iter().find(|(other, _)| *other == name).map_or(0, |(_, count)| *count);
        let (mut since, mut waited) = (Vec::new(), 0);
        for _ in 0..PATIENCE {
            let now = self.receiver.counted().unwrap();
            since = now.into_iter().map(|(name, count)| (name, count - was(name))).collect();
            since.retain(|(_, count)| *count > 0);
            if !since.is_empty() || (packets("fwd-b") > arrived && waited == GRACE) {
                break;
            }
            waited += u32::from(packets("fwd-b") > arrived);
            std::thread::sleep(Duration::from_millis(5));
        }
        since
    }
}

/// How many packets a device has received.
fn packets(device: &str) -> u64 {
    let out = Command::new("ip").args(["-s", "-o", "link", "show", device]).output().unwrap().stdout;
    let line = String::from_utf8(out).unwrap();
    let received = line.split("RX:").nth(1).unwrap().split('\\').nth(1).unwrap();
    received.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn what_arrives_is_judged_by_index_epoch_and_role() {
    let mut chain = Chain::new(INDEX);
    let delivered: &[(&str, u64)] = &[("delivered", 1)];
    assert_eq!(chain.send(5, Role::Secondary, 5), delivered);
    assert_eq!(chain.send(6, Role::Secondary, 5), delivered, "the other node is ahead");
    assert_eq!(chain.send(32, Role::Secondary, 31), delivered, "across the wrap");
    assert_eq!(chain.send(4, Role::Secondary, 5), [("stale", 1)]);
    assert_eq!(chain.send(31, Role::Secondary, 32), [("stale", 1)]);
    assert_eq!(chain.send(5, Role::Promoted, 5), [("unwanted", 1)]);
    assert_eq!(chain.send(5, Role::Unprotected, 5), [("unwanted", 1)]);
    assert_eq!(chain.send(5, Role::None, 5), []);
    assert_eq!(chain.send(5, Role::Primary, 5), [("received", 1)]);
    assert_eq!(chain.send(4, Role::Primary, 5), [("stale", 1)]);
}

/// What a secondary believes: epoch and generation.
fn belief(chain: &mut Chain) -> (u32, u32) {
    let nic = chain.receiver.nic().unwrap();
    assert_eq!(nic.epoch, nic.oldest);
    (nic.epoch, nic.generation)
}

#[test]
fn a_secondary_that_joins_learns_the_epoch_from_the_first_frame() {
    let mut chain = Chain::new(INDEX);
    chain.receive_as(Role::Secondary, 9, nic_flags::JOINING);
    assert_eq!(chain.go(3), [("delivered", 1)], "older than what it would have begun with");
    assert_eq!(belief(&mut chain), (3, 1), "nothing was known that could be forgotten");
    assert_eq!(chain.go(2), [("stale", 1)], "and only from the first");
}

#[test]
fn one_that_nobody_tells_takes_a_newer_epoch_for_a_checkpoint() {
    let mut chain = Chain::new(INDEX);
    chain.receive_as(Role::Secondary, 3, nic_flags::FOLLOWS);
    assert_eq!(chain.go(4), [("delivered", 1)]);
    assert_eq!(belief(&mut chain), (4, 2), "known connections lose their offset");
    assert_eq!(chain.go(3), [("stale", 1)], "a straggler changes nothing");
    assert_eq!(belief(&mut chain), (4, 2));
    // One that is told waits for that.
    chain.receive_as(Role::Secondary, 3, 0);
    assert_eq!(chain.go(4), [("delivered", 1)]);
    assert_eq!(belief(&mut chain), (3, 1));
}

#[test]
fn a_primary_that_has_begun_anew_is_followed_after_a_time_of_stale_frames() {
    let mut chain = Chain::new(INDEX);
    chain.receive_as(Role::Secondary, 5, 0);
    let patience = std::time::Duration::from_millis(u64::from(STALE_MS) + 10);
    // However many: the other node may be told of a checkpoint later than this one.
    for _ in 0..100 {
        assert_eq!(chain.go(4), [("stale", 1)]);
    }
    std::thread::sleep(patience);
    assert_eq!(chain.go(5), [("delivered", 1)], "the primary is in the epoch");
    assert_eq!(chain.go(1), [("stale", 1)], "so the time begins again");
    std::thread::sleep(patience);
    assert_eq!(chain.go(1), [("delivered", 1)]);
    assert_eq!(belief(&mut chain), (1, 2));
}

#[test]
fn a_tag_of_a_nic_that_nobody_protects_is_none_of_ours() {
    let mut chain = Chain::new(INDEX - 1);
    assert_eq!(chain.send(5, Role::Secondary, 5), []);
}

#[test]
fn a_frame_without_a_tag_is_none_of_ours() {
    let mut receiver = Programs::load(INDEX, 16).unwrap();
    receiver.set_nic(Nic { role: Role::Secondary as u32, ..Nic::default() }).unwrap();
    let frame = Segment::inwards(ACK, 1, 2).frame();
    let ran = receiver.run("forward_ingress", &frame, 0).unwrap();
    assert_eq!((ran.verdict, ran.frame), (NEXT, frame));
    assert_eq!(receiver.counted().unwrap(), []);
}
