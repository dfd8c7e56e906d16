//! A client of QMP, for the commands of `colo-vm` that speak to a guest which runs.
//!
//! ```text
//!   connect ─► greeting ─► qmp_capabilities ─► ask ── command ──► reply (events are passed over)
//!                                              give ── command + descriptor ──► reply
//! ```
//!
//! It blocks, has a deadline for each answer, and reads no line without an end.

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, sendmsg, socket_with,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{self, BufRead as _, BufReader, ErrorKind, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long an answer may take: a guest with much in flight takes its time to stand.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest line.
const LONGEST: u64 = 1 << 20;

/// A question that has no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The socket.
    #[error("cannot {doing} {}: {error}; {}", path.display(), advice(error))]
    Talk {
        /// What was tried.
        doing: &'static str,
        /// With whom.
        path: PathBuf,
        /// What came of it.
        error: io::Error,
    },
    /// It is something else.
    #[error("{} does not speak QMP ({what}); is it the socket of --qmp?", path.display())]
    Language {
        /// Who.
        path: PathBuf,
        /// What was odd.
        what: String,
    },
    /// It said no.
    #[error("{command} was refused: {desc}")]
    Refused {
        /// What was asked for.
        command: &'static str,
        /// Why not.
        desc: String,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => "is the guest's process started with --qmp unix:PATH, and this its path?",
        ErrorKind::PermissionDenied => {
            "only the user who started the guest may connect; try as that user, or as root"
        }
        ErrorKind::ConnectionRefused => "the guest's process is gone and left its socket behind",
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "the guest's process hangs, or is very busy",
        _ => "the guest's process may have ended; its messages say more",
    }
}

/// A connection that has been negotiated.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    lines: BufReader<UnixStream>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "return")]
    returned: Option<Value>,
    error: Option<Refused>,
}

#[derive(Deserialize)]
struct Refused {
    desc: String,
}

impl Client {
    /// Connects to a guest's socket.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let failed = |error| ClientError::Talk { doing: "connect to", path: path.to_owned(), error };
        let socket = open(path).map_err(failed)?;
        let mut client = Self { path: path.to_owned(), lines: BufReader::new(socket) };
        let greeting = client.line(Instant::now() + PATIENCE)?;
        if !greeting.get("QMP").is_some_and(Value::is_object) {
            let said = greeting.get("error").and_then(|error| error.get("desc")).and_then(Value::as_str);
            return Err(client.odd(said.unwrap_or("it gives no greeting")));
        }
        client.ask("qmp_capabilities", None)?;
        Ok(client)
    }

    /// Asks for something.
    pub fn ask(&mut self, command: &'static str, arguments: Option<Value>) -> Result<Value, ClientError> {
        let sent = self.lines.get_mut().write_all(&request(command, arguments));
        sent.map_err(|error| self.talk("write to", error))?;
        self.answer(command)
    }

    /// Asks for something that goes with a descriptor.
    pub fn give(
        &mut self,
        command: &'static str,
        arguments: Value,
        fd: impl AsFd,
    ) -> Result<Value, ClientError> {
        let bytes = request(command, Some(arguments));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [fd.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        // It goes with the first byte.
        let sent = sendmsg(self.lines.get_ref(), &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL);
        let sent = sent.map_err(|error| self.talk("write to", error.into()))?;
        let rest = self.lines.get_mut().write_all(bytes.get(sent..).unwrap_or_default());
        rest.map_err(|error| self.talk("write to", error))?;
        self.answer(command)
    }

    fn answer(&mut self, command: &'static str) -> Result<Value, ClientError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let line = self.line(until)?;
            if line.get("event").is_some() {
                continue;
            }
            let answer: Answer =
                serde_json::from_value(line).map_err(|error| self.odd(&error.to_string()))?;
            return match (answer.returned, answer.error) {
                (Some(value), None) => Ok(value),
                (_, Some(Refused { desc })) => Err(ClientError::Refused { command, desc }),
                (None, None) => Err(self.odd("an answer that is none")),
            };
        }
    }

    fn line(&mut self, until: Instant) -> Result<Value, ClientError> {
        if Instant::now() >= until {
            return Err(self.talk("hear an answer from", ErrorKind::TimedOut.into()));
        }
        let mut line = Vec::new();
        let read = (&mut self.lines).take(LONGEST).read_until(b'\n', &mut line);
        read.map_err(|error| self.talk("read from", error))?;
        match line.last() {
            Some(b'\n') => serde_json::from_slice(&line).map_err(|error| self.odd(&error.to_string())),
            Some(_) if line.len() as u64 == LONGEST => Err(self.odd("a line of more than 1 MiB")),
            _ => Err(self.talk("read from", ErrorKind::UnexpectedEof.into())),
        }
    }

    fn talk(&self, doing: &'static str, error: io::Error) -> ClientError {
        ClientError::Talk { doing, path: self.path.clone(), error }
    }

    fn odd(&self, what: &str) -> ClientError {
        ClientError::Language { path: self.path.clone(), what: what.to_owned() }
    }
}

fn request(command: &str, arguments: Option<Value>) -> Vec<u8> {
    let mut request = json!({"execute": command});
    if let Some(arguments) = arguments {
        request["arguments"] = arguments;
    }
    (request.to_string() + "\n").into_bytes()
}

fn open(path: &Path) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // A connection waits for room in the queue of a process that hangs: as long as a send may.
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// What a client says that meets a server which says these lines, the first unasked.
    fn meets(lines: &'static [&'static str]) -> Result<Value, ClientError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut heard = BufReader::new(socket.try_clone().unwrap());
            for (at, line) in lines.iter().enumerate() {
                if at > 0 {
                    heard.read_line(&mut String::new()).unwrap();
                }
                socket.write_all(line.as_bytes()).unwrap();
            }
        });
        let answer = Client::connect(&path).and_then(|mut client| client.ask("query-status", None));
        server.join().unwrap();
        answer
    }

    #[test]
    fn answers_are_told_from_events_and_refusals() {
        const HELLO: &str = "{\"QMP\":{}}\r\n";
        const OK: &str = "{\"return\":{}}\r\n";
        assert_eq!(meets(&[HELLO, OK, "{\"event\":\"STOP\"}\n{\"return\":[1]}\n"]).unwrap(), json!([1]));
        for (lines, says) in [
            (
                &[HELLO, OK, "{\"error\":{\"class\":\"GenericError\",\"desc\":\"no\"}}\n"][..],
                "query-status was refused: no",
            ),
            (&[HELLO, OK, "{}\n"], "does not speak QMP"),
            (&[HELLO, OK, "x\n"], "is it the socket of --qmp?"),
            (&["SSH-2.0\n"], "does not speak QMP"),
            (&["{\"error\":{\"desc\":\"too many clients\"}}\n"], "too many clients"),
            (&[HELLO, OK, ""], "may have ended"),
        ] {
            let error = meets(lines).unwrap_err().to_string();
            assert!(error.contains(says), "{lines:?}: {error}");
        }
        let error = Client::connect(Path::new("/nowhere/qmp")).unwrap_err().to_string();
        assert!(error.starts_with("cannot connect to /nowhere/qmp: No such file"), "{error}");
    }
}
