//! One object, read as a request.

use super::command::Command;
use crate::control::ControlError;
use serde_json::{Map, Value, json};

/// Why a request is refused; QEMU's classes, of which two are in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    class: &'static str,
    desc: String,
}

impl Refusal {
    /// A command that does not exist, or not now.
    pub(super) fn not_found(desc: impl Into<String>) -> Self {
        Self { class: "CommandNotFound", desc: desc.into() }
    }

    /// Everything else.
    pub(super) fn generic(desc: impl Into<String>) -> Self {
        Self { class: "GenericError", desc: desc.into() }
    }
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        Self::generic(error.to_string())
    }
}

/// A command, or the end of the negotiation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// `qmp_capabilities`.
    Capabilities,
    /// Everything else.
    Command(Command),
}

/// What was asked for, and what it is to be answered with.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    /// Chosen by the client; any JSON.
    pub(super) id: Option<Value>,
    /// What it asks for.
    pub(super) asked: Result<Asked, Refusal>,
}

impl Request {
    /// Reads one object.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        match serde_json::from_slice::<Map<String, Value>>(bytes) {
            Ok(mut members) => {
                let id = members.remove("id");
                Self { id, asked: asked(members) }
            }
            Err(error) => {
                Self { id: None, asked: Err(Refusal::generic(format!("this is no JSON: {error}"))) }
            }
        }
    }
}

fn asked(mut members: Map<String, Value>) -> Result<Asked, Refusal> {
    let name = match members.remove("execute") {
        Some(Value::String(name)) => name,
        Some(_) => return Err(Refusal::generic("\"execute\" is no text; write the name of a command")),
        None => {
            return Err(Refusal::generic("the request has no \"execute\"; write {\"execute\": \"COMMAND\"}"));
        }
    };
    let arguments = match members.remove("arguments") {
        None => Map::new(),
        Some(Value::Object(arguments)) => arguments,
        Some(_) => return Err(Refusal::generic("\"arguments\" is no object")),
    };
    if let Some(other) = members.keys().next() {
        let other: String = other.chars().take(64).collect();
        return Err(Refusal::generic(format!("{other:?} is no part of a request")));
    }
    if name == "qmp_capabilities" {
        return capabilities(arguments);
    }
    Command::parse(&name, arguments).map(Asked::Command)
}

fn capabilities(mut arguments: Map<String, Value>) -> Result<Asked, Refusal> {
    let enable = arguments.remove("enable").unwrap_or_else(|| json!([]));
    match (enable.as_array().map(Vec::as_slice), arguments.is_empty()) {
        (Some([]), true) => Ok(Asked::Capabilities),
        (Some(_), true) => Err(Refusal::generic("none of the capabilities to enable is offered")),
        _ => Err(Refusal::generic("qmp_capabilities takes \"enable\", a list of capabilities")),
    }
}

/// The line that answers a request.
pub(super) fn answer(id: Option<Value>, outcome: Result<Value, Refusal>) -> Vec<u8> {
    let mut members = Map::new();
    match outcome {
        Ok(value) => members.insert("return".into(), value),
        Err(Refusal { class, desc }) => members.insert("error".into(), json!({"class": class, "desc": desc})),
    };
    if let Some(id) = id {
        members.insert("id".into(), id);
    }
    line(&Value::Object(members))
}

/// A line as QEMU ends it.
pub(super) fn line(value: &Value) -> Vec<u8> {
    let mut line = value.to_string().into_bytes();
    line.extend(b"\r\n");
    line
}
