//! Peers that mean no good: nothing panics, nothing is taken that was not sent.

use super::memory::{Memory, Says, run, terms};
use crate::nbd::client::{Ask, Client, Command, Facts, Handshake, Order, Window};
use crate::nbd::wire::buffer::{Buffer, STEP};
use proptest::prelude::*;
use std::sync::Arc;

/// What a connection may hold beyond twice what came.
const BASE: usize = 3 * STEP;

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        Just(b"IHAVEOPT\0\0\0\x07\0\0\0\x0a\0\0\0\x04disk\0\0".to_vec()),
        Just(b"IHAVEOPT\0\0\0\x0a\0\0\xff\xff".to_vec()),
        Just(b"\x25\x60\x95\x13\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\x02\0\0\0".to_vec()),
        Just(b"\x25\x60\x95\x13\0\0\0\x00\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\x08\0".to_vec()),
        Just(b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
        Just(b"\x66\x8e\x33\xef\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x08abcdefgh".to_vec()),
        Just(b"\x66\x8e\x33\xef\0\0\0\x05\0\0\0\0\0\0\0\x01\0\x10\0\x04".to_vec()),
        Just([0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0].to_vec()),
        Just([0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0xff, 0xff].to_vec()),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn a_server_takes_no_more_memory_than_twice_what_came(tail in bytes(), chosen: bool) {
        let says = if chosen { Says::flags().structured().go() } else { Says::flags() };
        let all = says.data(&tail).0;
        let (_, _, memory) = run(terms(&Arc::new(Memory::new(4096))), &all, &[7, 1000]);
        prop_assert!(memory <= 2 * all.len() + BASE, "{memory}");
    }

    #[test]
    fn a_handshake_with_a_hostile_server_ends_or_waits(tail in bytes(), epochs: bool, tls: bool) {
        let ask = Ask { name: "disk".to_owned(), tls, epochs, allocation: true, sums: epochs };
        let mut handshake = Handshake::new(ask);
        let all = [b"NBDMAGICIHAVEOPT\0\x03".as_slice(), &tail].concat();
        for piece in all.chunks(11) {
            handshake.feed(piece);
            if handshake.step().is_err() {
                break;
            }
            prop_assert!(handshake.memory() <= 2 * all.len() + BASE);
        }
    }

    #[test]
    fn a_client_believes_no_reply_that_fits_nothing(tail in bytes(), structured: bool) {
        let facts = Facts {
            size: 1 << 30, flags: !2, minimum: 1, preferred: 4096, maximum: 1 << 20,
            structured, epoch: None, allocation: Some(1), sums: Some([3, 4, 5, 6]),
        };
        let mut client: Client<Vec<u8>> = Client::new(facts, Buffer::new(), Window::default());
        let orders = [
            Command::Read { offset: 0, len: 16 },
            Command::Status { offset: 0, len: 4096, one: false },
            Command::Write { offset: 100, data: vec![1; 10], fua: false },
        ];
        for (token, command) in (0..).zip(orders) {
            client.submit(Order { token, epoch: 0, command }).unwrap();
        }
        let mut answered = Vec::new();
        'all: for piece in tail.chunks(13) {
            client.feed(piece);
            loop {
                match client.next_done() {
                    Ok(Some(done)) => answered.push(done.token),
                    Ok(None) => break,
                    Err(_) => break 'all,
                }
            }
            prop_assert!(client.memory() <= 2 * tail.len() + BASE + 16);
        }
        answered.sort_unstable();
        let count = answered.len();
        answered.dedup();
        prop_assert_eq!(count, answered.len(), "nothing is answered twice");
    }
}
