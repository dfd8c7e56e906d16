//! A client and a server, their bytes cut anyhow; and what a client does not do.

use super::memory::{Memory, terms};
use crate::nbd::client::handshake::Progress;
use crate::nbd::client::{
    Answer, Ask, Client, ClientError, Command, Done, Facts, Handshake, HandshakeError, Order, Refused,
    SumsError, Window,
};
use crate::nbd::server::{Session, Step, Terms};
use crate::nbd::wire::Request;
use crate::nbd::wire::buffer::Buffer;
use crate::nbd::{Errno, Sum};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;

fn ask() -> Ask {
    Ask { name: "disk".to_owned(), tls: false, epochs: true, allocation: true, sums: true }
}

/// What the server says to some bytes.
fn serve(session: &mut Session, bytes: &[u8]) -> Vec<u8> {
    session.feed(bytes);
    let mut said = Vec::new();
    loop {
        let step = session.step().unwrap();
        said.extend(session.output());
        session.sent(session.output().len());
        match step {
            Step::Again | Step::Send => {}
            Step::Secure => session.secured(),
            Step::Receive | Step::End => return said,
        }
    }
}

/// A handshake, the bytes of both in pieces of such a length.
fn meet(
    terms: Terms,
    ask: Ask,
    window: Window,
    cut: usize,
) -> Result<(Session, Client<Vec<u8>>), HandshakeError> {
    let mut session = Session::new(Arc::new(terms));
    let mut handshake = Handshake::new(ask);
    let mut heard = serve(&mut session, b"");
    loop {
        for piece in std::mem::take(&mut heard).chunks(cut) {
            handshake.feed(piece);
            if handshake.step()? == Progress::Ready {
                let (facts, input) = handshake.finish();
                return Ok((session, Client::new(facts, input, window)));
            }
        }
        for piece in handshake.output().chunks(cut) {
            heard.extend(serve(&mut session, piece));
        }
        handshake.sent(handshake.output().len());
        if handshake.step()? == Progress::Secure {
            handshake.secured();
        }
        assert!(!(heard.is_empty() && handshake.output().is_empty()), "both wait for the other");
    }
}

/// Takes so many bytes off what a client sends.
fn send(client: &mut Client<Vec<u8>>, most: usize) -> Vec<u8> {
    let bytes: Vec<u8> = client.parts().iter().flat_map(|part| part.iter().copied()).take(most).collect();
    client.sent(bytes.len());
    bytes
}

fn exchange(session: &mut Session, client: &mut Client<Vec<u8>>, cut: usize) -> Vec<Done> {
    let mut done = Vec::new();
    while client.wants_to_send() {
        let heard = serve(session, &send(client, cut));
        for piece in heard.chunks(cut) {
            client.feed(piece);
            while let Some(one) = client.next_done().unwrap() {
                done.push(one);
            }
        }
    }
    done
}

fn order(token: u64, command: Command<Vec<u8>>) -> Order<Vec<u8>> {
    Order { token, epoch: 3, command }
}

fn write(offset: u64, len: usize) -> Command<Vec<u8>> {
    Command::Write { offset, data: vec![5; len], fua: false }
}

#[test]
fn a_client_learns_what_the_server_has() {
    let disk = Arc::new(Memory::with_epochs(1 << 20));
    let (_, client) = meet(terms(&disk), ask(), Window::default(), 5).unwrap();
    let facts = client.facts();
    assert_eq!((facts.size, facts.minimum, facts.preferred, facts.maximum), (1 << 20, 1, 4096, 32 << 20));
    assert!(facts.structured && facts.epoch.is_some() && facts.allocation.is_some() && !facts.read_only());
    assert!(facts.sums.is_some());
    let plain = Arc::new(Memory::new(1 << 20));
    let (_, client) = meet(terms(&plain), ask(), Window::default(), 5).unwrap();
    assert!(client.facts().epoch.is_none() && client.facts().allocation.is_some());
    assert!(client.facts().sums.is_none());
}

#[test]
fn a_client_hears_what_regions_come_to() {
    let disk = Arc::new(Memory::with_epochs((17 << 20) + 512));
    disk.bytes.lock().unwrap().iter_mut().enumerate().for_each(|(at, byte)| *byte = (at / 777) as u8);
    let (mut session, mut client) = meet(terms(&disk), ask(), Window::default(), 4096).unwrap();
    let mut sums = |offset: u64, len: u32, one| {
        client.submit(order(1, Command::Status { offset, len, one })).unwrap();
        let done = exchange(&mut session, &mut client, 4096).pop().unwrap();
        let Ok(Answer::Status(status)) = done.result else { panic!("{done:?}") };
        // What is so of the other contexts is said besides.
        assert_eq!(status.len(), 6);
        (
            client.facts().read_sums(&status, offset, len.into()),
            client.facts().read_sums(&status, offset, 16 << 20),
        )
    };
    let bytes = disk.bytes.lock().unwrap().clone();
    let of = |bytes: &[u8]| Sum::of(bytes);
    let (three, _) = sums(16 << 20, (1 << 20) + 512, false);
    assert_eq!(three.unwrap(), bytes[16 << 20..].chunks(65_536).map(of).collect::<Vec<_>>());
    assert_eq!(sums(1000, 512, false).0.unwrap(), [of(&bytes[1000..1512])]);
    assert_eq!(sums(65_536, 200_000, true).0.unwrap_err(), SumsError::Count { came: 1, asked: 4 });
    // No more at once than 16 MiB.
    let (all, most) = sums(0, 17 << 20, false);
    assert_eq!(all.unwrap_err(), SumsError::Count { came: 256, asked: 272 });
    assert_eq!(most.unwrap(), bytes[..16 << 20].chunks(65_536).map(of).collect::<Vec<_>>());
}

#[test]
fn a_refusal_says_what_was_refused_and_what_to_do() {
    let disk = Arc::new(Memory::new(4096));
    let other = Ask { name: "other".to_owned(), ..ask() };
    let error = meet(terms(&disk), other, Window::default(), 99).unwrap_err().to_string();
    assert!(error.contains("no export of that name") && error.contains("nbdinfo --list"), "{error}");
    let demanding = Terms { tls: true, ..terms(&disk) };
    let error = meet(demanding, ask(), Window::default(), 99).unwrap_err().to_string();
    assert!(error.contains("TLS"), "{error}");
    let error = meet(terms(&disk), Ask { tls: true, ..ask() }, Window::default(), 99).unwrap_err();
    assert!(error.to_string().contains("TLS is off here"), "{error}");
    // With TLS on both sides (here: nothing that encrypts) the way goes on.
    let demanding = Terms { tls: true, ..terms(&disk) };
    meet(demanding, Ask { tls: true, ..ask() }, Window::default(), 99).unwrap();
}

#[test]
fn without_epochs_nothing_that_overlaps_is_under_way_at_once() {
    let disk = Arc::new(Memory::new(1 << 20));
    let (mut session, mut client) = meet(terms(&disk), ask(), Window::default(), 99).unwrap();
    let heads = |bytes: &[u8]| bytes.len() / (Request::SIZE + 512);
    client.submit(order(1, write(0, 512))).unwrap();
    client.submit(order(2, write(4096, 512))).unwrap();
    client.submit(order(3, write(511, 512))).unwrap();
    client.submit(order(4, write(9000, 512))).unwrap();
    let first = send(&mut client, usize::MAX);
    assert_eq!(heads(&first), 2, "the third waits for the first, and the fourth does not overtake it");
    client.submit(order(5, Command::Flush)).unwrap();
    client.feed(&serve(&mut session, &first));
    assert_eq!(client.next_done().unwrap().unwrap().token, 1);
    assert_eq!(heads(&send(&mut client, usize::MAX)), 2);
    assert_eq!(client.tokens().collect::<Vec<_>>(), [2, 3, 4, 5]);
}

#[test]
fn a_flush_waits_for_every_write_where_the_server_keeps_no_order() {
    let disk = Arc::new(Memory::new(1 << 20));
    let (mut session, mut client) = meet(terms(&disk), ask(), Window::default(), 99).unwrap();
    client.submit(order(1, write(0, 512))).unwrap();
    client.submit(order(2, Command::Flush)).unwrap();
    let first = send(&mut client, usize::MAX);
    assert_eq!(first.len(), Request::SIZE + 512);
    client.feed(&serve(&mut session, &first));
    assert_eq!(client.next_done().unwrap().unwrap().token, 1);
    assert_eq!(send(&mut client, usize::MAX).len(), Request::SIZE);
    // Where it does, all goes at once.
    let disk = Arc::new(Memory::with_epochs(1 << 20));
    let (_, mut client) = meet(terms(&disk), ask(), Window::default(), 99).unwrap();
    client.submit(order(1, write(0, 512))).unwrap();
    client.submit(order(2, write(0, 512))).unwrap();
    client.submit(order(3, Command::Flush)).unwrap();
    assert_eq!(send(&mut client, usize::MAX).len(), 2 * (Request::SIZE + 512) + Request::SIZE);
}

#[test]
fn no_more_than_the_window_is_under_way() {
    let disk = Arc::new(Memory::with_epochs(1 << 20));
    let window = Window { requests: 3, bytes: 10_000 };
    let (mut session, mut client) = meet(terms(&disk), ask(), window, 99).unwrap();
    client.submit(order(1, write(0, 20_000))).unwrap();
    assert!(matches!(client.submit(order(2, write(0, 1))), Err(Refused::Full(_))), "one alone may have more");
    assert_eq!(exchange(&mut session, &mut client, 999).len(), 1);
    (2..5).for_each(|token| client.submit(order(token, write(0, 100))).unwrap());
    let Err(Refused::Full(back)) = client.submit(order(5, write(0, 1))) else { panic!("it is full") };
    assert_eq!(back.token, 5);
}

#[test]
fn what_does_not_fit_is_not_sent() {
    let disk = Arc::new(Memory { read_only: true, ..Memory::new(4096) });
    let (_, mut client) = meet(terms(&disk), ask(), Window::default(), 99).unwrap();
    assert!(matches!(client.submit(order(1, write(0, 1))), Err(Refused::Unsupported(..))));
    let disk = Arc::new(Memory::new(64 << 20));
    let (mut session, mut client) = meet(terms(&disk), ask(), Window::default(), 99).unwrap();
    for (offset, len) in [(0, 0), (0, (32 << 20) + 1), (64 << 20, 1), (u64::MAX, 1)] {
        let read = order(1, Command::Read { offset, len });
        assert!(matches!(client.submit(read), Err(Refused::Wrong(..))), "{offset} {len}");
    }
    client.submit(order(1, write(0, 1))).unwrap();
    client.disconnect();
    assert!(matches!(client.submit(order(2, Command::Flush)), Err(Refused::Wrong(..))));
    assert!(!client.closed());
    assert_eq!(exchange(&mut session, &mut client, 99).len(), 1);
    assert!(client.closed() && !client.wants_to_send());
    assert_eq!(session.step().unwrap(), Step::End);
}

fn broken(structured: bool, reply: &[u8]) -> ClientError {
    let facts = Facts { size: 4096, flags: 1, minimum: 1, maximum: 4096, structured, ..Facts::default() };
    let mut client: Client<Vec<u8>> = Client::new(facts, Buffer::new(), Window::default());
    client.submit(order(1, Command::Read { offset: 100, len: 8 })).unwrap();
    client.feed(reply);
    loop {
        match client.next_done() {
            Err(error) => return error,
            Ok(done) => assert!(done.is_some(), "{reply:x?} was believed so far"),
        }
    }
}

#[test]
fn replies_that_make_no_sense_are_not_believed() {
    let data = |done: u8, offset: u8, bytes: &[u8]| {
        let len = (8 + bytes.len()) as u8;
        let head = [0x66, 0x8e, 0x33, 0xef, 0, done, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, len];
        [head.as_slice(), &[0, 0, 0, 0, 0, 0, 0, offset], bytes].concat()
    };
    let replies = [
        (true, b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
        (false, b"\x67\x44\x66\x98\0\0\0\0\0\0\0\x01\0\0\0\0".to_vec()),
        (false, data(1, 100, b"12345678")),
        (true, data(1, 100, b"1234")),
        (true, data(1, 99, b"12345678")),
        (true, data(1, 101, b"12345678")),
        (true, [data(0, 100, b"1234"), data(1, 103, b"45678")].concat()),
        (true, [data(0, 104, b"5678"), data(1, 102, b"345")].concat()),
        (true, b"\x66\x8e\x33\xef\0\x01\0\x07\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
        (true, b"\x66\x8e\x33\xef\0\x01\x80\x01\0\0\0\0\0\0\0\0\0\0\x20\0".to_vec()),
    ];
    for (structured, reply) in replies {
        broken(structured, &reply);
    }
    // In pieces, in any order, is how it may come.
    let facts =
        Facts { size: 4096, flags: 1, minimum: 1, maximum: 4096, structured: true, ..Facts::default() };
    let mut client: Client<Vec<u8>> = Client::new(facts, Buffer::new(), Window::default());
    client.submit(order(1, Command::Read { offset: 100, len: 8 })).unwrap();
    let hole = b"\x66\x8e\x33\xef\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\x0c\0\0\0\0\0\0\0\x66\0\0\0\x03".to_vec();
    client.feed(&[data(0, 105, b"678"), hole, data(1, 100, b"12")].concat());
    let done = client.next_done().unwrap().unwrap();
    assert_eq!(done.result, Ok(Answer::Data(b"12\0\0\x00678".to_vec())));
}

#[derive(Clone, Debug)]
enum Act {
    Submit(Command<Vec<u8>>),
    Exchange(usize),
}

const SIZE: u64 = 16_384;

fn act() -> impl Strategy<Value = Act> {
    let range = || (0..SIZE - 1).prop_flat_map(|offset| (Just(offset), 1..=(SIZE - offset).min(5000) as u32));
    let command = prop_oneof![
        4 => (range(), any::<u8>(), any::<bool>()).prop_map(|((offset, len), fill, fua)| {
            Command::Write { offset, data: vec![fill; len as usize], fua }
        }),
        4 => range().prop_map(|(offset, len)| Command::Read { offset, len }),
        1 => range().prop_map(|(offset, len)| Command::Trim { offset, len, fua: true }),
        1 => (range(), any::<bool>()).prop_map(|((offset, len), fast)| {
            Command::Zero { offset, len, unmap: true, fast, fua: false }
        }),
        1 => range().prop_map(|(offset, len)| Command::Status { offset, len, one: false }),
        1 => Just(Command::Flush),
    ];
    prop_oneof![3 => command.prop_map(Act::Submit), 1 => (1..3000_usize).prop_map(Act::Exchange)]
}

/// What a disk would say, and what is then on it.
fn oracle(command: &Command<Vec<u8>>, disk: &mut [u8]) -> Option<Result<Answer, Errno>> {
    let range = |offset: u64, len: u32| -> Vec<u8> { disk[offset as usize..][..len as usize].to_vec() };
    Some(match command {
        Command::Read { offset, len } => Ok(Answer::Data(range(*offset, *len))),
        Command::Write { data, .. } if data[0] == 0xfe => Err(Errno::Nospc),
        Command::Write { offset, data, .. } => {
            disk[*offset as usize..][..data.len()].copy_from_slice(data);
            Ok(Answer::Done)
        }
        Command::Zero { fast: true, .. } => Err(Errno::Notsup),
        Command::Zero { offset, len, .. } | Command::Trim { offset, len, .. } => {
            disk[*offset as usize..][..*len as usize].fill(0);
            Ok(Answer::Done)
        }
        Command::Flush => Ok(Answer::Done),
        Command::Status { .. } => return None,
    })
}

/// Whether extents say which bytes are zero.
fn truthful(extents: &[crate::nbd::wire::Extent], bytes: &[u8]) -> bool {
    let mut at = 0;
    extents.iter().all(|extent| {
        let part = &bytes[at..at + extent.len as usize];
        at += part.len();
        part.iter().all(|byte| (*byte == 0) == (extent.status == 3))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn orders_are_done_in_their_order_whatever_is_under_way(
        acts in prop::collection::vec(act(), 1..60), epochs: bool, cut in 1..200_usize,
    ) {
        let memory = if epochs { Memory::with_epochs(SIZE as usize) } else { Memory::new(SIZE as usize) };
        let memory = Arc::new(memory);
        let window = Window { requests: 8, bytes: 20_000 };
        let (mut session, mut client) = meet(terms(&memory), ask(), window, cut).unwrap();
        let mut disk = vec![0; SIZE as usize];
        let mut expected = HashMap::new();
        for (token, act) in (0..).zip(acts.iter().chain([&Act::Exchange(777)])) {
            match act {
                Act::Submit(command) => match client.submit(order(token, command.clone())) {
                    Ok(()) => {
                        let answer = oracle(command, &mut disk);
                        expected.insert(token, (command.clone(), answer, disk.clone()));
                    }
                    Err(Refused::Full(_)) => prop_assert!(client.unanswered() > 0),
                    Err(other) => panic!("{other}"),
                },
                Act::Exchange(cut) => for done in exchange(&mut session, &mut client, *cut) {
                    let (command, answer, then) = expected.remove(&done.token).unwrap();
                    match (&command, answer, done.result) {
                        (Command::Status { offset, len, .. }, None, Ok(Answer::Status(status))) => {
                            prop_assert_eq!(status.len(), if epochs { 6 } else { 1 });
                            let range = &then[*offset as usize..(*offset + u64::from(*len)) as usize];
                            prop_assert!(truthful(&status[0].1, range));
                            if epochs {
                                let sums = client.facts().read_sums(&status, *offset, (*len).into());
                                prop_assert_eq!(sums, Ok(vec![Sum::of(range)]));
                            }
                        }
                        (_, Some(answer), result) => prop_assert_eq!(result.map_err(|(errno, _)| errno), answer),
                        other => panic!("{other:?}"),
                    }
                },
            }
        }
        prop_assert!(expected.is_empty() && client.unanswered() == 0);
        prop_assert_eq!(&*memory.bytes.lock().unwrap(), &disk);
        prop_assert!(memory.tags.lock().unwrap().iter().all(|tag| *tag == epochs.then_some(3)));
    }
}
