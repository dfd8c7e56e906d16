//! What a server says to what a client says; both written down by hand.

use super::memory::{Memory, Said, Says, run, said, terms};
use crate::nbd::server::{SessionError, Step, Terms};
use proptest::prelude::*;
use std::sync::Arc;

fn answers(terms: Terms, says: &Says) -> Vec<(u32, u32)> {
    let (bytes, end, _) = run(terms, &says.0, &[]);
    assert!(matches!(end, Ok(Step::Receive | Step::End)), "{end:?}");
    let answer = |said: &Said| match said {
        Said::Answer { option, answer, .. } => Some((*option, *answer)),
        _ => None,
    };
    said(&bytes, |_| 0).iter().filter_map(answer).collect()
}

const ERR: u32 = 1 << 31;

fn disk() -> Arc<Memory> {
    Arc::new(Memory::new(1 << 20))
}

#[test]
fn every_option_has_its_answer_and_one_that_nobody_knows_is_unsupported() {
    let says = Says::flags()
        .option(3, b"")
        .option(99, b"something")
        .option(6, b"\0\0\0\x04none\0\0")
        .option(6, b"\0\0\0\x04disk\0\x03\0\x01\0\x02\0\x03")
        .option(7, b"junk")
        .option(5, b"")
        .option(8, b"x")
        .option(8, b"")
        .option(8, b"")
        .option(2, b"");
    let expected = [
        (3, 2),
        (3, 1),
        (99, ERR | 1),
        (6, ERR | 6),
        (6, 3),
        (6, 3),
        (6, 3),
        (6, 3),
        (6, 1),
        (7, ERR | 3),
        (5, ERR | 2),
        (8, ERR | 3),
        (8, 1),
        (8, ERR | 3),
        (2, 1),
    ];
    assert_eq!(answers(terms(&disk()), &says), expected);
}

#[test]
fn an_export_is_described_with_its_size_its_name_and_the_sizes_of_requests() {
    let says = Says::flags().option(6, b"\0\0\0\0\0\x02\0\x01\0\x02");
    let (bytes, _, _) = run(terms(&disk()), &says.0, &[]);
    let data: Vec<_> = said(&bytes, |_| 0)
        .into_iter()
        .filter_map(|said| match said {
            Said::Answer { answer: 3, data, .. } => Some(data),
            _ => None,
        })
        .collect();
    assert_eq!(data[0][..10], *b"\0\0\0\0\0\0\0\x10\0\0");
    assert_eq!(data[1], b"\0\x01disk");
    assert_eq!(data[2], b"\0\x02a disk");
    assert_eq!(data[3], b"\0\x03\0\0\0\x01\0\0\x10\0\x02\0\0\0");
}

#[test]
fn before_tls_everything_is_refused_but_tls_and_good_bye() {
    let demanding = || Terms { tls: true, ..terms(&disk()) };
    let mut says = Says::flags();
    for option in [3, 6, 7, 8, 9, 10, 99] {
        says = says.option(option, b"");
    }
    let refused = answers(demanding(), &says.option(2, b""));
    assert_eq!(refused[..7], [3, 6, 7, 8, 9, 10, 99].map(|option| (option, ERR | 5)));
    assert_eq!(refused[7], (2, 1));
    let (_, ended, _) = run(demanding(), &Says::flags().option(1, b"disk").0, &[]);
    assert!(matches!(ended, Err(SessionError::Export(..))), "{ended:?}");
}

#[test]
fn bytes_behind_starttls_are_not_taken_for_bytes_under_tls() {
    let says = Says::flags().option(5, b"").structured().go();
    let (_, ended, _) = run(Terms { tls: true, ..terms(&disk()) }, &says.0, &[]);
    assert!(matches!(ended, Err(SessionError::BehindStartTls)), "{ended:?}");
    // What comes once TLS is there is heard: here, in pieces as the client would send it.
    let first = Says::flags().option(5, b"").0.len();
    let (bytes, _, _) = run(Terms { tls: true, ..terms(&disk()) }, &says.0, &[first, usize::MAX]);
    let last = said(&bytes, |_| 0).pop();
    assert_eq!(last, Some(Said::Answer { option: 7, answer: 1, data: vec![] }));
}

#[test]
fn a_handshake_without_end_ends() {
    let mut says = Says::flags();
    for _ in 0..300 {
        says = says.option(3, b"");
    }
    let (_, ended, _) = run(terms(&disk()), &says.0, &[]);
    assert!(matches!(ended, Err(SessionError::Handshake { options: 257, .. })), "{ended:?}");
    let mut says = Says::flags();
    for _ in 0..17 {
        says = says.option(99, &vec![0; 65536]);
    }
    let (_, ended, _) = run(terms(&disk()), &says.0, &[]);
    assert!(matches!(ended, Err(SessionError::Handshake { options: 17, .. })), "{ended:?}");
    // One that is too long is skipped, and what comes behind it is heard.
    let says = Says::flags().option(99, &vec![0; 100_000]).option(2, b"");
    assert_eq!(answers(terms(&disk()), &says), [(99, ERR | 9), (2, 1)]);
}

#[test]
fn the_old_way_to_choose_an_export_is_served() {
    let says = Says::flags().option(1, b"disk").request(0, 0, 9, 0, 3);
    let (bytes, ended, _) = run(terms(&disk()), &says.0, &[]);
    assert!(matches!(ended, Ok(Step::Receive)));
    assert_eq!(bytes[18..26], (1_u64 << 20).to_be_bytes());
    assert_eq!(bytes[28..], *b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\x09\0\0\0");
}

#[test]
fn the_upper_half_of_a_cookie_is_an_epoch_only_if_that_was_agreed() {
    let disk = Arc::new(Memory::with_epochs(4096));
    let write = |says: Says| {
        let says = says.go().request(1, 0, 5 << 32 | 1, 0, 1).data(b"x");
        run(terms(&disk), &says.0, &[]).1.unwrap();
    };
    write(Says::flags().structured().context("colo:epoch"));
    write(Says::flags().structured().context("base:allocation"));
    write(Says::flags());
    assert_eq!(*disk.tags.lock().unwrap(), [Some(5), None, None]);
    // A disk that knows no epochs does not offer them.
    let plain = Arc::new(Memory::new(4096));
    let (bytes, _, _) = run(terms(&plain), &Says::flags().structured().context("colo:epoch").0, &[]);
    let named = said(&bytes, |_| 0).iter().any(|said| matches!(said, Said::Answer { answer: 4, .. }));
    assert!(!named);
}

#[test]
fn block_status_has_a_chunk_for_each_context() {
    let disk = Arc::new(Memory::with_epochs(4096));
    disk.bytes.lock().unwrap()[1024..2048].fill(1);
    let both = b"\0\0\0\x04disk\0\0\0\x02\0\0\0\x0fbase:allocation\0\0\0\x0acolo:epoch";
    let says = Says::flags().structured().option(10, both).go().request(7, 0, 1, 512, 3000);
    let (bytes, _, _) = run(terms(&disk), &says.request(7, 8, 2, 512, 3000).0, &[]);
    let chunks: Vec<_> = said(&bytes, |_| 0)
        .into_iter()
        .filter_map(|said| match said {
            Said::Chunk { done, kind: 5, cookie, data } => {
                let numbers: Vec<u32> =
                    data.chunks(4).map(|four| u32::from_be_bytes(four.try_into().unwrap())).collect();
                Some((done, cookie, numbers))
            }
            _ => None,
        })
        .collect();
    let expected = [
        (false, 1, vec![1, 512, 3, 1024, 0, 1464, 3]),
        (true, 1, vec![2, 3000, 77]),
        (false, 2, vec![1, 512, 3]),
        (true, 2, vec![2, 3000, 77]),
    ];
    assert_eq!(chunks, expected);
}

#[test]
fn a_request_that_is_too_long_is_refused_and_the_next_is_served() {
    let len = (32 << 20) + 1;
    let says = Says::flags().go().request(1, 0, 1, 0, len).data(&vec![7; len as usize]);
    let (bytes, _, memory) = run(terms(&disk()), &says.request(3, 0, 2, 0, 0).0, &[1 << 16]);
    let replies = said(&bytes, |_| 0);
    let simple = |error, cookie| Said::Simple { error, cookie, data: vec![] };
    assert_eq!(replies[replies.len() - 2..], [simple(22, 1), simple(0, 2)]);
    assert!(memory < 1 << 20, "what is let go takes no memory: {memory}");
}

#[test]
fn a_disk_that_cannot_be_written_is_not() {
    let disk = Arc::new(Memory { read_only: true, ..Memory::new(4096) });
    let says = Says::flags().go().request(1, 0, 1, 0, 2).data(b"xx").request(4, 0, 2, 0, 2);
    let (bytes, _, _) = run(terms(&disk), &says.request(6, 0, 3, 0, 2).request(0, 0, 4, 0, 1).0, &[]);
    let replies = said(&bytes, |cookie| usize::from(cookie == 4));
    let errors: Vec<_> = replies
        .iter()
        .filter_map(|said| match said {
            Said::Simple { error, cookie, .. } => Some((*cookie, *error)),
            _ => None,
        })
        .collect();
    assert_eq!(errors, [(1, 1), (2, 1), (3, 1), (4, 0)]);
}

/// A request of a random client.
#[derive(Clone, Copy, Debug)]
struct Asked {
    command: u8,
    flags: u8,
    offset: u64,
    len: u32,
    fill: u8,
}

const SIZE: u64 = 20_000;

fn asked() -> impl Strategy<Value = Asked> {
    let command = prop_oneof![6 => 0..=1_u8, 3 => 3..=7_u8, 1 => any::<u8>()];
    let flags = prop_oneof![4 => Just(0_u8), 2 => Just(1), 1 => 0..=31_u8];
    let len = prop_oneof![4 => 0..5000_u32, 1 => Just(512), 1 => 0..30_000_u32];
    (command, flags, 0..SIZE + 10, len, any::<u8>()).prop_map(|(command, flags, offset, len, fill)| Asked {
        // Good-bye is said elsewhere.
        command: if command == 2 { 3 } else { command },
        flags,
        offset,
        len,
        fill,
    })
}

/// What the specification says of a request: an error, or what it does to the disk.
fn oracle(asked: &Asked, disk: &mut [u8], structured: bool) -> Result<Vec<u8>, u32> {
    let Asked { command, flags, offset, len, fill } = *asked;
    let allowed = match command {
        0 if structured => 1 | 4,
        6 => 1 | 2 | 16,
        7 => 1 | 8,
        _ => 1,
    };
    if flags & !allowed != 0 || command > 7 || command == 7 {
        return Err(22);
    }
    if command == 3 {
        return Ok(vec![]);
    }
    if offset + u64::from(len) > SIZE {
        return Err(if matches!(command, 1 | 4 | 6) { 28 } else { 22 });
    }
    let range = &mut disk[offset as usize..][..len as usize];
    match command {
        0 => return Ok(range.to_vec()),
        1 if len > 0 && fill == 0xfe => return Err(28),
        1 => range.fill(fill),
        6 if len > 0 && flags & 16 != 0 => return Err(95),
        4 | 6 => range.fill(0),
        _ => {}
    }
    Ok(vec![])
}

fn script(all: &[Asked], structured: bool) -> Says {
    let mut says = Says::flags();
    if structured {
        says = says.structured();
    }
    says = says.go();
    for (at, asked) in all.iter().enumerate() {
        says = says.request(asked.command, asked.flags, at as u64, asked.offset, asked.len);
        if asked.command == 1 {
            says = says.data(&vec![asked.fill; asked.len as usize]);
        }
    }
    says
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_session_does_what_the_specification_says_however_its_bytes_are_cut(
        all in prop::collection::vec(asked(), 1..40),
        structured: bool,
        cuts in prop::collection::vec(1..6000_usize, 1..20),
    ) {
        let memory = Arc::new(Memory::new(SIZE as usize));
        let says = script(&all, structured);
        let (bytes, ended, _) = run(terms(&memory), &says.0, &cuts);
        prop_assert!(matches!(ended, Ok(Step::Receive)), "{ended:?}");
        let reads = |cookie: u64| match all[cookie as usize] {
            Asked { command: 0, len, .. } => len as usize,
            _ => 0,
        };
        let mut disk = vec![0; SIZE as usize];
        let mut replies = said(&bytes, reads).into_iter().filter(|said| !matches!(said, Said::Answer { .. }));
        for (at, asked) in all.iter().enumerate() {
            let expected = oracle(asked, &mut disk, structured);
            let got = match replies.next() {
                Some(Said::Simple { error, cookie, data }) => {
                    prop_assert_eq!(cookie, at as u64);
                    prop_assert!(!(structured && asked.command == 0 && error == 0));
                    if error == 0 { Ok(data) } else { Err(error) }
                }
                Some(Said::Chunk { done: true, kind, cookie, data }) => {
                    prop_assert_eq!(cookie, at as u64);
                    match kind {
                        0 => Ok(vec![]),
                        1 => {
                            prop_assert_eq!(&data[..8], asked.offset.to_be_bytes());
                            Ok(data[8..].to_vec())
                        }
                        2 => {
                            prop_assert_eq!(&data[..8], asked.offset.to_be_bytes());
                            prop_assert_eq!(&data[8..], asked.len.to_be_bytes());
                            Ok(vec![0; asked.len as usize])
                        }
                        _ => Err(u32::from_be_bytes(data[..4].try_into().unwrap())),
                    }
                }
                other => panic!("{other:?} is no reply to {asked:?}"),
            };
            prop_assert_eq!(got, expected, "{:?}", asked);
        }
        prop_assert_eq!(replies.next(), None);
        prop_assert_eq!(&*memory.bytes.lock().unwrap(), &disk);
        // And however else they are cut.
        let again = Arc::new(Memory::new(SIZE as usize));
        prop_assert_eq!(run(terms(&again), &says.0, &[]).0, bytes);
    }
}
