//! What the commands do with a node that runs.

use super::support::{Node, connect, exchange, status};
use colo_proxy::control::client::{ClientError, Survey, Wanted, ask, directory};
use colo_proxy::control::protocol::{Answer, Request};
use colo_proxy::control::status::{GuestStatus, NicStatus, NodeStatus};
use colo_proxy::control::{BindError, listen};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

fn program(run: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_colo-proxy"));
    command.arg("status").arg("--run-dir").arg(run).args(more);
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn nobody(_: &Path) -> Vec<NodeStatus> {
    Vec::new()
}

#[test]
fn several_requests_on_one_connection() {
    let node = Node::start();
    let stream = connect(&node.socket);
    assert_eq!(
        exchange(&stream, "{\"command\":\"checkpoint\",\"guest\":\"db\"}\n"),
        "{\"ok\":{\"checkpoint\":[\"db\"]}}\n"
    );
    let refused = exchange(&stream, "{\"command\":\"promote\"}\n");
    assert_eq!(refused, "{\"error\":\"there are several guests; name one of: web, db\"}\n");
    assert_eq!(
        exchange(&stream, "{\"command\":\"promote\",\"guest\":\"db\"}\n"),
        "{\"ok\":{\"promoted\":[\"db\"]}}\n"
    );
    assert!(exchange(&stream, "nonsense\n").starts_with("{\"error\":\"cannot read the request:"));
    assert_eq!(exchange(&stream, "{\"command\":\"stop\"}\n"), "{\"ok\":\"stopping\"}\n");
}

#[test]
fn a_status_comes_back_as_it_was() {
    let node = Node::start();
    assert_eq!(ask(&node.socket, &Request::Status {}).unwrap(), Answer::Status(Box::new(status())));
    let error = ask(&node.socket, &Request::Promote { guest: Some("web".into()) }).unwrap_err();
    assert_eq!(error.to_string(), "guest web: it serves here already");
}

#[test]
fn the_socket_is_there_as_long_as_the_server() {
    let node = Node::start();
    assert!(matches!(listen(&node.socket), Err(BindError::Running(_))));
    node.server.stop();
    assert!(!node.socket.exists());
    let error = ask(&node.socket, &Request::Status {}).unwrap_err().to_string();
    assert!(error.starts_with("cannot connect to"), "{error}");
}

#[test]
fn a_survey_passes_over_what_is_dead_and_says_who_is_silent() {
    let node = Node::start();
    let directory = directory(node.run.path()).unwrap();
    drop(UnixListener::bind(directory.join("dead.sock")).unwrap());
    std::fs::write(directory.join("nic-vif1.json"), "{}").unwrap();
    let left = |vif: &str| {
        let nic = NicStatus { vif: vif.to_owned(), ..NicStatus::default() };
        let guest = GuestStatus { name: format!("left-{vif}"), nics: vec![nic], ..GuestStatus::default() };
        NodeStatus { guests: vec![guest], ..NodeStatus::default() }
    };
    // A set-up whose process runs is that process's to tell of.
    let survey = Survey::take(node.run.path(), &|_| vec![left("vif1"), left("vif9")]).unwrap();
    assert_eq!((survey.running.len(), survey.silent.len()), (1, 0));
    assert_eq!(survey.orphans, [left("vif9")]);
    let nodes = survey.nodes(&Wanted::Vif("vif9".into())).unwrap();
    assert_eq!(nodes, [left("vif9")]);

    // Who hangs up without a word is reported.
    let mute = UnixListener::bind(directory.join("mute.sock")).unwrap();
    let hang_up = std::thread::spawn(move || drop(mute.accept()));
    let survey = Survey::take(node.run.path(), &nobody).unwrap();
    hang_up.join().unwrap();
    assert_eq!(survey.running.len(), 1);
    assert!(survey.silent[0].to_string().contains("mute.sock"), "{}", survey.silent[0]);
}

#[test]
fn one_guest_is_chosen_or_the_error_says_which_there_are() {
    let node = Node::start();
    let survey = Survey::take(node.run.path(), &nobody).unwrap();
    let (socket, guest) = survey.guest(&Wanted::Vif("vif1".into())).unwrap();
    assert_eq!((socket, guest), (&*node.socket, "web"));
    assert_eq!(survey.guest(&Wanted::Name("web".into())).unwrap().1, "web");
    let several = survey.guest(&Wanted::Any).unwrap_err();
    assert!(matches!(several, ClientError::Several(_)));
    assert!(several.to_string().contains("web (vif1)"), "{several}");
    let error = survey.guest(&Wanted::Vif("vif7".into())).unwrap_err().to_string();
    assert!(error.starts_with("no colo-proxy runs here for vif vif7; running: web (vif1), "), "{error}");
    assert!(error.contains("start one with 'colo-proxy run --vif"), "{error}");
}

#[test]
fn the_command_shows_what_there_is() {
    let node = Node::start();
    let output = program(node.run.path(), &[]);
    assert!(output.status.success(), "{output:?}");
    let shown = text(&output.stdout);
    for line in [
        "web: primary, protected, epoch 17 (pid 4711, version 0.1.0, up 2 h 3 min)\n",
        "  waits for: a VMM on unix:/run/notify.sock\n",
        "  checkpoints: 16 complete, 1 failed; asked for: age 5, payload 12; the last took 83 ms\n",
        "  asked for now: payload of tcp 10.77.0.2:80 > 10.77.0.1:40000, for 12 ms\n",
        "  vif1 > eth1, index 0, bridge br0, flows: 12\n",
        "    kernel: captured 1203, stale 2\n",
        "    did not fit the comparator's queue: 7\n",
        "    primary discarded: ack-superseded 5\n",
        "    held: primary 6 frames (8.5 kB), secondary 1 frame (60 B)\n",
        "    match delay: 50% 120 µs, 90% 300 µs, 99% 1.2 ms, longest 15 ms, of 1200 frames\n",
        "    FLOW                                P  S    FOR  LIMIT  WHY\n",
        "    tcp 10.77.0.2:80 > 10.77.0.1:40000  3  0  2.5 s    3 s  waits for the secondary's output\n",
        "    tcp 10.77.0.2:80 > 10.77.0.1:40001  3  0  12 ms      -  waits for the secondary's output\n",
        "d\"b\\\u{fffd}: secondary, following, epoch 3 (",
        "  vif2 > eth1, index 1, flows: 0\n",
    ] {
        assert!(shown.contains(line), "{line:?} is missing in\n{shown}");
    }
}

#[test]
fn the_command_writes_json_and_picks_guests() {
    let node = Node::start();
    let output = program(node.run.path(), &["--json", "--vif", "vif2"]);
    let nodes: Vec<NodeStatus> = serde_json::from_slice(&output.stdout).unwrap();
    let mut expected = status();
    expected.guests.remove(0);
    assert_eq!(nodes, [expected]);

    let output = program(node.run.path(), &["--name", "mail"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("for a guest named mail; running: web (vif1)"), "{output:?}");
    assert_eq!(program(node.run.path(), &["--name", "a", "--vif", "b"]).status.code(), Some(2));
    assert_eq!(program(node.run.path(), &["--vif", "a name that is none"]).status.code(), Some(2));
}

#[test]
fn where_nothing_runs_the_command_says_how_to_start() {
    let run = tempfile::tempdir().unwrap();
    let output = program(run.path(), &[]);
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("colo-proxy run --vif"), "{output:?}");
    let output = program(run.path(), &["--json"]);
    assert_eq!(text(&output.stdout), "[]\n");
}

#[test]
fn watching_goes_on_until_nobody_reads() {
    use std::io::{BufRead as _, BufReader};
    let node = Node::start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_colo-proxy"));
    command.arg("status").arg("--run-dir").arg(node.run.path()).args(["--json", "--watch"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let nodes: Vec<NodeStatus> = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(nodes, [status()]);
    }
    drop(lines);
    assert!(child.wait().unwrap().success());
}

#[test]
fn top_needs_a_terminal() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_colo-proxy"));
    let output = command.arg("top").stdin(std::process::Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("colo-proxy status"), "{output:?}");
}
