//! The disks of a guest on two hosts, in the product as it is shipped.
//!
//! The guest numbers the sectors of its disk, and after each writes how far it is into sector 0, one write after the
//! other. So any disk that it could be on has all sectors up to that number, at most one more, and nothing behind:
//! what is lost, or comes too early, shows.

#![cfg(target_arch = "x86_64")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod script;
mod two;

use rustix::process::Signal;
use script::Script;
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use two::{Place, Side, until};

const SECTORS: u64 = 1 << 20;

/// Two hosts with a disk each.
struct Disks {
    place: Place,
    mode: &'static str,
}

impl Disks {
    fn new(mode: &'static str) -> Self {
        let place = Place::new(&Script::default().number_sectors(1).kernel());
        for name in ["primary", "secondary"] {
            File::create(place.path(&format!("{name}.disk"))).unwrap().set_len(512 * SECTORS).unwrap();
        }
        Self { place, mode }
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.place.path(&format!("{name}.disk"))
    }

    fn words(&self, name: &str) -> [String; 4] {
        let disk = format!("path={},format=raw", self.disk(name).display());
        ["--mode".into(), self.mode.into(), "--disk".into(), disk]
    }

    fn primary(&self, more: &[&str]) -> Side {
        let words = self.words("primary");
        let words: Vec<_> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.place.primary(&words)
    }

    fn secondary(&self, more: &[&str]) -> Side {
        let words = self.words("secondary");
        let words: Vec<_> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.place.secondary(&words)
    }

    fn number(&self, name: &str, sector: u64) -> u64 {
        let mut bytes = [0; 4];
        File::open(self.disk(name)).unwrap().read_exact_at(&mut bytes, 512 * sector).unwrap();
        u64::from(u32::from_le_bytes(bytes))
    }

    /// A disk, whole: how far its guest was.
    fn judge(&self, name: &str) -> u64 {
        let far = self.judge_again(name);
        let behind = (far + 2..far + 90).find(|sector| self.number(name, *sector) != 0);
        assert_eq!(behind, None, "{name}, which is at {far}");
        far
    }

    /// The same, of a disk that a guest has numbered before.
    fn judge_again(&self, name: &str) -> u64 {
        let far = self.number(name, 0);
        assert!(far < SECTORS - 100, "the disk is full");
        let wrong = (1..=far).find(|sector| self.number(name, *sector) != *sector);
        assert_eq!(
            wrong.map(|sector| (sector, self.number(name, sector))),
            None,
            "{name}, which is at {far}"
        );
        let next = self.number(name, far + 1);
        assert!([0, far + 1].contains(&next), "{name} has {next} behind {far}");
        far
    }
}

/// What a side says of its disk.
fn disk(side: &Side) -> Value {
    until("its status", || side.status())["disks"][0].clone()
}

/// Waits until its disk does this.
fn does(side: &Side, phase: &str) -> Value {
    until(phase, || Some(disk(side)).filter(|disk| disk["phase"] == phase))
}

/// Waits until all of the first transfer is on the secondary for good.
fn stable(primary: &Side) {
    until("a stable disk", || disk(primary)["missing"].as_u64().filter(|missing| *missing < 64 << 20));
}

/// Ends it in order.
fn end(mut side: Side) {
    side.signal(Signal::TERM);
    assert_eq!(side.process.wait().unwrap().code(), Some(0), "{}", side.log());
}

/// The primary's host dies, the secondary takes over, and ends once all is in its file.
fn die(mut primary: Side, secondary: Side) {
    primary.process.kill().unwrap();
    primary.process.wait().unwrap();
    secondary.phase("lost");
    secondary.take_over();
    // It is in use while what waited is written into it.
    let promoted = |status: &Value| {
        status["disks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|disk| disk["phase"] == "promoted" && disk["left"] == 0)
    };
    until("all disks", || secondary.status().filter(promoted));
    end(secondary);
}

#[test]
fn a_guest_whose_host_dies_goes_on_with_its_disk() {
    for mode in ["periodic", "colo"] {
        for round in 0..3 {
            let disks = Disks::new(mode);
            let secondary = disks.secondary(&[]);
            let primary = disks.primary(&[]);
            primary.level(5 + 20 * round);
            assert_eq!(disk(&primary)["phase"], "replicating", "{}", primary.log());
            assert_eq!(disk(&secondary)["phase"], "following");
            die(primary, secondary);
            let (theirs, ours) = (disks.judge("primary"), disks.judge("secondary"));
            assert!(theirs > 0 && ours > 0, "{mode}: {theirs} {ours}");
        }
    }
}

/// Waits until a session has begun after these, and is level.
fn again(side: &Side, sessions: u64) -> Value {
    until("another session", || {
        let level = |status: &Value| {
            let phase = status["phase"].as_str();
            status["sessions"].as_u64() > Some(sessions) && matches!(phase, Some("level" | "checkpoint"))
        };
        side.status().filter(level)
    })
}

#[test]
fn what_is_written_while_nobody_follows_is_all_that_is_sent_again() {
    for mode in ["periodic", "colo"] {
        let disks = Disks::new(mode);
        let mut secondary = disks.secondary(&[]);
        let primary = disks.primary(&["--peer-timeout", "500"]);
        primary.level(5);
        stable(&primary);
        for lost in 1..=3 {
            if lost == 2 {
                // The same process is there again: its guest and its disk are as they were.
                secondary.signal(Signal::STOP);
                primary.phase("connecting");
                secondary.signal(Signal::CONT);
            } else {
                secondary.process.kill().unwrap();
                secondary.process.wait().unwrap();
                let lonely = does(&primary, "unprotected");
                assert!(lonely["missing"].as_u64().unwrap() < 256 << 20, "{lonely}");
                secondary = disks.secondary(&[]);
            }
            let moved = disk(&primary)["moved"].as_u64().unwrap();
            again(&primary, lost);
            does(&primary, "replicating");
            stable(&primary);
            let sent = disk(&primary)["moved"].as_u64().unwrap() - moved;
            assert!(sent < 256 << 20, "all of it was sent again: {sent}");
        }
        die(primary, secondary);
        assert!(disks.judge("primary") > 0 && disks.judge("secondary") > 0);
    }
}

#[test]
fn a_pair_that_ended_in_order_begins_with_what_it_had() {
    let disks = Disks::new("periodic");
    let mut secondary = disks.secondary(&[]);
    let primary = disks.primary(&[]);
    primary.level(5);
    stable(&primary);
    // Nobody follows for a moment, and then all ends.
    secondary.process.kill().unwrap();
    secondary.process.wait().unwrap();
    does(&primary, "unprotected");
    end(primary);
    let secondary = disks.secondary(&[]);
    let primary = disks.primary(&[]);
    primary.level(2);
    let status = disk(&primary);
    assert!(status["moved"].as_u64().unwrap() < 256 << 20, "all of it was sent again: {status}");
    die(primary, secondary);
    let far = disks.judge_again("primary").max(disks.judge_again("secondary")) + 2;
    // Behind that there is what the guest wrote before, in one run and when nobody followed.
    let [one, other] = ["primary", "secondary"].map(|name| fs::read(disks.disk(name)).unwrap());
    let (one, other) = (&one[512 * far as usize..], &other[512 * far as usize..]);
    assert!(one.iter().any(|byte| *byte != 0) && one == other);
}

/// A primary that was killed does not know what it wrote last: what differs is found by hashes.
#[test]
fn only_what_differs_is_sent_when_nobody_knows_what_that_is() {
    let disks = Disks::new("periodic");
    let secondary = disks.secondary(&[]);
    let mut primary = disks.primary(&[]);
    primary.level(5);
    stable(&primary);
    primary.process.kill().unwrap();
    primary.process.wait().unwrap();
    secondary.phase("lost");
    drop(secondary);
    let secondary = disks.secondary(&[]);
    let primary = disks.primary(&["--sync", "verify"]);
    primary.level(2);
    let status = disk(&primary);
    let number = |word: &str| status[word].as_u64().unwrap();
    // Of 8192 regions of 64 KiB most were equal.
    assert!(number("same") > 4096 && number("moved") < 256 << 20, "{status}");
    end(primary);
    drop(secondary);
    disks.judge_again("primary");
}

#[test]
fn nobody_s_data_is_overwritten_unasked() {
    let disks = Disks::new("periodic");
    let secondary = disks.secondary(&[]);
    let primary = disks.primary(&[]);
    primary.level(5);
    die(primary, secondary);
    let kept = disks.judge("secondary");
    // The old primary would make the one that has gone on what it was.
    let secondary = disks.secondary(&[]);
    let primary = disks.primary(&[]);
    let error = until("a refusal", || {
        primary.status().filter(|status| status["error"].is_string()).map(|status| status["error"].clone())
    });
    let error = error.as_str().unwrap().to_owned();
    assert!(error.contains("disk vda") && error.contains("written to since they were level"), "{error}");
    end(primary);
    assert_eq!(disks.judge("secondary"), kept);
    // With a word it does.
    let primary = disks.primary(&["--sync-force"]);
    primary.level(2);
    drop(secondary);
    drop(primary);
}

#[test]
fn a_disk_of_another_size_is_told_by_both() {
    let disks = Disks::new("periodic");
    File::create(disks.disk("secondary")).unwrap().set_len(512 * (SECTORS - 1)).unwrap();
    let secondary = disks.secondary(&[]);
    let primary = disks.primary(&[]);
    let says = |side: &Side| {
        until("an error", || Some(side.log()).filter(|log| log.contains("vda has") && log.contains("bytes")))
    };
    assert!(says(&primary).contains("make the secondary's as large"), "{}", primary.log());
    assert!(says(&secondary).contains("qemu-img resize"), "{}", secondary.log());
    // Each side can be asked.
    let shown = primary.ask(&["disk", "status"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("vda") && shown.contains("unprotected"), "{shown}");
}

/// Certificates of two hosts, each of which believes the other's alone.
fn certificates(disks: &Disks) -> [Vec<String>; 2] {
    let names = ["primary", "secondary"];
    for name in names {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        fs::write(disks.place.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(disks.place.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    let path = |file: String| disks.place.path(&file).display().to_string();
    let words = |mine: &str, peer: &str| {
        let cert = ["--tls-cert".to_owned(), path(format!("{mine}.pem"))];
        let key = ["--tls-key".to_owned(), path(format!("{mine}.key"))];
        [cert, key, ["--tls-peer".to_owned(), path(format!("{peer}.pem"))]].concat()
    };
    [words(names[0], names[1]), words(names[1], names[0])]
}

#[test]
fn under_tls_and_with_strangers_at_its_port_it_is_the_same() {
    let disks = Disks::new("periodic");
    let [ours, theirs] = certificates(&disks);
    let [ours, theirs] = [&ours, &theirs].map(|words| words.iter().map(String::as_str).collect::<Vec<_>>());
    let secondary = disks.secondary(&theirs);
    until("its socket", || secondary.status());
    let port: u16 = disks.place.address.rsplit_once(':').unwrap().1.parse().unwrap();
    // One that waits, one that talks, and one that asks for what there is.
    let idle = TcpStream::connect(("127.0.0.1", port + 1)).unwrap();
    if let Ok(mut talks) = TcpStream::connect(("127.0.0.1", port + 1)) {
        let _ = talks.write_all(b"GET / HTTP/1.1\r\n\r\n");
    }
    let primary = disks.primary(&ours);
    primary.level(5);
    assert_eq!(disk(&secondary)["phase"], "following");
    drop(idle);
    die(primary, secondary);
    assert!(disks.judge("primary") > 0 && disks.judge("secondary") > 0);
}

/// An image of another format, made of a raw one or of nothing.
fn qemu_img(words: &[&str]) {
    let output = Command::new("qemu-img").args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn several_disks_follow_whatever_their_files_are() {
    let disks = Disks::new("colo");
    let path = |name: &str| disks.place.path(name).display().to_string();
    // The other disk has something on it that no guest touches.
    let data: Vec<u8> = (0..4 << 20).map(|byte: u32| (byte >> 9) as u8).collect();
    fs::write(path("data.raw"), &data).unwrap();
    qemu_img(&["convert", "-O", "qcow2", &path("data.raw"), &path("primary.2")]);
    File::create(path("secondary.2")).unwrap().set_len(4 << 20).unwrap();
    qemu_img(&["create", "-q", "-f", "qcow2", &path("secondary.qcow2"), &(512 * SECTORS).to_string()]);
    let (first, second) =
        (format!("path={}", path("secondary.qcow2")), format!("path={}", path("secondary.2")));
    let words = ["--mode", "colo", "--disk", &first, "--disk", &format!("{second},format=raw")];
    let secondary = disks.place.secondary(&words);
    let second = format!("path={},format=qcow2", path("primary.2"));
    let primary = disks.primary(&["--disk", &second]);
    primary.level(10);
    let both = primary.status().unwrap()["disks"].clone();
    let phases: Vec<_> = both.as_array().unwrap().iter().map(|disk| disk["phase"].clone()).collect();
    assert_eq!(phases, ["replicating", "replicating"], "{both}");
    die(primary, secondary);
    assert!(fs::read(path("secondary.2")).unwrap() == data);
    qemu_img(&["check", "-q", &path("secondary.qcow2")]);
    qemu_img(&["convert", "-O", "raw", &path("secondary.qcow2"), &path("secondary.disk")]);
    assert!(disks.judge("secondary") > 0);
}
