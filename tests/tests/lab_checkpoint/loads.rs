//! The loads themselves, in a guest that stands and goes on.

use super::side::{Boot, Side, is_right};
use colo_tests::lab::{Job, Lease, images};
use std::time::Duration;

const READY: &str = "colo-guest: ready";

#[test]
fn memory_and_clocks_of_a_guest_that_stood_are_right() {
    let boot = Boot::busybox(1);
    let lease = Lease::take().unwrap();
    let side = Side::start(lease.lab().a(), "loads", &["run"], &boot);
    side.converse(
        READY,
        "for load in 'check 16' 'clock 10000' 'dirty 5 16'; do colo-load --every 1 --until /tmp/end $load & done",
        "check: checked [1-9]",
    );
    side.ask("stop+STOP sleep=15 cont+RESUME stop+STOP cont+RESUME");
    let said = side.converse("", "touch /tmp/end; wait; echo; echo all ended", "all ended");
    is_right(&said, "check");
    is_right(&said, "clock");
    assert!(said.contains("dirty: wrote"), "{said}");
    side.converse("", "sync; poweroff -f", "");
    side.ends_well();
}

#[test]
fn the_bank_of_a_debian_that_stood_is_whole() {
    let disk = images::disk().unwrap();
    let lease = Lease::take().unwrap();
    let host = lease.lab().a();
    let overlay = "/tmp/bank.qcow2";
    let make = format!("qemu-img create -q -f qcow2 -F qcow2 -b {} {overlay}", disk.qcow2.display());
    host.run(Job::shell(&make).timeout(Duration::from_mins(5)))
        .map(|made| assert_eq!(made.status, 0))
        .unwrap();
    let side = Side::start(host, "bank", &["run"], &Boot::debian(&disk, 1, overlay));
    side.converse(
        "root@colo:~#",
        "colo-load --every 1 --until /tmp/end bank /root/bank < /dev/null &",
        r"bank: \d+ transfers",
    );
    side.ask("stop+STOP sleep=15 cont+RESUME stop+STOP cont+RESUME");
    let said = side.converse("", "touch /tmp/end; wait; echo; echo all ended", "all ended");
    is_right(&said, "bank");
    side.converse("", "systemctl poweroff", "");
    side.ends_well();
}
