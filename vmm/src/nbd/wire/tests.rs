//! What is on the wire, written out by hand, and what hostile bytes do: nothing.

use super::cursor::Cursor;
use super::numbers::{MAX_OPTION, chunk, command, flag, info, option};
use super::options::{
    AnswerHead, Choice, Greeting, Info, OptionHead, Queries, parse_context, push_answer, push_option,
};
use super::requests::{parse_error, parse_status, push_error, push_status};
use super::*;
use proptest::prelude::*;

#[test]
fn a_greeting_is_what_the_specification_says() {
    let mut out = Vec::new();
    Greeting { flags: 3 }.push(&mut out);
    assert_eq!(out, b"NBDMAGICIHAVEOPT\0\x03");
    assert_eq!(Greeting::parse(&out), Ok(Some(Greeting { flags: 3 })));
    assert_eq!(Greeting::parse(&out[..17]), Ok(None));
    assert!(Greeting::parse(b"SSH-2.0-OpenSSH_9.2p1").is_err());
}

#[test]
fn an_option_and_its_answer_are_what_the_specification_says() {
    let mut out = Vec::new();
    let choice = Choice { name: "disk", infos: vec![info::BLOCK_SIZE] };
    push_option(&mut out, option::GO, &choice.to_bytes());
    assert_eq!(out, b"IHAVEOPT\0\0\0\x07\0\0\0\x0c\0\0\0\x04disk\0\x01\0\x03");
    assert_eq!(OptionHead::parse(&out), Ok(Some(OptionHead { option: 7, len: 12 })));
    assert_eq!(Choice::parse(&out[16..]), Some(choice));
    out.clear();
    push_answer(&mut out, 7, 1, b"");
    assert_eq!(out, [0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(AnswerHead::parse(&out), Ok(Some(AnswerHead { option: 7, answer: 1, len: 0 })));
    out[16..].copy_from_slice(&(MAX_OPTION + 1).to_be_bytes());
    assert!(matches!(AnswerHead::parse(&out), Err(WireError::TooLong { .. })));
}

#[test]
fn a_request_and_its_replies_are_what_the_specification_says() {
    let request =
        Request { flags: flag::FUA, command: command::WRITE, cookie: 0x0102, offset: 512, len: 4096 };
    let bytes = request.to_bytes();
    let by_hand = b"\x25\x60\x95\x13\0\x01\0\x01\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\x02\0\0\0\x10\0";
    assert_eq!(&bytes, by_hand);
    assert_eq!(Request::parse(&bytes), Ok(Some(request)));
    assert_eq!(request.payload(), 4096);
    let mut out = Vec::new();
    ReplyHead::Simple { error: 5, cookie: 0x0102 }.push(&mut out);
    assert_eq!(out, b"\x67\x44\x66\x98\0\0\0\x05\0\0\0\0\0\0\x01\x02");
    out.clear();
    push_error(&mut out, 1, Errno::Nospc, "full");
    assert_eq!(out, b"\x66\x8e\x33\xef\0\x01\x80\x01\0\0\0\0\0\0\0\x01\0\0\0\x0a\0\0\0\x1c\0\x04full");
    assert_eq!(parse_error(&out[20..]), Some((28, "full")));
    out.clear();
    push_status(&mut out, false, 1, 9, &[Extent { len: 4096, status: 3 }]);
    assert_eq!(out, b"\x66\x8e\x33\xef\0\0\0\x05\0\0\0\0\0\0\0\x01\0\0\0\x0c\0\0\0\x09\0\0\x10\0\0\0\0\x03");
    assert_eq!(parse_status(&out[20..]), Some((9, vec![Extent { len: 4096, status: 3 }])));
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let mut out = Vec::new();
    push_error(&mut out, 1, Errno::Io, &"ä".repeat(5000));
    let (_, message) = parse_error(&out[20..]).unwrap();
    assert_eq!(message, "ä".repeat(2048));
}

#[test]
fn a_count_beyond_what_is_there_is_refused_before_memory_is_taken() {
    assert_eq!(Queries::parse(b"\0\0\0\x01d\xff\xff\xff\xff"), None);
    assert_eq!(Choice::parse(b"\0\0\0\x01d\xff\xff"), None);
    assert_eq!(Choice::parse(b"\xff\xff\xff\xff"), None);
    assert_eq!(parse_status(b"\0\0\0\x01"), None);
    assert_eq!(Cursor::new(b"\0\0\x10\x01").string(), None);
}

proptest! {
    #[test]
    fn what_is_emitted_is_what_is_read(
        name in ".{0,40}", infos in prop::collection::vec(any::<u16>(), 0..6),
        queries in prop::collection::vec("[a-z:]{0,20}", 0..6), size: u64, flags: u16, sizes: [u32; 3],
    ) {
        let choice = Choice { name: &name, infos };
        let bytes = choice.to_bytes();
        prop_assert_eq!(Choice::parse(&bytes), Some(choice));
        let queries = Queries { name: &name, queries: queries.iter().map(String::as_str).collect() };
        let bytes = queries.to_bytes();
        prop_assert_eq!(Queries::parse(&bytes), Some(queries));
        let [minimum, preferred, maximum] = sizes;
        for info in [
            Info::Export { size, flags }, Info::Name(&name), Info::Description(&name),
            Info::BlockSize { minimum, preferred, maximum },
        ] {
            let mut out = Vec::new();
            info.push(&mut out, option::GO);
            prop_assert_eq!(Info::parse(&out[AnswerHead::SIZE..]), Some(info));
        }
    }

    #[test]
    fn hostile_bytes_are_refused_and_nothing_else(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        // Each either reads or does not; none panics, none reads past the end.
        let _ = (Greeting::parse(&bytes), OptionHead::parse(&bytes), AnswerHead::parse(&bytes));
        let _ = (Choice::parse(&bytes), Info::parse(&bytes), parse_context(&bytes), parse_error(&bytes));
        let _ = (Request::parse(&bytes), ReplyHead::parse(&bytes));
        if let Some((_, extents)) = parse_status(&bytes) {
            prop_assert!(extents.len() * 8 <= bytes.len());
        }
        if let Some(queries) = Queries::parse(&bytes) {
            prop_assert!(queries.queries.len() * 4 <= bytes.len());
        }
    }

    #[test]
    fn a_head_that_is_cut_off_is_waited_for(cookie: u64, len: u32, at in 0..20_usize) {
        let mut out = Vec::new();
        ReplyHead::Chunk { done: true, kind: chunk::NONE, cookie, len }.push(&mut out);
        prop_assert_eq!(ReplyHead::parse(&out[..at]), Ok(None));
        let request = Request { flags: 0, command: 0, cookie, offset: 0, len }.to_bytes();
        prop_assert_eq!(Request::parse(&request[..at]), Ok(None));
    }
}
