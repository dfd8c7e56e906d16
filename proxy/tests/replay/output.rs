//! What is written besides verdicts.

use crate::support::{Bench, MS, START, Server, binary, run, spaced, udp};
use pcap_file::DataLink;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use std::io::Read;
use std::process::{Command, Stdio};

#[test]
fn the_frames_of_each_divergence_can_be_opened_elsewhere() {
    let bench = Bench::new();
    let server = Server { segment: 60, ..Server::new(4000) };
    let ours = spaced(0, [server.answer(b"the same1 and so on"), vec![udp(1, b"alone")]].concat());
    let theirs = spaced(MS / 2, [server.answer(b"the same2 and so on"), vec![udp(2, b"late")]].concat());
    let out = bench.path("out.pcapng");
    let late = spaced(10_000 * MS, vec![udp(3, b"same")]);
    let run = bench.replay(
        &[ours.clone(), late.clone()].concat(),
        &[theirs.clone(), late].concat(),
        &["--divergence", out.to_str().unwrap()],
    );
    assert_eq!(run.code, 1, "{}", run.stderr);
    let bytes = std::fs::read(&out).unwrap();
    let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
    let (mut names, mut frames) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(interface) => {
                assert_eq!(interface.linktype, DataLink::ETHERNET);
                names.extend(interface.options.iter().filter_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                    _ => None,
                }));
            }
            Block::EnhancedPacket(packet) => {
                let [EnhancedPacketOption::Comment(comment)] = &packet.options[..] else {
                    panic!("a comment")
                };
                let time = packet.timestamp.as_nanos() as u64;
                frames.push((packet.interface_id, time, packet.data.to_vec(), comment.to_string()));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(names, ["primary", "secondary"]);
    // pcaps of microseconds hold what the frames' times are to that resolution.
    let whole = |time: u64| time - time % 1000;
    assert_eq!(frames[0].0, 0);
    assert_eq!((frames[0].1, &frames[0].2), (whole(ours[1].0), &ours[1].1));
    assert_eq!((frames[1].1, &frames[1].2), (whole(theirs[1].0), &theirs[1].1));
    let expected = "diverged: payload at stream offset 8 of tcp 10.0.0.2:80 > 10.0.0.9:4000; \
        primary frame 2 / secondary frame 2; bytes 31 20 61 6e 64 20 73 6f vs 32 20 61 6e 64 20 73 6f";
    assert_eq!((frames[0].3.as_str(), frames[1].3.as_str()), (expected, expected));
    let (ages, sides): (Vec<_>, Vec<_>) = frames[2..].iter().map(|it| (it.3.as_str(), it.0)).unzip();
    assert_eq!(sides, [0, 1]);
    assert!(
        ages[0].contains("age at message offset 0 of udp") && ages[0].contains("no secondary frame"),
        "{ages:?}"
    );
    assert!(ages[1].contains("no primary frame"), "{ages:?}");
    opens_in_tshark(out.to_str().unwrap());
}

/// Where tshark is installed, it reads the file too.
fn opens_in_tshark(path: &str) {
    let fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "frame.comment"];
    let Ok(output) = Command::new("tshark").args(["-r", path]).args(fields).output() else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.starts_with("primary\tdiverged: payload"), "{output:?}");
    assert!(text.contains("secondary\tdiverged"), "{text}");
}

#[test]
fn the_divergences_never_replace_a_capture() {
    let bench = Bench::new();
    let capture = bench.pcap("a.pcap", &spaced(0, vec![udp(1, b"x")]));
    let before = std::fs::read(&capture).unwrap();
    let run = run(&capture, &capture, &["--divergence", capture.to_str().unwrap()]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("is one of the captures"), "{}", run.stderr);
    assert_eq!(std::fs::read(&capture).unwrap(), before);
}

#[test]
fn a_file_that_cannot_be_written_is_trouble() {
    let bench = Bench::new();
    let shots = spaced(0, vec![udp(1, b"x")]);
    let run = bench.replay(&shots, &shots, &["--divergence", "/nowhere/out.pcapng"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("cannot write the divergences to '/nowhere/out.pcapng'"), "{}", run.stderr);
    let other = spaced(0, vec![udp(1, b"y")]);
    let run = bench.replay(&shots, &other, &["--divergence", "/dev/full"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("cannot write the divergences to '/dev/full'"), "{}", run.stderr);
}

#[test]
fn all_flows_are_listed_on_request_and_few_otherwise() {
    let bench = Bench::new();
    let frames = |text: &[u8]| spaced(0, (1..=80).map(|port| udp(port, text)).collect());
    let run = bench.replay(&frames(b"ours"), &frames(b"them"), &[]);
    assert_eq!(run.stdout.matches("diverged  ").count(), 50, "{}", run.stdout);
    assert!(run.stdout.contains("… and 30 more flows; --verbose lists them all"), "{}", run.stdout);
    let run = bench.replay(&frames(b"same"), &frames(b"same"), &[]);
    assert_eq!(run.stdout.lines().count(), 1, "{}", run.stdout);
    let run = bench.replay(&frames(b"same"), &frames(b"same"), &["-v"]);
    assert_eq!(run.stdout.lines().count(), 81);
}

#[test]
fn a_reader_that_goes_away_is_no_trouble() {
    let bench = Bench::new();
    let frames = (1..2000).map(|nr| (START + u64::from(nr), udp(nr, b"same"))).collect::<Vec<_>>();
    let capture = bench.pcap("a.pcap", &frames);
    for args in [&["-v"][..], &["--json"]] {
        let mut command = binary();
        command.arg("replay").arg("--primary").arg(&capture).arg("--secondary").arg(&capture).args(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{stderr}");
        assert_eq!(stderr, "");
    }
}

#[test]
fn output_that_cannot_be_written_is_trouble() {
    let bench = Bench::new();
    let capture = bench.pcap("a.pcap", &spaced(0, vec![udp(1, b"x")]));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = binary();
    command.arg("replay").arg("--primary").arg(&capture).arg("--secondary").arg(&capture);
    let output = command.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot write the report"));
}
