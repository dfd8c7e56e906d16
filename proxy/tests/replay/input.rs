//! What can be read, and what is said of what cannot.

use crate::support::{Bench, Run, START, Server, Shot, binary, fragments, pcap, pcapng, run, spaced, udp};
use pcap_file::{Endianness, TsResolution};
use std::path::PathBuf;

fn shots() -> Vec<Shot> {
    spaced(123, Server::new(4000).answer(b"an answer of some length, so that there are segments"))
}

fn fails(run: &Run, parts: &[&str]) {
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert_eq!(run.stdout, "");
    for part in parts {
        assert!(run.stderr.contains(part), "'{part}' is not in: {}", run.stderr);
    }
}

#[test]
fn every_format_gives_the_same_verdict() {
    let bench = Bench::new();
    let shots = shots();
    let files: Vec<PathBuf> = [
        ("a.pcap", pcap(TsResolution::MicroSecond, Endianness::Little, &shots)),
        ("b.pcap", pcap(TsResolution::MicroSecond, Endianness::Big, &shots)),
        ("c.pcap", pcap(TsResolution::NanoSecond, Endianness::Little, &shots)),
        ("d.pcap", pcap(TsResolution::NanoSecond, Endianness::Big, &shots)),
        ("e.pcapng", pcapng(&shots)),
    ]
    .map(|(name, bytes)| bench.file(name, &bytes))
    .into();
    for file in &files {
        let run = run(&files[0], file, &["--json"]);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", file.display());
        assert_eq!(run.json()["summary"]["duration_ms"], shots.len() - 1, "{}", file.display());
    }
}

#[test]
fn a_file_that_is_cut_is_named_with_the_place() {
    let bench = Bench::new();
    let good = bench.pcap("good.pcap", &shots());
    let bytes = std::fs::read(&good).unwrap();
    let cut = bench.file("cut.pcap", &bytes[..bytes.len() - 5]);
    let last = bytes.len() - 16 - shots().last().unwrap().1.len();
    fails(&run(&good, &cut, &["--json"]), &["cut.pcap' is truncated", &format!("at byte {last}")]);
    fails(&run(&cut, &good, &[]), &["cut.pcap' is truncated"]);
    let bytes = pcapng(&shots());
    let cut = bench.file("cut.pcapng", &bytes[..bytes.len() - 5]);
    fails(&run(&good, &cut, &[]), &["cut.pcapng' is truncated", "pcapng block at byte"]);
}

#[test]
fn what_is_no_capture_is_refused() {
    let bench = Bench::new();
    let good = bench.pcap("good.pcap", &shots());
    let text = bench.file("text.pcap", b"this is no capture");
    fails(&run(&text, &good, &[]), &["text.pcap' is not a capture", "at byte 0", "74 68 69 73"]);
    let empty = bench.file("empty.pcap", b"");
    fails(&run(&good, &empty, &[]), &["empty.pcap' is empty (0 bytes)"]);
    fails(
        &run(&good, &bench.path("none.pcap"), &[]),
        &["cannot open the capture", "none.pcap", "No such file"],
    );
    fails(&run(&good, &bench.path(""), &[]), &["cannot read the capture", "at byte 0", "directory"]);
}

#[test]
fn only_ethernet_can_be_compared() {
    let bench = Bench::new();
    let good = bench.pcap("good.pcap", &shots());
    let mut bytes = std::fs::read(&good).unwrap();
    bytes[20] = 113;
    let cooked = bench.file("any.pcap", &bytes);
    fails(
        &run(&cooked, &good, &[]),
        &["any.pcap' at byte 20", "link type 113 (Linux cooked)", "only Ethernet"],
    );
}

#[test]
fn a_frame_that_was_captured_in_part_cannot_be_compared() {
    let bench = Bench::new();
    let good = bench.pcap("good.pcap", &shots());
    let mut bytes = std::fs::read(&good).unwrap();
    let second = 24 + 16 + shots()[0].1.len();
    bytes[second + 13] = 5; // The original length of the second frame, plus 5 * 256.
    let snapped = bench.file("snapped.pcap", &bytes);
    let place = format!("at byte {second}: only 64 of the 1344 bytes of frame 2");
    fails(&run(&good, &snapped, &[]), &["snapped.pcap'", &place, "tcpdump -s 0"]);
    // Unless it is not the guest's.
    let run = run(&good, &snapped, &["--guest-mac", "52:54:00:00:00:09"]);
    assert!(run.stderr.contains("no frame of either capture comes from"), "{}", run.stderr);
}

#[test]
fn captures_without_frames_are_said_to_be_so() {
    let bench = Bench::new();
    let run = bench.replay(&[], &[], &[]);
    assert_eq!((run.code, run.stdout.as_str()), (0, "no frames to compare\n"));
    assert!(run.stderr.contains("no frames to compare"), "{}", run.stderr);
    let run = bench.replay(&shots(), &[], &[]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("the secondary's capture holds no frame of the guest"), "{}", run.stderr);
}

#[test]
fn a_command_that_is_wrong_is_explained() {
    let bench = Bench::new();
    let good = bench.pcap("good.pcap", &shots());
    fails(&run(&good, &good, &["--timeout", "0"]), &["--timeout"]);
    fails(&run(&good, &good, &["--guest-mac", "52:54"]), &["'52:54' is no MAC address"]);
    fails(&run(&good, &good, &["--jsn"]), &["--json"]);
    let output = binary().arg("repaly").output().unwrap();
    fails(&output.into(), &["replay"]);
    let output = binary().args(["replay", "--primary", "x"]).output().unwrap();
    fails(&output.into(), &["--secondary"]);
    let help: Run = binary().args(["replay", "--help"]).output().unwrap().into();
    assert!(help.stdout.contains("Exit codes:") && help.stdout.contains("Examples:"), "{}", help.stdout);
}

/// A generator of noise that is the same in every run (Marsaglia's xorshift64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

#[test]
fn no_damage_makes_it_panic() {
    let bench = Bench::new();
    let mut shots = shots();
    shots.push((START, udp(8, b"a message")));
    shots.extend(fragments(&udp(7, &[1; 64])).map(|fragment| (START, fragment)));
    let good = bench.file("good.pcapng", &pcapng(&shots));
    let sources = [pcap(TsResolution::MicroSecond, Endianness::Little, &shots), pcapng(&shots)];
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut codes = [0; 3];
    for nr in 0..200 {
        let mut bytes = sources[nr % 2].clone();
        for _ in 0..=noise.below(4) {
            let at = noise.below(bytes.len());
            match noise.below(5) {
                0 => bytes[at] = 0xff,
                1 => bytes[at] ^= 1 << noise.below(8),
                2 => bytes.truncate(at.max(1)),
                3 => drop(bytes.drain(at..(at + noise.below(40)).min(bytes.len() - 1).max(at))),
                _ => bytes[at] = noise.next() as u8,
            }
        }
        let bad = bench.file("bad", &bytes);
        let args: &[&str] = if nr % 3 == 0 { &["--json", "--align-start"] } else { &["-v"] };
        let run = if nr % 4 < 2 { run(&bad, &good, args) } else { run(&good, &bad, args) };
        assert!(!run.stderr.contains("panicked"), "{nr}: {}", run.stderr);
        codes[usize::try_from(run.code).unwrap()] += 1;
    }
    assert!(codes.iter().all(|&count| count > 5), "every kind of end was met: {codes:?}");
}
