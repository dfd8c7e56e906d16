//! Proof: a guest that cannot be compared any more stops no other guest of its process, and its own
//! output does what was asked for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use colo_tests::binary;
use colo_tests::netns::desk::Visit;
use colo_tests::netns::lab::{addresses, mac, vif};
use colo_tests::netns::live::{must, places};
use colo_tests::netns::program::Program;
use colo_tests::netns::{Conduct, Desk, Flaw, Lab, Live, Options, Proxy, Recorder, Snapshot, Space, until};
use std::process::Command;

/// One process for both guests, the second one first: its name is the process's.
fn both(lab: &Lab, host: &Space, mode: &str, on_crash: &str) -> Program {
    let [_, run, _, bpffs] = places(lab);
    let guest = |vm: u8| {
        format!(
            "[[guest]]\nname = 'vm{vm}'\nmode = '{mode}'\non-crash = '{on_crash}'\n\
             [[guest.nic]]\nvif = '{}'\nforward = 'fwd'\nindex = {vm}\n",
            vif(vm, 0)
        )
    };
    let file = lab.dir().join(format!("{mode}.toml"));
    let text = format!("run-dir = '{run}'\nbpffs = '{bpffs}'\n{}{}", guest(1), guest(0));
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(binary::colo_proxy().unwrap());
    command.arg("run").arg("--config").arg(&file);
    let mut program = Program::start(host, &mut command, &lab.dir().join(format!("{mode}.log"))).unwrap();
    until("both guests are set up", || {
        program.must_run()?;
        let said = program.said();
        Ok((said.contains("index 0 on fwd") && said.contains("index 1 on fwd")).then_some(()))
    })
    .unwrap();
    program
}

/// The name of the tap that a vif's output goes to: they are numbered in the order of the guests.
fn lose_the_second_tap(lab: &Lab) {
    lab.p.run("ip link del colo1").unwrap();
}

fn lab_and_desks() -> (Lab, Vec<Desk>) {
    let lab = Lab::new(Options { vms: 2, neighbours: true, ..Options::default() }).unwrap();
    let guests = lab.pg.iter().chain(&lab.sg);
    let desks = guests.map(|guest| Desk::open(guest, Flaw::None).unwrap()).collect();
    (lab, desks)
}

fn download(lab: &Lab, vm: u8, seed: u64) {
    for address in addresses(vm, 0) {
        Visit::download(&lab.client, address, 100_000, seed).unwrap();
    }
}

fn ask_for_checkpoint(lab: &Lab, guest: &str) -> String {
    let [run_dir, run, ..] = places(lab);
    let mut command = Command::new(binary::colo_proxy().unwrap());
    command.args(["checkpoint", "--name", guest]).args([run_dir, run]);
    let output = lab.p.enter(|| command.output()).unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// The first guest has failed, its process has said so once, and goes on.
fn has_failed(lab: &Lab, program: &mut Program) {
    let guest = Proxy::of(lab, 0, "primary");
    let status = until("the guest has failed", || {
        let status = guest.status(lab)?;
        Ok((status.state == "failed").then_some(status))
    })
    .unwrap();
    assert!(status.failure.unwrap().contains("cannot read from the capture tap"));
    until("it is said", || Ok(program.said().contains("the other guests go on").then_some(()))).unwrap();
    program.must_run().unwrap();
    assert_eq!(program.said().matches("cannot read from the capture tap").count(), 1, "{}", program.said());
    assert_eq!(Proxy::of(lab, 1, "primary").status(lab).unwrap().state, "protected");
    assert!(ask_for_checkpoint(lab, "vm1").contains("vm1: a checkpoint is asked for"));
    assert!(
        ask_for_checkpoint(lab, "vm0").contains("not looked after any more; 'colo-proxy status' says why")
    );
}

#[test]
fn with_on_crash_open_it_goes_on_alone_beside_one_that_is_protected() {
    let (lab, _desks) = lab_and_desks();
    let _s = both(&lab, &lab.s, "secondary", "open");
    let before = Snapshot::of(&lab, &lab.p).unwrap();
    let mut p = both(&lab, &lab.p, "primary", "open");
    (0..2).for_each(|vm| download(&lab, vm, 1));
    let compared = || Proxy::of(&lab, 1, "primary").kernel(&lab, "released").unwrap();
    let released = compared();
    lose_the_second_tap(&lab);
    has_failed(&lab, &mut p);
    (0..2).for_each(|vm| download(&lab, vm, 2));
    assert!(compared() > released, "the other is compared as before");
    assert_eq!(p.stop().unwrap().code(), Some(1), "{}", p.said());
    assert!(p.said().contains("stopped with guests that had failed before, as was reported then: vm0"));
    assert_eq!(before.difference(&Snapshot::of(&lab, &lab.p).unwrap()), [""; 0]);
}

#[test]
fn with_on_crash_closed_nothing_of_it_leaves_until_another_process_takes_it_over() {
    let (lab, _desks) = lab_and_desks();
    let _s = both(&lab, &lab.s, "secondary", "closed");
    let before = Snapshot::of(&lab, &lab.p).unwrap();
    let mut p = both(&lab, &lab.p, "primary", "closed");
    (0..2).for_each(|vm| download(&lab, vm, 1));
    lose_the_second_tap(&lab);
    has_failed(&lab, &mut p);
    let left =
        Recorder::of(&lab.p, "uplink", 64, |frame| frame.outgoing && frame.source() == Some(mac(0, 0)))
            .unwrap();
    let said = Recorder::of(&lab.pg[0], "eth0", 64, |frame| frame.outgoing).unwrap();
    let mut other = std::thread::scope(|scope| {
        let connecting = scope.spawn(|| download(&lab, 0, 2));
        until("the guest has answered, again and again", || Ok((said.seen() >= 3).then_some(()))).unwrap();
        assert_eq!(left.stop().unwrap().frames.len(), 0, "nothing left");
        download(&lab, 1, 2);
        let other = Proxy::of(&lab, 0, "primary").run(&lab).unwrap();
        connecting.join().unwrap();
        other
    });
    let status = Proxy::of(&lab, 0, "primary").status(&lab).unwrap();
    assert_eq!(status.state, "protected", "only who looks after it speaks of it");
    assert_eq!(p.stop().unwrap().code(), Some(1), "{}", p.said());
    download(&lab, 0, 3);
    assert!(other.stop().unwrap().success(), "{}", other.said());
    let notify = |line: &String| !line.contains(".notify");
    let left: Vec<String> = before.difference(&Snapshot::of(&lab, &lab.p).unwrap());
    assert_eq!(left.into_iter().filter(notify).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn the_only_guest_of_a_process_ends_it_and_a_teardown_beside_it_stops_nobody() {
    let lab = Lab::new(Options { neighbours: true, ..Options::default() }).unwrap();
    let before = Snapshot::of(&lab, &lab.p).unwrap();
    let mut live = Live::start(&lab, Conduct::Perform).unwrap();
    lab.p.run("ip link del colo0").unwrap();
    assert_eq!(live.p.wait().unwrap().code(), Some(1));
    assert_eq!(live.p.said().matches("cannot read from the capture tap").count(), 1, "{}", live.p.said());
    let status = live.primary.status(&lab).unwrap();
    assert_eq!(status.state, "abandoned");
    assert!(status.waiting_for.unwrap().contains("cannot read from the capture tap"));
    must(&lab, &lab.p, &["teardown", "--all"]).unwrap();
    live.s.stop().unwrap();
    let left: Vec<String> = before.difference(&Snapshot::of(&lab, &lab.p).unwrap());
    assert_eq!(left.into_iter().filter(|line| !line.contains(".notify")).collect::<Vec<_>>(), [""; 0]);

    // The same of one guest of two, whose process goes on.
    drop((live, lab));
    let (lab, _desks) = lab_and_desks();
    let _s = both(&lab, &lab.s, "secondary", "closed");
    let mut p = both(&lab, &lab.p, "primary", "closed");
    lose_the_second_tap(&lab);
    has_failed(&lab, &mut p);
    must(&lab, &lab.p, &["teardown", "--vif", "vif00"]).unwrap();
    p.must_run().unwrap();
    assert!(Proxy::of(&lab, 0, "primary").status(&lab).is_err(), "nobody speaks of it any more");
    download(&lab, 1, 3);
}
