//! Conversations, and what no client can do. (Conversations with a guest are in `tests/qmp.rs`.)

use super::*;
use crate::control::Event;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Duration;

/// What was sent, as JSON; commands as their names.
fn talk(session: &mut Session, text: &str) -> Vec<Value> {
    let one = |output| match output {
        Output::Send(bytes) => {
            assert!(bytes.ends_with(b"\r\n"));
            serde_json::from_slice(&bytes).unwrap()
        }
        Output::Run { command, id } => json!({"run": command.name(), "id": id}),
        Output::Close => json!("close"),
    };
    session.feed(text.as_bytes()).into_iter().map(one).collect()
}

fn ready() -> Session {
    let (mut session, _) = Session::begin();
    assert_eq!(talk(&mut session, r#"{"execute":"qmp_capabilities"}"#), [json!({"return": {}})]);
    session
}

#[test]
fn the_greeting_says_who_this_is() {
    let (_, greeting) = Session::begin();
    let greeting: Value = serde_json::from_slice(&greeting).unwrap();
    assert_eq!(greeting["QMP"]["capabilities"], json!([]));
    assert!(greeting["QMP"]["version"]["qemu"]["major"].is_u64());
    assert!(greeting["QMP"]["version"]["package"].as_str().unwrap().starts_with("colo-vm "));
}

#[test]
fn nothing_is_run_before_the_negotiation_and_it_happens_once() {
    let (mut session, _) = Session::begin();
    let early = &talk(&mut session, r#"{"execute":"stop","id":7}"#)[0];
    assert_eq!((&early["error"]["class"], &early["id"]), (&json!("CommandNotFound"), &json!(7)));
    let oob = &talk(&mut session, r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#)[0];
    assert_eq!(oob["error"]["class"], "GenericError");
    assert_eq!(session.event(Event::Stop, Duration::ZERO), None, "events wait for the negotiation");
    let agreed = talk(&mut session, r#"{"execute":"qmp_capabilities","arguments":{"enable":[]},"id":null}"#);
    assert_eq!(agreed, [json!({"return": {}, "id": null})]);
    let again = &talk(&mut session, r#"{"execute":"qmp_capabilities"}"#)[0];
    assert_eq!(again["error"]["class"], "CommandNotFound");
    assert_eq!(talk(&mut session, r#"{"execute":"stop"}"#), [json!({"run": "stop", "id": null})]);
}

#[test]
fn requests_need_no_newlines_and_keep_their_order_and_ids() {
    let mut session = ready();
    let said = talk(
        &mut session,
        r#"{"execute":"stop","id":{"a":[1]}}{"execute":"nonsense","id":"b"} {"execute":"cont"}"#,
    );
    assert_eq!(said[0], json!({"run": "stop", "id": {"a": [1]}}));
    assert_eq!((&said[1]["error"]["class"], &said[1]["id"]), (&json!("CommandNotFound"), &json!("b")));
    assert_eq!(said[2]["run"], "cont");
}

#[test]
fn mistakes_are_answered_and_the_next_request_is_read() {
    let mut session = ready();
    for (text, says) in [
        (r"{]", "no JSON"),
        (r#"{"execute" "stop"}"#, "no JSON"),
        (r#"{"execute":5}"#, "\"execute\" is no text"),
        (r#"{"exec-oob":"stop"}"#, "has no \"execute\""),
        (r#"{"execute":"stop","arguments":[]}"#, "\"arguments\" is no object"),
        (r#"{"execute":"stop","arguments":{"x":1}}"#, "stop takes no argument \"x\""),
        (r#"{"execute":"stop","control":{}}"#, "\"control\" is no part of a request"),
        ("stop\n", "no JSON object; the line is ignored"),
        ("{\"execute\":\"\u{0}\"}", "no JSON"),
    ] {
        let said = talk(&mut session, text);
        assert_eq!(said.len(), 1, "{text}");
        assert_eq!(said[0]["error"]["class"], "GenericError", "{text}");
        let desc = said[0]["error"]["desc"].as_str().unwrap();
        assert!(desc.contains(says), "{text}: {desc}");
        assert_eq!(talk(&mut session, r#"{"execute":"query-status"}"#)[0]["run"], "query-status", "{text}");
    }
}

#[test]
fn who_sends_too_much_is_let_go() {
    let mut session = ready();
    let said = talk(&mut session, &format!("{{\"execute\":\"{}", "x".repeat(70_000)));
    assert!(said[0]["error"]["desc"].as_str().unwrap().contains("64 KiB"));
    assert_eq!(said[1], "close");
    assert_eq!(talk(&mut session, r#"{"execute":"stop"}"#), [] as [Value; 0]);
    let said = talk(&mut ready(), &"{\"a\":[".repeat(40));
    assert_eq!(said.last(), Some(&json!("close")));
}

#[test]
fn events_have_a_name_a_time_and_a_reason() {
    let session = ready();
    let at = Duration::new(1_700_000_000, 123_456_789);
    let event = |event| serde_json::from_slice::<Value>(&session.event(event, at).unwrap()).unwrap();
    assert_eq!(
        event(Event::Stop),
        json!({"event": "STOP", "timestamp": {"seconds": 1_700_000_000, "microseconds": 123_456}})
    );
    assert_eq!(event(Event::Resume)["event"], "RESUME");
    assert_eq!(event(Event::Powerdown)["event"], "POWERDOWN");
    assert_eq!(
        event(Event::Shutdown { guest: true })["data"],
        json!({"guest": true, "reason": "guest-shutdown"})
    );
    assert_eq!(event(Event::Shutdown { guest: false })["data"]["guest"], false);
    assert_eq!(event(Event::Reset { guest: true })["data"]["reason"], "guest-reset");
}

proptest! {
    #[test]
    fn each_request_is_answered_once_whatever_it_is(
        names in prop::collection::vec(prop_oneof![
            prop::sample::select(Command::ALL).prop_map(|command| command.name().to_owned()),
            "\\PC{0,20}",
        ], 0..20),
        piece in 1usize..64,
    ) {
        let mut session = ready();
        let stream: String = names
            .iter()
            .enumerate()
            .map(|(id, name)| json!({"execute": name, "id": id}).to_string())
            .collect();
        let outputs: Vec<Output> =
            stream.as_bytes().chunks(piece).flat_map(|bytes| session.feed(bytes)).collect();
        prop_assert_eq!(outputs.len(), names.len());
        for (at, (output, name)) in outputs.iter().zip(&names).enumerate() {
            let known = Command::ALL.iter().find(|command| command.name() == name);
            match output {
                Output::Run { command, id } => {
                    prop_assert_eq!((Some(command), id), (known, &Some(json!(at))));
                }
                Output::Send(bytes) => {
                    let value: Value = serde_json::from_slice(bytes).unwrap();
                    prop_assert!(known.is_none());
                    prop_assert_eq!(&value["id"], &json!(at));
                }
                Output::Close => prop_assert!(false),
            }
        }
    }

    #[test]
    fn nothing_that_is_sent_panics_or_grows(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let (mut session, _) = Session::begin();
        prop_assert!(session.feed(&bytes).len() <= bytes.len());
    }
}
