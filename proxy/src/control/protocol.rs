//! The control socket's language: one JSON object per line, one answer per request.
//!
//! ```text
//!   {"command":"status"}                      {"ok":{"status":{…}}}
//!   {"command":"promote","guest":"web"}       {"ok":{"promoted":["web"]}}
//!   {"command":"checkpoint"}                  {"ok":{"checkpoint":["web"]}}
//!   {"command":"stop"}                        {"ok":"stopping"}
//!   anything else                             {"error":"what is wrong and what to do"}
//! ```

use super::status::NodeStatus;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use thiserror::Error;

/// The longest request, its line feed included.
pub const MAX_REQUEST: usize = 64 << 10;

/// What a running node can be asked. Fields that mean nothing are refused: one that is misspelt
/// would otherwise promote every guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// How is it?
    Status {},
    /// Let the guest here serve.
    Promote {
        /// Which; may be left out where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guest: Option<String>,
    },
    /// Ask for a checkpoint.
    Checkpoint {
        /// Which; may be left out where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guest: Option<String>,
    },
    /// Stop, as SIGTERM does.
    Stop {},
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// All there is to know.
    Status(Box<NodeStatus>),
    /// These guests serve here now.
    Promoted(Vec<String>),
    /// A checkpoint of these guests was asked for.
    Checkpoint(Vec<String>),
    /// The process ends soon.
    Stopping,
}

/// Why nothing was done.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// Not a request.
    #[error(
        "cannot read the request: {0}; write one line such as {{\"command\":\"status\"}} (status, promote, checkpoint or stop)"
    )]
    Malformed(String),
    /// A request without an end.
    #[error("the request is longer than {MAX_REQUEST} bytes; write one JSON object on one line")]
    TooLong,
    /// All places are taken.
    #[error("{0} connections are open already; close one, or try again later")]
    Crowded(usize),
    /// A guest of another name.
    #[error("no guest is named {asked:?} here; there is: {}", list(known))]
    UnknownGuest {
        /// What was asked for.
        asked: String,
        /// What there is.
        known: Vec<String>,
    },
    /// One of several, and it was not said which.
    #[error("there are several guests; name one of: {}", list(.0))]
    WhichGuest(Vec<String>),
    /// It makes no sense for this guest at this time.
    #[error("guest {guest}: {why}")]
    NotNow {
        /// The guest.
        guest: String,
        /// What stands against it, and what to do.
        why: String,
    },
    /// It was tried.
    #[error("{0}")]
    Failed(String),
    /// The part that would have to answer does not.
    #[error("no answer within {0} s: the process hangs or is very busy; look at its log")]
    NoAnswer(u64),
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl Refusal {
    /// The guest that a request is about, among those that there are.
    pub fn choose<'a>(asked: Option<&str>, known: &[&'a str]) -> Result<&'a str, Self> {
        let names = || known.iter().map(|&name| name.to_owned()).collect();
        match (asked, known) {
            (Some(asked), _) => {
                let found = known.iter().find(|&&name| name == asked);
                found.copied().ok_or_else(|| Self::UnknownGuest { asked: asked.to_owned(), known: names() })
            }
            (None, [only]) => Ok(only),
            (None, []) => Err(Self::Failed("there is no guest".to_owned())),
            (None, _) => Err(Self::WhichGuest(names())),
        }
    }
}

/// A line that goes back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// It was done.
    Ok(Answer),
    /// It was not.
    Error(String),
}

impl From<Result<Answer, Refusal>> for Reply {
    fn from(outcome: Result<Answer, Refusal>) -> Self {
        outcome.map_or_else(|refusal| Self::Error(refusal.to_string()), Self::Ok)
    }
}

/// Who does what is asked. Called on a thread where it may block, by several at once.
pub type Handler = Arc<dyn Fn(Request) -> Result<Answer, Refusal> + Send + Sync>;

/// Reads a request's line.
pub fn parse(line: &[u8]) -> Result<Request, Refusal> {
    serde_json::from_slice(line).map_err(|error| Refusal::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_what_the_page_says() {
        for (line, request) in [
            (r#"{"command":"status"}"#, Request::Status {}),
            (r#"{"command":"promote"}"#, Request::Promote { guest: None }),
            (r#"{"command":"promote","guest":"web"}"#, Request::Promote { guest: Some("web".into()) }),
            (r#"{"command":"checkpoint","guest":"a"}"#, Request::Checkpoint { guest: Some("a".into()) }),
            (r#"{"command":"stop"}"#, Request::Stop {}),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(request.clone()), "{line}");
            assert_eq!(serde_json::to_string(&request).unwrap(), line);
        }
        assert_eq!(
            parse(b" {\"guest\":null,\"command\":\"promote\"}\r"),
            Ok(Request::Promote { guest: None })
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "",
            "status",
            "{}",
            "[]",
            r#"{"command":"restart"}"#,
            r#"{"command":"promote","gest":"web"}"#,
            r#"{"command":"status","guest":"web"}"#,
            r#"{"command":"promote","guest":7}"#,
            r#"{"command":"stop"}{"command":"stop"}"#,
        ] {
            let refusal = parse(line.as_bytes()).unwrap_err();
            assert!(refusal.to_string().contains(r#"{"command":"status"}"#), "{line}: {refusal}");
        }
        assert!(parse(&"[".repeat(60_000).into_bytes()).is_err(), "deep nesting is no request");
        assert!(parse(&[0xff; 100]).is_err());
    }

    #[test]
    fn answers_are_what_the_page_says() {
        let reply = |outcome: Result<Answer, Refusal>| serde_json::to_string(&Reply::from(outcome)).unwrap();
        assert_eq!(reply(Ok(Answer::Promoted(vec!["web".into()]))), r#"{"ok":{"promoted":["web"]}}"#);
        assert_eq!(reply(Ok(Answer::Stopping)), r#"{"ok":"stopping"}"#);
        assert_eq!(reply(Err(Refusal::Failed("no".into()))), r#"{"error":"no"}"#);
        let status = reply(Ok(Answer::Status(Box::default())));
        assert!(status.starts_with(r#"{"ok":{"status":{"version":"","pid":0,"#), "{status}");
    }

    #[test]
    fn a_guest_is_named_where_there_are_several() {
        assert_eq!(Refusal::choose(None, &["web"]), Ok("web"));
        assert_eq!(Refusal::choose(Some("db"), &["web", "db"]), Ok("db"));
        assert!(Refusal::choose(None, &["web", "db"]).unwrap_err().to_string().ends_with(": web, db"));
        assert!(Refusal::choose(Some("x"), &["web"]).unwrap_err().to_string().ends_with("there is: web"));
        assert!(Refusal::choose(Some("x"), &[]).unwrap_err().to_string().ends_with("there is: none"));
    }
}
