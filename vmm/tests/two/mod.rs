//! Two processes of `colo-vm`, as primary and secondary of a small guest.
#![allow(dead_code, reason = "each program of tests uses a part of it")]

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Nothing takes so long where it works.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

/// Waits until something is there.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} does not come");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A directory with a kernel, and a port.
pub(crate) struct Place {
    directory: tempfile::TempDir,
    pub(crate) address: String,
}

impl Place {
    /// Of an ELF file.
    pub(crate) fn new(kernel: &[u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("kernel"), kernel).unwrap();
        // Given back, and taken again in a moment: with those behind it, for disks.
        let address = until("free ports", || {
            // Where the kernel chooses none itself; each test has its own.
            let port = 20_000 + 8 * fastrand::u16(..1500);
            let free: Result<Vec<_>, _> =
                (port..port + 4).map(|port| TcpListener::bind(("127.0.0.1", port))).collect();
            free.ok().map(|_| format!("127.0.0.1:{port}"))
        });
        Self { directory, address }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn side(&self, name: &'static str, order: &str, words: &[&str]) -> Side {
        let at = |end: &str| self.path(&format!("{name}.{end}"));
        let (qmp, console, log) = (at("qmp"), at("console"), at("log"));
        let process = Command::new(env!("CARGO_BIN_EXE_colo-vm"))
            .args([order, "--name", "web", "--memory", "16M", "--kernel"])
            .arg(self.path("kernel"))
            .arg("--qmp")
            .arg(format!("unix:{}", qmp.display()))
            .arg("--console")
            .arg(format!("file:{}", console.display()))
            .args(words)
            .stdin(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Side { process, qmp, console, log }
    }

    pub(crate) fn secondary(&self, words: &[&str]) -> Side {
        self.side("secondary", "secondary", &[&["--listen", &self.address][..], words].concat())
    }

    pub(crate) fn primary(&self, words: &[&str]) -> Side {
        let usual = ["--peer", &self.address, "--checkpoint-delay", "10"];
        self.side("primary", "primary", &[&usual[..], words].concat())
    }
}

/// A process of `colo-vm`.
pub(crate) struct Side {
    pub(crate) process: Child,
    qmp: PathBuf,
    console: PathBuf,
    log: PathBuf,
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Side {
    pub(crate) fn ask(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_colo-vm"));
        command.args(words).arg("--qmp").arg(format!("unix:{}", self.qmp.display())).output().unwrap()
    }

    pub(crate) fn status(&self) -> Option<Value> {
        let output = self.ask(&["status", "--json"]);
        let said: Value = serde_json::from_slice(&output.stdout).ok()?;
        Some(said["x-checkpoints"].clone()).filter(Value::is_object)
    }

    /// Waits until so many checkpoints are complete.
    pub(crate) fn level(&self, epoch: u64) {
        until("the checkpoint", || {
            let now = |status: &Value| matches!(status["phase"].as_str(), Some("level" | "checkpoint"));
            self.status().filter(now).filter(|status| status["epoch"].as_u64() >= Some(epoch))
        });
    }

    /// Waits for a phase.
    pub(crate) fn phase(&self, phase: &str) -> Value {
        until(phase, || self.status().filter(|status| status["phase"] == phase))
    }

    pub(crate) fn take_over(&self) {
        let output = self.ask(&["takeover"]);
        assert!(output.status.success(), "{output:?}\n{}", self.log());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    pub(crate) fn printed(&self) -> Vec<u8> {
        fs::read(&self.console).unwrap_or_default()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}
