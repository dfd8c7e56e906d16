//! Proof: attached as filters of a `clsact` qdisc, as on kernels before 6.6, a guest is protected as
//! with TCX, and what others have there stays theirs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use colo_tests::netns::desk::Visit;
use colo_tests::netns::lab::addresses;
use colo_tests::netns::live::must;
use colo_tests::netns::{Conduct, Desk, Flaw, Lab, Live, Options, Proxy, Snapshot, Space, Toolstack};
use std::process::Command;

/// A filter of somebody else's that lets every frame go on to the next.
fn another(host: &Space, device: &str, way: &str) {
    let mut tc = Command::new("tc");
    tc.args(["filter", "add", "dev", device, way, "prio", "7", "bpf", "da"]);
    tc.args(["bytecode", "1,6 0 0 4294967295"]);
    assert!(host.enter(|| tc.status()).unwrap().success(), "a filter on {device} {way}");
}

fn lab() -> (Lab, [Desk; 2]) {
    let lab = Lab::new(Options { neighbours: true, ..Options::default() }).unwrap();
    let desks = lab.twins(0).map(|guest| Desk::open(guest, Flaw::None).unwrap());
    (lab, desks)
}

fn protect(lab: &Lab) -> Live {
    let with = |mode| Proxy::of(lab, 0, mode).with("--attach clsact");
    Live::of(lab, with("primary"), with("secondary"), Conduct::Perform).unwrap()
}

fn visit(lab: &Lab, seed: u64) {
    for address in addresses(0, 0) {
        Visit::download(&lab.client, address, 100_000, seed).unwrap();
        Visit::upload(&lab.client, address, 100_000, seed).unwrap();
    }
}

#[test]
fn filters_protect_a_guest_outlive_a_crash_and_go_alone() {
    let (lab, _desks) = lab();
    lab.p.run("tc qdisc add dev vif00 clsact").unwrap();
    another(&lab.p, "vif00", "ingress");
    another(&lab.p, "vif00", "egress");
    let [p, s] = lab.hosts().map(|host| Snapshot::of(&lab, host).unwrap());
    let mut live = protect(&lab);
    visit(&lab, 1);
    for label in ["captured", "received", "released", "mirrored"] {
        assert!(live.primary.kernel(&lab, label).unwrap() > 0, "{label}");
    }
    assert!(live.secondary.kernel(&lab, "forwarded").unwrap() > 0);
    let ours = p.difference(&Snapshot::of(&lab, &lab.p).unwrap());
    for program in ["vif00 ingress: ", "vif00 egress: ", "fwd ingress: "] {
        assert!(ours.iter().any(|line| line.starts_with(&format!("+ filter {program}"))), "{ours:#?}");
    }
    let programs = ours.iter().filter(|line| line.starts_with("+ tcx"));
    assert!(programs.clone().all(|line| line.ends_with("[]")), "nothing as a link: {ours:#?}");
    assert!(!ours.iter().any(|line| line.starts_with("- filter")), "another's are there: {ours:#?}");
    assert!(ours.iter().any(|line| line.starts_with("+ filter vif00 ingress") && line.contains("pref 1 ")));

    live.p.kill().unwrap();
    drop(live.toolstack);
    let mut again = live.primary.run(&lab).unwrap();
    let notify = [&live.primary, &live.secondary].map(|proxy| proxy.notify(&lab));
    let _toolstack = Toolstack::start(&notify[0], Some(&notify[1]), Conduct::Perform).unwrap();
    visit(&lab, 2);
    assert!(again.stop().unwrap().success(), "{}", again.said());
    assert!(live.s.stop().unwrap().success(), "{}", live.s.said());
    assert_eq!(p.difference(&Snapshot::of(&lab, &lab.p).unwrap()), [""; 0], "another's filters are left");
    assert_eq!(s.difference(&Snapshot::of(&lab, &lab.s).unwrap()), [""; 0], "no qdisc of ours is left");
}

#[test]
fn a_qdisc_of_ours_stays_for_a_filter_that_somebody_has_added_since() {
    let (lab, _desks) = lab();
    let before = Snapshot::of(&lab, &lab.s).unwrap();
    let mut live = protect(&lab);
    visit(&lab, 1);
    another(&lab.s, "vif00", "egress");
    live.take_over(&lab).unwrap();
    visit(&lab, 2);
    assert!(live.s.stop().unwrap().success(), "{}", live.s.said());
    must(&lab, &lab.s, &["teardown", "--all"]).unwrap();
    let mut left = before.difference(&Snapshot::of(&lab, &lab.s).unwrap());
    // The other host, which is dead, has its files in the same folder and its end of the link down.
    left.retain(|line| line.contains("qdisc clsact") || line.contains(" filter ") || line.contains(" tcx "));
    let (qdisc, filters): (Vec<_>, Vec<_>) = left.iter().partition(|line| line.contains("qdisc clsact"));
    assert_eq!(qdisc.len(), 1, "{left:#?}");
    assert!(qdisc[0].starts_with("+ tc qdisc show: qdisc clsact ffff: dev vif00"), "{left:#?}");
    assert!(filters.iter().all(|line| line.starts_with("+ filter vif00 egress: ")), "{left:#?}");
    assert!(filters.iter().any(|line| line.contains("pref 7")), "{left:#?}");
    assert!(filters.iter().all(|line| !line.contains("pref 65535")), "{left:#?}");
}
