//! What the process that protects and the process that runs its command say to each other: bytes in,
//! messages out, no pipe in sight.
//!
//! ```text
//!   Trigger ──►  u32 length (big-endian) │ guest 0 cause 0 epoch 0 flow 0 vifs   at most PIPE_BUF, so
//!   Outcome ◄──  u8 kind │ i32 value                                             one write is all or nothing
//! ```

use super::{Failure, Outcome};
use thiserror::Error;

/// The longest message: a pipe takes so much at once or not at all.
pub(super) const LONGEST: usize = 4096;

/// Bytes of the length before a trigger.
const LENGTH: usize = 4;

/// Bytes of an outcome.
const OUTCOME: usize = 5;

/// The longest text of a flow, and of a cause, in bytes.
const TEXT: usize = 512;

/// Why a checkpoint is needed: what the command is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trigger {
    /// The guest's name: `COLO_GUEST`.
    pub guest: String,
    /// What happened: `COLO_CAUSE`.
    pub cause: String,
    /// The epoch that the checkpoint is to end: `COLO_EPOCH`.
    pub epoch: u64,
    /// The flow that it happened to, or nothing: `COLO_FLOW`.
    pub flow: String,
    /// The guest's interfaces, with spaces between: `COLO_VIFS`.
    pub vifs: String,
}

/// Bytes that are no message.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum MessageError {
    #[error("a message of {0} bytes, where {LONGEST} are the most")]
    TooLong(usize),
    #[error("a message that is not five texts with a number among them")]
    NotATrigger,
    #[error("an outcome of the unknown kind {0}")]
    UnknownKind(u8),
}

impl Trigger {
    /// As bytes. Texts of flows and causes are cut where they are longer than anybody needs.
    pub(super) fn encode(&self) -> Result<Vec<u8>, MessageError> {
        let epoch = self.epoch.to_string();
        let fields = [&self.guest, cut(&self.cause), &epoch, cut(&self.flow), &self.vifs];
        // A zero byte ends a variable of the environment, and a field here.
        let body = fields.map(|field| field.replace('\0', " ")).join("\0");
        let len = LENGTH + body.len();
        if len > LONGEST {
            return Err(MessageError::TooLong(len));
        }
        Ok([&(body.len() as u32).to_be_bytes(), body.as_bytes()].concat())
    }

    /// Takes a trigger from the front of what has been received, if there is a whole one.
    pub(super) fn decode(received: &mut Vec<u8>) -> Result<Option<Self>, MessageError> {
        let Some(length) = received.first_chunk::<LENGTH>() else { return Ok(None) };
        let len = u32::from_be_bytes(*length) as usize;
        if LENGTH.saturating_add(len) > LONGEST {
            return Err(MessageError::TooLong(LENGTH.saturating_add(len)));
        }
        let Some(body) = received.get(LENGTH..LENGTH + len) else { return Ok(None) };
        let text = std::str::from_utf8(body).map_err(|_| MessageError::NotATrigger)?;
        let fields: Vec<&str> = text.split('\0').collect();
        let &[guest, cause, epoch, flow, vifs] = fields.as_slice() else {
            return Err(MessageError::NotATrigger);
        };
        let trigger = Self {
            guest: guest.into(),
            cause: cause.into(),
            epoch: epoch.parse().map_err(|_| MessageError::NotATrigger)?,
            flow: flow.into(),
            vifs: vifs.into(),
        };
        received.drain(..LENGTH + len);
        Ok(Some(trigger))
    }

    /// As variables for the command.
    pub(super) fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("COLO_GUEST", self.guest.clone()),
            ("COLO_CAUSE", self.cause.clone()),
            ("COLO_EPOCH", self.epoch.to_string()),
            ("COLO_FLOW", self.flow.clone()),
            ("COLO_VIFS", self.vifs.clone()),
        ]
    }
}

fn cut(text: &str) -> &str {
    let end = (0..=TEXT.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
    &text[..end.unwrap_or(0)]
}

const COMPLETE: u8 = 1;
const EXIT: u8 = 2;
const SIGNAL: u8 = 3;
const TIMED_OUT: u8 = 4;
const NOT_STARTED: u8 = 5;
const GONE: u8 = 6;

impl Outcome {
    /// As bytes.
    pub(super) fn encode(self) -> [u8; OUTCOME] {
        let (kind, value) = match self {
            Self::Complete => (COMPLETE, 0),
            Self::Failed(Failure::Exit(code)) => (EXIT, code),
            Self::Failed(Failure::Signal(number)) => (SIGNAL, number),
            Self::Failed(Failure::TimedOut) => (TIMED_OUT, 0),
            Self::Failed(Failure::NotStarted(errno)) => (NOT_STARTED, errno),
            Self::Failed(Failure::RunnerGone) => (GONE, 0),
        };
        let mut bytes = [kind; OUTCOME];
        bytes[1..].copy_from_slice(&value.to_be_bytes());
        bytes
    }

    /// Takes an outcome from the front of what has been received, if there is a whole one.
    pub(super) fn decode(received: &mut Vec<u8>) -> Result<Option<Self>, MessageError> {
        let Some(&[kind, ref value @ ..]) = received.first_chunk::<OUTCOME>() else { return Ok(None) };
        let value = i32::from_be_bytes(*value);
        let outcome = match kind {
            COMPLETE => Self::Complete,
            EXIT => Self::Failed(Failure::Exit(value)),
            SIGNAL => Self::Failed(Failure::Signal(value)),
            TIMED_OUT => Self::Failed(Failure::TimedOut),
            NOT_STARTED => Self::Failed(Failure::NotStarted(value)),
            GONE => Self::Failed(Failure::RunnerGone),
            unknown => return Err(MessageError::UnknownKind(unknown)),
        };
        received.drain(..OUTCOME);
        Ok(Some(outcome))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trigger() -> Trigger {
        Trigger {
            guest: "web".into(),
            cause: "payload".into(),
            epoch: 7,
            flow: "tcp 10.0.0.1:80 > 10.0.0.2:5000".into(),
            vifs: "tap0 tap1".into(),
        }
    }

    proptest! {
        #[test]
        fn what_is_said_is_heard_however_it_is_cut(
            guest in "[a-z]{0,64}", cause in "[^\0]{0,40}", flow in "[^\0]{0,100}", epoch: u64, at in 0usize..300,
        ) {
            let said = Trigger { guest, cause, epoch, flow, ..trigger() };
            let bytes = said.encode().unwrap();
            let at = at.min(bytes.len() - 1);
            let mut received = bytes[..at].to_vec();
            prop_assert_eq!(Trigger::decode(&mut received), Ok(None));
            received.extend(&bytes[at..]);
            received.extend(b"next");
            prop_assert_eq!(Trigger::decode(&mut received), Ok(Some(said)));
            prop_assert_eq!(received, b"next");
        }

        #[test]
        fn no_bytes_make_it_panic_or_wait_for_ever(bytes: Vec<u8>) {
            let mut received = bytes.clone();
            while let Ok(Some(_)) = Trigger::decode(&mut received) {}
            let mut received = bytes;
            while let Ok(Some(_)) = Outcome::decode(&mut received) {}
        }
    }

    #[test]
    fn every_outcome_survives_the_way() {
        let failures = [
            Failure::Exit(3),
            Failure::Signal(9),
            Failure::TimedOut,
            Failure::NotStarted(2),
            Failure::RunnerGone,
        ];
        for outcome in failures.map(Outcome::Failed).into_iter().chain([Outcome::Complete]) {
            let bytes = outcome.encode();
            let mut received = bytes[..3].to_vec();
            assert_eq!(Outcome::decode(&mut received), Ok(None));
            received.extend(&bytes[3..]);
            assert_eq!(Outcome::decode(&mut received), Ok(Some(outcome)));
            assert!(received.is_empty());
        }
        assert_eq!(Outcome::decode(&mut vec![99; 5]), Err(MessageError::UnknownKind(99)));
    }

    #[test]
    fn a_message_has_a_limit_and_a_zero_byte_moves_no_border() {
        let long = Trigger { flow: "é".repeat(5000), ..trigger() };
        let mut bytes = long.encode().unwrap();
        assert_eq!(Trigger::decode(&mut bytes).unwrap().unwrap().flow, "é".repeat(TEXT / 2));
        let many = Trigger { vifs: "x".repeat(LONGEST), ..trigger() };
        assert!(matches!(many.encode(), Err(MessageError::TooLong(_))));
        let zero = Trigger { cause: "a\0b".into(), ..trigger() };
        assert_eq!(Trigger::decode(&mut zero.encode().unwrap()).unwrap().unwrap().cause, "a b");

        assert!(matches!(Trigger::decode(&mut vec![0xff; 4]), Err(MessageError::TooLong(_))));
        assert_eq!(Trigger::decode(&mut b"\0\0\0\x03a\0b".to_vec()), Err(MessageError::NotATrigger));
        let mut no_number = b"\0\0\0\x09a\0b\0c\0d\0e".to_vec();
        assert_eq!(Trigger::decode(&mut no_number), Err(MessageError::NotATrigger));
    }
}
