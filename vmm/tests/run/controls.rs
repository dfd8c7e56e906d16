//! A guest that is saved and has a peer, from the socket and from the commands that speak to it. The guest
//! writes its page; its peer is a board.

use super::{Guest, Qmp, command_of};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use std::fs;
use std::io::{self, BufRead as _, BufReader, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

/// The guest's page begins with its program.
const PAGE: usize = 4096;
const FIRST: [u8; 4] = [0xe4, 0x80, 0xa8, 0x01];

impl Qmp {
    /// Sends these with a space, as QEMU's package does, and names the first.
    fn give(&mut self, fds: &[BorrowedFd<'_>], name: &str) -> Value {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        sendmsg(self.0.get_ref(), &[IoSlice::new(b" ")], &mut control, SendFlags::empty()).unwrap();
        self.say(&json!({"execute": "getfd", "arguments": {"fdname": name}}))
    }

    fn migrate(&mut self, uri: &str) -> Value {
        self.say(&json!({"execute": "migrate", "arguments": {"uri": uri}}))
    }

    /// The statuses of the next three events of a migration.
    fn stages(&mut self) -> [Value; 3] {
        let mut stage = || loop {
            let mut value = self.read();
            if value["event"] == "MIGRATION" {
                return value["data"]["status"].take();
            }
        };
        [stage(), stage(), stage()]
    }
}

fn desc(answer: &Value) -> &str {
    answer["error"]["desc"].as_str().unwrap()
}

/// What a command says that speaks to this guest: its exit code, and both its outputs.
fn order(guest: &Guest, order: &str, more: &[&str]) -> (i32, String) {
    let qmp = format!("unix:{}", guest.path("qmp").display());
    let output = command_of(order, &[more, &["--qmp", &qmp]].concat()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

#[test]
fn a_state_is_written_into_what_a_client_sends() {
    let guest = Guest::start(&[]);
    let (mut qmp, mut other) = (guest.qmp(), guest.qmp());
    assert_eq!(qmp.ask("query-migrate")["return"]["status"], "none");
    assert!(desc(&qmp.migrate("fd:state")).contains("send it with getfd first"));
    let (mut reader, writer) = io::pipe().unwrap();
    assert_eq!(qmp.give(&[writer.as_fd()], "state"), json!({"return": {}}));
    assert!(
        desc(&other.migrate("fd:state")).contains("no descriptor of this client"),
        "names are a client's own"
    );
    drop(writer);
    assert_eq!(qmp.migrate("fd:state"), json!({"return": {}}));
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    assert_eq!((bytes.len(), &bytes[..4]), (PAGE, &FIRST[..]));
    assert_eq!(other.stages(), ["setup", "active", "completed"]);
    let done = qmp.ask("query-migrate");
    assert_eq!(
        (&done["return"]["status"], &done["return"]["ram"]["normal"]),
        (&json!("completed"), &json!(1))
    );
    assert_eq!(qmp.ask("query-status")["return"]["status"], "running", "it goes on");

    // Nobody reads: it fails, and says why.
    let (reader, writer) = io::pipe().unwrap();
    qmp.give(&[writer.as_fd()], "state");
    drop(reader);
    qmp.migrate("fd:state");
    assert_eq!(other.stages(), ["setup", "active", "failed"]);
    let failed = qmp.ask("query-migrate");
    assert!(failed["return"]["error-desc"].as_str().unwrap().contains("Broken pipe"), "{failed}");
    let read_only = fs::File::open("/dev/null").unwrap();
    qmp.give(&[read_only.as_fd()], "state");
    assert!(desc(&qmp.migrate("fd:state")).contains("open it for writing"));
    qmp.ask("quit");
    assert_eq!(guest.end().0, Some(0), "no system call was out of place");
}

#[test]
fn descriptors_that_are_too_many_are_closed() {
    let guest = Guest::start(&[]);
    let mut qmp = guest.qmp();
    let (reader, writer) = io::pipe().unwrap();
    for name in ["a", "b", "c", "d"] {
        assert_eq!(qmp.give(&[writer.as_fd(); 8], name), json!({"return": {}}));
    }
    assert!(desc(&qmp.give(&[writer.as_fd(); 8], "e")).contains("no room for more; closefd"));
    for name in ["a", "b", "c", "d"] {
        let close = json!({"execute": "closefd", "arguments": {"fdname": name}});
        assert_eq!(qmp.say(&close), json!({"return": {}}));
        assert!(desc(&qmp.say(&close)).contains("no descriptor of this client"));
    }
    // The last waits for a name until its client goes.
    drop((writer, qmp));
    assert_eq!({ reader }.read(&mut [0]).unwrap(), 0, "all are closed");
    guest.qmp().ask("quit");
    assert_eq!(guest.end().0, Some(0));
}

#[test]
fn a_guest_is_saved_into_a_file() {
    let guest = Guest::start(&[]);
    drop(guest.qmp());
    let target = guest.path("web.state");
    let file = target.to_str().unwrap();
    let (code, said) = order(&guest, "save", &[file]);
    assert!(
        code == 0
            && said.contains(&format!(
                "saved to {file}: 4096 bytes, 1 pages and 0 that are zero; the guest stood for"
            )),
        "{said}"
    );
    assert_eq!(fs::read(&target).unwrap().len(), PAGE);
    let (code, said) = order(&guest, "save", &[file]);
    assert!(code == 1 && said.contains("exists; choose another name, or --force"), "{said}");
    fs::write(&target, "old").unwrap();
    let (code, said) = order(&guest, "save", &[file, "--force"]);
    assert!(code == 0, "{said}");
    assert_eq!(fs::read(&target).unwrap()[..4], FIRST);
    assert!(!guest.path("web.state.tmp").exists());
    let (code, said) = order(&guest, "save", &["/nowhere/web.state"]);
    assert!(code == 1 && said.contains("cannot write /nowhere/web.state.tmp: No such file"), "{said}");
    guest.qmp().ask("quit");
    assert_eq!(guest.end().0, Some(0));
}

#[test]
fn a_guest_without_a_peer_says_so() {
    let guest = Guest::start(&[]);
    let mut qmp = guest.qmp();
    assert_eq!(
        qmp.ask("query-colo-status")["return"],
        json!({"mode": "none", "last-mode": "none", "reason": "none"})
    );
    assert!(
        desc(&qmp.ask("x-colo-lost-heartbeat"))
            .contains("start this one with colo-vm primary or colo-vm secondary")
    );
    let (code, said) = order(&guest, "status", &[]);
    assert!(code == 0 && said.contains("web: running, on this host alone"), "{said}");
    for what in ["checkpoint", "takeover"] {
        let (code, said) = order(&guest, what, &[]);
        assert!(code == 1 && said.contains("needs a guest on two hosts"), "{said}");
    }
    qmp.ask("quit");
    // It may answer until its process has ended.
    let missing = std::iter::repeat_with(|| order(&guest, "status", &[])).find(|asked| asked.0 != 0).unwrap();
    assert_eq!(guest.end().0, Some(0));
    assert!(missing.0 == 1 && missing.1.contains("error: cannot"), "{}", missing.1);
}

#[test]
fn a_side_of_a_pair_is_asked_and_told() {
    let guest = Guest::start_as("secondary", &["--listen", "127.0.0.1:9", "--checkpoint-delay", "500"]);
    let mut qmp = guest.qmp();
    assert_eq!(qmp.ask("query-migrate-parameters")["return"], json!({"x-checkpoint-delay": 500}));
    let set = json!({"execute": "migrate-set-parameters", "arguments": {"x-checkpoint-delay": 50}});
    assert_eq!(qmp.say(&set), json!({"return": {}}));
    assert_eq!(qmp.ask("query-migrate-parameters")["return"], json!({"x-checkpoint-delay": 50}));
    let capability = |state: bool| {
        json!({"execute": "migrate-set-capabilities",
               "arguments": {"capabilities": [{"capability": "x-colo", "state": state}]}})
    };
    assert_eq!(qmp.say(&capability(true)), json!({"return": {}}));
    assert!(desc(&qmp.say(&capability(false))).contains("x-colo is on and stays so"));

    let (code, said) = order(&guest, "checkpoint", &[]);
    assert!(code == 0 && said.contains("a checkpoint is asked for"), "{said}");
    let (code, said) = order(&guest, "status", &[]);
    assert!(code == 0 && said.contains("web: secondary, level with 192.0.2.7:9000"), "{said}");
    assert!(
        said.contains("checkpoint 1 (operator): 3 pages; 12.0 KiB of memory, 700 bytes of state"),
        "{said}"
    );
    let (code, said) = order(&guest, "status", &["--json"]);
    // The test's own words stand before it on the line.
    let json = said.lines().find_map(|line| line.get(line.find('{')?..)).unwrap();
    let json: Value = serde_json::from_str(json).unwrap();
    assert_eq!((code, &json["mode"], &json["x-checkpoints"]["epoch"]), (0, &json!("secondary"), &json!(1)));

    let (code, said) = order(&guest, "takeover", &[]);
    assert!(code == 1 && said.contains("the primary is there, and both would serve"), "{said}");
    for command in ["stop", "cont", "system_reset", "system_powerdown"] {
        assert!(desc(&qmp.ask(command)).contains("is the primary's business"), "{command}");
    }
    let (code, said) = order(&guest, "takeover", &["--force"]);
    assert!(code == 0 && said.contains("it goes on here from checkpoint 1 and what it ran since"), "{said}");
    let status = &qmp.ask("query-colo-status")["return"];
    assert_eq!(
        (&status["mode"], &status["last-mode"], &status["reason"]),
        (&json!("none"), &json!("secondary"), &json!("request"))
    );
    let (code, said) = order(&guest, "checkpoint", &[]);
    assert!(
        code == 1
            && said.contains("x-colo-checkpoint was refused: cannot make a checkpoint: there is no peer"),
        "{said}"
    );
    qmp.ask("quit");
    assert_eq!(guest.end().0, Some(0));
}

#[test]
fn checkpoints_are_scraped() {
    let mut guest = Guest::start_as("primary", &["--peer", "192.0.2.7:9000", "--metrics", "127.0.0.1:0"]);
    let mut said = BufReader::new(guest.process.stderr.take().unwrap());
    let (mut heard, mut line) = (String::new(), String::new());
    while !line.contains("; metrics on ") {
        line.clear();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "{heard}");
        heard += &line;
    }
    assert!(heard.contains("checkpoints pass 192.0.2.7:9000 without TLS"), "{heard}");
    assert!(line.contains("; primary of 192.0.2.7:9000 (colo)"), "{line}");
    let address = line.trim_end().rsplit("; metrics on ").next().unwrap();
    guest.qmp().ask("x-colo-checkpoint");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK") && page.ends_with("# EOF\n"), "{page}");
    for sample in [
        "colo_vm_guest_state{guest=\"web\",state=\"running\"} 1",
        "colo_vm_phase{guest=\"web\",role=\"primary\",phase=\"level\"} 1",
        "colo_vm_phase{guest=\"web\",role=\"primary\",phase=\"lost\"} 0",
        "colo_vm_epoch{guest=\"web\"} 1",
        "colo_vm_checkpoints_total{guest=\"web\"} 1",
        "colo_vm_checkpoints_failed_total{guest=\"web\"} 0",
        "colo_vm_checkpoint_causes_total{guest=\"web\",cause=\"operator\"} 1",
        "colo_vm_checkpoint_bytes_total{guest=\"web\"} 13000",
        "colo_vm_checkpoint_pages_total{guest=\"web\"} 3",
        "colo_vm_stood_seconds{guest=\"web\",quantile=\"0.99\"} 0.0015",
        "colo_vm_transfer_seconds{guest=\"web\"} 0.002",
        "colo_vm_load_seconds{guest=\"web\"} 0.001",
        "colo_vm_missed_beats_total{guest=\"web\"} 0",
        "colo_vm_refused_peers_total{guest=\"web\"} 0",
    ] {
        assert!(page.lines().any(|line| line == sample), "{sample} is not in {page}");
    }
    guest.qmp().ask("quit");
    assert_eq!(guest.end().0, Some(0), "no system call was out of place");
}
