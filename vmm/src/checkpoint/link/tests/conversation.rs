use super::super::tls::Tls;
use super::super::{Seat, Stream};
use super::host::{LONG, door, hello, knock, main_of, pair, pinned, terms};
use crate::checkpoint::protocol::hello::{Agreed, Side};
use crate::checkpoint::protocol::secondary::{FirstSync, Next, Pages};
use crate::checkpoint::protocol::{Buffer, Channel, Error, Limits, Patience, primary, secondary};
use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const EPOCHS: u64 = 3;
const PATIENCE: Patience = Patience { step: LONG, idle: LONG, rate: 1 };

/// Different bytes for everything that is sent.
fn content(epoch: u64, what: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31) ^ what ^ epoch as u8).collect()
}

fn primary<C: Channel>(channel: C, limits: Limits, size: usize) -> Result<(), Error> {
    let mut ranges = Buffer::new();
    let mut syncing = primary::Syncing::new(channel, limits, PATIENCE);
    syncing.ram(&[IoSlice::new(&content(0, 1, size))])?;
    let mut level = syncing.synced()?.ready()?;
    while level.epoch() <= EPOCHS {
        let epoch = level.epoch();
        level.ram(&[IoSlice::new(&content(epoch, 1, size))])?;
        let mut replied = level.request()?.reply(&mut ranges)?;
        assert_eq!(ranges.bytes(), content(epoch, 2, 48));
        replied.ram(&[IoSlice::new(&content(epoch, 5, size))])?;
        let pages = content(epoch, 3, size);
        // In many parts, as pages are.
        let parts: Vec<_> = pages.chunks(pages.len().div_ceil(3000)).map(IoSlice::new).collect();
        let shipped = replied.pages(&parts)?.package(&[IoSlice::new(&content(epoch, 4, size / 2))])?;
        level = shipped.received()?.loaded()?;
    }
    level.ended().map(|_| ())
}

fn secondary<C: Channel>(channel: C, limits: Limits, size: usize) -> Result<(), Error> {
    let mut buffer = Buffer::new();
    let mut syncing = secondary::Syncing::new(channel, limits, PATIENCE);
    let synced = loop {
        match syncing.next(&mut buffer)? {
            FirstSync::Ram(more) => {
                assert!(buffer.bytes() == content(0, 1, size));
                syncing = more;
            }
            FirstSync::Synced(synced) => break synced,
            FirstSync::Ended | FirstSync::Resume(_) => panic!("not yet"),
        }
    };
    let mut level = synced.ready()?;
    loop {
        let epoch = level.epoch();
        match level.next(&mut buffer)? {
            Next::Ram(more) => {
                assert!(buffer.bytes() == content(epoch, 1, size));
                level = more;
            }
            Next::Request(requested) => {
                let replied = requested.reply(&[IoSlice::new(&content(epoch, 2, 48))])?;
                let Pages::More(replied) = replied.pages(&mut buffer)? else { panic!("more is to come") };
                assert!(buffer.bytes() == content(epoch, 5, size));
                let Pages::All(sent) = replied.pages(&mut buffer)? else { panic!("that is all") };
                assert!(buffer.bytes() == content(epoch, 3, size));
                let shipped = sent.package(&mut buffer)?;
                assert!(buffer.bytes() == content(epoch, 4, size / 2));
                level = shipped.received()?.loaded()?;
            }
            Next::Ended => {
                assert_eq!(epoch, EPOCHS + 1);
                return Ok(());
            }
        }
    }
}

/// Both sides, behind their hellos.
fn connected(tls: Option<(Tls, Tls)>) -> ((Stream, Agreed), (Stream, Agreed, Seat)) {
    let (client, server) = tls.unzip();
    let (_door, arrivals, address) = door(terms(server));
    let ours = knock(address, client.as_ref(), &hello(Side::Primary)).unwrap();
    (ours, main_of(&arrivals))
}

fn a_conversation(tls: Option<(Tls, Tls)>) {
    // More than sockets and TLS hold, so that both wait for each other in the midst of messages.
    let size = 12 << 20;
    let ((stream, agreed), (other, same, _seat)) = connected(tls);
    assert_eq!(agreed, same);
    let there = thread::spawn(move || secondary(other, same.limits, size));
    primary(stream, agreed.limits, size).unwrap();
    there.join().unwrap().unwrap();
}

#[test]
fn a_whole_conversation_arrives_as_it_was_said() {
    a_conversation(None);
}

#[test]
fn a_whole_conversation_arrives_over_tls() {
    a_conversation(Some(pinned()));
}

/// A connection of which the peer hears so many bytes and no more, before it ends.
struct Cut {
    stream: Stream,
    left: usize,
    sent: usize,
}

impl Channel for Cut {
    fn send(&mut self, parts: &mut [IoSlice<'_>], until: Instant) -> std::io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let now = bytes.len().min(self.left);
        self.left -= now;
        self.sent += now;
        self.stream.send(&mut [IoSlice::new(&bytes[..now])], until)?;
        if now < bytes.len() {
            self.stream.hangup().hang_up();
            return Err(ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8], until: Instant) -> std::io::Result<usize> {
        self.stream.receive(buffer, until)
    }
}

#[test]
fn an_end_at_any_byte_of_a_conversation_is_an_error_on_both_sides() {
    let limits = Limits::of(&hello(Side::Primary).blocks);
    let both = |cut_primary: usize, cut_secondary: usize| {
        let (ours, peer) = pair();
        peer.set_nonblocking(true).unwrap();
        let mut here = Cut { stream: ours, left: cut_primary, sent: 0 };
        let mut there = Cut { stream: Stream::plain(peer, None), left: cut_secondary, sent: 0 };
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                let result = secondary(&mut there, limits, 8);
                there.stream.hangup().hang_up();
                result
            });
            let result = primary(&mut here, limits, 8);
            here.stream.hangup().hang_up();
            (result, other.join().unwrap(), here.sent)
        })
    };
    let (primary, secondary, said) = both(usize::MAX, usize::MAX);
    primary.unwrap();
    secondary.unwrap();
    for at in 0..said {
        let (primary, secondary, _) = both(at, usize::MAX);
        let (primary, secondary) = (primary.unwrap_err(), secondary.unwrap_err());
        assert!(matches!(primary, Error::Send { .. }), "{at}: {primary}");
        assert!(matches!(secondary, Error::Closed(_) | Error::Truncated { .. }), "{at}: {secondary}");
    }
    // Ready; then a reply with 48 bytes, received and loaded for each epoch.
    let answered = 20 + usize::try_from(EPOCHS).unwrap() * (3 * 20 + 48);
    for at in 0..answered {
        let (primary, secondary, _) = both(usize::MAX, at);
        let (primary, secondary) = (primary.unwrap_err(), secondary.unwrap_err());
        assert!(
            matches!(
                primary,
                Error::Closed(_) | Error::Truncated { .. } | Error::Send { .. } | Error::Receive { .. }
            ),
            "{at}: {primary}"
        );
        assert!(matches!(secondary, Error::Send { .. }), "{at}: {secondary}");
    }
}

#[test]
fn a_peer_that_says_nothing_is_given_up() {
    let (stream, peer) = pair();
    let limits = Limits::of(&hello(Side::Primary).blocks);
    let patience = Patience { step: Duration::from_millis(50), idle: Duration::from_millis(50), rate: 1 };
    let syncing = secondary::Syncing::new(stream, limits, patience);
    let error = syncing.next(&mut Buffer::new()).unwrap_err();
    assert!(matches!(error, Error::Silent { .. }), "{error}");
    drop(peer);
}

#[test]
fn a_peer_that_trickles_gets_no_more_time_by_it() {
    let (stream, mut peer) = pair();
    let stop = peer.try_clone().unwrap();
    let trickle = thread::spawn(move || {
        // A header that promises much, and then a byte now and then for as long as it is listened to.
        let header = crate::checkpoint::protocol::Header { code: 16, epoch: 0, len: 1 << 20 };
        let mut sent = peer.write_all(&header.to_bytes());
        while sent.is_ok() {
            thread::sleep(Duration::from_millis(5));
            sent = peer.write_all(&[0]);
        }
    });
    let limits = Limits::of(&hello(Side::Primary).blocks);
    let patience = Patience { step: Duration::from_millis(300), idle: LONG, rate: u64::MAX };
    let syncing = secondary::Syncing::new(stream, limits, patience);
    let error = syncing.next(&mut Buffer::new()).unwrap_err();
    assert!(matches!(error, Error::Silent { .. }), "{error}");
    let _ = stop.shutdown(Shutdown::Both);
    trickle.join().unwrap();
}

#[test]
fn a_peer_that_takes_nothing_is_given_up() {
    let (stream, peer) = pair();
    let limits = Limits { piece: 1 << 30, ..Limits::of(&hello(Side::Primary).blocks) };
    let patience = Patience { step: Duration::from_millis(100), idle: LONG, rate: u64::MAX };
    let mut syncing = primary::Syncing::new(stream, limits, patience);
    let much = vec![0; 64 << 20];
    let error = syncing.ram(&[IoSlice::new(&much)]).unwrap_err();
    assert!(matches!(error, Error::Stuck { .. }), "{error}");
    drop(peer);
}

#[test]
fn another_thread_can_end_a_wait() {
    let (mut stream, peer) = pair();
    let hangup = stream.hangup();
    let waits = thread::spawn(move || stream.receive(&mut [0; 4], Instant::now() + LONG));
    hangup.hang_up();
    assert_eq!(waits.join().unwrap().unwrap(), 0);
    let mut rest = Vec::new();
    let mut peer: TcpStream = peer;
    assert_eq!(peer.read_to_end(&mut rest).unwrap(), 0);
}
