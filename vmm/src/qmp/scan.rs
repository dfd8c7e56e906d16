//! Where one JSON object ends and the next begins. Newlines between them are usual and not needed.
//!
//! ```text
//!               '{'                 brackets are even again
//!   Between ───────────► Object ────────────────────────────► found ─► Between
//!      │ anything else                │ too long, too deep
//!      ▼                              ▼
//!   Junk (to the end of the line)   Broken (nothing more is read)
//! ```

/// The longest object.
pub(super) const LONGEST: usize = 64 << 10;
/// Brackets within brackets, at most.
pub(super) const DEEPEST: usize = 32;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// An object, if its inside is right.
    Object(Vec<u8>),
    /// A line that is none.
    Junk,
    /// More than is read of one; nothing is found after this.
    TooMuch(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Between,
    Object { depth: usize, string: bool, escaped: bool },
    Junk,
    Broken,
}

/// A stream that is cut.
#[derive(Debug)]
pub(super) struct Scanner {
    object: Vec<u8>,
    place: Place,
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self { object: Vec::new(), place: Place::Between }
    }

    /// Takes what came; gives what is whole.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<Found> {
        bytes.iter().filter_map(|&byte| self.byte(byte)).collect()
    }

    fn byte(&mut self, byte: u8) -> Option<Found> {
        match self.place {
            Place::Broken => None,
            Place::Junk => {
                if byte == b'\n' {
                    self.place = Place::Between;
                }
                None
            }
            Place::Between if byte == b'{' => {
                self.object.push(byte);
                self.place = Place::Object { depth: 1, string: false, escaped: false };
                None
            }
            Place::Between if byte.is_ascii_whitespace() => None,
            Place::Between => {
                self.place = Place::Junk;
                Some(Found::Junk)
            }
            Place::Object { depth, string, escaped } => self.inside(byte, depth, string, escaped),
        }
    }

    fn inside(&mut self, byte: u8, depth: usize, string: bool, escaped: bool) -> Option<Found> {
        if self.object.len() == LONGEST {
            return Some(self.broken("an object has more than 64 KiB"));
        }
        self.object.push(byte);
        let (depth, string, escaped) = match (string, escaped, byte) {
            (true, true, _) => (depth, true, false),
            (true, false, b'\\') => (depth, true, true),
            (_, _, b'"') => (depth, !string, false),
            (false, _, b'{' | b'[') => (depth + 1, false, false),
            (false, _, b'}' | b']') => (depth - 1, false, false),
            _ => (depth, string, false),
        };
        if depth > DEEPEST {
            return Some(self.broken("an object is nested more than 32 deep"));
        }
        if depth == 0 {
            self.place = Place::Between;
            return Some(Found::Object(std::mem::take(&mut self.object)));
        }
        self.place = Place::Object { depth, string, escaped };
        None
    }

    fn broken(&mut self, why: &'static str) -> Found {
        self.place = Place::Broken;
        self.object = Vec::new();
        Found::TooMuch(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[\\PC\"\\\\{}\\[\\]\n]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[\\PC\"{}\\\\]{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// The oracle is what was written, however it arrives.
        #[test]
        fn objects_are_found_wherever_the_stream_is_cut(
            inner in prop::collection::vec((values(), "[ \r\n\t]{0,3}"), 0..5),
            piece in 1usize..40,
        ) {
            let objects: Vec<Value> = inner.iter().map(|(value, _)| json!({"x": value})).collect();
            let stream: String = objects.iter().zip(&inner).flat_map(|(object, (_, gap))| [gap.clone(), object.to_string()]).collect();
            let mut scanner = Scanner::new();
            let found: Vec<Found> =
                stream.as_bytes().chunks(piece).flat_map(|bytes| scanner.feed(bytes)).collect();
            let found: Vec<Value> = found
                .iter()
                .map(|found| match found {
                    Found::Object(bytes) => serde_json::from_slice(bytes).unwrap(),
                    other => panic!("{other:?}"),
                })
                .collect();
            prop_assert_eq!(found, objects);
        }

        #[test]
        fn any_bytes_are_taken_and_little_is_kept(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut scanner = Scanner::new();
            scanner.feed(&bytes);
            prop_assert!(scanner.object.len() <= bytes.len().min(LONGEST));
        }
    }

    #[test]
    fn a_line_that_is_none_is_said_once_and_the_next_is_read() {
        let mut scanner = Scanner::new();
        assert_eq!(
            scanner.feed(b"hello {}\n{}"),
            [Found::Junk, Found::Object(b"{}".to_vec())],
            "what stands on the line of junk is junk"
        );
    }

    #[test]
    fn the_longest_and_the_deepest_object_are_read_and_no_more() {
        let long = |len: usize| format!("{{\"x\":\"{}\"}}", "a".repeat(len - 8));
        assert_eq!(Scanner::new().feed(long(LONGEST).as_bytes()), [Found::Object(long(LONGEST).into())]);
        let mut scanner = Scanner::new();
        let found = scanner.feed(long(LONGEST + 1).as_bytes());
        assert!(matches!(found[..], [Found::TooMuch(_)]), "{found:?}");
        assert_eq!(scanner.feed(b"\n{}"), [], "a broken stream stays broken");

        let deep = |depth: usize| format!("{}{}", "{\"x\":".repeat(depth - 1) + "{", "}".repeat(depth));
        assert_eq!(Scanner::new().feed(deep(DEEPEST).as_bytes()), [Found::Object(deep(DEEPEST).into())]);
        assert!(matches!(Scanner::new().feed(deep(DEEPEST + 1).as_bytes())[..], [Found::TooMuch(_)]));
    }
}
