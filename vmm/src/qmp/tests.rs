//! Conversations, and what no client can do. (Conversations with a guest are in `tests/qmp.rs`.)

use super::*;
use crate::checkpoint::status::{Reason, Role};
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
fn arguments_are_read_into_what_they_mean() {
    let mut session = ready();
    let mut run = |name: &str, arguments: Value| {
        let request = json!({"execute": name, "arguments": arguments}).to_string();
        match session.feed(request.as_bytes()).pop() {
            Some(Output::Run { command, .. }) => Ok(command),
            Some(Output::Send(bytes)) => {
                let said: Value = serde_json::from_slice(&bytes).unwrap();
                Err(said["error"]["desc"].as_str().unwrap().to_owned())
            }
            other => panic!("{other:?}"),
        }
    };
    let named = |text: &str| FdName::try_from(text.to_owned()).unwrap();
    assert_eq!(run("getfd", json!({"fdname": "a"})), Ok(Command::GetFd(named("a"))));
    assert_eq!(run("closefd", json!({"fdname": "a"})), Ok(Command::CloseFd(named("a"))));
    assert_eq!(run("migrate", json!({"uri": "fd:a", "detach": true})), Ok(Command::Migrate(named("a"))));
    let delay =
        |ms: Option<u64>| Command::SetParameters { checkpoint_delay: ms.map(|ms| ms.try_into().unwrap()) };
    assert_eq!(run("migrate-set-parameters", json!({"x-checkpoint-delay": 50})), Ok(delay(Some(50))));
    assert_eq!(run("migrate-set-parameters", json!({})), Ok(delay(None)));
    let colo = Capability { capability: "x-colo".to_owned(), state: true };
    let capabilities = json!({"capabilities": [{"capability": "x-colo", "state": true}]});
    assert_eq!(run("migrate-set-capabilities", capabilities), Ok(Command::SetCapabilities(vec![colo])));
    for (name, arguments, says) in [
        ("getfd", json!({}), "missing field `fdname`; write {\"fdname\": NAME}"),
        ("getfd", json!({"fdname": 5}), "write {\"fdname\": NAME}"),
        ("getfd", json!({"fdname": "5"}), "\"5\" is no name of a descriptor"),
        ("getfd", json!({"fdname": "a", "x": 1}), "getfd takes no argument \"x\"; write {\"fdname\": NAME}"),
        (
            "migrate",
            json!({"uri": "exec:cat"}),
            "starts no program; do that yourself and send the descriptor with getfd; write {\"uri\": \"fd:NAME\"}",
        ),
        ("migrate", json!({"uri": "tcp:host:1"}), "makes no connection"),
        ("migrate", json!({"uri": "file:/x"}), "opens no file"),
        ("migrate", json!({"uri": "fd:3"}), "begins with no digit"),
        ("migrate", json!({"uri": "fd:a", "detach": "yes"}), "expected a boolean"),
        (
            "migrate-set-parameters",
            json!({"max-bandwidth": 1}),
            "takes no argument \"max-bandwidth\"; write {\"x-checkpoint-delay\": MILLISECONDS}",
        ),
        ("migrate-set-parameters", json!({"x-checkpoint-delay": 0}), "from 1 to 3600000"),
        ("migrate-set-parameters", json!({"x-checkpoint-delay": 3_600_001}), "from 1 to 3600000"),
        (
            "migrate-set-parameters",
            json!({"x-checkpoint-delay": "5"}),
            "write {\"x-checkpoint-delay\": MILLISECONDS}",
        ),
        ("migrate-set-capabilities", json!({"capabilities": [{"capability": "x"}]}), "missing field `state`"),
    ] {
        let error = run(name, arguments.clone()).unwrap_err();
        assert!(error.contains(says), "{name} {arguments}: {error}");
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
    let exit = event(Event::ColoExit { role: Role::Secondary, reason: Reason::Error });
    assert_eq!(
        (&exit["event"], &exit["data"]),
        (&json!("COLO_EXIT"), &json!({"mode": "secondary", "reason": "error"}))
    );
    let stage = session.event(News::Migration(Stage::Completed), at).unwrap();
    let stage: Value = serde_json::from_slice(&stage).unwrap();
    assert_eq!((&stage["event"], &stage["data"]), (&json!("MIGRATION"), &json!({"status": "completed"})));
}

proptest! {
    #[test]
    fn each_request_is_answered_once_whatever_it_is(
        names in prop::collection::vec(prop_oneof![
            prop::sample::select(Plain::ALL).prop_map(|command| command.name().to_owned()),
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
            let known = Plain::ALL.iter().copied().find(|command| command.name() == name).map(Command::Plain);
            match output {
                Output::Run { command, id } => {
                    prop_assert_eq!((Some(command), id), (known.as_ref(), &Some(json!(at))));
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
