//! What an NBD server can say to our client: no order is answered twice, no answer has more than was asked for,
//! memory is bounded by what came and what was asked for.
#![no_main]

use arbitrary::Unstructured;
use colo_vmm::nbd::client::handshake::Progress;
use colo_vmm::nbd::client::{Answer, Ask, Client, Command, Facts, Handshake, Order, Window};
use colo_vmm::nbd::sum::pieces;
use colo_vmm::nbd::wire::buffer::Buffer;
use libfuzzer_sys::fuzz_target;
use std::collections::HashMap;

const BASE: usize = 1 << 20;

fn ask(tls: bool) -> Ask {
    Ask { name: "disk".to_owned(), tls, epochs: true, allocation: true, sums: true }
}

/// A handshake that the server decides; then what it has agreed to.
fn shake(tls: bool, bytes: &mut &[u8], cut: usize) -> Option<(Facts, Buffer)> {
    let mut handshake = Handshake::new(ask(tls));
    handshake.feed(b"NBDMAGICIHAVEOPT\0\x03");
    let mut came = 0;
    loop {
        assert!(handshake.memory() <= 2 * came + BASE);
        handshake.sent(handshake.output().len());
        match handshake.step().ok()? {
            Progress::Ready => return Some(handshake.finish()),
            Progress::Secure => handshake.secured(),
            Progress::Receive if bytes.is_empty() => return None,
            Progress::Receive => {
                let (piece, rest) = bytes.split_at(cut.min(bytes.len()));
                handshake.feed(piece);
                (*bytes, came) = (rest, came + piece.len());
            }
        }
    }
}

fn orders(input: &mut Unstructured<'_>, size: u64) -> Vec<Command<Vec<u8>>> {
    let count = input.int_in_range(0..=12).unwrap_or(0);
    let mut order = || {
        let offset = input.int_in_range(0..=size).ok()?;
        let len = input.int_in_range(1..=8192).ok()?;
        Some(match input.int_in_range(0..=4).ok()? {
            0 => Command::Write { offset, data: vec![1; len as usize], fua: false },
            1 => Command::Status { offset, len, one: false },
            2 => Command::Flush,
            _ => Command::Read { offset, len },
        })
    };
    (0..count).filter_map(|_| order()).collect()
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Unstructured::new(bytes);
    let (Ok(tls), Ok(met), Ok(structured), Ok(epochs)) =
        (input.arbitrary(), input.arbitrary::<bool>(), input.arbitrary(), input.arbitrary::<bool>())
    else {
        return;
    };
    let cut = input.int_in_range(1..=4096).unwrap_or(1);
    let commands = orders(&mut input, 1 << 20);
    let mut rest = input.take_rest();
    let facts = Facts {
        size: 1 << 20,
        flags: !2,
        minimum: 1,
        preferred: 4096,
        maximum: 32 << 20,
        structured,
        epoch: epochs.then_some(2),
        allocation: Some(1),
        sums: Some([3, 4, 5, 6]),
    };
    let (facts, buffer) = if met {
        (facts, Buffer::new())
    } else {
        match shake(tls, &mut rest, cut) {
            Some(agreed) => agreed,
            None => return,
        }
    };
    let mut client: Client<Vec<u8>> = Client::new(facts, buffer, Window::default());
    let mut asked = HashMap::new();
    for (token, command) in (0..).zip(commands) {
        if client.submit(Order { token, epoch: 7, command: command.clone() }).is_ok() {
            asked.insert(token, command);
        }
    }
    let mut came = rest.len();
    for piece in rest.chunks(cut) {
        client.sent(client.parts().iter().map(|part| part.len()).sum());
        client.feed(piece);
        came += piece.len();
        loop {
            match client.next_done() {
                Err(_) => return,
                Ok(None) => break,
                Ok(Some(done)) => match (asked.remove(&done.token).expect("it was asked"), done.result) {
                    (Command::Read { len, .. }, Ok(Answer::Data(data))) => {
                        assert_eq!(data.len(), len as usize)
                    }
                    (Command::Status { offset, len, .. }, Ok(Answer::Status(status))) => {
                        assert!((1..=6).contains(&status.len()));
                        if let Ok(sums) = client.facts().read_sums(&status, offset, len.into()) {
                            assert_eq!(sums.len(), pieces(offset, len.into()).count());
                        }
                    }
                    (Command::Write { .. } | Command::Flush, Ok(Answer::Done)) | (_, Err(_)) => {}
                    other => panic!("{other:?} is no answer"),
                },
            }
        }
        assert!(client.memory() <= 2 * came + BASE, "memory without bytes");
    }
    assert_eq!(client.unanswered(), asked.len());
});
