//! Two processes of `colo-vm`, a guest of a few instructions on both: it is kept level, and goes on when its
//! host dies.
//!
//! The guest counts in memory, and says letters in the order of the alphabet as it does: whatever happens to it,
//! a letter that comes after the wrong one shows that it is not what it was.

#![cfg(target_arch = "x86_64")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod script;
mod two;

use rustix::process::Signal;
use script::elf;
use serde_json::Value;
use std::fs;
use std::io::Write as _;
use two::{Place, Side, until};

/// `xor ebx, ebx; again: inc ebx; mov [0x300000], ebx; test ebx, 0xfff; jnz again`, and each 4096th time
/// `al = 'a' + (ebx >> 12) % 16; mov dx, 0x3f8; out dx, al; jmp again`.
const CODE: &[u8] = &[
    0x31, 0xdb, 0x43, 0x89, 0x1d, 0, 0, 0x30, 0, 0xf7, 0xc3, 0xff, 0x0f, 0, 0, 0x75, 0xf1, 0x89, 0xd8, 0xc1,
    0xe8, 0x0c, 0x24, 0x0f, 0x04, 0x61, 0x66, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xe1,
];

/// The same in registers, until 200 letters are said; then it jumps to `0xd0000000`, where nothing is.
const FAILING: &[u8] = &[
    0x31, 0xdb, 0x43, 0xf7, 0xc3, 0xff, 0x0f, 0, 0, 0x75, 0xf7, 0x89, 0xd8, 0xc1, 0xe8, 0x0c, 0x24, 0x0f,
    0x04, 0x61, 0x66, 0xba, 0xf8, 0x03, 0xee, 0x81, 0xfb, 0, 0x80, 0x0c, 0, 0x72, 0xe1, 0xb8, 0, 0, 0, 0xd0,
    0xff, 0xe0,
];

fn counting() -> Place {
    Place::new(&elf(CODE))
}

/// What it says from now on is the alphabet.
fn goes_on(side: &Side) {
    let before = side.printed().len();
    let said = until("a letter", || Some(side.printed()).filter(|said| said.len() > before + 20));
    in_order(&said[before..]);
}

/// Each letter follows the one before it.
fn in_order(said: &[u8]) {
    let wrong = said.windows(2).position(|pair| (pair[0] - b'a' + 1) % 16 != pair[1] - b'a');
    assert_eq!(wrong, None, "{}", String::from_utf8_lossy(said));
}

#[test]
fn a_guest_whose_secondary_stands_goes_on_there() {
    let place = counting();
    let secondary = place.secondary(&["--mode", "periodic"]);
    let mut primary = place.primary(&["--mode", "periodic"]);
    primary.level(20);
    assert_eq!(secondary.printed(), b"", "it has not run");
    primary.process.kill().unwrap();
    let lost = secondary.phase("lost");
    assert!(lost["epoch"].as_u64().unwrap() >= 20, "{lost}");
    secondary.take_over();
    assert_eq!(secondary.phase("alone")["reason"], "request");
    // A fence may say it twice.
    secondary.take_over();
    goes_on(&secondary);
    // It goes on from a letter that the primary was at, or was about to say.
    let (said, goes_on) = (primary.printed(), secondary.printed());
    in_order(&said);
    in_order(&goes_on);
}

#[test]
fn a_guest_that_runs_on_both_sides_goes_on_there() {
    let place = counting();
    let secondary = place.secondary(&["--mode", "colo", "--packing", "delta"]);
    let mut primary = place.primary(&["--mode", "colo", "--packing", "delta"]);
    primary.level(50);
    assert_eq!(secondary.status().unwrap()["phase"].as_str().map(|phase| phase != "lost"), Some(true));
    primary.process.kill().unwrap();
    secondary.phase("lost");
    goes_on(&secondary);
    secondary.take_over();
    goes_on(&secondary);
}

#[test]
fn a_primary_goes_on_alone_and_meets_its_secondary_again() {
    let place = counting();
    let primary = place.primary(&[]);
    goes_on(&primary);
    for _ in 0..3 {
        let mut secondary = place.secondary(&[]);
        primary.level(5);
        secondary.process.kill().unwrap();
        secondary.process.wait().unwrap();
        primary.phase("connecting");
        goes_on(&primary);
    }
    let secondary = place.secondary(&[]);
    primary.level(5);
    // Somebody says that there is to be none: it is not looked for any more.
    let output = primary.ask(&["takeover", "--force"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(primary.phase("alone")["reason"], "request");
    secondary.phase("lost");
    goes_on(&primary);
    in_order(&primary.printed());
}

#[test]
fn a_primary_that_stands_is_noticed() {
    let place = counting();
    let secondary = place.secondary(&["--peer-timeout", "500"]);
    let primary = place.primary(&["--peer-timeout", "500"]);
    primary.level(3);
    primary.signal(Signal::STOP);
    let lost = secondary.phase("lost");
    assert!(lost["error"].as_str().unwrap().contains("heartbeat"), "{lost}");
    secondary.take_over();
    goes_on(&secondary);
}

/// A primary that slept: its secondary gave it up, holds what it had, and gets what has changed since.
#[test]
fn a_link_that_comes_back_costs_no_second_sync() {
    for mode in ["periodic", "colo"] {
        let place = counting();
        let words = ["--mode", mode, "--peer-timeout", "500"];
        let secondary = place.secondary(&words);
        let mut primary = place.primary(&words);
        primary.level(5);
        let first = primary.status().unwrap();
        assert_eq!(
            (&first["sync"]["incremental"], &first["sessions"]),
            (&false.into(), &1.into()),
            "{first}"
        );
        primary.signal(Signal::STOP);
        let held = secondary.phase("lost")["epoch"].as_u64().unwrap();
        assert!(held >= 5);
        primary.signal(Signal::CONT);
        let again = |side: &Side| {
            until("another session", || {
                let level = |status: &Value| {
                    let phase = status["phase"].as_str();
                    status["sessions"].as_u64() >= Some(2) && matches!(phase, Some("level" | "checkpoint"))
                };
                side.status().filter(level)
            })
        };
        for status in [again(&primary), again(&secondary)] {
            assert_eq!(status["sync"]["incremental"], true, "{status}");
            // Of 4096 pages the guest writes one, and its devices few.
            assert!(status["sync"]["sent"].as_u64().unwrap() < 100, "{status}");
        }
        let checkpoints = primary.status().unwrap()["checkpoints"].as_u64().unwrap();
        until("a checkpoint", || {
            primary.status().filter(|status| status["checkpoints"].as_u64() > Some(checkpoints + 5))
        });
        primary.process.kill().unwrap();
        secondary.phase("lost");
        secondary.take_over();
        goes_on(&secondary);
        in_order(&primary.printed());
    }
}

#[test]
fn a_guest_that_ends_ends_on_both_sides() {
    let place = counting();
    let mut secondary = place.secondary(&[]);
    let mut primary = place.primary(&[]);
    primary.level(3);
    primary.signal(Signal::TERM);
    assert_eq!(primary.process.wait().unwrap().code(), Some(0), "{}", primary.log());
    assert_eq!(secondary.process.wait().unwrap().code(), Some(0), "{}", secondary.log());
}

/// A host that cannot run its guest any more is what a secondary is for.
#[test]
fn a_machine_that_fails_is_a_lost_primary() {
    let place = Place::new(&elf(FAILING));
    let mut secondary = place.secondary(&["--mode", "periodic"]);
    let mut primary = place.primary(&["--mode", "periodic"]);
    assert_eq!(primary.process.wait().unwrap().code(), Some(1), "{}", primary.log());
    let lost = secondary.phase("lost");
    assert!(lost["epoch"].as_u64().unwrap() > 0, "{lost}\n{}", primary.log());
    assert!(secondary.process.try_wait().unwrap().is_none());
    secondary.take_over();
}

#[test]
fn a_guest_that_cannot_be_restored_does_not_end_its_secondary() {
    let place = counting();
    let mut secondary = place.secondary(&[]);
    until("its socket", || secondary.status());
    let file = place.path("state");
    fs::write(&file, b"QEVM no state").unwrap();
    let mut primary = place.primary(&["--restore", file.to_str().unwrap()]);
    assert_eq!(primary.process.wait().unwrap().code(), Some(1), "{}", primary.log());
    assert_eq!(secondary.status().unwrap()["sessions"], 0);
    assert!(secondary.process.try_wait().unwrap().is_none());
    place.primary(&[]).level(3);
}

/// One that takes over by itself does so for a host that is gone, and for no other reason.
#[test]
fn nobody_takes_over_from_a_primary_that_lives() {
    let place = counting();
    let alone = ["--on-peer-loss", "take-over", "--peer-timeout", "500"];
    let secondary = place.secondary(&alone);
    let mut primary = place.primary(&["--peer-timeout", "500"]);
    primary.level(3);
    // It was away itself: the primary has given it up, and it hears that when it wakes.
    secondary.signal(Signal::STOP);
    primary.phase("connecting");
    secondary.signal(Signal::CONT);
    let twice = |status: &Value| status["sessions"].as_u64() >= Some(2) && status["phase"] == "level";
    until("another session", || primary.status().filter(twice));
    primary.process.kill().unwrap();
    secondary.phase("alone");
    goes_on(&secondary);
}

#[test]
fn a_primary_that_goes_on_alone_is_not_taken_over_from() {
    let place = counting();
    let secondary = place.secondary(&["--on-peer-loss", "take-over"]);
    let primary = place.primary(&[]);
    primary.level(3);
    let refused = primary.ask(&["save", place.path("state").to_str().unwrap()]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("it has a secondary"), "{said}");
    assert!(primary.ask(&["takeover", "--force"]).status.success());
    let lost = secondary.phase("lost");
    assert!(lost["error"].as_str().unwrap().contains("goes on alone"), "{lost}");
    goes_on(&primary);
    let saved = primary.ask(&["save", place.path("state").to_str().unwrap()]);
    assert!(saved.status.success(), "{saved:?}");
    // It has not taken over, or this would have nothing to do.
    let output = secondary.ask(&["takeover"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("the guest is taken over"), "{said}");
}

#[test]
fn who_is_somebody_else_is_refused_and_disturbs_nobody() {
    let place = counting();
    let secondary = place.secondary(&[]);
    let primary = place.primary(&[]);
    primary.level(3);
    let other = place.side("other", "primary", &["--peer", &place.address, "--vm-id", "another"]);
    until("a refusal", || {
        other
            .status()
            .filter(|status| status["error"].as_str().is_some_and(|error| error.contains("another")))
    });
    let mut garbage = std::net::TcpStream::connect(&place.address).unwrap();
    garbage.write_all(&[0x55; 4096]).unwrap();
    until("a count", || secondary.status().filter(|status| status["refused"].as_u64() >= Some(2)));
    let now = primary.status().unwrap()["epoch"].as_u64().unwrap();
    primary.level(now + 5);
    assert_eq!(primary.status().unwrap()["sessions"], 1);
}

/// A primary that is started again boots a guest of its own: what the secondary keeps is all that is left of the other.
#[test]
fn the_guest_of_a_lost_primary_is_not_replaced_by_another() {
    let place = counting();
    let secondary = place.secondary(&[]);
    let mut primary = place.primary(&[]);
    primary.level(3);
    let output = secondary.ask(&["takeover"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("the primary is there, and both would serve"),
        "{said}"
    );
    primary.process.kill().unwrap();
    secondary.phase("lost");
    let other = place.side("other", "primary", &["--peer", &place.address]);
    until("a refusal", || {
        let keeps = |status: &Value| {
            status["error"].as_str().is_some_and(|error| error.contains("it keeps the guest"))
        };
        other.status().filter(keeps)
    });
    secondary.phase("lost");
    secondary.take_over();
    goes_on(&secondary);
    in_order(&primary.printed());
}

#[test]
fn a_guest_of_another_kind_is_refused_before_anything_is_sent() {
    let place = counting();
    let _secondary = place.secondary(&["--cpus", "2"]);
    let primary = place.primary(&[]);
    let status = until("a refusal", || primary.status().filter(|status| status["error"].is_string()));
    let error = status["error"].as_str().unwrap();
    assert!(error.contains("ours has vCPUs 1;") && error.contains("the peer's vCPUs 2;"), "{error}");
    assert_eq!(status["sessions"], 0);
}

#[test]
fn a_primary_hears_that_it_was_taken_over_from() {
    let place = counting();
    let secondary = place.secondary(&[]);
    let primary = place.primary(&[]);
    primary.level(3);
    assert!(secondary.ask(&["takeover", "--force"]).status.success());
    goes_on(&secondary);
    until("a word", || primary.log().contains("goes on alone, as somebody has told it").then_some(()));
}

/// One that beats less often than it is listened for would be taken for dead.
#[test]
fn two_of_another_rhythm_do_not_meet() {
    let place = counting();
    let _secondary = place.secondary(&[]);
    let primary = place.primary(&["--heartbeat-interval", "300"]);
    let status = until("a refusal", || primary.status().filter(|status| status["error"].is_string()));
    let error = status["error"].as_str().unwrap();
    assert!(error.contains("each 300 ms") && error.contains("each 100 ms"), "{error}");
}

#[test]
fn an_empty_secondary_does_not_take_over() {
    let place = counting();
    let secondary = place.secondary(&[]);
    until("its socket", || secondary.status());
    let output = secondary.ask(&["takeover"]);
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no state to go on from"), "{said}");
    let primary = place.primary(&[]);
    primary.level(1);
}

#[test]
fn a_guest_is_saved_and_goes_on_from_the_file() {
    let place = counting();
    let guest = place.side("guest", "run", &[]);
    goes_on(&guest);
    let file = place.path("state");
    let output = guest.ask(&["save", file.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    goes_on(&guest);
    let restored = place.side("restored", "run", &["--restore", file.to_str().unwrap()]);
    goes_on(&restored);
    in_order(&restored.printed());
    drop(restored);
    // It is refused by a machine that is another one, with a reason.
    let mut wrong = place.side("wrong", "run", &["--cpus", "2", "--restore", file.to_str().unwrap()]);
    assert_eq!(wrong.process.wait().unwrap().code(), Some(1));
    assert!(wrong.log().contains("2 vCPUs"), "{}", wrong.log());
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let mut cut = place.side("cut", "run", &["--restore", file.to_str().unwrap()]);
    assert_eq!(cut.process.wait().unwrap().code(), Some(1));
    assert!(cut.log().contains("cannot go on from the saved state"), "{}", cut.log());
}
