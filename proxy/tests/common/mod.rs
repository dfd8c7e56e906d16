//! A comparer process, peers for its sockets, and frames to send.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(unreachable_pub, reason = "it is a part of each test file")]
#![allow(clippy::unwrap_used, reason = "a fixture that fails is a test that fails")]

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long anything that must happen may take.
pub const LONG: Duration = Duration::from_secs(30);

/// How long is waited for what must not happen.
pub const SHORT: Duration = Duration::from_millis(300);

pub const DO_CHECKPOINT: &[u8] = b"DO_CHECKPOINT";
pub const HELLO_REPLY: &[u8] = b"COLO_COMPARE_GET_XEN_INIT";

/// A `colo-proxy compare` that is killed when it is dropped.
pub struct Comparer {
    child: Child,
    directory: tempfile::TempDir,
    log: Arc<(Mutex<Vec<String>>, Condvar)>,
}

/// What a comparer left when it stopped.
pub struct Stopped {
    pub code: Option<i32>,
    pub stdout: String,
    pub log: Vec<String>,
    pub directory: tempfile::TempDir,
}

impl Stopped {
    pub fn report(&self) -> Value {
        serde_json::from_str(&self.stdout).expect("one JSON object on stdout")
    }
}

impl Comparer {
    /// Four unix sockets and more options; returns once all of them are there.
    pub fn start(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let unix = |name: &str| format!("unix:{}", directory.path().join(name).display());
        let (pri, sec, out, ntf) = (unix("pri"), unix("sec"), unix("out"), unix("ntf"));
        let sockets = ["--primary-in", &pri, "--secondary-in", &sec, "--outdev", &out, "--notify-dev", &ntf];
        let comparer = Self::start_in(directory, &[&sockets, options].concat());
        for socket in ["primary-in", "secondary-in", "outdev", "notify-dev"] {
            comparer.wait_for_log(&format!("{socket}: listens on "));
        }
        comparer
    }

    /// These options and no others.
    pub fn start_in(directory: tempfile::TempDir, options: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_colo-proxy"))
            .arg("compare")
            .args(options)
            .arg("--json")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let (stderr, lines) = (child.stderr.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.0.lock().unwrap().push(line);
                lines.1.notify_all();
            }
        });
        Self { child, directory, log }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Waits for a line that contains `text`, and returns it.
    pub fn wait_for_log(&self, text: &str) -> String {
        self.wait_for_log_times(text, 1)
    }

    /// Waits for the nth line that contains `text`.
    pub fn wait_for_log_times(&self, text: &str, times: usize) -> String {
        let (lines, changed) = &*self.log;
        let found =
            |lines: &Vec<String>| lines.iter().filter(|line| line.contains(text)).nth(times - 1).cloned();
        let lines = lines.lock().unwrap();
        let (lines, _) = changed.wait_timeout_while(lines, LONG, |lines| found(lines).is_none()).unwrap();
        found(&lines).unwrap_or_else(|| panic!("'{text}' ({times}) is not in the log:\n{}", lines.join("\n")))
    }

    /// Connects to one of its unix sockets.
    pub fn connect(&self, name: &str) -> Peer<UnixStream> {
        let stream = UnixStream::connect(self.path(name)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        Peer(stream)
    }

    /// Connects to primary-in, secondary-in, outdev and notify-dev.
    pub fn connect_all(&self) -> [Peer<UnixStream>; 4] {
        ["pri", "sec", "out", "ntf"].map(|name| self.connect(name))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Resident memory in KiB.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// SIGTERM, and what is left then.
    pub fn stop(self) -> Stopped {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Stopped {
        let deadline = Instant::now() + LONG;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not stop");
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut stdout = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap());
        // The reader ends with the process; its last lines may be on their way still.
        while Arc::strong_count(&self.log) > 1 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let log = self.log.0.lock().unwrap().clone();
        Stopped { code: status.code(), stdout, log, directory }
    }
}

impl Drop for Comparer {
    fn drop(&mut self) {
        // It has ended already, or ends now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A stream whose reads can be given a limit of time.
pub trait Stream: Read + Write {
    fn patience(&self, limit: Duration);
}

impl Stream for UnixStream {
    fn patience(&self, limit: Duration) {
        self.set_read_timeout(Some(limit)).unwrap();
    }
}

impl Stream for TcpStream {
    fn patience(&self, limit: Duration) {
        self.set_read_timeout(Some(limit)).unwrap();
    }
}

/// The other end of one of its sockets.
pub struct Peer<S>(pub S);

impl<S: Stream> Peer<S> {
    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// The next `len | bytes`, with its length; the length is all the framing there is.
    pub fn receive(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        self.0.read_exact(&mut bytes).unwrap();
        let len = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        bytes.resize(4 + len, 0);
        self.0.read_exact(&mut bytes[4..]).unwrap();
        bytes
    }

    /// The next so many bytes.
    pub fn receive_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Nothing comes for a while.
    pub fn silent(&mut self) {
        self.0.patience(SHORT);
        let result = self.0.read(&mut [0; 1]);
        self.0.patience(LONG);
        match result {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            other => panic!("nothing was to come: {other:?}"),
        }
    }

    /// The comparer has closed the connection; what it sent before is skipped.
    pub fn closed(&mut self) {
        let mut buffer = [0; 4096];
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("it is not closed: {error}"),
            }
        }
    }
}

/// `len | bytes`.
pub fn framed(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

/// `len | vnet_hdr_len | vnet header, bytes`.
pub fn framed_vnet(header: &[u8], bytes: &[u8]) -> Vec<u8> {
    let len = (header.len() + bytes.len()) as u32;
    [&len.to_be_bytes(), &(header.len() as u32).to_be_bytes(), header, bytes].concat()
}

/// `len | any | message`, as a VMM sends with vnet headers on.
pub fn message_vnet(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes(), &[9; 4], message].concat()
}

/// A UDP datagram of the guest's, framed; each port is a flow.
pub fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    framed(&udp_frame(port, payload))
}

pub fn udp_frame(port: u16, payload: &[u8]) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    let mut frame = Vec::new();
    builder.udp(port, 53).write(&mut frame, payload).unwrap();
    frame
}

/// A segment of the guest's web server, framed.
pub fn tcp(seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    framed(&tcp_frame(seq, ack, payload))
}

pub fn tcp_frame(seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    let mut frame = Vec::new();
    builder.tcp(80, 5000, seq, 1000).ack(ack).write(&mut frame, payload).unwrap();
    frame
}
