//! What becomes of flows.

use crate::support::{Bench, GUEST_MAC, MS, Server, Shot, fragments, spaced, udp};
use serde_json::json;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\r\nthe answer that both of them give\n";

/// What a server sends for `answer`, from `from` nanoseconds on.
fn answered(server: Server, from: u64, answer: &[u8]) -> Vec<Shot> {
    spaced(from, server.answer(answer))
}

/// The answer with another byte at `at`.
fn changed(at: usize) -> Vec<u8> {
    let mut answer = ANSWER.to_vec();
    answer[at] ^= 0x20;
    answer
}

#[test]
fn two_runs_that_say_the_same_match_however_they_cut_it() {
    let bench = Bench::new();
    let ours = answered(Server::new(4000), 0, ANSWER);
    let theirs = answered(Server { isn: 77, segment: 7, ..Server::new(4000) }, MS / 2, ANSWER);
    let run = bench.replay(&ours, &theirs, &["--json"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    let report = run.json();
    assert_eq!(report["version"], 1);
    let summary = &report["summary"];
    assert_eq!(summary["flows"], 1);
    assert_eq!(summary["frames_primary"], ours.len());
    assert_eq!(summary["frames_secondary"], theirs.len());
    assert_eq!(summary["released"], ours.len());
    assert_eq!(summary["held"], 0);
    assert_eq!(summary["checkpoints"], 0);
    let flow = &report["flows"][0];
    assert_eq!(flow["proto"], "tcp");
    assert_eq!(flow["a"], "10.0.0.2:80");
    assert_eq!(flow["b"], "10.0.0.9:4000");
    assert_eq!(flow["verdict"], "match");
    assert_eq!(flow["released_bytes"], ANSWER.len());
    assert_eq!(flow["divergence"], json!(null));
    assert_eq!(flow["frames_secondary"], theirs.len());
    let bytes: usize = ours.iter().map(|(_, frame)| frame.len()).sum();
    assert_eq!(flow["bytes_primary"], bytes);
}

#[test]
fn a_difference_is_named_with_its_place_and_both_frames() {
    let bench = Bench::new();
    let ours = answered(Server::new(4000), 0, ANSWER);
    let theirs = answered(Server { isn: 77, segment: 7, ..Server::new(4000) }, 0, &changed(33));
    let run = bench.replay(&ours, &theirs, &["--json"]);
    assert_eq!(run.code, 1);
    let report = run.json();
    assert_eq!(report["summary"]["checkpoints"], 1);
    let flow = &report["flows"][0];
    assert_eq!(flow["verdict"], "diverged");
    let divergence = &flow["divergence"];
    assert_eq!(divergence["cause"], "payload");
    assert_eq!(divergence["offset"], 33);
    // Byte 33 is in the fourth segment of ten, and in the fifth of seven; the SYN comes before.
    assert_eq!(divergence["primary_frame"], 5);
    assert_eq!(divergence["secondary_frame"], 6);
    // Both windows begin where both segments have bytes: three before the difference.
    assert_eq!(divergence["primary_bytes"], "74 68 61 74 20 62 6f 74 68 20");
    assert_eq!(divergence["secondary_bytes"], "74 68 61 54 20");
}

#[test]
fn a_difference_is_shown_to_people_with_the_byte_marked() {
    let bench = Bench::new();
    let ours = answered(Server { segment: 60, ..Server::new(4000) }, 0, ANSWER);
    let theirs = answered(Server { segment: 60, ..Server::new(4000) }, 0, &changed(33));
    let good = answered(Server::new(4001), 0, ANSWER);
    let run = bench.replay(&[ours, good.clone()].concat(), &[theirs, good].concat(), &[]);
    assert_eq!(run.code, 1);
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert!(
        lines[0].starts_with("diverged") && lines[0].contains("10.0.0.2:80 > 10.0.0.9:4000"),
        "{}",
        run.stdout
    );
    assert!(lines[0].contains("payload at stream offset 33"), "{}", run.stdout);
    assert!(
        lines[1].contains("primary   frame 2 ") && lines[1].contains("  swer that both o"),
        "{}",
        run.stdout
    );
    assert!(
        lines[2].contains("secondary frame 2 ") && lines[2].contains("  swer thaT both o"),
        "{}",
        run.stdout
    );
    let mark = lines[3].find("^^").unwrap();
    assert_eq!((&lines[1][mark..mark + 2], &lines[2][mark..mark + 2]), ("74", "54"));
    assert!(lines[4].starts_with("2 flows: 1 diverged, 1 match; "), "{}", run.stdout);
    assert_eq!(lines.len(), 5);
}

#[test]
fn a_flow_is_reported_once_and_the_others_go_on() {
    let bench = Bench::new();
    let bad = |text: &[u8]| (0..5).map(|_| udp(1, text)).collect::<Vec<_>>();
    let ours = [spaced(0, bad(b"ours")), answered(Server::new(4000), 9 * MS, ANSWER)].concat();
    let theirs = [spaced(0, bad(b"them")), answered(Server::new(4000), 9 * MS, ANSWER)].concat();
    let run = bench.replay(&ours, &theirs, &["--json"]);
    let report = run.json();
    assert_eq!((run.code, &report["summary"]["checkpoints"]), (1, &json!(1)));
    let flows = report["flows"].as_array().unwrap();
    let of = |proto: &str| flows.iter().find(|flow| flow["proto"] == proto).unwrap();
    assert_eq!((&of("tcp")["verdict"], &of("udp")["verdict"]), (&json!("match"), &json!("diverged")));
    let divergence = &of("udp")["divergence"];
    assert_eq!((&divergence["cause"], &divergence["offset"]), (&json!("payload"), &json!(0)));
    assert_eq!(of("udp")["frames_primary"], 5);
}

#[test]
fn what_one_side_lacks_at_the_end_is_incomplete() {
    let bench = Bench::new();
    let ours = answered(Server::new(4000), 0, ANSWER);
    let run = bench.replay(&ours, &ours[..4], &["--json"]);
    let report = run.json();
    assert_eq!(run.code, 1);
    assert_eq!(report["flows"][0]["verdict"], "incomplete");
    assert_eq!(report["flows"][0]["released_bytes"], 30);
    assert_eq!(report["flows"][0]["held"], ours.len() - 4);
    assert_eq!(report["summary"]["held"], ours.len() - 4);
    let report = bench.replay(&ours[..4], &ours, &["--json"]).json();
    assert_eq!(report["flows"][0]["verdict"], "incomplete");
    assert_eq!(report["flows"][0]["unmatched"], ours.len() - 4);
    let run = bench.replay(&ours[..4], &ours, &[]);
    assert!(run.stdout.starts_with("incomplete     tcp 10.0.0.2:80 > 10.0.0.9:4000  "), "{}", run.stdout);
}

#[test]
fn what_waits_longer_than_the_timeout_diverges_by_age() {
    let bench = Bench::new();
    let late = |ms: u64| spaced(ms * MS, vec![udp(2, b"the clock goes on")]);
    let ours = [spaced(0, vec![udp(1, b"alone")]), late(600)].concat();
    let run = |timeout: &str| bench.replay(&ours, &late(600), &["--json", "--timeout", timeout]).json();
    let report = run("500");
    let divergence = json!({"cause": "age", "offset": 0, "primary_frame": 1, "secondary_frame": null,
        "primary_bytes": "61 6c 6f 6e 65", "secondary_bytes": null});
    assert_eq!(report["flows"][0]["divergence"], divergence);
    assert_eq!(report["flows"][1]["verdict"], "match");
    let report = run("700");
    assert_eq!(report["summary"]["incomplete"], 1);
    // A twin that is late, but not too late, is a twin.
    let theirs = [late(400), spaced(400 * MS, vec![udp(1, b"alone")])].concat();
    let ours = [spaced(0, vec![udp(1, b"alone")]), late(400)].concat();
    assert_eq!(bench.replay(&ours, &theirs, &["--timeout", "500"]).code, 0);
    assert_eq!(bench.replay(&ours, &theirs, &["--timeout", "300"]).code, 1);
}

#[test]
fn messages_in_another_order_match_as_long_as_none_is_too_late() {
    let bench = Bench::new();
    let order = |first: &[u8], second: &[u8]| {
        [spaced(0, vec![udp(1, first)]), spaced(400 * MS, vec![udp(1, second)])].concat()
    };
    let (ours, theirs) = (order(b"one", b"two"), order(b"two", b"one"));
    assert_eq!(bench.replay(&ours, &theirs, &[]).code, 0);
    let run = bench.replay(&ours, &theirs, &["--json", "--timeout", "300"]);
    assert_eq!(run.json()["flows"][0]["divergence"]["cause"], "payload");
}

#[test]
fn a_reset_in_place_of_data_is_told_apart() {
    let bench = Bench::new();
    let server = Server::new(4000);
    let ours = spaced(0, vec![server.segment("SA", 0, b""), server.segment("A", 1, b"data")]);
    let theirs = spaced(0, vec![server.segment("SA", 0, b""), server.segment("RA", 1, b"")]);
    let run = bench.replay(&ours, &theirs, &["--json"]);
    assert_eq!(run.json()["flows"][0]["divergence"]["cause"], "rst");
    let run = bench.replay(&ours, &theirs, &[]);
    assert!(run.stdout.contains("(RST, no bytes)"), "{}", run.stdout);
}

#[test]
fn only_the_guests_frames_count_if_its_address_is_given() {
    let bench = Bench::new();
    let both = |server: Server, from| {
        let (mut all, answer) = (server.request(), server.answer(ANSWER));
        all.extend(answer);
        all.push(server.request()[1].clone());
        spaced(from, all)
    };
    let (ours, theirs) = (both(Server::new(4000), 0), both(Server::new(4000), 0));
    let run = bench.replay(&ours, &theirs, &["--json", "--guest-mac", GUEST_MAC]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    let report = run.json();
    assert_eq!(report["summary"]["flows"], 1);
    assert_eq!(report["summary"]["frames_primary"], ours.len() - 3);
    assert_eq!(report["summary"]["other_direction_secondary"], 3);
    // Frame numbers count every frame of the file.
    let theirs = spaced(0, [Server::new(4000).request(), Server::new(4000).answer(&changed(0))].concat());
    let report = bench.replay(&ours, &theirs, &["--json", "--guest-mac", GUEST_MAC]).json();
    assert_eq!(report["flows"][0]["divergence"]["primary_frame"], 4);
    // Without the address it is said that there are two directions, and which address it may be.
    let run = bench.replay(&ours, &ours, &[]);
    assert_eq!(run.code, 0);
    assert!(run.stderr.contains("both directions of 1 conversation"), "{}", run.stderr);
    assert!(run.stderr.contains(&format!("--guest-mac {GUEST_MAC}")), "{}", run.stderr);
    // An address that sends nothing is a mistake, not a match.
    let run = bench.replay(&ours, &ours, &["--guest-mac", "52:54:00:00:00:03"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("52:54:00:00:00:03") && run.stderr.contains(GUEST_MAC), "{}", run.stderr);
}

#[test]
fn captures_of_different_times_can_be_aligned() {
    let bench = Bench::new();
    let ours = answered(Server::new(4000), 0, ANSWER);
    let theirs = answered(Server::new(4000), 3_600_000 * MS, ANSWER);
    let run = bench.replay(&ours, &theirs, &[]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("do not overlap in time"), "{}", run.stderr);
    assert!(run.stderr.contains("3599.99") && run.stderr.contains("--align-start"), "{}", run.stderr);
    let run = bench.replay(&ours, &theirs, &["--align-start"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
}

#[test]
fn time_that_goes_back_is_said_and_survived() {
    let bench = Bench::new();
    let mut ours = answered(Server::new(4000), 0, ANSWER);
    ours[3].0 -= 10_000 * MS;
    let run = bench.replay(&ours, &answered(Server::new(4000), 0, ANSWER), &[]);
    assert_eq!(run.code, 0);
    assert!(run.stderr.contains("p.pcap' goes back in time at 1 frame,"), "{}", run.stderr);
}

#[test]
fn rules_let_flows_pass_uncompared() {
    let bench = Bench::new();
    let ours = spaced(0, vec![udp(1, b"ours"), udp(2, b"same")]);
    let theirs = spaced(0, vec![udp(1, b"them"), udp(2, b"same")]);
    for rule in ["pass udp peer :1", "udp peer 10.0.0.0/8:1-1"] {
        let run = bench.replay(&ours, &theirs, &["--json", "--pass", "compare tcp", "--pass", rule]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let report = run.json();
        assert_eq!(report["flows"][0]["verdict"], "passed-through");
        assert_eq!(report["flows"][1]["verdict"], "match");
    }
    let run = bench.replay(&ours, &theirs, &["--pass", "udp peer 10.0.0.300"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("'10.0.0.300' is neither an address nor a network"), "{}", run.stderr);
}

#[test]
fn the_first_divergence_can_be_the_last() {
    let bench = Bench::new();
    let frames = |text: &[u8]| (1..6).map(|port| udp(port, text)).collect::<Vec<_>>();
    let (mut ours, mut theirs) = (spaced(0, frames(b"ours")), spaced(0, frames(b"them")));
    let later = spaced(100 * MS, vec![udp(9, b"both")]);
    ours.extend(later.clone());
    theirs.extend(later);
    assert_eq!(bench.replay(&ours, &theirs, &["--json"]).json()["summary"]["checkpoints"], 5);
    let run = bench.replay(&ours, &theirs, &["--json", "--stop-at-first"]);
    let report = run.json();
    assert_eq!((run.code, &report["summary"]["checkpoints"]), (1, &json!(1)));
    let text = bench.replay(&ours, &theirs, &["--stop-at-first"]).stdout;
    assert!(text.starts_with("diverged") && text.contains("stopped at the first divergence"), "{text}");
    assert!(!text.lines().any(|line| line.starts_with("incomplete")), "{text}");
}

#[test]
fn a_fragment_whose_rest_never_came_is_no_match() {
    let bench = Bench::new();
    let [fragment, rest] = fragments(&udp(1, &[7; 32]));
    let both = spaced(0, vec![udp(2, b"same")]);
    let ours = [both.clone(), spaced(MS, vec![fragment.clone()])].concat();
    let run = bench.replay(&ours, &both, &["--json"]);
    let report = run.json();
    assert_eq!((run.code, &report["summary"]["held"]), (1, &json!(1)));
    assert_eq!(report["flows"][1]["verdict"], "incomplete");
    assert_eq!(bench.replay(&both, &ours, &[]).code, 1);
    let whole = [both.clone(), spaced(MS, vec![udp(1, &[7; 32])])].concat();
    let pieces = [both, spaced(MS, vec![rest, fragment])].concat();
    assert_eq!(bench.replay(&pieces, &whole, &[]).code, 0);
}

#[test]
fn malformed_frames_are_counted() {
    let bench = Bench::new();
    let ours = spaced(0, vec![vec![0; 9], udp(1, b"same")]);
    let run = bench.replay(&ours, &ours[1..], &["--json", "--guest-mac", GUEST_MAC]);
    assert_eq!((run.code, &run.json()["summary"]["malformed"]), (0, &json!(1)));
}
