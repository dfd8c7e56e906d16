//! What a QMP client can send: the same comes of it however it is cut, every answer is a line of JSON,
//! and nothing is answered more often than it was asked.
//!
//! The first byte of an input is the length of the pieces.

#![no_main]

use colo_vmm::qmp::{Output, Session};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fn outputs<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Output> {
    let (mut session, _) = Session::begin();
    session.feed(br#"{"execute":"qmp_capabilities"}"#);
    pieces.flat_map(|piece| session.feed(piece)).collect()
}

fuzz_target!(|input: &[u8]| {
    let Some((&len, bytes)) = input.split_first() else { return };
    let whole = outputs(std::iter::once(bytes));
    assert_eq!(outputs(bytes.chunks(usize::from(len).max(1))), whole);
    assert!(whole.len() <= bytes.len());
    for (at, output) in whole.iter().enumerate() {
        match output {
            Output::Send(line) => {
                assert!(line.len() < bytes.len() * 6 + 512, "an answer is about as long as its question");
                let answer: Value = serde_json::from_slice(line).expect("JSON");
                assert!(answer["return"].is_object() || answer["error"]["desc"].is_string());
            }
            Output::Run { .. } => {}
            Output::Close => assert_eq!(at + 1, whole.len(), "nothing comes after the end"),
        }
    }
});
