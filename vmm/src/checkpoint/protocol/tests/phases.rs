use super::super::hello::Block;
use super::super::primary;
use super::super::secondary::{self, FirstSync, Next, Pages};
use super::super::{Buffer, Code, Error, Header, Limits, Part, Patience, Phase, Sender};
use super::script::{Script, message};
use std::io::IoSlice;

const EPOCH: u64 = 3;

fn limits() -> Limits {
    let mut limits = Limits::of(&[Block { name: "pc.ram".parse().unwrap(), size: 1 << 20 }]);
    (limits.piece, limits.reply, limits.package) = (100, 200, 400);
    limits
}

/// Comes to a phase by the legal way, and lets the peer say the rest in it. Gives what comes of that: the code that
/// was taken, or the error; and what the connection saw.
type Reach = fn(&[u8], &mut Script) -> Result<Code, Error>;

fn primary_level(channel: &mut Script) -> primary::Level<&mut Script> {
    channel.says = message(0, 0, &[]);
    let mut level =
        primary::Syncing::new(channel, limits(), Patience::default()).synced().unwrap().ready().unwrap();
    while level.epoch() < EPOCH {
        level = primary_epoch(level);
    }
    level
}

fn primary_epoch(level: primary::Level<&mut Script>) -> primary::Level<&mut Script> {
    let epoch = level.epoch();
    let answers = [message(2, epoch, b"ranges"), message(5, epoch, &[]), message(6, epoch, &[])].concat();
    let mut ranges = Buffer::new();
    let requested = level.request_with(&answers);
    let shipped = requested.reply(&mut ranges).unwrap().pages(&[]).unwrap().package(&[]).unwrap();
    assert_eq!(ranges.bytes(), b"ranges");
    shipped.received().unwrap().loaded().unwrap()
}

impl<'a> primary::Level<&'a mut Script> {
    /// The request, after which the peer says this.
    fn request_with(self, answers: &[u8]) -> primary::Requested<&'a mut Script> {
        let mut requested = self.request().unwrap();
        requested.channel().says.extend(answers);
        requested
    }
}

fn primary_synced(says: &[u8], channel: &mut Script) -> Result<Code, Error> {
    channel.says = says.to_vec();
    let synced = primary::Syncing::new(channel, limits(), Patience::default()).synced()?;
    synced.ready().map(|_| Code::CheckpointReady)
}

fn primary_requested(says: &[u8], channel: &mut Script) -> Result<Code, Error> {
    let requested = primary_level(channel).request_with(says);
    requested.reply(&mut Buffer::new()).map(|_| Code::CheckpointReply)
}

fn primary_shipped(says: &[u8], channel: &mut Script) -> Result<Code, Error> {
    let reply = message(2, EPOCH, &[]);
    let requested = primary_level(channel).request_with(&[&reply, says].concat());
    let replied = requested.reply(&mut Buffer::new()).unwrap();
    let shipped = replied.pages(&[]).unwrap().package(&[]).unwrap();
    shipped.received().map(|_| Code::VmstateReceived)
}

fn primary_received(says: &[u8], channel: &mut Script) -> Result<Code, Error> {
    let before = [message(2, EPOCH, &[]), message(5, EPOCH, &[])].concat();
    let requested = primary_level(channel).request_with(&[&before, says].concat());
    let replied = requested.reply(&mut Buffer::new()).unwrap();
    let shipped = replied.pages(&[]).unwrap().package(&[]).unwrap();
    let level = shipped.received().unwrap().loaded()?;
    assert_eq!(level.epoch(), EPOCH + 1);
    Ok(Code::VmstateLoaded)
}

fn secondary_syncing(says: &[u8], channel: &mut Script) -> Result<Code, Error> {
    channel.says = [&message(16, 0, b"before"), says].concat();
    let syncing = secondary::Syncing::new(channel, limits(), Patience::default());
    let mut buffer = Buffer::new();
    let FirstSync::Ram(syncing) = syncing.next(&mut buffer).unwrap() else { panic!("a piece of RAM") };
    assert_eq!(buffer.bytes(), b"before");
    Ok(match syncing.next(&mut buffer)? {
        FirstSync::Ram(_) => Code::Ram,
        FirstSync::Synced(_) => Code::Synced,
        FirstSync::Resume(_) => Code::Resume,
        FirstSync::Ended => Code::Ended,
    })
}

/// Level in the third epoch, with what is said in it.
fn secondary_level<'a>(says: &[u8], channel: &'a mut Script) -> secondary::Level<&'a mut Script> {
    let mut script = message(17, 0, &[]);
    for epoch in 1..EPOCH {
        script.extend(message(16, epoch, b"ahead"));
        script.extend(message(1, epoch, &[]));
        script.extend(message(16, epoch, b"more"));
        script.extend(message(3, epoch, b"pages"));
        script.extend(message(4, epoch, b"package"));
    }
    script.extend(says);
    channel.says = script;
    let mut buffer = Buffer::new();
    let syncing = secondary::Syncing::new(channel, limits(), Patience::default());
    let FirstSync::Synced(synced) = syncing.next(&mut buffer).unwrap() else { panic!("synced") };
    let mut level = synced.ready().unwrap();
    while level.epoch() < EPOCH {
        let Next::Ram(ahead) = level.next(&mut buffer).unwrap() else { panic!("a piece of RAM") };
        assert_eq!(buffer.bytes(), b"ahead");
        let Next::Request(requested) = ahead.next(&mut buffer).unwrap() else { panic!("a request") };
        let Pages::More(more) = requested.reply(&[]).unwrap().pages(&mut buffer).unwrap() else {
            panic!("a piece of RAM")
        };
        assert_eq!(buffer.bytes(), b"more");
        let Pages::All(sent) = more.pages(&mut buffer).unwrap() else { panic!("the last piece") };
        assert_eq!(buffer.bytes(), b"pages");
        let shipped = sent.package(&mut buffer).unwrap();
        assert_eq!(buffer.bytes(), b"package");
        level = shipped.received().unwrap().loaded().unwrap();
    }
    level
}

fn secondary_between(says: &[u8], channel: &mut Script) -> Result<Code, Error> {
    Ok(match secondary_level(says, channel).next(&mut Buffer::new())? {
        Next::Ram(_) => Code::Ram,
        Next::Request(_) => Code::CheckpointRequest,
        Next::Ended => Code::Ended,
    })
}

fn secondary_replied(says: &[u8], channel: &mut Script) -> Result<Code, Error> {
    let level = secondary_level(&[&message(1, EPOCH, &[]), says].concat(), channel);
    let Next::Request(requested) = level.next(&mut Buffer::new()).unwrap() else { panic!("a request") };
    Ok(match requested.reply(&[]).unwrap().pages(&mut Buffer::new())? {
        Pages::More(_) => Code::Ram,
        Pages::All(_) => Code::VmstateSend,
    })
}

fn secondary_pages(says: &[u8], channel: &mut Script) -> Result<Code, Error> {
    let before = [message(1, EPOCH, &[]), message(3, EPOCH, &[])].concat();
    let level = secondary_level(&[&before, says].concat(), channel);
    let Next::Request(requested) = level.next(&mut Buffer::new()).unwrap() else { panic!("a request") };
    let Pages::All(sent) = requested.reply(&[]).unwrap().pages(&mut Buffer::new()).unwrap() else {
        panic!("the last piece")
    };
    sent.package(&mut Buffer::new()).map(|_| Code::VmstateSize)
}

/// Every phase in which a side listens: what may come, in which epoch.
const PHASES: [(Phase, Reach, &[Code], u64); 8] = [
    (Phase::Synced, primary_synced, &[Code::CheckpointReady], 0),
    (Phase::Requested, primary_requested, &[Code::CheckpointReply], EPOCH),
    (Phase::Shipped, primary_shipped, &[Code::VmstateReceived], EPOCH),
    (Phase::Received, primary_received, &[Code::VmstateLoaded], EPOCH),
    (Phase::FirstSync, secondary_syncing, &[Code::Ram, Code::Synced, Code::Ended, Code::Resume], 0),
    (Phase::Level, secondary_between, &[Code::Ram, Code::CheckpointRequest, Code::Ended], EPOCH),
    (Phase::Replied, secondary_replied, &[Code::Ram, Code::VmstateSend], EPOCH),
    (Phase::PagesSent, secondary_pages, &[Code::VmstateSize], EPOCH),
];

#[test]
fn every_message_in_every_phase_is_taken_or_named_as_unexpected() {
    for (phase, reach, legal, epoch) in PHASES {
        for code in Code::ALL {
            let result = reach(&message(code.number(), epoch, &[]), &mut Script::default());
            if legal.contains(&code) {
                assert_eq!(result.unwrap(), code);
                continue;
            }
            let error = result.unwrap_err();
            let text = error.to_string();
            let Error::Unexpected { got, wanted, phase: at } = error else { panic!("{text}") };
            assert_eq!((got, wanted.0, at), (code, legal, phase));
            assert!(
                legal.iter().all(|legal| text.contains(legal.name())) && text.contains(code.name()),
                "{text}"
            );
        }
    }
}

#[test]
fn numbers_that_say_nothing_are_named() {
    for (phase, reach, _, epoch) in PHASES {
        for number in [7, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
            let error = reach(&message(number, epoch, &[]), &mut Script::default()).unwrap_err();
            assert!(matches!(error, Error::InvalidCommand(n, at) if n == number && at == phase), "{error}");
        }
    }
}

#[test]
fn a_message_of_another_epoch_is_refused() {
    for (phase, reach, legal, epoch) in PHASES {
        for wrong in [epoch.wrapping_sub(1), epoch + 1, u64::MAX - 1] {
            let error = reach(&message(legal[0].number(), wrong, &[]), &mut Script::default()).unwrap_err();
            let Error::Epoch { code, got, wanted, phase: at } = error else { panic!("{error}") };
            assert_eq!((code, got, wanted, at), (legal[0], wrong, epoch, phase));
        }
    }
}

#[test]
fn a_payload_has_its_most_and_nothing_is_allocated_for_more() {
    for (_, reach, legal, epoch) in PHASES {
        for code in legal {
            let most = limits().max(*code);
            let largest = vec![0xaa; usize::try_from(most).unwrap()];
            assert_eq!(
                reach(&message(code.number(), epoch, &largest), &mut Script::default()).unwrap(),
                *code
            );
            for len in [most + 1, 1 << 31, 1 << 63, u64::MAX] {
                let header = Header { code: code.number(), epoch, len }.to_bytes();
                let mut channel = Script::default();
                let error = reach(&header, &mut channel).unwrap_err();
                let Error::Length { sender: Sender::Peer, code: of, len: got, max } = error else {
                    panic!("{error}")
                };
                assert_eq!((of, got, max), (*code, len, most));
                // Its payload was never asked for: only headers, and what was legal before.
                assert!(channel.asked <= Header::SIZE, "{}", channel.asked);
            }
        }
    }
}

#[test]
fn a_peer_that_announces_much_and_sends_little_costs_little() {
    let big = Limits { piece: u64::MAX, ..limits() };
    let header = Header { code: 3, epoch: 1, len: u64::MAX }.to_bytes();
    let script = [message(17, 0, &[]), message(1, 1, &[]), header.to_vec(), vec![1; 1000]];
    let mut buffer = Buffer::new();
    let syncing = secondary::Syncing::new(Script::says(&script), big, Patience::default());
    let FirstSync::Synced(synced) = syncing.next(&mut buffer).unwrap() else { panic!("synced") };
    let Next::Request(requested) = synced.ready().unwrap().next(&mut buffer).unwrap() else {
        panic!("a request")
    };
    let error = requested.reply(&[]).unwrap().pages(&mut buffer).unwrap_err();
    assert!(matches!(error, Error::Truncated { got: 1000, of: u64::MAX, .. }), "{error}");
    assert!(buffer.capacity() <= 2 * Buffer::STEP);
}

#[test]
fn an_end_within_a_message_is_told_from_one_between_two() {
    for (phase, reach, legal, epoch) in PHASES {
        let error = reach(&[], &mut Script::default()).unwrap_err();
        assert!(matches!(error, Error::Closed(at) if at == phase), "{error}");
        let code = legal[0];
        let payload = if limits().max(code) > 0 { &b"0123456789"[..] } else { &[] };
        let whole = message(code.number(), epoch, payload);
        for len in 1..whole.len() {
            let error = reach(&whole[..len], &mut Script::default()).unwrap_err();
            let Error::Truncated { what, got, of, phase: at } = error else { panic!("{error}") };
            let header = Header::SIZE;
            let in_header = (Part::Header, len as u64, header as u64);
            let in_payload = (Part::Payload(code), len.saturating_sub(header) as u64, payload.len() as u64);
            assert_eq!((what, got, of), if len < header { in_header } else { in_payload });
            assert_eq!(at, phase);
        }
        let silent = &mut Script { silent: true, ..Script::default() };
        let error = reach(&[], silent).unwrap_err();
        assert!(matches!(error, Error::Silent { phase: at, .. } if at == phase), "{error}");
    }
}

#[test]
fn a_message_is_one_write_however_many_parts_it_has() {
    let mut channel = Script::default();
    let mut level = primary_level(&mut channel);
    level.ram(&[IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"two")]).unwrap();
    level.ended().unwrap();
    let [.., ram, ended] = &channel.heard[..] else { panic!("two messages") };
    assert_eq!(*ram, message(16, EPOCH, b"one two"));
    assert_eq!(*ended, message(18, EPOCH, &[]));
}

#[test]
fn nothing_follows_a_message_that_was_not_sent_whole() {
    let mut channel = Script { takes: Some(100), ..Script::default() };
    let mut syncing = primary::Syncing::new(&mut channel, limits(), Patience::default());
    let error = syncing.ram(&[IoSlice::new(&[0; 101])]).unwrap_err();
    assert!(matches!(error, Error::Length { sender: Sender::Us, len: 101, max: 100, .. }), "{error}");
    syncing.ram(&[IoSlice::new(b"this is sent")]).unwrap();
    let error = syncing.ram(&[IoSlice::new(&[0; 80])]).unwrap_err();
    assert!(matches!(error, Error::Stuck { code: Code::Ram, len: 80, .. }), "{error}");
    assert!(matches!(syncing.ram(&[]).unwrap_err(), Error::Broken(Code::Ram)));
    assert!(matches!(syncing.synced().unwrap_err(), Error::Broken(Code::Synced)));
    assert_eq!(channel.heard, [message(16, 0, b"this is sent")]);
}
