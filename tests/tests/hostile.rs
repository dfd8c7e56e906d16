//! What attacks on the promises found, one test each; `p1` and `p2` name the promise that broke.

use colo_proxy::engine::*;
use colo_proxy::packet::Offload;
use colo_tests::frames::*;
use colo_tests::log::Bench;

fn v4() -> Ends {
    Ends::v4()
}
fn data(seq: u32, ack: u32, p: &[u8]) -> Vec<u8> {
    v4().tcp(ACK, seq, ack).payload(p).frame()
}
fn old(b: &mut Bench, f: &[u8]) {
    b.feed_in(Epoch(1), Side::Primary, f, Offload::default());
}

#[test]
fn p2_late_frame_levels_an_owed_ack() {
    let mut b = Bench::default();
    b.both(&data(1, 501, b"abc"));
    b.checkpoint();
    b.secondary(&data(4, 501, b"def")).primary(&data(4, 900, b"def"));
    assert_eq!(ack_of(b.out().last().unwrap()), 501);
    old(&mut b, &data(1, 501, b"abc"));
    b.out();
    b.primary(&data(7, 900, b""));
    let out = b.out();
    assert!(
        out.iter().all(|f| ack_of(f) <= 501),
        "ack {:?} left",
        out.iter().map(|f| ack_of(f)).collect::<Vec<_>>()
    );
}

#[test]
fn p1_late_frame_of_an_old_stream_verifies_the_new_one() {
    let mut b = Bench::default();
    b.both(&data(500_000, 501, b"abc"));
    b.checkpoint();
    b.both(&v4().tcp(SYN | ACK, 1000, 801).frame());
    b.both(&data(1001, 801, b"hi"));
    b.out();
    old(&mut b, &data(500_003, 501, b"late"));
    b.out();
    b.primary(&data(1003, 801, b"EVIL"));
    assert_eq!(b.out().len(), 0, "released without the secondary");
}

#[test]
fn p2_fragmented_tcp_behind_destination_options() {
    use colo_tests::frames::fragments_v6;
    let make = |ack: u32| {
        let f = Ends::v6().tcp(ACK, 1, ack).payload(b"abcdefgh").frame();
        let mut g = f[..54].to_vec();
        g[20] = 60;
        let len = (f.len() - 54 + 8) as u16;
        g[18..20].copy_from_slice(&len.to_be_bytes());
        g.extend([6, 0, 1, 4, 0, 0, 0, 0]);
        g.extend(&f[54..]);
        fragments_v6(&g, 16, 7)
    };
    let mut b = Bench::default();
    for f in make(501) {
        b.secondary(&f);
    }
    for f in make(900) {
        b.primary(&f);
    }
    let out = b.out();
    let whole: Vec<u8> = out.iter().flat_map(|f| f[62..].to_vec()).collect();
    if !whole.is_empty() {
        let ack = u32::from_be_bytes(whole[16..20].try_into().unwrap());
        assert!(ack <= 501, "ack {ack} left in fragments");
    }
}

#[test]
fn deadlock_divergence_during_a_checkpoint_of_the_callers_that_fails() {
    let mut b = Bench::default();
    b.engine.checkpoint_begin();
    b.primary(&data(1, 501, b"abc")).secondary(&data(1, 501, b"abX"));
    b.engine.checkpoint_failed(b.now, &mut b.log);
    for _ in 0..20 {
        b.wait(1000);
    }
    assert!(b.held() == 0 || !b.triggers().is_empty() || b.engine.next_deadline().is_some(), "held forever");
}

#[test]
fn deadlock_ahead_frame_after_a_failed_checkpoint() {
    let mut b = Bench::default();
    b.engine.checkpoint_begin();
    b.engine.checkpoint_failed(b.now, &mut b.log);
    b.feed_in(Epoch(2), Side::Primary, &data(1, 501, b"abc"), Offload::default());
    for _ in 0..20 {
        b.wait(1000);
    }
    assert!(b.held() == 0 || !b.triggers().is_empty(), "held forever");
}

#[test]
fn starve_messages_with_a_secondary_that_is_always_a_little_ahead() {
    let mut b = Bench::default();
    b.primary(&v4().udp(b"lost on the secondary"));
    let msg = |i: u32| v4().udp(&i.to_be_bytes());
    b.secondary(&msg(0));
    let start = b.now;
    let mut i = 0;
    loop {
        i += 1;
        b.secondary(&msg(i)).primary(&msg(i - 1));
        b.wait(10);
        if !b.triggers().is_empty() {
            break;
        }
    }
    let ms = b.now.since(start).0 / 1_000_000;
    assert!(ms <= 3100, "held for {ms} ms");
}

#[test]
fn p1_udp_surplus_area() {
    // IP length says 100 more bytes than the UDP length: RFC 9868's surplus area.
    let with = |fill: u8| {
        let mut f = v4().udp(b"hello");
        let total = (f.len() - 14 + 100) as u16;
        f.extend([fill; 100]);
        f[16..18].copy_from_slice(&total.to_be_bytes());
        f
    };
    let mut b = Bench::default();
    b.primary(&with(1)).secondary(&with(2));
    assert_eq!(b.out().len(), 0, "100 bytes inside the IP datagram left unverified");
}

#[test]
fn p1_rst_payload() {
    let mut b = Bench::default();
    b.both(&data(1, 501, b"abc"));
    b.out();
    b.primary(&v4().tcp(RST | ACK, 4, 501).payload(b"secret").frame());
    b.secondary(&v4().tcp(RST | ACK, 4, 501).frame());
    assert_eq!(b.out().len(), 0, "a RST's payload left unverified");
}

#[test]
fn p1_rst_in_another_space_same_number() {
    let mut b = Bench::default();
    b.primary(&v4().tcp(SYN | ACK, 1000, 501).frame()).secondary(&v4().tcp(SYN | ACK, 2000, 501).frame());
    b.primary(&data(1001, 501, b"abc")).secondary(&data(2001, 501, b"abc"));
    assert_eq!(b.out().len(), 2);
    b.primary(&v4().tcp(RST | ACK, 2004, 501).frame()).secondary(&v4().tcp(RST | ACK, 2004, 501).frame());
    assert_eq!(b.out().len(), 0, "places 1004 and 1000 apart");
}

#[test]
fn p1_syn_unknown_options() {
    // MPTCP keys, fast-open cookies
    let syn = |key: u8| {
        let mut f = v4().tcp(SYN | ACK, 1000, 501).mss(1460).frame();
        // grow the options by 12
        let total = (f.len() - 14 + 12) as u16;
        f[16..18].copy_from_slice(&total.to_be_bytes());
        f[46] = ((f[46] >> 4) + 3) << 4;
        f.extend([30, 12, 1, 1, key, key, key, key, key, key, key, key]);
        f
    };
    let mut b = Bench::default();
    b.primary(&syn(1)).secondary(&syn(2));
    assert_eq!(b.out().len(), 0, "a SYN with another MPTCP key left");
}

#[test]
fn owed_ack_is_never_paid_if_the_window_differs() {
    let mut b = Bench::default();
    let syn = v4().tcp(SYN | ACK, 0, 501).frame();
    b.both(&syn);
    b.secondary(&v4().tcp(ACK, 1, 501).payload(b"abc").frame());
    b.primary(&v4().tcp(ACK, 1, 900).payload(b"abc").frame());
    b.out();
    b.secondary(&v4().tcp(ACK, 4, 900).window(999).frame());
    assert!(b.out().iter().any(|f| ack_of(f) == 900), "the secondary is at 900, and the client is not told");
}

#[test]
fn owed_ack_is_not_lowered_by_a_retransmission() {
    let mut b = Bench::default();
    b.both(&v4().tcp(SYN | ACK, 0, 501).frame());
    b.secondary(&data(1, 501, b"abcdef"));
    b.primary(&data(1, 1000, b"abcdef")).primary(&data(1, 900, b"abc"));
    b.out();
    b.secondary(&v4().tcp(ACK, 7, 1000).window(900).frame());
    assert!(b.out().iter().any(|f| ack_of(f) == 1000), "client is never told 1000");
}

#[test]
fn age_is_reset_by_overlapping_retransmissions() {
    let mut b = Bench::default();
    b.both(&data(1, 501, &[b'x'; 1000]));
    b.out();
    b.primary(&data(1001, 501, b"lost"));
    let start = b.now;
    for k in 1..60u32 {
        b.wait(90);
        if !b.triggers().is_empty() {
            return assert!(b.now.since(start).0 <= 3_000_000_000);
        }
        let mut p = vec![b'x'; k as usize];
        p.extend(b"lost");
        b.primary(&data(1001 - k, 501, &p));
    }
    panic!("no trigger in {} ms", b.now.since(start).0 / 1_000_000);
}

#[test]
fn own_space_after_reset_checkpoint_and_reuse() {
    let mut b = Bench::default();
    b.both(&data(1, 501, b"abc")).both(&v4().tcp(RST | ACK, 4, 501).frame());
    b.checkpoint();
    b.out();
    b.primary(&v4().tcp(SYN | ACK, 1000, 501).frame()).secondary(&v4().tcp(SYN | ACK, 2000, 501).frame());
    b.primary(&data(1001, 501, b"abc")).secondary(&data(2001, 501, b"abc"));
    assert_eq!(b.out().len(), 2, "the stream's second segment stalls");
}

#[test]
fn p1_syn_retransmitted_with_other_options() {
    let mut b = Bench::default();
    b.both(&v4().tcp(SYN | ACK, 1000, 501).mss(1460).scale(7).frame());
    assert_eq!(b.out().len(), 1);
    b.primary(&v4().tcp(SYN | ACK, 1000, 501).mss(1460).scale(14).frame());
    assert_eq!(b.out().len(), 0, "another SYN left as a retransmission");
}

#[test]
fn p1_fin_as_retransmission() {
    let mut b = Bench::default();
    b.both(&data(1, 501, b"abcdefghij"));
    b.out();
    b.primary(&v4().tcp(ACK | FIN, 1, 501).payload(b"abc").frame());
    assert_eq!(b.out().len(), 0, "a FIN left where the secondary has data");
}
