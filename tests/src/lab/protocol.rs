//! What the outside and the agent in a lab machine say to each other over a virtio-serial port.
//!
//! ```text
//!   kind  u8 │ run  u32 be │ length  u32 be │ payload
//!
//!   outside → agent   Run{json}  Signal{number}
//!   agent → outside   Ready  Stdout{bytes}  Stderr{bytes}  Exit{code}  Failed{words}
//! ```
//!
//! `run` numbers a command; several run at once over one port.

use serde_json::{Value, json};
use std::io::{self, Read, Write};

/// The longest payload. A command line is longer than any that people type, output comes in pieces.
pub(super) const PAYLOAD_MAX: usize = 1 << 18;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The agent is there.
    Ready,
    /// Start a command.
    Run(Request),
    /// Send its process group a signal.
    Signal(i32),
    /// It said this on its standard output.
    Stdout(Vec<u8>),
    /// It said this on its standard error.
    Stderr(Vec<u8>),
    /// It ended: its exit status, or 128 and the signal as a shell tells it.
    Exit(i32),
    /// It could not be started.
    Failed(String),
}

/// A command to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) argv: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) dir: Option<String>,
}

impl Request {
    fn to_json(&self) -> Vec<u8> {
        json!({ "argv": self.argv, "env": self.env, "dir": self.dir }).to_string().into_bytes()
    }

    fn from_json(bytes: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let pair = |value: &Value| Some((text(value.get(0)?)?, text(value.get(1)?)?));
        Some(Self {
            argv: value.get("argv")?.as_array()?.iter().map(text).collect::<Option<_>>()?,
            env: value.get("env")?.as_array()?.iter().map(pair).collect::<Option<_>>()?,
            dir: value.get("dir").and_then(text),
        })
    }
}

/// Writes one message, in one piece: the port's other end never sees half of it.
pub(super) fn write(to: &mut impl Write, run: u32, message: &Message) -> io::Result<()> {
    let (kind, payload) = match message {
        Message::Ready => (0, Vec::new()),
        Message::Run(request) => (1, request.to_json()),
        Message::Signal(number) => (2, number.to_be_bytes().to_vec()),
        Message::Stdout(bytes) => (3, bytes.clone()),
        Message::Stderr(bytes) => (4, bytes.clone()),
        Message::Exit(code) => (5, code.to_be_bytes().to_vec()),
        Message::Failed(words) => (6, words.clone().into_bytes()),
    };
    if payload.len() > PAYLOAD_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "longer than a message can be"));
    }
    let mut whole = vec![kind];
    whole.extend(run.to_be_bytes());
    whole.extend((payload.len() as u32).to_be_bytes());
    whole.extend(payload);
    to.write_all(&whole)?;
    to.flush()
}

/// Reads one message; `None` at the end of the stream.
pub(super) fn read(from: &mut impl Read) -> io::Result<Option<(u32, Message)>> {
    let mut kind = [0];
    if from.read(&mut kind)? == 0 {
        return Ok(None);
    }
    let (mut run, mut length) = ([0; 4], [0; 4]);
    from.read_exact(&mut run)?;
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    let nonsense = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if length > PAYLOAD_MAX {
        return Err(nonsense("a message longer than any"));
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)?;
    let number = |bytes: &[u8]| {
        bytes.try_into().map(i32::from_be_bytes).map_err(|_| nonsense("a number that is not of four bytes"))
    };
    let message = match kind[0] {
        0 => Message::Ready,
        1 => Message::Run(Request::from_json(&payload).ok_or_else(|| nonsense("a command that is not one"))?),
        2 => Message::Signal(number(&payload)?),
        3 => Message::Stdout(payload),
        4 => Message::Stderr(payload),
        5 => Message::Exit(number(&payload)?),
        6 => Message::Failed(String::from_utf8_lossy(&payload).into_owned()),
        _ => return Err(nonsense("an unknown kind of message")),
    };
    Ok(Some((u32::from_be_bytes(run), message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let request = Request {
            argv: vec!["sh".into(), "-c".into(), "echo \"ü\"\n".into()],
            env: vec![("A".into(), "b=c".into())],
            dir: Some("/tmp".into()),
        };
        let messages = [
            Message::Ready,
            Message::Run(request),
            Message::Run(Request::default()),
            Message::Signal(9),
            Message::Stdout(vec![0, 255, 10]),
            Message::Stderr(Vec::new()),
            Message::Exit(-1),
            Message::Failed("no such file".into()),
        ];
        let mut stream = Vec::new();
        for (run, message) in messages.iter().enumerate() {
            write(&mut stream, run as u32, message).unwrap();
        }
        let mut from = stream.as_slice();
        for (run, message) in messages.iter().enumerate() {
            assert_eq!(read(&mut from).unwrap(), Some((run as u32, message.clone())));
        }
        assert_eq!(read(&mut from).unwrap(), None);
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for bytes in [
            &[9, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[3, 0, 0, 0, 0, 255, 255, 255, 255],
            &[5, 0, 0, 0, 0, 0, 0, 0, 1, 7],
            &[1, 0, 0, 0, 0, 0, 0, 0, 2, b'{', b'}'],
            &[0, 0, 0],
        ] {
            assert!(read(&mut &*bytes).is_err(), "{bytes:?}");
        }
    }
}
