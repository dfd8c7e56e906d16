//! The short form of `cargo xtask chaos checkpoint`: a guest of four vCPUs that runs on both sides, and either is
//! killed; it is saved and restored in between.

use std::process::Command;

#[test]
fn whoever_of_two_is_killed_the_other_goes_on_with_four_vcpus() {
    // The first four of this seed kill each side twice, a secondary once before it is level.
    let rounds = ["--cpus", "4", "kills", "--rounds", "4", "--mode", "colo", "--delay", "250", "--seed", "9"];
    let mut trial = Command::new(env!("CARGO_BIN_EXE_chaos-checkpoint"));
    assert!(trial.args(rounds).status().unwrap().success());
}
