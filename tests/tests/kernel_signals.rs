//! Signals that come while the kernel verifies a program: it gives up with EAGAIN, we do not.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use colo_tests::kernel::Programs;
use colo_tests::kernel::signals::interrupted;
use std::time::Duration;

#[test]
fn programs_load_through_a_storm_of_signals() {
    // What this kernel can do is found out once, by aya, with programs of some instructions.
    drop(Programs::load(1, 16).unwrap());
    // Verifying one takes some milliseconds: each of its first tries is interrupted.
    let (loaded, signals) = interrupted(100, Duration::from_micros(500), || Programs::load(1, 16));
    loaded.unwrap();
    assert!(signals > 0, "it was to be interrupted");
}
