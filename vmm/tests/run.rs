//! `colo-vm run` from its words to its exit code, with a small real guest and a process of its own: the
//! whole sandbox is on. QEMU's Python package (`qemu.qmp`) is the judge of QMP.

#![cfg(target_arch = "x86_64")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "run/controls.rs"]
mod controls;
mod guest;

use colo_vmm::cli;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

/// The words, one to a line, for a process that this test starts to run itself in.
const WORDS: &str = "COLO_TEST_RUN_WORDS";
const QMP_PACKAGE: &str = "qemu.qmp==0.0.6";

/// The guest's process; it does nothing in the process of the tests.
#[test]
fn child() {
    if let Ok(words) = std::env::var(WORDS) {
        let words = words.lines().map(Into::into);
        let exit = cli::main(["colo-vm".into()].into_iter().chain(words), guest::assemble);
        std::process::exit(exit.code().into());
    }
}

fn command(words: &[&str]) -> Command {
    command_of("run", words)
}

fn command_of(order: &str, words: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]);
    command.env(WORDS, [&[order], words].concat().join("\n")).env("RUST_BACKTRACE", "0");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A guest that runs, and what it is reached by.
struct Guest {
    directory: tempfile::TempDir,
    process: Child,
}

impl Guest {
    fn start(more: &[&str]) -> Self {
        Self::start_as("run", more)
    }

    fn start_as(order: &str, more: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        fs::write(at("kernel"), "x").unwrap();
        let (kernel, qmp, console) = (at("kernel"), at("qmp"), at("console"));
        let (qmp, console) = (format!("unix:{qmp}"), format!("unix:{console},server"));
        let mut words = vec!["--name", "web", "--kernel", &kernel, "--qmp", &qmp, "--console", &console];
        words.extend(more);
        let process = command_of(order, &words).spawn().unwrap();
        Self { directory, process }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A negotiated connection, once the guest is there.
    fn qmp(&self) -> Qmp {
        let socket = connect(&self.path("qmp"));
        let mut qmp = Qmp(BufReader::new(socket));
        assert!(qmp.read()["QMP"].is_object());
        assert_eq!(qmp.ask("qmp_capabilities"), json!({"return": {}}));
        qmp
    }

    fn end(self) -> (Option<i32>, String) {
        let path = self.path("qmp");
        let output = self.process.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!path.exists(), "the socket's file goes with it: {said}");
        (output.status.code(), said)
    }
}

fn connect(path: &Path) -> UnixStream {
    loop {
        match UnixStream::connect(path) {
            Ok(socket) => return socket,
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

struct Qmp(BufReader<UnixStream>);

impl Qmp {
    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// The answer; events that come first are passed over.
    fn ask(&mut self, command: &str) -> Value {
        self.say(&json!({"execute": command}))
    }

    fn say(&mut self, request: &Value) -> Value {
        self.0.get_mut().write_all(request.to_string().as_bytes()).unwrap();
        loop {
            let value = self.read();
            if value["event"].is_null() {
                return value;
            }
        }
    }
}

/// A Python with QEMU's package, made once.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("qmp-venv");
        let python = target.join("bin/python3");
        let there = |output: Output| output.status.success();
        let import = |python: &Path| Command::new(python).args(["-c", "import qemu.qmp.qmp_shell"]).output();
        if !import(&python).is_ok_and(there) {
            let venv = Command::new("python3").args(["-m", "venv", "--clear"]).arg(&target).output().unwrap();
            assert!(venv.status.success(), "python3-venv is needed: {venv:?}");
            let pip =
                Command::new(&python).args(["-m", "pip", "install", "-q", QMP_PACKAGE]).output().unwrap();
            assert!(pip.status.success(), "{QMP_PACKAGE} of PyPI is needed: {pip:?}");
        }
        python
    })
}

#[test]
fn qemus_own_package_controls_a_guest() {
    let python = python();
    let guest = Guest::start(&[]);
    drop(guest.qmp());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conversation.py");
    let output = Command::new(python).arg(script).arg(guest.path("qmp")).output().unwrap();
    let (code, said) = guest.end();
    let talked =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && talked.contains("the conversation went well"), "{talked}\n{said}");
    assert_eq!(code, Some(0), "a guest that powers off: {said}");
    assert!(said.contains("runs web: 1 vCPU, 512M of RAM"), "{said}");
}

#[test]
fn qmp_shell_controls_a_guest() {
    let python = python();
    let guest = Guest::start(&[]);
    drop(guest.qmp());
    let mut shell = Command::new(python)
        .args(["-m", "qemu.qmp.qmp_shell"])
        .arg(guest.path("qmp"))
        .env("HOME", guest.directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(b"stop\nquery-status\ncont\nquit\n").unwrap();
    let output = shell.wait_with_output().unwrap();
    let talked = String::from_utf8_lossy(&output.stdout);
    let (code, said) = guest.end();
    assert_eq!(code, Some(0), "{said}");
    for says in ["Connected to", "\"status\": \"paused\"", "\"return\": {}"] {
        assert!(talked.contains(says), "{talked}{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn what_is_typed_reaches_the_guest_and_what_it_says_the_client() {
    let guest = Guest::start(&[]);
    let mut console = connect(&guest.path("console"));
    let typed: Vec<u8> = (0..100).map(|at| b'a' + at % 26).collect();
    console.write_all(&typed).unwrap();
    let mut said = vec![0; typed.len()];
    console.read_exact(&mut said).unwrap();
    assert_eq!(said, typed, "the guest says what it reads, and has room for 16 keys at a time");
    guest.qmp().ask("quit");
    assert_eq!(guest.end().0, Some(0));
}

#[test]
fn a_reset_has_an_exit_code_of_its_own_if_it_is_to_end() {
    let guest = Guest::start(&["--on-reset", "exit"]);
    assert_eq!(guest.qmp().ask("system_reset"), json!({"return": {}}));
    assert_eq!(guest.end().0, Some(3));
    let guest = Guest::start(&[]);
    let mut qmp = guest.qmp();
    qmp.ask("system_reset");
    assert_eq!(qmp.ask("query-status")["return"]["running"], true);
    qmp.ask("quit");
    assert_eq!(guest.end().0, Some(0));
}

#[test]
fn a_signal_ends_it_and_clients_hear_of_it() {
    let guest = Guest::start(&[]);
    let mut qmp = guest.qmp();
    // Its socket is there a moment before it runs.
    while qmp.ask("query-status")["return"]["running"] != true {
        thread::yield_now();
    }
    let process = rustix::process::Pid::from_child(&guest.process);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    let mut event = qmp.read();
    if event["event"] == "RESUME" {
        event = qmp.read();
    }
    assert_eq!((&event["event"], &event["data"]["guest"]), (&json!("SHUTDOWN"), &json!(false)));
    let (code, said) = guest.end();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn many_clients_are_served_and_one_too_many_is_told_so() {
    let guest = Guest::start(&[]);
    let mut clients: Vec<Qmp> = (0..8).map(|_| guest.qmp()).collect();
    let mut refused = String::new();
    connect(&guest.path("qmp")).read_to_string(&mut refused).unwrap();
    assert!(refused.contains("too many clients"), "{refused}");
    for client in &mut clients {
        assert_eq!(client.ask("query-status")["return"]["status"], "running");
    }
    // One that sends without end is let go, and the others do not notice.
    let mut rude = clients.pop().unwrap();
    rude.0.get_mut().write_all(&b"{\"a\":".repeat(100)).unwrap();
    let mut last = String::new();
    rude.0.read_to_string(&mut last).unwrap();
    assert!(last.contains("nested more than 32 deep; the connection is closed"), "{last}");
    clients[0].ask("quit");
    assert_eq!(guest.end().0, Some(0));
}

#[test]
fn a_client_that_reads_nothing_holds_nobody_up() {
    let guest = Guest::start(&[]);
    let mut deaf = connect(&guest.path("qmp"));
    deaf.write_all(br#"{"execute":"qmp_capabilities"}"#).unwrap();
    deaf.set_nonblocking(true).unwrap();
    // Until it is read no more: what it asked for waits, and takes no more memory.
    let question = br#"{"execute":"query-commands"}"#.repeat(100);
    let mut asked = 0;
    let mut qmp = guest.qmp();
    loop {
        match deaf.write(&question) {
            Ok(count) => asked += count,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                // It may be that it was just not read yet.
                qmp.ask("query-status");
                qmp.ask("query-status");
                if deaf.write(&question).is_err() {
                    break;
                }
            }
        }
        assert!(asked < 64 << 20, "it is read for ever");
    }
    assert_eq!(qmp.ask("query-status")["return"]["running"], true);
    qmp.ask("quit");
    assert_eq!(guest.end().0, Some(0));
}

/// A terminal, and whether its lines are edited and echoed.
fn terminal() -> (fs::File, fs::File, impl Fn() -> bool) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let modes = slave.try_clone().unwrap();
    let cooked =
        move || tcgetattr(&modes).unwrap().local_modes.contains(LocalModes::ICANON | LocalModes::ECHO);
    (master.into(), slave, cooked)
}

#[test]
fn a_terminal_is_the_guests_until_ctrl_a_x_and_then_as_before() {
    let directory = tempfile::tempdir().unwrap();
    let kernel = directory.path().join("kernel");
    fs::write(&kernel, "x").unwrap();
    let (mut master, slave, cooked) = terminal();
    assert!(cooked());
    let mut command = command(&["--kernel", kernel.to_str().unwrap()]);
    command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut first = String::new();
    let mut said = BufReader::new(process.stderr.take().unwrap());
    said.read_line(&mut first).unwrap();
    assert!(first.contains("console on this terminal; Ctrl-a x ends it"), "{first}");
    assert!(!cooked(), "keys are the guest's");
    master.write_all(b"key\x03\x01\x01.").unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"key\x03\x01.") {
        let mut byte = [0];
        master.read_exact(&mut byte).unwrap();
        seen.extend(byte);
    }
    master.write_all(b"\x01x").unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(0));
    assert!(cooked(), "the terminal is as before");
}

#[test]
fn what_cannot_be_run_is_said_with_its_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    fs::write(at("bad.toml"), "kernel = 'k'\nmemroy = '1G'").unwrap();
    fs::write(at("good.toml"), format!("kernel = '{}'\nconsole = 'none'", at("no-kernel"))).unwrap();
    let _taken = colo_proxy::listener::Listener::bind(Path::new(&at("taken"))).unwrap();
    let taken = format!("unix:{}", at("taken"));
    for (words, code, says) in [
        (&[][..], 2, "no kernel is named; write --kernel FILE"),
        (&["--memory", "1X"], 2, "write a number with M, G"),
        (
            &["--config", &at("bad.toml")],
            2,
            "line 2: \"memroy\" is no key of the configuration; did you mean memory?",
        ),
        (&["--config", &at("none.toml")], 2, "No such file"),
        (&["--config", &at("good.toml")], 1, "error: cannot read the kernel"),
        (&["--kernel", "k", "--qmp", &taken], 1, "another process listens on"),
        (&["--kernel", "k", "--console", "file:/nowhere/x"], 1, "cannot write the console to /nowhere/x"),
        (&["--help"], 0, ""),
    ] {
        let output = command(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(says), "{words:?}: {said}");
    }
}
