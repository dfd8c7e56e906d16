//! A connection without its socket.
//!
//! ```text
//!   greeting ─► Negotiating ── qmp_capabilities ──► Ready: commands are run, events are sent
//! ```

use super::answers;
use super::command::Command;
use super::migration::Stage;
use super::request::{Asked, Refusal, Request, answer, line};
use super::scan::{Found, Scanner};
use crate::control::Event;
use serde_json::{Value, json};
use std::time::Duration;

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// These bytes go to the client.
    Send(Vec<u8>),
    /// This is run, and its reply goes to the client before what follows.
    Run {
        /// What was asked for.
        command: Command,
        /// What the reply is to carry.
        id: Option<Value>,
    },
    /// The client has broken a bound; it is let go once it has read why.
    Close,
}

/// Something that clients are told without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Of the guest.
    Guest(Event),
    /// Of the writing of its state.
    Migration(Stage),
}

impl From<Event> for News {
    fn from(event: Event) -> Self {
        Self::Guest(event)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Negotiating,
    Ready,
}

/// A client.
#[derive(Debug)]
pub struct Session {
    scanner: Scanner,
    mode: Mode,
}

impl Session {
    /// Begins; the bytes are the greeting.
    pub fn begin() -> (Self, Vec<u8>) {
        let greeting = line(&json!({"QMP": {"version": answers::version(), "capabilities": []}}));
        (Self { scanner: Scanner::new(), mode: Mode::Negotiating }, greeting)
    }

    /// Takes what the client sent.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Output> {
        let mut outputs = Vec::new();
        for found in self.scanner.feed(bytes) {
            match found {
                Found::Object(object) => outputs.push(self.request(&object)),
                Found::Junk => {
                    outputs
                        .push(refuse(None, Refusal::generic("this is no JSON object; the line is ignored")));
                }
                Found::TooMuch(why) => {
                    outputs.push(refuse(None, Refusal::generic(format!("{why}; the connection is closed"))));
                    outputs.push(Output::Close);
                }
            }
        }
        outputs
    }

    fn request(&mut self, object: &[u8]) -> Output {
        let Request { id, asked } = Request::parse(object);
        match (self.mode, asked) {
            (_, Err(refusal)) => refuse(id, refusal),
            (Mode::Negotiating, Ok(Asked::Capabilities)) => {
                self.mode = Mode::Ready;
                Output::Send(answer(id, Ok(json!({}))))
            }
            (Mode::Negotiating, Ok(Asked::Command(command))) => {
                let desc = format!("{} comes too early; execute qmp_capabilities first", command.name());
                refuse(id, Refusal::not_found(desc))
            }
            (Mode::Ready, Ok(Asked::Capabilities)) => {
                refuse(id, Refusal::not_found("the capabilities are negotiated already"))
            }
            (Mode::Ready, Ok(Asked::Command(command))) => Output::Run { command, id },
        }
    }

    /// The reply to a command that was run.
    pub(super) fn reply(id: Option<Value>, outcome: Result<Value, Refusal>) -> Vec<u8> {
        answer(id, outcome)
    }

    /// What the client is told of an event; the time is since 1970. Nothing, until it has negotiated.
    pub fn event(&self, news: impl Into<News>, at: Duration) -> Option<Vec<u8>> {
        let event = match news.into() {
            News::Guest(event) => event,
            News::Migration(stage) => {
                return self.message("MIGRATION", Some(json!({"status": stage})), at);
            }
        };
        let (name, data) = match event {
            Event::Stop => ("STOP", None),
            Event::Resume => ("RESUME", None),
            Event::Powerdown => ("POWERDOWN", None),
            Event::Shutdown { guest } => {
                let reason = if guest { "guest-shutdown" } else { "host-qmp-quit" };
                ("SHUTDOWN", Some(json!({"guest": guest, "reason": reason})))
            }
            Event::Reset { guest } => {
                let reason = if guest { "guest-reset" } else { "host-qmp-system-reset" };
                ("RESET", Some(json!({"guest": guest, "reason": reason})))
            }
            Event::ColoExit { role, reason } => ("COLO_EXIT", Some(json!({"mode": role, "reason": reason}))),
        };
        self.message(name, data, at)
    }

    fn message(&self, name: &str, data: Option<Value>, at: Duration) -> Option<Vec<u8>> {
        let mut message = json!({
            "event": name,
            "timestamp": {"seconds": at.as_secs(), "microseconds": at.subsec_micros()},
        });
        if let Some(data) = data {
            message["data"] = data;
        }
        (self.mode == Mode::Ready).then(|| line(&message))
    }

    /// What a client is told for which there is no place.
    pub(super) fn full() -> Vec<u8> {
        answer(None, Err(Refusal::generic("too many clients are connected; close one of them")))
    }
}

fn refuse(id: Option<Value>, refusal: Refusal) -> Output {
    Output::Send(answer(id, Err(refusal)))
}
