//! What is outside both hosts: a bridge to whoever serves, and who hears what the guest's files are at.
//!
//! ```text
//!   primary ── chaos-p ──┐
//!                        ├─ chaosbr 10.9.0.1 ── Steps (datagrams), Postgres (TCP)
//!   secondary ─ chaos-s ─┘   plugged in when it takes over
//! ```

use anyhow::{Context as _, Result, ensure};
use std::net::UdpSocket;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The taps: of who serves first, and of who may take over.
pub(super) const TAPS: [&str; 2] = ["chaos-p", "chaos-s"];
/// Where the guest tells its steps.
const PLACE: &str = "10.9.0.1:7001";

/// The bridge; it goes when this is dropped.
#[derive(Debug)]
pub(super) struct Network {
    bridge: &'static str,
}

impl Network {
    pub(super) fn new() -> Result<Self> {
        ip("link add chaosbr type bridge")?;
        let network = Self { bridge: "chaosbr" };
        ip("addr add 10.9.0.1/24 dev chaosbr")?;
        ip("link set chaosbr up")?;
        for tap in TAPS {
            ip(&format!("tuntap add {tap} mode tap vnet_hdr"))?;
            ip(&format!("link set {tap} up"))?;
        }
        Ok(network)
    }

    /// Only this tap is plugged in from now on.
    pub(super) fn serve(&self, tap: &str) -> Result<()> {
        for other in TAPS {
            ip(&format!("link set {other} nomaster"))?;
        }
        ip(&format!("link set {tap} master {}", self.bridge))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for link in TAPS.into_iter().chain([self.bridge]) {
            // There is nobody to tell.
            let _ = ip(&format!("link del {link}"));
        }
    }
}

fn ip(words: &str) -> Result<()> {
    let output = Command::new("ip").args(words.split(' ')).output().context("cannot start ip")?;
    ensure!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// What was heard of steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// The last one.
    pub(super) last: u64,
    /// The first since [`Steps::anew`].
    pub(super) first: Option<u64>,
}

impl Heard {
    fn hear(&mut self, step: u64) {
        self.last = step;
        self.first.get_or_insert(step);
    }
}

/// Who hears of each step; the thread ends with the program.
#[derive(Clone, Debug)]
pub(super) struct Steps(Arc<Mutex<Heard>>);

impl Steps {
    pub(super) fn listen() -> Result<Self> {
        let socket = UdpSocket::bind(PLACE).with_context(|| format!("cannot listen at {PLACE}"))?;
        let steps = Self(Arc::default());
        let hear = steps.clone();
        std::thread::spawn(move || {
            let mut datagram = [0; 64];
            while let Ok(length) = socket.recv(&mut datagram) {
                if let Some(step) = step(&datagram[..length]) {
                    hear.lock().hear(step);
                }
            }
        });
        Ok(steps)
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn heard(&self) -> Heard {
        *self.lock()
    }

    /// Forgets what was heard: somebody else speaks from now on, or there is another guest.
    pub(super) fn anew(&self) {
        *self.lock() = Heard::default();
    }
}

fn step(datagram: &[u8]) -> Option<u64> {
    std::str::from_utf8(datagram).ok()?.strip_prefix("files ")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_read_and_nonsense_is_not() {
        assert_eq!(step(b"files 17"), Some(17));
        for nonsense in [&b"files"[..], b"files x", b"file 1", b"\xff", b""] {
            assert_eq!(step(nonsense), None);
        }
        let mut heard = Heard::default();
        [4, 5, 6].into_iter().for_each(|step| heard.hear(step));
        assert_eq!(heard, Heard { last: 6, first: Some(4) });
    }
}
