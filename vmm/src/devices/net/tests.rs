//! Two guests with a card each, on taps in a bridge in a network namespace of the test's own.
//!
//! ```text
//!   driver A ── rings ── Net A ── tap a ── bridge ── tap b ── Net B ── rings ── driver B
//! ```

mod states;

use super::features::{ALWAYS, CTRL_VQ, GUEST_TSO4, MQ, MRG_RXBUF};
use super::*;
use crate::memory::GuestRam;
use crate::virtio::fake_driver::{FakeDriver, NEXT, Part, Watch, ram, reads, writes};
use crate::virtio::pci::tests::{Guest, until};
use crate::virtio::pci::{RING_EVENT_IDX, VERSION_1};
use proptest::prelude::*;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::AtomicU32;
use tap::VNET_HDR;
use vm_memory::{Bytes, GuestAddress};

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A network namespace that the calling thread is in; it goes away with this.
#[derive(Debug)]
struct Space(String);

impl Space {
    fn enter() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vmmnet{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&format!("netns add {name}"));
        let file = std::fs::File::open(format!("/run/netns/{name}")).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        Self(name)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

/// A guest with one queue pair.
struct Host {
    guest: Guest,
    shared: Arc<Shared>,
    receive: FakeDriver,
    transmit: FakeDriver,
    /// The next free bytes of its RAM.
    free: u64,
    /// Where the buffers that it offered for receiving are.
    buffers: std::collections::HashMap<u16, (u64, u32)>,
}

const RAM: usize = 16 << 20;
const AREA: u64 = 0x10_0000;

impl Host {
    fn new(tap: &str, features: u64) -> Self {
        let net = Net::new(Tap::open(tap, 1).unwrap(), MAC, Some(1500));
        let (shared, ram) = (net.shared(), ram(RAM));
        let guest = Guest::new(Box::new(net), &ram);
        let mut receive = FakeDriver::new(&ram, 0x1_0000, 256);
        let mut transmit = FakeDriver::new(&ram, 0x2_0000, 256);
        (receive.event_idx, transmit.event_idx) = (true, true);
        assert!(guest.negotiate(VERSION_1 | RING_EVENT_IDX | features));
        guest.enable_interrupts();
        guest.set_queue(0, &receive);
        guest.set_queue(1, &transmit);
        guest.start();
        Self { guest, shared, receive, transmit, free: AREA, buffers: std::collections::HashMap::new() }
    }

    fn ram(&self) -> &Arc<GuestRam> {
        &self.receive.ram
    }

    fn take(&mut self, len: u64) -> u64 {
        if self.free + len > RAM as u64 {
            self.free = AREA;
        }
        self.free += len;
        self.free - len
    }

    /// Offers buffers for receiving.
    fn offer(&mut self, count: usize, len: u32) {
        for _ in 0..count {
            let address = self.take(u64::from(len));
            let head = self.receive.offer(&[writes(address, len)]).unwrap();
            self.buffers.insert(head, (address, len));
        }
        self.guest.notify(0);
    }

    /// Sends a frame, header included, in pieces.
    fn send(&mut self, frame: &[u8], pieces: usize) {
        let address = self.take(frame.len() as u64);
        self.ram().write_slice(frame, GuestAddress(address)).unwrap();
        let each = frame.len().div_ceil(pieces);
        let parts: Vec<Part> = (0..frame.len())
            .step_by(each)
            .map(|at| reads(address + at as u64, each.min(frame.len() - at) as u32))
            .collect();
        until("room to send", || {
            self.transmit.collect();
            self.transmit.room() >= parts.len()
        });
        self.transmit.offer(&parts).unwrap();
        self.guest.notify(1);
    }

    /// The frames that have come: header and bytes, and how many buffers it took.
    fn received(&mut self) -> Vec<(Vec<u8>, u16)> {
        let mut used = self.receive.collect().into_iter();
        let mut frames = Vec::new();
        while let Some((head, len)) = used.next() {
            let mut frame = self.buffer(head, len);
            let count = u16::from_le_bytes([frame[10], frame[11]]);
            for _ in 1..count {
                let (head, len) = used.next().expect("all buffers of a frame come together");
                frame.extend(self.buffer(head, len));
            }
            // What the kernel says of other frames (its own neighbour discovery) is not ours.
            if frame.get(VNET_HDR + 12..VNET_HDR + 14) == Some(&[0x88, 0xb5]) || frame.len() > 3000 {
                frames.push((frame, count));
            }
        }
        frames
    }

    fn buffer(&mut self, head: u16, len: u32) -> Vec<u8> {
        let (address, room) = self.buffers.remove(&head).unwrap();
        assert!(len <= room);
        let mut bytes = vec![0; len as usize];
        self.ram().read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }
}

/// Two guests, and what they are connected by.
fn pair(features: u64) -> (Host, Host, Space) {
    let space = Space::enter();
    ip("link add name bridge0 type bridge forward_delay 0 mcast_snooping 0");
    ip("link set dev bridge0 addrgenmode none up");
    let hosts = ["a", "b"].map(|name| {
        let host = Host::new(name, features);
        ip(&format!("link set dev {name} addrgenmode none"));
        ip(&format!("link set dev {name} mtu 1500 master bridge0 up"));
        host
    });
    let [a, b] = hosts;
    (a, b, space)
}

/// A frame of an experimental type, with a number and a pattern.
fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0; VNET_HDR];
    frame.extend([0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.extend(number.to_le_bytes());
    frame.extend((0..len).map(|at| (at as u32 ^ number.wrapping_mul(7)) as u8));
    frame
}

fn wait_for(host: &mut Host, count: usize) -> Vec<(Vec<u8>, u16)> {
    let mut frames = Vec::new();
    until("a frame", || {
        frames.extend(host.received());
        frames.len() >= count
    });
    frames
}

#[test]
fn frames_arrive_as_they_were_sent_both_ways() {
    let (mut a, mut b, _space) = pair(ALWAYS);
    assert_eq!(a.guest.read(4, 0), MAC);
    assert_eq!(a.guest.read(4, 6), LINK_UP.to_le_bytes());
    a.offer(100, 2048);
    b.offer(100, 2048);
    for (number, pieces) in (0..50).zip([1, 2, 3, 7].into_iter().cycle()) {
        a.send(&frame(number, 40 + 20 * number as usize), pieces);
        b.send(&frame(1000 + number, 1400), pieces);
    }
    for (host, first) in [(&mut b, 0), (&mut a, 1000)] {
        for (number, (got, buffers)) in (first..).zip(wait_for(host, 50)) {
            let len = if first == 0 { 40 + 20 * number as usize } else { 1400 };
            assert_eq!(buffers, 1);
            assert_eq!(got[VNET_HDR..], frame(number, len)[VNET_HDR..]);
        }
    }
    assert_eq!(a.shared.counters().transmit_dropped.load(Ordering::Relaxed), 0);
}

/// A TCP segment of `payload` bytes that wants to be cut into pieces of 1448, without a checksum.
fn uncut(payload: usize) -> Vec<u8> {
    let mut frame = vec![1, 1, 54, 0];
    frame.extend(1448_u16.to_le_bytes());
    frame.extend(34_u16.to_le_bytes());
    frame.extend(16_u16.to_le_bytes());
    frame.extend([0, 0]);
    frame.extend([0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 8, 0]);
    let mut header = vec![0x45, 0];
    header.extend(((40 + payload) as u16).to_be_bytes());
    header.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    frame.extend(header);
    frame.extend([0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0]);
    let len = (20 + payload) as u32;
    let pseudo = 0x0a00 + 0x0001 + 0x0a00 + 0x0002 + 6 + len;
    frame.extend((((pseudo & 0xffff) + (pseudo >> 16)) as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend((0..payload).map(|at| (at % 251) as u8));
    frame
}

#[test]
fn an_uncut_segment_goes_through_whole_into_several_buffers() {
    let (mut a, mut b, _space) = pair(ALWAYS);
    b.offer(100, 1536);
    let sent = uncut(40_000);
    a.send(&sent, 10);
    let (got, buffers) = wait_for(&mut b, 1).remove(0);
    assert_eq!(usize::from(buffers), sent.len().div_ceil(1536));
    assert_eq!(got[VNET_HDR..], sent[VNET_HDR..]);
    assert_eq!(got[1], 1, "it is still to be cut");
    assert_eq!(got[4..6], sent[4..6], "as it was to be");
}

#[test]
fn what_does_not_fit_yet_waits_for_buffers() {
    let (mut a, mut b, _space) = pair(ALWAYS);
    b.offer(4, 1536);
    let sent = uncut(30_000);
    a.send(&sent, 1);
    // The device has read it when it asks for more buffers than the four.
    until("the wish for buffers", || b.receive.avail_event() == 4);
    a.send(&frame(1, 100), 1);
    b.offer(60, 1536);
    let frames = wait_for(&mut b, 2);
    assert_eq!(frames[0].0[VNET_HDR..], sent[VNET_HDR..]);
    assert_eq!(frames[1].0[VNET_HDR..], frame(1, 100)[VNET_HDR..]);
}

#[test]
fn a_driver_that_takes_nothing_uncut_gets_it_cut() {
    let (mut a, mut b, _space) = pair(ALWAYS & !(MRG_RXBUF | GUEST_TSO4));
    b.offer(100, 2048);
    a.send(&uncut(14_480), 1);
    let mut got = Vec::new();
    until("ten segments", || {
        for (head, len) in b.receive.collect() {
            got.push(b.buffer(head, len));
        }
        got.iter().filter(|frame| frame.get(24..26) == Some(&[8, 0])).count() >= 10
    });
    let bytes: Vec<u8> =
        got.iter().filter(|frame| frame[24..26] == [8, 0]).flat_map(|frame| frame[66..].to_vec()).collect();
    assert_eq!(bytes, uncut(14_480)[66..]);
}

#[test]
fn a_thousand_pauses_under_load_lose_repeat_and_reorder_nothing() {
    let (mut a, mut b, _space) = pair(ALWAYS);
    b.offer(250, 2048);
    let (mut sent, mut got) = (0_u32, 0_u32);
    for round in 0..1000 {
        while sent < got + 100 && sent < 4 * (round + 1) {
            a.send(&frame(sent, 200), 2);
            sent += 1;
        }
        let side = if round % 2 == 0 { &a } else { &b };
        side.guest.function.pause();
        let (at_pause, state) = (side.receive.half(side.receive.used() + 2), side.guest.function.save());
        assert_eq!(state.transport.queues[0].next_used, at_pause, "what is used is published");
        assert_eq!(
            state.transport.queues[1].next_avail, state.transport.queues[1].next_used,
            "no frame is half sent"
        );
        std::thread::yield_now();
        assert_eq!(side.receive.half(side.receive.used() + 2), at_pause, "nobody works");
        side.guest.function.resume();
        let frames = b.received();
        for (bytes, _) in &frames {
            assert_eq!(bytes[VNET_HDR..], frame(got, 200)[VNET_HDR..]);
            got += 1;
        }
        b.offer(frames.len(), 2048);
    }
    while got < sent {
        for (bytes, _) in wait_for(&mut b, 1) {
            assert_eq!(bytes[VNET_HDR..], frame(got, 200)[VNET_HDR..]);
            got += 1;
        }
    }
    assert!(sent > 1000, "there was load: {sent}");
}

#[test]
fn every_page_that_it_writes_is_marked() {
    let (mut a, mut b, _space) = pair(ALWAYS);
    let watch = Watch::begin(b.ram());
    // Into many small buffers; and one that comes before there is any, and waits in the spill.
    b.offer(3, 700);
    a.send(&frame(1, 1400), 3);
    a.send(&frame(2, 1300), 1);
    b.offer(40, 300);
    assert_eq!(wait_for(&mut b, 2).len(), 2);
    b.send(&frame(3, 900), 2);
    b.guest.function.pause();
    let (written, unmarked) = watch.written(b.ram());
    assert!(written.iter().any(|&page| page as u64 >= AREA >> 12), "{written:x?}");
    assert!(unmarked.is_empty(), "{unmarked:x?}");
}

#[test]
fn a_card_goes_on_in_another_machine() {
    let (mut a, mut b, _space) = pair(ALWAYS);
    b.offer(100, 2048);
    a.send(&frame(1, 100), 1);
    assert_eq!(wait_for(&mut b, 1).len(), 1);
    a.guest.function.pause();
    let state = a.guest.function.save();
    let other = Net::new(Tap::open("c", 1).unwrap(), MAC, Some(1500));
    ip("link set dev c addrgenmode none");
    ip("link set dev c master bridge0 up");
    let guest = Guest::new(Box::new(other), a.ram());
    guest.function.check(&state).unwrap();
    guest.function.load(&state);
    let spoils: [fn(&mut NetState); 3] =
        [|net| net.pairs = 2, |net| net.mac[5] ^= 1, |net| net.most_pairs = 4];
    for spoil in spoils {
        let mut wrong = state.clone();
        let DeviceState::Net(net) = &mut wrong.device else { panic!("it is a card") };
        spoil(net);
        assert!(matches!(guest.function.check(&wrong), Err(crate::virtio::pci::LoadError::Device(_))));
    }
    guest.function.resume();
    a.guest = guest;
    a.send(&frame(2, 100), 1);
    assert_eq!(wait_for(&mut b, 1)[0].0[VNET_HDR..], frame(2, 100)[VNET_HDR..]);
}

#[test]
fn frames_that_are_none_are_dropped_and_counted() {
    let (mut a, mut b, _space) = pair(ALWAYS);
    b.offer(100, 2048);
    a.send(&[0; 5], 1);
    a.send(&vec![0; 70_000], 1);
    let mut senseless = frame(0, 100);
    senseless[1] = 0x7f;
    a.send(&senseless, 1);
    a.send(&frame(9, 100), 1);
    assert_eq!(wait_for(&mut b, 1)[0].0[VNET_HDR..], frame(9, 100)[VNET_HDR..]);
    assert_eq!(a.shared.counters().transmit_dropped.load(Ordering::Relaxed), 3);
}

#[test]
fn a_broken_ring_of_either_kind_asks_for_a_reset() {
    for queue in 0..2 {
        let (mut a, _b, _space) = pair(ALWAYS);
        let driver = if queue == 0 { &mut a.receive } else { &mut a.transmit };
        driver.descriptor(driver.table(), 0, 0, 1, NEXT, 0);
        driver.offer_head(0);
        a.guest.notify(queue);
        a.guest.interrupted(0);
        assert_ne!(a.guest.status() & 64, 0);
        a.guest.notify(queue);
        a.guest.function.pause();
        a.guest.function.resume();
    }
}

#[test]
fn several_pairs_are_used_when_the_driver_says_so() {
    let _space = Space::enter();
    let net = Net::new(Tap::open("m", 4).unwrap(), MAC, None);
    let (shared, ram) = (net.shared(), ram(1 << 20));
    assert_eq!(net.queues().len(), 9);
    let guest = Guest::new(Box::new(net), &ram);
    assert!(guest.negotiate(VERSION_1 | ALWAYS | MQ | CTRL_VQ));
    assert_eq!(guest.read(4, 8), [4, 0]);
    let mut command = FakeDriver::new(&ram, 0x1_0000, 64);
    guest.enable_interrupts();
    guest.set_queue(8, &command);
    guest.start();
    let mut execute = |bytes: &[u8]| {
        ram.write_slice(bytes, GuestAddress(0x8_0000)).unwrap();
        ram.write_slice(&[0xff], GuestAddress(0x8_1000)).unwrap();
        command.offer(&[reads(0x8_0000, bytes.len() as u32), writes(0x8_1000, 1)]).unwrap();
        guest.notify(8);
        until("an answer", || !command.collect().is_empty());
        ram.read_obj::<u8>(GuestAddress(0x8_1000)).unwrap()
    };
    assert_eq!(execute(&[4, 0, 3, 0]), 0);
    assert_eq!(shared.pairs(), 3);
    for wrong in [&[4, 0, 5, 0][..], &[4, 0, 0, 0], &[4, 1, 1, 0], &[4, 0, 1], &[]] {
        let wrong = if wrong.is_empty() { &[9_u8][..] } else { wrong };
        assert_eq!(execute(wrong), 1, "{wrong:?}");
    }
    assert_eq!(shared.pairs(), 3);
    assert!(guest.negotiate(VERSION_1 | ALWAYS));
    assert_eq!(shared.pairs(), 1, "a reset is a new beginning");
}

#[test]
fn a_tap_that_cannot_be_had_is_explained() {
    let _space = Space::enter();
    let tap = Tap::open("t", 1).unwrap();
    let error = Tap::open("t", 1).unwrap_err();
    assert!(matches!(error, TapError::Busy { .. }), "{error}");
    drop(tap);
    ip("tuntap add single mode tap");
    let error = Tap::attach("mistaken", 2).unwrap_err().to_string();
    assert!(error.contains("there is no tap mistaken") && error.contains("vnet_hdr multi_queue"), "{error}");
    let error = Tap::open("single", 2).unwrap_err();
    assert!(error.to_string().contains("multi_queue"), "{error}");
    ip("tuntap add several mode tap multi_queue");
    assert_eq!(Tap::attach("several", 1).unwrap().queues(), 1);
}

use tap::TapError;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any rings, and frames meanwhile: the card answers, asks for a reset, or waits; it never hangs.
    #[test]
    fn noise_in_rings_is_survived(
        noise in prop::collection::vec((any::<bool>(), 0u64..0x100, any::<u64>()), 1..60),
        claims in prop::collection::vec((any::<bool>(), any::<u16>()), 1..8),
    ) {
        let _space = Space::enter();
        let mut a = Host::new("a", ALWAYS);
        ip("link set dev a up");
        a.offer(8, 512);
        for (which, at, value) in noise {
            let driver = if which { &a.receive } else { &a.transmit };
            // Addresses that are often RAM, lengths that are often small.
            let value = if at % 2 == 0 { value & 0xff_fff0 } else { value & 0x000f_0007_0000_0fff };
            driver.ram.write_obj(value, GuestAddress(driver.table() + 8 * at)).unwrap();
        }
        for (which, index) in claims {
            let (driver, queue) = if which { (&a.receive, 0) } else { (&a.transmit, 1) };
            driver.claim(index % 300);
            a.guest.notify(queue);
        }
        a.guest.function.pause();
        a.guest.function.resume();
        a.guest.function.reset();
        prop_assert_eq!(a.guest.status(), 0);
    }
}
