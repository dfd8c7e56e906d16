use super::super::Stream;
use super::super::heartbeat::{Heartbeat, Lost, Rhythm};
use super::host::{LONG, door, hello, knock, main_of, pair, pinned, terms};
use crate::checkpoint::link::Arrival;
use crate::checkpoint::protocol::hello::{Hello, Role, Side};
use std::io::{Read as _, Write as _};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const QUICK: Rhythm = Rhythm { interval: Duration::from_millis(10), timeout: Duration::from_millis(100) };

fn start(stream: Stream, rhythm: Rhythm) -> (Heartbeat, Receiver<Lost>) {
    let (send, receive) = channel();
    let tell = move |lost| drop(send.send(lost));
    (Heartbeat::start(stream, rhythm, tell).unwrap(), receive)
}

/// Two hearts that hear each other.
fn two(rhythm: Rhythm) -> [(Heartbeat, Receiver<Lost>); 2] {
    let (ours, peer) = pair();
    peer.set_nonblocking(true).unwrap();
    let theirs = Stream::plain(peer, None);
    [start(ours, rhythm), start(theirs, rhythm)]
}

fn has_heard(heart: &Heartbeat, beats: u64) {
    let deadline = Instant::now() + LONG;
    while heart.beats().heard() < beats {
        assert!(Instant::now() < deadline, "{:?}", heart.beats());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn two_that_live_hear_each_other() {
    let [(one, lost_one), (other, lost_other)] = two(Rhythm { timeout: LONG, ..QUICK });
    has_heard(&one, 20);
    has_heard(&other, 20);
    assert!(lost_one.try_recv().is_err() && lost_other.try_recv().is_err());
    // Nobody is told of what is done by one's own order; the other side is.
    drop(one);
    assert!(lost_one.recv().is_err());
    let lost = lost_other.recv_timeout(LONG).unwrap();
    assert!(matches!(lost, Lost::Closed | Lost::Broken(_)), "{lost}");
    assert!(lost_other.recv().is_err(), "once");
}

#[test]
fn an_end_in_order_is_told_from_a_loss() {
    type End = (fn(Heartbeat), fn(&Lost) -> bool, bool);
    let ends: [End; 3] = [
        (Heartbeat::farewell, |lost| matches!(lost, Lost::Farewell), false),
        (Heartbeat::part, |lost| matches!(lost, Lost::Parted), true),
        (Heartbeat::alone, |lost| matches!(lost, Lost::Alone), true),
    ];
    for (end, heard, lives) in ends.into_iter().cycle().take(30) {
        let [(one, lost_one), (_other, lost_other)] = two(Rhythm { timeout: LONG, ..QUICK });
        has_heard(&one, 1);
        end(one);
        assert!(lost_one.recv().is_err());
        let lost = lost_other.recv_timeout(LONG).unwrap();
        assert!(heard(&lost) && lost.lives() == lives, "{lost}");
    }
}

#[test]
fn a_peer_that_stands_is_lost_after_its_timeout() {
    // As after SIGSTOP or behind a cut link: the connection is there, and nothing comes.
    let (ours, mut peer) = pair();
    let (heart, lost) = start(ours, QUICK);
    peer.write_all(b"BBB").unwrap();
    has_heard(&heart, 3);
    let lost = lost.recv_timeout(LONG).unwrap();
    assert!(matches!(lost, Lost::Silent { missed: 10, .. }), "{lost}");
    assert!(heart.beats().missed() >= 10);
    // It was told of our life as long as we waited.
    peer.set_nonblocking(true).unwrap();
    let mut bytes = [0; 1024];
    let count = peer.read(&mut bytes).unwrap();
    assert!(count >= 10);
    // And, if it only stands, that we live.
    assert_eq!(bytes[..count].last(), Some(&b'P'));
}

#[test]
fn silence_is_counted_anew_after_each_beat() {
    let (ours, mut peer) = pair();
    let rhythm = Rhythm { interval: Duration::from_millis(2), timeout: Duration::from_secs(1) };
    let (heart, lost) = start(ours, rhythm);
    for beat in 1..=6 {
        // Many looks find nothing, but never five hundred in a row.
        let missed = heart.beats().missed();
        while heart.beats().missed() < missed + 100 {
            std::thread::sleep(Duration::from_millis(1));
        }
        peer.write_all(b"B").unwrap();
        has_heard(&heart, beat);
    }
    // All in all more were missed than are borne at a time.
    assert!(heart.beats().missed() >= 600 && lost.try_recv().is_err());
}

#[test]
fn what_is_no_beat_is_no_sign_of_life() {
    let (ours, mut peer) = pair();
    let (_heart, lost) = start(ours, Rhythm { timeout: LONG, ..QUICK });
    peer.write_all(b"B?").unwrap();
    let lost = lost.recv_timeout(LONG).unwrap();
    assert!(matches!(lost, Lost::Garbage(b'?')), "{lost}");
}

#[test]
fn a_heart_may_be_dropped_by_whom_it_tells() {
    let (ours, peer) = pair();
    let (give, take) = channel::<Heartbeat>();
    let (done, is_done) = channel();
    let tell = move |lost: Lost| {
        drop(take.recv().unwrap());
        done.send(lost).unwrap();
    };
    give.send(Heartbeat::start(ours, QUICK, tell).unwrap()).unwrap();
    drop(peer);
    is_done.recv_timeout(LONG).unwrap();
}

#[test]
fn hearts_beat_over_tls() {
    let (client, server) = pinned();
    let (_door, arrivals, address) = door(terms(Some(server)));
    let ours = hello(Side::Primary);
    let _main = knock(address, Some(&client), &ours).unwrap();
    let _session = main_of(&arrivals);
    let (here, _) = knock(address, Some(&client), &Hello { role: Role::Heartbeat, ..ours }).unwrap();
    let Arrival::Heartbeat { stream: there, .. } = arrivals.recv_timeout(LONG).unwrap() else {
        panic!("a heartbeat")
    };
    let cut = there.hangup();
    let rhythm = Rhythm { timeout: LONG, ..QUICK };
    let ((one, lost_one), (other, lost_other)) = (start(here, rhythm), start(there, rhythm));
    has_heard(&one, 20);
    has_heard(&other, 20);
    cut.hang_up();
    lost_one.recv_timeout(LONG).unwrap();
    lost_other.recv_timeout(LONG).unwrap();
}
