//! `colo-proxy compare`: what leaves, what is asked for, and when. The real binary on real sockets.

mod common;

use common::*;

#[test]
fn what_agrees_leaves_byte_for_byte() {
    let comparer = Comparer::start(&[]);
    let [mut pri, mut sec, mut out, mut ntf] = comparer.connect_all();
    let frames = [udp(1, b"primary first"), udp(2, b""), tcp(1, 1, b"data")];
    for frame in &frames {
        pri.send(frame);
        sec.send(frame);
        assert_eq!(out.receive(), *frame);
    }
    let frame = udp(1, b"secondary first");
    sec.send(&frame);
    pri.send(&frame);
    assert_eq!(out.receive(), frame);

    // IPv6 and what has no IP at all are compared as well.
    pri.send(&framed(b"\x02\x02\x02\x02\x02\x02\x04\x04\x04\x04\x04\x04\x12\x34what is this"));
    out.silent();
    sec.send(&framed(b"\x02\x02\x02\x02\x02\x02\x04\x04\x04\x04\x04\x04\x12\x34what is this"));
    assert_eq!(out.receive().len(), 30);
    ntf.silent();

    let stopped = comparer.stop();
    let report = stopped.report();
    assert_eq!(stopped.code, Some(0));
    assert_eq!(report["engine"]["released"], 5);
    assert_eq!(report["outdev"]["frames"], 5);
    assert_eq!(report["secondary_in"]["frames"], 5);
    assert_eq!(report["engine"]["secondary"]["discards"]["compared"], 5);
}

#[test]
fn what_differs_is_asked_about_once_and_leaves_in_order_after_the_checkpoint() {
    let comparer = Comparer::start(&["--reorder-wait", "1"]);
    let [mut pri, mut sec, mut out, mut ntf] = comparer.connect_all();
    let frames: Vec<_> = (0..50u8).map(|n| udp(u16::from(n % 5), &[b'p', n])).collect();
    for (n, frame) in frames.iter().enumerate() {
        pri.send(frame);
        sec.send(&udp((n % 5) as u16, &[b's', n as u8]));
    }
    assert_eq!(ntf.receive(), framed(DO_CHECKPOINT));
    ntf.silent();
    out.silent();
    ntf.send(&framed(b"COLO_CHECKPOINT"));
    for frame in &frames {
        assert_eq!(out.receive(), *frame);
    }
    ntf.silent();

    // The next epoch begins with a clean slate: what agrees leaves, what differs is asked about.
    let same = udp(1, b"same");
    pri.send(&same);
    sec.send(&same);
    assert_eq!(out.receive(), same);
    pri.send(&tcp(1, 1, b"one"));
    sec.send(&tcp(1, 1, b"two"));
    assert_eq!(ntf.receive(), framed(DO_CHECKPOINT));
    ntf.silent();

    let report = comparer.stop().report();
    assert_eq!(report["engine"]["triggers"]["payload"], 2);
    assert_eq!(report["engine"]["released_by_checkpoint"], 50);
    assert_eq!(report["notify_dev"]["requests_sent"], 2);
    assert_eq!(report["held"]["primary"]["frames"], 1, "held at the end, and not released");
}

#[test]
fn what_waits_too_long_is_asked_about() {
    let comparer = Comparer::start(&["--compare-timeout", "150"]);
    let [mut pri, _sec, mut out, mut ntf] = comparer.connect_all();
    let started = std::time::Instant::now();
    pri.send(&udp(1, b"alone"));
    assert_eq!(ntf.receive(), framed(DO_CHECKPOINT));
    let waited = started.elapsed().as_millis();
    assert!(waited >= 150, "{waited} ms; the scan cycle is 1 s, yet the age is judged when it is due");
    out.silent();
    ntf.send(&framed(b"COLO_CHECKPOINT"));
    assert_eq!(out.receive(), udp(1, b"alone"));
    assert_eq!(comparer.stop().report()["engine"]["triggers"]["age"], 1);
}

#[test]
fn a_hello_is_answered() {
    let comparer = Comparer::start(&[]);
    let mut ntf = comparer.connect("ntf");
    ntf.send(&framed(b"COLO_USERSPACE_PROXY_INIT"));
    assert_eq!(ntf.receive(), framed(HELLO_REPLY));
    assert_eq!(comparer.stop().report()["notify_dev"]["hellos"], 1);
}

#[test]
fn a_request_waits_for_its_peer_and_for_its_hello_and_is_repeated_to_the_next() {
    let comparer = Comparer::start(&["--compare-timeout", "20"]);
    let [mut pri, mut out] = ["pri", "out"].map(|name| comparer.connect(name));
    pri.send(&udp(1, b"alone"));
    comparer.wait_for_log("a checkpoint is asked for");

    let mut ntf = comparer.connect("ntf");
    ntf.send(&framed(b"COLO_USERSPACE_PROXY_INIT"));
    assert_eq!(ntf.receive(), framed(HELLO_REPLY));
    assert_eq!(ntf.receive(), framed(DO_CHECKPOINT));
    drop(ntf);

    // One that never says hello is told as well.
    comparer.wait_for_log("notify-dev: the peer is disconnected");
    let mut ntf = comparer.connect("ntf");
    assert_eq!(ntf.receive(), framed(DO_CHECKPOINT));
    ntf.silent();
    ntf.send(&framed(b"COLO_CHECKPOINT"));
    assert_eq!(out.receive(), udp(1, b"alone"));
    drop(ntf);

    // Nothing stands any more.
    comparer.wait_for_log_times("notify-dev: the peer is disconnected", 2);
    let mut ntf = comparer.connect("ntf");
    ntf.silent();
    let report = comparer.stop().report();
    assert_eq!(
        (&report["engine"]["triggers"]["age"], &report["notify_dev"]["requests_sent"]),
        (&1.into(), &2.into())
    );
}

#[test]
fn vnet_headers_come_and_go() {
    let comparer = Comparer::start(&["--vnet-hdr-support", "--reorder-wait", "1"]);
    let [mut pri, mut sec, mut out, mut ntf] = comparer.connect_all();
    for header_len in [0, 10, 12, 20] {
        let mut header = vec![0; header_len];
        header.iter_mut().skip(6).for_each(|byte| *byte = 7);
        let frame = framed_vnet(&header, &udp_frame(1, b"payload"));
        pri.send(&frame);
        // Where its checksum starts does not count, nor how long its header is.
        sec.send(&framed_vnet(&[0; 12], &udp_frame(1, b"payload")));
        assert_eq!(out.receive_bytes(frame.len()), frame);
    }
    ntf.send(&message_vnet(b"COLO_USERSPACE_PROXY_INIT"));
    assert_eq!(ntf.receive(), framed(HELLO_REPLY));
    let frame = framed_vnet(&[0; 12], &udp_frame(1, b"differs"));
    pri.send(&frame);
    sec.send(&framed_vnet(&[0; 12], &udp_frame(1, b"disagrees")));
    assert_eq!(ntf.receive(), framed(DO_CHECKPOINT));
    ntf.send(&message_vnet(b"COLO_CHECKPOINT"));
    assert_eq!(out.receive_bytes(frame.len()), frame);
}

#[test]
fn an_acknowledgement_is_lowered_and_the_rest_of_it_follows_in_the_same_framing() {
    let comparer = Comparer::start(&["--vnet-hdr-support"]);
    let [mut pri, mut sec, mut out, _ntf] = comparer.connect_all();
    let frame = |ack, payload: &[u8]| framed_vnet(&[0; 12], &tcp_frame(1, ack, payload));
    sec.send(&frame(5000, b"data"));
    pri.send(&frame(6000, b"data"));
    let released = out.receive_bytes(frame(6000, b"data").len());
    let ack_at = 8 + 12 + 14 + 20 + 8;
    assert_eq!(released[ack_at..ack_at + 4], 5000u32.to_be_bytes());

    sec.send(&framed_vnet(&[0; 12], &tcp_frame(5, 6000, b"")));
    let injected = out.receive_bytes(8 + 12 + 14 + 20 + 20);
    assert_eq!(injected[..20], [0, 0, 0, 66, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(injected[ack_at..ack_at + 4], 6000u32.to_be_bytes());
    let report = comparer.stop().report();
    assert_eq!(report["engine"]["acks_injected"], 1);
    assert_eq!(report["outdev"]["frames"], 2);
}

#[test]
fn without_a_notify_socket_it_warns_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let unix = |name: &str| format!("unix:{}", directory.path().join(name).display());
    let (pri, sec, out) = (unix("pri"), unix("sec"), unix("out"));
    let options = ["--primary-in", &pri, "--secondary-in", &sec, "--outdev", &out, "--compare-timeout", "20"];
    let comparer = Comparer::start_in(directory, &options);
    comparer.wait_for_log("warning: without --notify-dev");
    let [mut pri, mut sec, mut out] = ["pri", "sec", "out"].map(|name| comparer.connect(name));
    pri.send(&udp(1, b"alone"));
    comparer.wait_for_log("nobody can be asked");
    pri.send(&udp(2, b"both"));
    sec.send(&udp(2, b"both"));
    assert_eq!(out.receive(), udp(2, b"both"));
    let stopped = comparer.stop();
    assert!(stopped.log.last().unwrap().contains("; held: 1 primary, 0 secondary"), "{:?}", stopped.log);
}
