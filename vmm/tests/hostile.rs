//! Guests that do what no driver does, in the product as it is shipped, with its whole sandbox: it stays in
//! command of them, says little, and ends well.

#![cfg(target_arch = "x86_64")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod script;

use script::{AVAILABLE, DESCRIPTORS, MARK, NEXT, Script, USED, WRITE};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Slots of the devices that each guest has, in the order in which a machine adds them.
const DISK: u32 = 1;
const RNG: u32 = 2;

/// A guest with a disk and a source of randomness, and who commands it.
struct Guest {
    directory: tempfile::TempDir,
    process: Child,
    qmp: BufReader<UnixStream>,
    since: Instant,
}

impl Guest {
    fn start(script: Script) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        fs::write(at("kernel"), script.kernel()).unwrap();
        File::create(at("disk")).unwrap().set_len(1 << 20).unwrap();
        let since = Instant::now();
        let mut process = Command::new(env!("CARGO_BIN_EXE_colo-vm"))
            .args(["run", "--kernel", &at("kernel"), "--memory", "16M", "--cpus", "2"])
            .args(["--console", &format!("file:{}", at("console"))])
            .args(["--disk", &format!("path={},format=raw", at("disk"))])
            .args(["--qmp", &format!("unix:{}", at("qmp"))])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(at("said")).unwrap())
            .spawn()
            .unwrap();
        let socket = loop {
            match UnixStream::connect(at("qmp")) {
                Ok(socket) => break socket,
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
            assert_eq!(process.try_wait().unwrap(), None, "{}", fs::read_to_string(at("said")).unwrap());
        };
        let mut guest = Self { directory, process, qmp: BufReader::new(socket), since };
        assert!(guest.answer()["QMP"].is_object());
        assert_eq!(guest.ask("qmp_capabilities"), json!({}));
        guest
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn said(&self) -> String {
        fs::read_to_string(self.path("said")).unwrap()
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.qmp.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "it ended: {}", self.said());
        serde_json::from_str(&line).unwrap()
    }

    /// What a command returns; events are passed over.
    fn ask(&mut self, command: &str) -> Value {
        self.qmp.get_mut().write_all(json!({"execute": command}).to_string().as_bytes()).unwrap();
        loop {
            let mut value = self.answer();
            assert!(value["error"].is_null(), "{command}: {value}");
            if value["event"].is_null() {
                return value["return"].take();
            }
        }
    }

    /// Until it has said this.
    fn hear(&self, word: &str) {
        while !self.said().contains(word) {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Until it has done its table some times.
    fn repeat(&self) {
        let marks =
            |guest: &Self| fs::read(guest.path("console")).unwrap().split(|byte| *byte == MARK).count() - 1;
        while marks(self) < 3 {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// It obeys, says no more than so many lines in each second, and ends.
    fn obeys(mut self) -> String {
        for _ in 0..20 {
            self.ask("stop");
            assert_eq!(self.ask("query-status")["status"], "paused");
            self.ask("cont");
            assert_eq!(self.ask("query-status")["status"], "running");
        }
        self.ask("system_reset");
        self.ask("query-block");
        self.ask("quit");
        let mut last = String::new();
        self.qmp.read_to_string(&mut last).unwrap();
        assert!(last.contains("SHUTDOWN"), "after a reset, too: {last}");
        let exit = self.process.wait().unwrap();
        let said = self.said();
        assert_eq!(exit.code(), Some(0), "{said}");
        // Each kind of complaint has a line per second, and there are some five kinds.
        let most = 20 + 5 * self.since.elapsed().as_secs() as usize;
        assert!(said.lines().count() <= most, "{said}");
        assert!(!said.contains("panicked"), "{said}");
        said
    }
}

/// Numbers that look random, the same each time.
fn numbers() -> impl FnMut(u32) -> u32 {
    let mut state = 0x2545_f491_u32;
    move |below| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state % below
    }
}

#[test]
fn the_script_is_a_driver_if_it_wants_to_be() {
    let script = Script::default().start(DISK).write_sector(0x6c6f_6331).notify(DISK);
    // It waits for the disk, and does it again.
    let guest = Guest::start(script.times(500, |script, _| script.input(1, 0x80)));
    let disk = File::open(guest.path("disk")).unwrap();
    let mut word = [0; 4];
    while word != *b"1col" {
        thread::sleep(Duration::from_millis(5));
        disk.read_exact_at(&mut word, 0).unwrap();
    }
    guest.obeys();
    assert_eq!(disk.metadata().unwrap().len(), 1 << 20);
}

#[test]
fn rings_that_are_none_break_the_device_and_nothing_else() {
    let circle = |script: Script| {
        script.descriptor(0, DESCRIPTORS, 16, NEXT | WRITE, 1).descriptor(1, DESCRIPTORS, 16, NEXT | WRITE, 0)
    };
    for slot in [DISK, RNG] {
        for attack in [
            circle(Script::default().start(slot)).offer(0, 1),
            // More than the ring has.
            Script::default().start(slot).offer(0, 1000),
            // A descriptor that is none.
            Script::default().start(slot).offer(4711, 1),
            // Buffers that are nowhere, and that wrap.
            Script::default().start(slot).descriptor(0, 0xffff_fff0, u32::MAX, WRITE, 0).offer(0, 1),
        ] {
            let guest = Guest::start(attack.notify(slot).times(50, |script, _| script.input(1, 0x80)));
            guest.hear("WARN");
            guest.obeys();
        }
    }
}

#[test]
fn queues_that_are_no_memory_are_not_begun() {
    for slot in [DISK, RNG] {
        for (descriptors, available, used) in [
            (0xffff_fff0, AVAILABLE, USED),
            (DESCRIPTORS, 0xd000_0000, USED),
            (DESCRIPTORS, AVAILABLE, 0x00ff_fffc),
            (DESCRIPTORS + 1, AVAILABLE, USED),
        ] {
            let script = Script::default().start_at(slot, descriptors, available, used);
            let guest = Guest::start(script.notify(slot).status(slot, 0).mark());
            guest.repeat();
            guest.obeys();
        }
    }
}

#[test]
fn a_reset_meets_requests_in_flight_and_a_flood_of_notifications() {
    let again = |script: Script, _| script.start(DISK).write_sector(1).notify(DISK);
    let guest = Guest::start(Script::default().times(20, again).status(DISK, 0));
    guest.hear("disk queue served");
    guest.obeys();
    let flood = Script::default().start(DISK).write_sector(1).start(RNG);
    let guest = Guest::start(flood.times(2000, |script, at| script.notify(1 + at as u32 % 2)).mark());
    guest.repeat();
    guest.obeys();
}

#[test]
fn accesses_to_everything_and_to_nothing() {
    let mut random = numbers();
    let mut script = Script::default();
    let ports = [
        0x20..0x22,
        0x40..0x44,
        // Where no reset is: that would be the end of each round.
        0x60..0x61,
        0x70..0x72,
        0xa0..0xa2,
        0x3f8..0x400,
        // Nothing that reaches into the control register: it powers off.
        0x600..0x601,
        0x606..0x60c,
        0xcfc..0xd00,
        0xc000..0xc300,
        0x5658..0x565c,
        0..0x20,
    ];
    let places = [
        0xa_0000..0x10_0000,
        0xc000_0000..0xc000_8000,
        0xc000_0000..0xfec0_0000,
        0x0200_0000..0xc000_0000,
        0xffff_0000..0xffff_fff0,
    ];
    for _ in 0..3000 {
        let width = 1 << random(3);
        let value = random(u32::MAX);
        // Of some function, or of none.
        script = script.out(4, 0xcf8, 0x8000_0000 | random(0x2000));
        script = if random(2) == 0 {
            let range = &ports[random(ports.len() as u32) as usize];
            let port = range.start + random(u32::from(range.end - range.start)) as u16;
            if random(2) == 0 { script.out(width, port, value) } else { script.input(width, port) }
        } else {
            let range = &places[random(places.len() as u32) as usize];
            let address = range.start + random(range.end - range.start);
            if random(2) == 0 { script.write(width, address, value) } else { script.read(address) }
        };
    }
    let guest = Guest::start(script.mark());
    guest.repeat();
    guest.obeys();
}

#[test]
fn a_guest_that_stands_or_dies_for_ever_can_be_commanded() {
    Guest::start(Script::default().halt()).obeys();
    let guest = Guest::start(Script::default().fault());
    guest.hear("triple fault");
    let said = guest.obeys();
    assert!(said.contains("the guest begins anew"), "{said}");
    // It asks for a reset in three ways.
    let reset = Script::default().out(1, 0x64, 0xfe).out(1, 0xcf9, 6).out(4, 0xcf9, 0x0606_0606);
    let guest = Guest::start(reset);
    guest.hear("the guest begins anew");
    guest.obeys();
}

#[test]
fn a_triple_fault_ends_a_guest_that_is_not_to_begin_anew_with_its_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let kernel = directory.path().join("kernel");
    fs::write(&kernel, Script::default().fault().kernel()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_colo-vm"))
        .args(["run", "--memory", "16M", "--console", "none", "--on-reset", "exit", "--kernel"])
        .arg(&kernel)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("met a triple fault"), "{said}");
}

#[test]
fn files_that_would_wait_for_ever_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    fs::write(at("kernel"), Script::default().halt().kernel()).unwrap();
    let fifo = at("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    // A kernel by its header, with a hole that is larger than any memory.
    let mut header = vec![0; 0x270];
    header[0x202..0x208].copy_from_slice(b"HdrS\x0c\x02");
    fs::write(at("holes"), &header).unwrap();
    File::options().write(true).open(at("holes")).unwrap().set_len(1 << 40).unwrap();
    let (kernel, console, disk) = (at("kernel"), format!("file:{fifo}"), format!("path={fifo}"));
    for (words, says) in [
        (&["--kernel", &fifo][..], "it is not a regular file"),
        (&["--kernel", &kernel, "--initrd", &fifo], "it is not a regular file"),
        (&["--kernel", &kernel, "--initrd", "/"], "it is not a regular file"),
        (&["--kernel", &kernel, "--console", &console], "cannot write the console to"),
        (&["--kernel", &kernel, "--disk", &disk], "neither a file nor a block device"),
        (&["--kernel", &at("holes")], "raise --memory"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_colo-vm"))
            .args(["run", "--memory", "16M"])
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
        assert!(said.contains(says), "{words:?}: {said}");
    }
}
