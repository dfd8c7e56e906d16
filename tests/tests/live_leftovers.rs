//! Proof: what a set-up that failed, was interrupted, was killed or cannot be read has left is found,
//! spoken of truly, and removed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use colo_tests::binary;
use colo_tests::netns::desk::Visit;
use colo_tests::netns::lab::{addresses, mac, show_mac};
use colo_tests::netns::live::{command, must, places};
use colo_tests::netns::program::Program;
use colo_tests::netns::{Conduct, Desk, Flaw, Lab, Live, Options, Proxy, Snapshot, Space, until};
use rustix::process::Signal;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn lab(vms: u8) -> Lab {
    Lab::new(Options { vms, neighbours: true, ..Options::default() }).unwrap()
}

/// What is different on the primary's host, but for the notify sockets, which are the toolstack's.
fn left(lab: &Lab, before: &Snapshot) -> Vec<String> {
    let difference = before.difference(&Snapshot::of(lab, &lab.p).unwrap());
    difference.into_iter().filter(|line| !line.contains(".notify")).collect()
}

/// The folder of a host's journals and sockets.
fn folder(lab: &Lab, host: &Space) -> PathBuf {
    let run = lab.dir().join("run");
    let netns = host.run("stat -L -c %i /proc/self/ns/net").unwrap();
    run.join(netns.trim())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn an_index_that_a_failed_take_over_took_is_free_again() {
    let lab = lab(2);
    let run = |vif: &str, bridge: &str| {
        let words = ["setup", "--mode", "secondary", "--vif", vif, "--forward", "fwd", "--index", "0"];
        let bridge = ["--bridge", bridge];
        command(&lab, &lab.p, &[&words[..], &bridge].concat()).unwrap()
    };
    // A guest's process dies, and its interface goes.
    let mut dead = Proxy::of(&lab, 0, "primary").run(&lab).unwrap();
    dead.kill().unwrap();
    lab.p.run("ip link del vif00").unwrap();
    // Another guest has its index for a while.
    assert!(run("vif10", "br0").status.success());
    must(&lab, &lab.p, &["teardown", "--vif", "vif10"]).unwrap();
    // The first one is back, with an interface of the same name, and cannot be set up.
    lab.p.run(&format!("ip link add vif00 address {} type veth", show_mac(mac(9, 0)))).unwrap();
    let failed = run("vif00", "lo");
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed));
    let again = run("vif10", "br0");
    assert!(again.status.success(), "{}", text(&again));
    must(&lab, &lab.p, &["teardown", "--all"]).unwrap();
}

#[test]
fn a_journal_that_cannot_be_read_is_named_and_cleared_with_all_that_it_stood_for() {
    let lab = lab(2);
    let before = Snapshot::of(&lab, &lab.p).unwrap();
    let mut dead = Proxy::of(&lab, 0, "primary").run(&lab).unwrap();
    let mut other = Proxy::of(&lab, 1, "primary").run(&lab).unwrap();
    dead.kill().unwrap();
    let journal = folder(&lab, &lab.p).join("nic-vif00.json");
    std::fs::write(&journal, "{ \"owner\": 7").unwrap();
    let name = journal.display().to_string();

    // It hides nobody else.
    assert_eq!(Proxy::of(&lab, 1, "primary").status(&lab).unwrap().state, "protected");
    let said = text(&command(&lab, &lab.p, &["promote", "--name", "vm1"]).unwrap());
    assert!(said.contains("vif10 is a primary here") && said.contains(&name), "{said}");
    // The other may not take the forward device away from whoever that was, and says why.
    assert!(other.stop().unwrap().success());
    let said = other.said();
    assert!(said.contains(&name) && said.contains("'colo-proxy teardown --all' removes it"), "{said}");
    assert!(left(&lab, &before).iter().any(|line| line.contains("forward-")), "it is left as it is");

    let said = must(&lab, &lab.p, &["teardown", "--all"]).unwrap();
    assert!(said.contains(&name), "{said}");
    assert_eq!(left(&lab, &before), [""; 0]);
    let again = must(&lab, &lab.p, &["teardown", "--all"]).unwrap();
    assert_eq!(again, "", "nothing is there any more");
}

#[test]
fn setup_and_teardown_leave_no_file_whether_they_come_to_something_or_not() {
    let lab = lab(1);
    let before = Snapshot::of(&lab, &lab.p).unwrap();
    let arguments = Proxy::of(&lab, 0, "primary").arguments(&lab);
    let setup = |more: &[&str]| {
        let mut command = Command::new(binary::colo_proxy().unwrap());
        command.arg("setup").args(&arguments).args(more).stdin(Stdio::null());
        lab.p.enter(|| command.output()).unwrap()
    };
    let failed = setup(&["--metrics", "192.0.2.1:1"]);
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed));
    assert!(text(&failed).contains("192.0.2.1:1"), "it says why: {}", text(&failed));
    assert_eq!(left(&lab, &before), [""; 0]);
    let done = setup(&[]);
    assert!(done.status.success(), "{}", text(&done));
    let log = folder(&lab, &lab.p).join("vm0.log");
    assert!(log.exists());
    let again = setup(&[]);
    assert!(
        !again.status.success() && log.exists(),
        "what is refused leaves the other's log: {}",
        text(&again)
    );
    must(&lab, &lab.p, &["teardown", "--vif", "vif00"]).unwrap();
    assert_eq!(left(&lab, &before), [""; 0]);
}

#[test]
fn setup_that_is_interrupted_while_its_comparator_starts_sets_nothing_up() {
    let lab = lab(1);
    let before = Snapshot::of(&lab, &lab.p).unwrap();
    let arguments = Proxy::of(&lab, 0, "primary").arguments(&lab);
    let mut interrupted = 0;
    for round in 0..10 {
        let mut command = Command::new(binary::colo_proxy().unwrap());
        command.arg("setup").args(&arguments);
        let mut setup = Program::start(&lab.p, &mut command, &lab.dir().join("setup.log")).unwrap();
        std::thread::sleep(Duration::from_millis(round * 12));
        setup.signal(Signal::TERM).unwrap();
        if setup.wait().unwrap().success() {
            must(&lab, &lab.p, &["teardown", "--vif", "vif00"]).unwrap();
        } else {
            interrupted += 1;
        }
        // The comparator ends by itself; what it said is kept for whoever wonders.
        until("all is as it was", || {
            // A device that goes while it is looked at is an error.
            let Ok(now) = Snapshot::of(&lab, &lab.p) else { return Ok(None) };
            let left = before.difference(&now).into_iter().filter(|line| !line.contains(".notify"));
            let left: Vec<String> = left.collect();
            Ok(left.iter().all(|line| line.ends_with("/vm0.log") || line.ends_with("/lock")).then_some(()))
        })
        .unwrap();
        must(&lab, &lab.p, &["teardown", "--all"]).unwrap();
        assert_eq!(left(&lab, &before), [""; 0], "round {round}");
    }
    assert!(interrupted > 0, "no round was quick enough to interrupt it");

    // One whose parent is gone before it could ask to be told of that.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut orphan = Command::new(binary::colo_proxy().unwrap());
    orphan.arg("run").args(&arguments).arg("--detached").stdin(Stdio::null());
    orphan.stdout(writer).stderr(Stdio::piped());
    let output = lab.p.enter(|| orphan.spawn()).unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(left(&lab, &before), [""; 0]);
}

#[test]
fn what_a_killed_process_left_is_spoken_of_as_it_is() {
    let lab = lab(1);
    let _desks = lab.twins(0).map(|guest| Desk::open(guest, Flaw::None).unwrap());
    let before = Snapshot::of(&lab, &lab.p).unwrap();
    for (on_crash, state, so) in [
        ("open", "unprotected", "and the guest goes on unprotected"),
        ("closed", "abandoned", "and nothing that the guest sends leaves"),
    ] {
        let primary = Proxy::of(&lab, 0, "primary").with(&format!("--on-crash {on_crash}"));
        let mut live = Live::of(&lab, primary, Proxy::of(&lab, 0, "secondary"), Conduct::Perform).unwrap();
        Visit::download(&lab.client, addresses(0, 0)[0], 1000, 1).unwrap();
        live.p.kill().unwrap();
        let status = live.primary.status(&lab).unwrap();
        assert_eq!(status.state, state);
        let waits = status.waiting_for.unwrap();
        assert!(waits.contains("'colo-proxy teardown --vif vif00'") && waits.ends_with(so), "{waits}");
        live.s.stop().unwrap();
        must(&lab, &lab.p, &["teardown", "--all"]).unwrap();
        assert_eq!(left(&lab, &before), [""; 0]);
    }
}

/// Runs `colo-proxy` as somebody who may do nothing.
fn as_nobody(lab: &Lab, words: &[&str]) -> Output {
    let mut command = Command::new(binary::colo_proxy().unwrap());
    command.args(words).uid(65534).gid(65534).current_dir("/").stdin(Stdio::null());
    lab.s.enter(|| command.output()).unwrap()
}

#[test]
fn who_may_not_ask_is_told_so_and_not_that_nobody_runs() {
    let lab = lab(1);
    let _s = Proxy::of(&lab, 0, "secondary").run(&lab).unwrap();
    let [run_dir, run, bpffs_option, bpffs] = places(&lab);
    let folder = folder(&lab, &lab.s);
    for mode in [0o755, 0o700] {
        // The folder may be looked at, or not even that.
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode)).unwrap();
        for words in [
            &["status"][..],
            &["status", "--name", "vm0"],
            &["checkpoint"],
            &["checkpoint", "--vif", "vif00"],
            &["promote", "--vif", "vif00", &bpffs_option, &bpffs],
            &["promote", "--name", "vm0", &bpffs_option, &bpffs],
            &["teardown", "--vif", "vif00", &bpffs_option, &bpffs],
        ] {
            let output = as_nobody(&lab, &[words, &[&run_dir, &run]].concat());
            let said = text(&output);
            assert_eq!(output.status.code(), Some(1), "{mode:o} {words:?}: {said}");
            let denied = said.contains("ermission denied") || said.contains("not permitted");
            assert!(denied && said.contains("root"), "{mode:o} {words:?}: {said}");
            for wrong in ["no colo-proxy runs", "no guest", "not set up", "nothing is protected"] {
                assert!(!said.contains(wrong), "{mode:o} {words:?}: {said}");
            }
        }
    }
}
