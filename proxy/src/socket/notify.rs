//! The notify socket: asks the VMM for checkpoints and hears when they are done. Sans-I/O.
//!
//! ```text
//!   VMM ─► comparer   len [│ u32] │ COLO_USERSPACE_PROXY_INIT     hello
//!   VMM ◄─ comparer   len         │ COLO_COMPARE_GET_XEN_INIT     its answer
//!   VMM ◄─ comparer   len         │ DO_CHECKPOINT                 the outputs differ, or something waits too long
//!   VMM ─► comparer   len [│ u32] │ COLO_CHECKPOINT               the checkpoint is done
//!   VMM ─► secondary  len [│ u32] │ COLO_FAILOVER                 the primary is gone: serve
//! ```
//!
//! Lengths are big-endian and nothing ends in a NUL. With vnet headers on, messages to the comparer
//! have one more word, which means nothing; messages from it never have it.
//!
//! A request stands until a checkpoint is done: a peer that comes, or comes back, while one stands
//! is told of it. A peer gets a moment to say hello first, because one that does expects the answer
//! to be the first thing it hears; one that never does is told all the same.

use crate::engine::Nanos;
use std::collections::VecDeque;
use thiserror::Error;

const HELLO: &[u8] = b"COLO_USERSPACE_PROXY_INIT";
const HELLO_REPLY: &[u8] = b"COLO_COMPARE_GET_XEN_INIT";
const DO_CHECKPOINT: &[u8] = b"DO_CHECKPOINT";
const CHECKPOINT: &[u8] = b"COLO_CHECKPOINT";
const FAILOVER: &[u8] = b"COLO_FAILOVER";

/// The longest message; the longest one that means something has 25 bytes.
pub const MAX_MESSAGE: usize = 1024;

/// How long a new peer may take to say hello before it is told of a standing request.
pub const HELLO_GRACE: Nanos = Nanos::from_millis(100);

/// Hellos that can wait for their answers; beyond it the peer is not read until it reads.
const MAX_REPLIES: u32 = 64;

/// What the peer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// It says hello, and is answered.
    Hello,
    /// A checkpoint is done.
    Checkpoint,
    /// The primary is gone, and the secondary is to serve.
    Failover,
    /// Something that means nothing.
    Unknown,
}

/// A message that nobody sends.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "a message of {len} bytes is announced (limit {MAX_MESSAGE}): the peer is out of step; \
     are both ends set to the same vnet_hdr_support?"
)]
pub struct TooLong {
    /// What the length field says.
    pub len: u32,
}

/// What was heard and said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct NotifyStats {
    /// Hellos heard.
    pub hellos: u64,
    /// Finished checkpoints heard of.
    pub checkpoints: u64,
    /// Messages that mean nothing.
    pub unknown: u64,
    /// Times that a peer was out of step.
    pub out_of_step: u64,
    /// Requests sent; more than once for one trigger if the peer changed meanwhile.
    pub requests_sent: u64,
}

/// How it stands with the request for a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// None is needed.
    None,
    /// One is needed and this peer has not been told.
    Due,
    /// This peer has been told.
    Sent,
}

/// The state of the conversation.
#[derive(Debug)]
pub struct Notify {
    vnet: bool,
    request: Request,
    /// From when on the peer is told of requests.
    ready_at: Nanos,
    connected: bool,
    input: VecDeque<u8>,
    /// The message on its way out.
    output: Vec<u8>,
    /// How much of it is out.
    written: usize,
    /// Hellos to be answered.
    replies: u32,
    stats: NotifyStats,
}

impl Notify {
    /// `vnet`: whether messages to us have the additional word.
    pub fn new(vnet: bool) -> Self {
        Self {
            vnet,
            request: Request::None,
            ready_at: Nanos::default(),
            connected: false,
            input: VecDeque::new(),
            output: Vec::new(),
            written: 0,
            replies: 0,
            stats: NotifyStats::default(),
        }
    }

    /// A peer is there.
    pub fn connected(&mut self, now: Nanos) {
        self.connected = true;
        self.ready_at = now.plus(HELLO_GRACE);
    }

    /// It is gone, and with it what was half said in either direction.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.input.clear();
        self.output.clear();
        self.written = 0;
        self.replies = 0;
        if self.request == Request::Sent {
            self.request = Request::Due;
        }
    }

    /// A checkpoint is needed.
    pub fn request(&mut self) {
        if self.request == Request::None {
            self.request = Request::Due;
        }
    }

    /// A checkpoint was done: none is needed any more.
    pub fn settled(&mut self) {
        self.request = Request::None;
    }

    /// Whether a checkpoint was asked for and is not done.
    pub fn outstanding(&self) -> bool {
        self.request != Request::None
    }

    /// How many more bytes may be put in; zero while the peer leaves its answers unread.
    pub fn room(&self) -> usize {
        if self.replies >= MAX_REPLIES { 0 } else { 4 * MAX_MESSAGE - self.input.len().min(4 * MAX_MESSAGE) }
    }

    /// Puts in what was read; take messages out with [`next_message`](Self::next_message) until there are no more.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
    }

    /// The next message, if one is complete and there is room to answer it.
    pub fn next_message(&mut self) -> Result<Option<Message>, TooLong> {
        if self.replies >= MAX_REPLIES {
            return Ok(None);
        }
        let header = if self.vnet { 8 } else { 4 };
        let input = self.input.make_contiguous();
        let Some(word) = input.first_chunk().map(|word| u32::from_be_bytes(*word)) else { return Ok(None) };
        let len = word as usize;
        if len > MAX_MESSAGE {
            self.stats.out_of_step += 1;
            return Err(TooLong { len: word });
        }
        let Some(body) = input.get(header..header + len) else { return Ok(None) };
        let message = match body {
            HELLO => Message::Hello,
            CHECKPOINT => Message::Checkpoint,
            FAILOVER => Message::Failover,
            _ => Message::Unknown,
        };
        self.input.drain(..header + len);
        match message {
            Message::Hello => {
                self.stats.hellos += 1;
                self.replies += 1;
                self.ready_at = Nanos::default();
            }
            Message::Checkpoint => {
                self.stats.checkpoints += 1;
                self.ready_at = Nanos::default();
            }
            Message::Failover => self.ready_at = Nanos::default(),
            Message::Unknown => self.stats.unknown += 1,
        }
        Ok(Some(message))
    }

    /// When there will be something to say that waits for a hello now.
    pub fn deadline(&self, now: Nanos) -> Option<Nanos> {
        (self.connected && self.request == Request::Due && self.ready_at > now).then_some(self.ready_at)
    }

    /// What is to be written now; empty if nothing is.
    pub fn output(&mut self, now: Nanos) -> &[u8] {
        if self.connected && self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
            if self.replies > 0 {
                self.replies -= 1;
                self.say(HELLO_REPLY);
            } else if self.request == Request::Due && self.ready_at <= now {
                self.request = Request::Sent;
                self.stats.requests_sent += 1;
                self.say(DO_CHECKPOINT);
            }
        }
        &self.output[self.written..]
    }

    fn say(&mut self, message: &[u8]) {
        self.output.extend((message.len() as u32).to_be_bytes());
        self.output.extend(message);
    }

    /// So many bytes of it were written.
    pub fn wrote(&mut self, count: usize) {
        self.written = (self.written + count).min(self.output.len());
    }

    /// The counters.
    pub fn stats(&self) -> &NotifyStats {
        &self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LATER: Nanos = Nanos::from_millis(1000);

    fn message(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_be_bytes(), body].concat()
    }

    fn connected(vnet: bool) -> Notify {
        let mut notify = Notify::new(vnet);
        notify.connected(Nanos(0));
        notify
    }

    /// Everything it has to say now.
    fn said(notify: &mut Notify, now: Nanos) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let bytes = notify.output(now).to_vec();
            if bytes.is_empty() {
                return all;
            }
            notify.wrote(bytes.len());
            all.extend(bytes);
        }
    }

    #[test]
    fn speaks_the_words_byte_for_byte() {
        let mut notify = connected(false);
        notify.feed(b"\0\0\0\x19COLO_USERSPACE_PROXY_INIT\0\0\0\x0fCOLO_CHECKPOINT\0\0\0\x04what");
        assert_eq!(notify.next_message(), Ok(Some(Message::Hello)));
        assert_eq!(notify.next_message(), Ok(Some(Message::Checkpoint)));
        assert_eq!(notify.next_message(), Ok(Some(Message::Unknown)));
        assert_eq!(notify.next_message(), Ok(None));
        notify.request();
        let expected = b"\0\0\0\x19COLO_COMPARE_GET_XEN_INIT\0\0\0\x0dDO_CHECKPOINT";
        assert_eq!(said(&mut notify, Nanos(1)), expected);
    }

    #[test]
    fn with_vnet_headers_only_the_peer_sends_the_additional_word() {
        let mut notify = connected(true);
        notify.feed(b"\0\0\0\x19\xff\xff\xff\xffCOLO_USERSPACE_PROXY_INIT");
        assert_eq!(notify.next_message(), Ok(Some(Message::Hello)));
        assert_eq!(said(&mut notify, Nanos(1)), message(HELLO_REPLY));
    }

    #[test]
    fn one_request_goes_out_once_and_again_to_a_new_peer() {
        let mut notify = Notify::new(false);
        notify.request();
        assert_eq!(said(&mut notify, LATER), b"", "nobody is there");
        notify.connected(LATER);
        assert_eq!(said(&mut notify, LATER), b"", "a moment for the hello");
        assert_eq!(notify.deadline(LATER), Some(LATER.plus(HELLO_GRACE)));
        let now = LATER.plus(HELLO_GRACE);
        assert_eq!(notify.output(now)[..4], [0, 0, 0, 13]);
        notify.wrote(4);
        notify.disconnected();
        notify.connected(now);
        let now = now.plus(HELLO_GRACE);
        assert_eq!(said(&mut notify, now), message(DO_CHECKPOINT), "whole, not the rest of it");
        notify.request();
        assert_eq!(said(&mut notify, now), b"");
        notify.settled();
        assert!(!notify.outstanding());
        notify.request();
        assert_eq!(said(&mut notify, now), message(DO_CHECKPOINT));
        assert_eq!(notify.stats().requests_sent, 3);
    }

    #[test]
    fn the_answer_to_a_hello_comes_before_a_request() {
        let mut notify = Notify::new(false);
        notify.request();
        notify.connected(LATER);
        notify.feed(&message(HELLO));
        assert_eq!(notify.next_message(), Ok(Some(Message::Hello)));
        assert_eq!(said(&mut notify, LATER), [message(HELLO_REPLY), message(DO_CHECKPOINT)].concat());
    }

    #[test]
    fn a_peer_that_does_not_listen_is_not_read() {
        let mut notify = connected(false);
        for _ in 0..MAX_REPLIES {
            assert!(notify.room() > 0);
            notify.feed(&message(HELLO));
            assert_eq!(notify.next_message(), Ok(Some(Message::Hello)));
        }
        assert_eq!(notify.room(), 0);
        notify.feed(&message(CHECKPOINT));
        assert_eq!(notify.next_message(), Ok(None));
        assert_eq!(said(&mut notify, LATER).len(), MAX_REPLIES as usize * message(HELLO_REPLY).len());
        assert_eq!(notify.next_message(), Ok(Some(Message::Checkpoint)));
    }

    #[test]
    fn a_message_that_is_too_long_ends_it() {
        let mut notify = connected(false);
        notify.feed(&1025u32.to_be_bytes());
        assert_eq!(notify.next_message(), Err(TooLong { len: 1025 }));
        notify.disconnected();
        notify.connected(LATER);
        assert_eq!(notify.next_message(), Ok(None));
    }

    proptest! {
        /// Any bytes, in any pieces: bounded buffers, no panic, and the same messages.
        #[test]
        fn any_bytes_are_survived(
            vnet in any::<bool>(),
            bytes in proptest::collection::vec(prop_oneof![4 => Just(0u8), 1 => any::<u8>()], 0..4000),
            step in 1..500usize,
        ) {
            let run = |step: usize| {
                let mut notify = connected(vnet);
                let mut messages = Vec::new();
                for piece in bytes.chunks(step) {
                    assert!(notify.room() >= piece.len(), "messages are shorter than the room");
                    notify.feed(piece);
                    loop {
                        match notify.next_message() {
                            Ok(Some(message)) => messages.push(Ok(message)),
                            Ok(None) => break,
                            Err(error) => {
                                messages.push(Err(error));
                                return messages;
                            }
                        }
                    }
                }
                messages
            };
            prop_assert_eq!(run(step), run(1));
        }
    }
}
