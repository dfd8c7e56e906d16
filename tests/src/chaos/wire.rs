//! A tap to the guest, and a TCP stream over it that has to come back as it was sent.
//!
//! ```text
//!   Wire ── tap ── Stream::begin ─► blocks that follow from their number ─► guest: echo ─► the same blocks?
//! ```
//!
//! The stream goes on while the guest stands and is saved. A guest that is restored is an earlier one: its own
//! connections are not there any more, and a new stream begins.

use super::PATIENCE;
use super::boot::{GUEST, PORT};
use anyhow::{Context as _, Result, bail, ensure};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Its name.
pub(super) const TAP: &str = "chaos";
/// Bytes on the way.
const BLOCK: usize = 8 << 10;

/// The tap; it goes when this is dropped.
#[derive(Debug)]
pub(super) struct Wire(());

impl Wire {
    pub(super) fn new() -> Result<Self> {
        ip("tuntap add chaos mode tap vnet_hdr")?;
        let wire = Self(());
        ip("addr add 10.9.0.1/24 dev chaos")?;
        ip("link set chaos up")?;
        Ok(wire)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = ip("link del chaos");
    }
}

fn ip(words: &str) -> Result<()> {
    let output = Command::new("ip").args(words.split(' ')).output().context("cannot start ip")?;
    ensure!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A stream that goes on until it is ended.
#[derive(Debug)]
pub(super) struct Stream {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Stream {
    /// Connects to the guest, which has to answer, and begins.
    pub(super) fn begin() -> Result<Self> {
        let begun = Instant::now();
        let stream = loop {
            match TcpStream::connect_timeout(&(GUEST, PORT).into(), Duration::from_secs(2)) {
                Ok(stream) => break stream,
                Err(_) if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(200)),
                Err(error) => return Err(error).context("the guest's echo does not answer"),
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let over = Arc::new(AtomicBool::new(false));
        let told = over.clone();
        Ok(Self { over, thread: std::thread::spawn(move || talk(stream, &told)) })
    }

    /// Ends it: how many bytes came back, all of them as they were sent.
    pub(super) fn end(self) -> Result<u64> {
        self.over.store(true, SeqCst);
        match self.thread.join() {
            Ok(bytes) => bytes,
            Err(_) => bail!("the stream's thread panicked"),
        }
    }
}

fn talk(mut stream: TcpStream, over: &AtomicBool) -> Result<u64> {
    let (mut sent, mut back) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut blocks = 0_u64;
    while !over.load(SeqCst) || blocks == 0 {
        let mut random = fastrand::Rng::with_seed(blocks);
        sent.fill_with(|| random.u8(..));
        stream.write_all(&sent).with_context(|| format!("after {blocks} blocks nothing can be sent"))?;
        stream.read_exact(&mut back).with_context(|| format!("block {blocks} does not come back"))?;
        ensure!(sent == back, "block {blocks} came back as another");
        blocks += 1;
    }
    Ok(blocks * BLOCK as u64)
}
