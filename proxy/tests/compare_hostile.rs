//! `colo-proxy compare` among peers that stumble, stall, lie and flood.

#![allow(clippy::unwrap_used, reason = "in helpers of tests")]

mod common;

use common::*;
use std::io::Write as _;
use std::thread;
use std::time::Duration;

/// A pair passes.
fn works<S: Stream, T: Stream, U: Stream>(pri: &mut Peer<S>, sec: &mut Peer<T>, out: &mut Peer<U>, n: u16) {
    let frame = udp(40_000 + n, b"still alive");
    pri.send(&frame);
    sec.send(&frame);
    assert_eq!(out.receive(), frame);
}

#[test]
fn frames_without_a_byte_are_skipped() {
    let comparer = Comparer::start(&[]);
    let [mut pri, mut sec, mut out, _ntf] = comparer.connect_all();
    for peer in [&mut pri, &mut sec] {
        peer.send(&[framed(b""), framed(b""), framed(b"")].concat());
    }
    works(&mut pri, &mut sec, &mut out, 1);
    let report = comparer.stop().report();
    assert_eq!((&report["primary_in"]["empty"], &report["secondary_in"]["empty"]), (&3.into(), &3.into()));
}

#[test]
fn frames_that_are_too_long_are_skipped_to_their_end() {
    let comparer = Comparer::start(&[]);
    let [mut pri, mut sec, mut out, _ntf] = comparer.connect_all();
    pri.send(&framed(&vec![1; 69_633]));
    works(&mut pri, &mut sec, &mut out, 1);
    sec.send(&framed(&vec![1; 16 << 20]));
    works(&mut pri, &mut sec, &mut out, 2);
    let largest = vec![2; 69_632];
    pri.send(&framed(&largest));
    sec.send(&framed(&largest));
    assert_eq!(out.receive(), framed(&largest));
    let report = comparer.stop().report();
    assert_eq!(
        (&report["primary_in"]["oversized"], &report["secondary_in"]["oversized"]),
        (&1.into(), &1.into())
    );
}

#[test]
fn a_peer_that_is_out_of_step_is_sent_away_and_the_next_starts_afresh() {
    let comparer = Comparer::start(&[]);
    let [mut pri, mut sec, mut out, _ntf] = comparer.connect_all();
    pri.send(&framed(b"")[..]);
    pri.send(&[0xff; 100]);
    pri.closed();
    comparer.wait_for_log("out of step");
    let mut pri = comparer.connect("pri");
    works(&mut pri, &mut sec, &mut out, 1);
    assert_eq!(comparer.stop().report()["primary_in"]["out_of_step"], 1);
}

#[test]
fn a_disconnect_in_a_frame_leaves_nothing_behind() {
    let comparer = Comparer::start(&[]);
    let [mut pri, mut sec, mut out, _ntf] = comparer.connect_all();
    for (n, cut) in [1, 3, 4, 5, 40].into_iter().enumerate() {
        pri.send(&udp(1, b"this will be cut off")[..cut]);
        drop(pri);
        pri = comparer.connect("pri");
        works(&mut pri, &mut sec, &mut out, n as u16);
    }
    let report = comparer.stop().report();
    assert_eq!((&report["primary_in"]["cut"], &report["primary_in"]["disconnected"]), (&5.into(), &5.into()));
}

#[test]
fn frames_of_a_peer_that_went_are_still_compared() {
    let comparer = Comparer::start(&[]);
    let [mut pri, mut sec, mut out, _ntf] = comparer.connect_all();
    let frames: Vec<Vec<u8>> = (0..100).map(|n| udp(n, b"last words")).collect();
    pri.send(&frames.concat());
    drop(pri);
    sec.send(&frames.concat());
    drop(sec);
    for frame in &frames {
        assert_eq!(out.receive(), *frame);
    }
}

#[test]
fn vnet_headers_that_make_no_sense_are_skipped_with_their_frames() {
    let comparer = Comparer::start(&["--vnet-hdr-support"]);
    let [mut pri, mut sec, mut out, _ntf] = comparer.connect_all();
    let frame = udp_frame(1, b"x");
    let nonsense = [
        framed_vnet(&[0; 21], &frame),
        framed_vnet(&[0; 3], &frame),
        framed_vnet(&[9; 12], &frame),
        [&[0, 0, 0, 2, 0, 0, 0, 10], [1, 2].as_slice()].concat(),
    ];
    pri.send(&nonsense.concat());
    sec.send(&framed_vnet(&[0; 12], b""));
    let good = framed_vnet(&[0; 12], &frame);
    pri.send(&good);
    sec.send(&good);
    assert_eq!(out.receive_bytes(good.len()), good);
    let report = comparer.stop().report();
    assert_eq!(report["primary_in"]["bad_vnet_headers"], 4);
    assert_eq!(report["secondary_in"]["empty"], 1);
    assert_eq!(report["engine"]["released"], 1);
}

#[test]
fn a_second_peer_is_refused_and_the_first_undisturbed() {
    let comparer = Comparer::start(&[]);
    let [mut pri, mut sec, mut out, mut ntf] = comparer.connect_all();
    works(&mut pri, &mut sec, &mut out, 1);
    for name in ["pri", "sec", "out", "ntf"] {
        comparer.connect(name).closed();
    }
    works(&mut pri, &mut sec, &mut out, 2);
    ntf.send(&framed(b"COLO_USERSPACE_PROXY_INIT"));
    assert_eq!(ntf.receive(), framed(HELLO_REPLY));
    drop(out);
    let mut out = comparer.connect("out");
    works(&mut pri, &mut sec, &mut out, 3);
    let report = comparer.stop().report();
    for socket in ["primary_in", "secondary_in", "outdev", "notify_dev"] {
        assert_eq!(report[socket]["refused"], 1, "{socket}");
    }
}

/// Sends frames on both inputs from threads of their own.
fn feed(comparer: &Comparer, frames: &[Vec<u8>]) -> [thread::JoinHandle<()>; 2] {
    ["pri", "sec"].map(|name| {
        let (mut peer, frames) = (comparer.connect(name), frames.to_vec());
        thread::spawn(move || frames.chunks(17).for_each(|frames| peer.send(&frames.concat())))
    })
}

#[test]
fn an_outdev_that_stalls_gets_everything_in_order() {
    let comparer = Comparer::start(&["--max-output-bytes", "1000000", "--total-frames", "100000"]);
    let frames: Vec<Vec<u8>> =
        (0..20_000u32).map(|n| udp(n as u16 % 100, &[n.to_be_bytes(); 60].concat())).collect();
    let mut out = comparer.connect("out");
    let _ntf = comparer.connect("ntf");
    let feeders = feed(&comparer, &frames);
    comparer.wait_for_log("outdev's peer does not read");
    for (n, frame) in frames.iter().enumerate() {
        if n % 5000 == 1 {
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(out.receive(), *frame, "frame {n}");
    }
    feeders.into_iter().for_each(|feeder| feeder.join().unwrap());
    let report = comparer.stop().report();
    assert_eq!(
        (&report["outdev"]["frames"], &report["engine"]["triggers"]["age"]),
        (&20_000.into(), &0.into())
    );
}

#[test]
fn an_outdev_that_vanishes_loses_nothing_that_was_not_written() {
    let comparer = Comparer::start(&["--max-output-bytes", "1000000", "--total-frames", "100000"]);
    // Longer than what the kernel buffers, so that a frame is surely cut.
    let frames: Vec<Vec<u8>> =
        (0..2000u32).map(|n| udp(n as u16 % 7, &[n.to_be_bytes(); 1000].concat())).collect();
    let _ntf = comparer.connect("ntf");
    let feeders = feed(&comparer, &frames);
    comparer.wait_for_log("outdev's peer is not there");

    let mut out = comparer.connect("out");
    let mut got = Vec::new();
    let mut lost = 0;
    for _ in 0..3 {
        got.extend((0..10).map(|_| out.receive()));
        drop(out);
        out = comparer.connect("out");
        // What the kernel had taken for the last peer is gone with it; the next frame is whole.
        let next = out.receive();
        let index = frames.iter().position(|frame| *frame == next).expect("a whole frame");
        assert!(index >= got.len() + lost, "order is kept");
        lost = index - got.len();
        got.push(next);
    }
    while got.len() + lost < frames.len() {
        let next = out.receive();
        assert_eq!(next, frames[got.len() + lost]);
        got.push(next);
    }
    feeders.into_iter().for_each(|feeder| feeder.join().unwrap());
    let report = comparer.stop().report();
    assert_eq!(report["outdev"]["frames"], frames.len());
    assert!(report["outdev"]["cut"].as_u64() > Some(0), "{report}");
}

#[test]
fn a_peer_that_goes_while_nothing_is_read_is_heard_to_its_end_before_the_next() {
    let comparer = Comparer::start(&["--max-output-bytes", "1000"]);
    let [mut pri, mut sec] = ["pri", "sec"].map(|name| comparer.connect(name));
    let frames: Vec<Vec<u8>> = (0..30).map(|n| udp(n, &[n as u8; 1000])).collect();
    sec.send(&frames.concat());
    pri.send(&frames[..10].concat());
    comparer.wait_for_log("outdev's peer is not there");
    pri.send(&frames[10..20].concat());
    drop(pri);
    let mut pri = comparer.connect("pri");
    pri.send(&frames[20..].concat());
    let mut out = comparer.connect("out");
    for frame in &frames {
        assert_eq!(out.receive(), *frame);
    }
    assert_eq!(comparer.stop().report()["primary_in"]["refused"], 0);
}

#[test]
fn a_flood_of_one_side_is_bounded_and_nothing_of_it_is_lost() {
    let options = ["--total-frames", "1000", "--total-bytes", "1000000", "--max-queue-size", "100"];
    let comparer = Comparer::start(&options);
    let [mut pri, _sec, mut out, mut ntf] = comparer.connect_all();
    let frames: Vec<Vec<u8>> = (0..20_000u32).map(|n| udp(n as u16 % 100, &n.to_be_bytes())).collect();
    let stream = frames.concat();
    let feeder = thread::spawn(move || pri.send(&stream));
    let answers = thread::spawn(move || {
        let mut requests = 0;
        while ntf.0.read_message().as_deref() == Some(DO_CHECKPOINT) {
            requests += 1;
            if ntf.0.write_all(&framed(b"COLO_CHECKPOINT")).is_err() {
                break;
            }
        }
        requests
    });
    for (n, frame) in frames.iter().enumerate() {
        assert_eq!(out.receive(), *frame, "frame {n}");
    }
    feeder.join().unwrap();
    let report = comparer.stop().report();
    let requests: u64 = answers.join().unwrap();
    assert!((1..2000).contains(&requests), "{requests}");
    assert_eq!(report["engine"]["primary"]["discards"]["overrun"], 0);
    assert_eq!(report["engine"]["released_by_checkpoint"], 20_000);
}

trait ReadMessage {
    /// The next message; none if the other end is closed.
    fn read_message(&mut self) -> Option<Vec<u8>>;
}

impl<R: std::io::Read> ReadMessage for R {
    fn read_message(&mut self) -> Option<Vec<u8>> {
        let mut len = [0; 4];
        self.read_exact(&mut len).ok()?;
        let mut message = vec![0; u32::from_be_bytes(len) as usize];
        self.read_exact(&mut message).ok()?;
        Some(message)
    }
}

#[test]
fn a_flood_of_messages_costs_no_memory() {
    let mut comparer = Comparer::start(&[]);
    let [mut pri, mut sec, mut out, ntf] = comparer.connect_all();
    works(&mut pri, &mut sec, &mut out, 1);
    let before = comparer.memory();
    // Hellos whose answers nobody reads: in the end they are not read either.
    ntf.0.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let hellos = framed(b"COLO_USERSPACE_PROXY_INIT").repeat(1000);
    let unread = (0..10_000).any(|_| (&ntf.0).write_all(&hellos).is_err());
    assert!(unread, "a peer that does not listen is not listened to");
    works(&mut pri, &mut sec, &mut out, 2);
    drop(ntf);
    comparer.wait_for_log("notify-dev: the peer is disconnected");

    let mut ntf = comparer.connect("ntf");
    ntf.send(&framed(b"NONSENSE").repeat(100_000));
    ntf.send(&framed(b"COLO_USERSPACE_PROXY_INIT"));
    assert_eq!(ntf.receive(), framed(HELLO_REPLY));
    works(&mut pri, &mut sec, &mut out, 3);
    assert!(comparer.memory() < before + 4096, "{} KiB, {before} before", comparer.memory());

    ntf.send(&1025u32.to_be_bytes());
    ntf.closed();
    comparer.wait_for_log("a message of 1025 bytes is announced");
    let mut ntf = comparer.connect("ntf");
    ntf.send(&framed(b"COLO_USERSPACE_PROXY_INIT"));
    assert_eq!(ntf.receive(), framed(HELLO_REPLY));
    assert!(comparer.is_alive());
    let stopped = comparer.stop();
    assert_eq!(stopped.report()["notify_dev"]["unknown"], 100_000);
    assert!(stopped.log.len() < 100, "{} lines", stopped.log.len());
}

#[test]
fn small_frames_that_are_held_keep_no_large_blocks() {
    let options = ["--compare-timeout", "600000", "--expired-scan-cycle", "600000"];
    let comparer = Comparer::start(&options);
    let [mut pri, mut sec, mut out, _ntf] = comparer.connect_all();
    let big: Vec<u8> = udp(1, &vec![7; 30_000]).repeat(20);
    for n in 0..400u16 {
        // One small frame without a twin in half a megabyte that has one.
        pri.send(&udp(100 + n, b"held"));
        pri.send(&big);
        sec.send(&big);
        out.receive_bytes(big.len());
    }
    assert!(comparer.memory() < 100_000, "{} KiB", comparer.memory());
    assert_eq!(comparer.stop().report()["held"]["primary"]["frames"], 400);
}

#[test]
fn noise_on_all_sockets_is_survived() {
    for vnet in [&[][..], &["--vnet-hdr-support"]] {
        let mut comparer = Comparer::start(vnet);
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut noise = move |small: bool| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if small { (state >> 33) as u32 & 0xff } else { (state >> 32) as u32 }
        };
        for round in 0..40 {
            for name in ["pri", "sec", "out", "ntf"] {
                // Small words make lengths that are believed.
                let bytes: Vec<u8> = (0..5000).flat_map(|_| noise(round % 2 == 0).to_be_bytes()).collect();
                let mut peer = comparer.connect(name);
                // It may be sent away in the middle of it.
                let _ = peer.0.write_all(&bytes);
            }
        }
        assert!(comparer.is_alive());
        let stopped = comparer.stop();
        assert_eq!(stopped.code, Some(0));
    }
}
