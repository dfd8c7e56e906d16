//! A server whose every byte is known: the same request gets the same answer from both runs of the
//! guest, whenever it comes.
//!
//! ```text
//!   client                       desk
//!   "down N SEED\n"         ──►  N bytes of the stream SEED, then the end
//!   "up N\n", N bytes       ──►  16 hex digits: the digest of what came
//!   "sum\n", bytes, end     ──►  16 hex digits
//!   "echo\n", bytes, end    ──►  the same bytes, then the end
//!   "end N SEED\n"          ──►  the end at once; takes the N bytes all the same
//! ```
//!
//! One run can be given a [`Flaw`], for proofs that a difference is found.

use super::space::Space;
use anyhow::{Context, Result, bail, ensure};
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Where it listens.
pub const PORT: u16 = 7000;

/// What a run does differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    #[default]
    None,
    /// The byte at this offset of every stream has all bits turned.
    Byte(u64),
}

/// A piece of a stream of which every byte is known: no two places look alike.
pub fn stream(seed: u64, offset: u64, bytes: &mut [u8]) {
    for (at, byte) in (offset..).zip(bytes) {
        let mut word = (at >> 3) ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *byte = (word >> ((at & 7) * 8)) as u8;
    }
}

/// The digest of bytes (FNV-1a, 64 bits): it is here to notice a change, not an enemy.
#[derive(Clone, Copy, Debug)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Goes on over these.
    pub fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// As the desk says it.
    pub fn show(self) -> String {
        format!("{:016x}", self.0)
    }

    /// That of a whole stream.
    pub fn of_stream(seed: u64, count: u64) -> Self {
        let mut digest = Self::default();
        let mut piece = [0; 8192];
        let mut offset = 0;
        while offset < count {
            let part = &mut piece[..(count - offset).min(8192) as usize];
            stream(seed, offset, part);
            digest.feed(part);
            offset += part.len() as u64;
        }
        digest
    }
}

/// What a desk has done so far.
#[derive(Debug, Default)]
pub struct Work {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Bytes read from uploads.
    pub read: AtomicU64,
    /// Uploads that came to their end after the desk had closed its own direction.
    pub read_after_end: AtomicU64,
}

/// A running desk.
#[derive(Debug)]
pub struct Desk {
    stop: Arc<AtomicBool>,
    work: Arc<Work>,
}

impl Desk {
    /// Opens it in a guest, on IPv4 and IPv6.
    pub fn open(guest: &Space, flaw: Flaw) -> Result<Self> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
        let listener = guest.enter(|| TcpListener::bind(any)).context("the desk's port")?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let work = Arc::new(Work::default());
        std::thread::spawn({
            let (stop, work) = (Arc::clone(&stop), Arc::clone(&work));
            move || accept(&listener, flaw, &stop, &work)
        });
        Ok(Self { stop, work })
    }

    /// What it has done so far.
    pub fn work(&self) -> &Work {
        &self.work
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn accept(listener: &TcpListener, flaw: Flaw, stop: &AtomicBool, work: &Arc<Work>) {
    while !stop.load(Ordering::Relaxed) {
        if let Ok((socket, _)) = listener.accept() {
            work.accepted.fetch_add(1, Ordering::Relaxed);
            let work = Arc::clone(work);
            std::thread::spawn(move || {
                if let Err(error) = serve(&socket, flaw, &work) {
                    // Whether that is a failure is for the test to say; it sees the client's end.
                    eprintln!("the desk gave up on a connection: {error}");
                }
            });
        } else {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// Serves one connection. Also for a guest that opened the connection itself.
pub fn serve(socket: &TcpStream, flaw: Flaw, work: &Work) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    let mut input = BufReader::with_capacity(1 << 16, socket);
    let mut line = String::new();
    input.by_ref().take(100).read_line(&mut line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    match words.first() {
        Some(&"down") => down(socket, number(1), number(2), flaw)?,
        Some(&"up") => {
            let digest = read(&mut input.take(number(1)), work)?;
            answer(socket, digest, flaw)?;
        }
        Some(&"sum") => {
            let digest = read(&mut input, work)?;
            answer(socket, digest, flaw)?;
        }
        Some(&"end") => {
            socket.shutdown(Shutdown::Write)?;
            let right = read(&mut input, work)?.show() == Digest::of_stream(number(2), number(1)).show();
            work.read_after_end.fetch_add(u64::from(right), Ordering::SeqCst);
            return Ok(());
        }
        Some(&"echo") => echo(&mut input, socket, flaw)?,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{line:?} is no request"))),
    }
    socket.shutdown(Shutdown::Write)
}

fn turn(flaw: Flaw, offset: u64, bytes: &mut [u8]) {
    if let Flaw::Byte(place) = flaw
        && let Some(at) = place.checked_sub(offset)
        && let Some(byte) = bytes.get_mut(at as usize)
    {
        *byte = !*byte;
    }
}

fn down(mut socket: &TcpStream, count: u64, seed: u64, flaw: Flaw) -> io::Result<()> {
    let mut piece = vec![0; 1 << 16];
    let mut offset = 0;
    while offset < count {
        let part = (count - offset).min(piece.len() as u64) as usize;
        stream(seed, offset, &mut piece[..part]);
        turn(flaw, offset, &mut piece[..part]);
        socket.write_all(&piece[..part])?;
        offset += part as u64;
    }
    Ok(())
}

fn read(input: &mut impl Read, work: &Work) -> io::Result<Digest> {
    let mut digest = Digest::default();
    let mut piece = vec![0; 1 << 16];
    loop {
        let count = input.read(&mut piece)?;
        if count == 0 {
            return Ok(digest);
        }
        work.read.fetch_add(count as u64, Ordering::Relaxed);
        digest.feed(&piece[..count]);
    }
}

fn answer(mut socket: &TcpStream, digest: Digest, flaw: Flaw) -> io::Result<()> {
    let mut text = digest.show().into_bytes();
    turn(flaw, 0, &mut text);
    socket.write_all(&text)
}

fn echo(input: &mut impl Read, mut socket: &TcpStream, flaw: Flaw) -> io::Result<()> {
    let mut piece = vec![0; 1 << 16];
    let mut offset = 0;
    loop {
        let count = input.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        turn(flaw, offset, &mut piece[..count]);
        socket.write_all(&piece[..count])?;
        offset += count as u64;
    }
}

/// A client's end of a connection.
#[derive(Debug)]
pub struct Visit {
    socket: TcpStream,
    /// Bytes of the present stream that are behind us.
    pub offset: u64,
}

impl Visit {
    /// Connects from inside `from`.
    pub fn open(from: &Space, to: std::net::IpAddr) -> Result<Self> {
        let to = SocketAddr::from((to, PORT));
        let connect = || TcpStream::connect_timeout(&to, super::wait::PATIENCE);
        let socket = from.enter(connect).with_context(|| format!("cannot connect to {to}"))?;
        Self::on(socket)
    }

    /// Goes on with a connection that is there.
    pub fn on(socket: TcpStream) -> Result<Self> {
        // Long enough for TCP to find out by itself that a host is back.
        socket.set_read_timeout(Some(super::wait::PATIENCE))?;
        socket.set_write_timeout(Some(super::wait::PATIENCE))?;
        Ok(Self { socket, offset: 0 })
    }

    /// The connection.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Says a line.
    pub fn say(&mut self, line: &str) -> Result<()> {
        Ok(self.socket.write_all(line.as_bytes())?)
    }

    /// Reads so many bytes of a stream and compares each.
    pub fn take(&mut self, seed: u64, count: u64) -> Result<()> {
        let (mut got, mut wanted) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let end = self.offset + count;
        while self.offset < end {
            let most = (end - self.offset).min(got.len() as u64) as usize;
            let read = self.socket.read(&mut got[..most]);
            let read = read.with_context(|| format!("reading at {} of {end}", self.offset))?;
            ensure!(read > 0, "the stream ended at {} of {end}", self.offset);
            stream(seed, self.offset, &mut wanted[..read]);
            if let Some(at) = (0..read).find(|&at| got[at] != wanted[at]) {
                bail!("byte {} of the stream is {:#x}, not {:#x}", self.offset, got[at], wanted[at]);
            }
            self.offset += read as u64;
        }
        Ok(())
    }

    /// Writes so many bytes of a stream.
    pub fn give(&mut self, seed: u64, count: u64) -> Result<()> {
        let mut piece = vec![0; 1 << 16];
        let end = self.offset + count;
        while self.offset < end {
            let most = (end - self.offset).min(piece.len() as u64) as usize;
            stream(seed, self.offset, &mut piece[..most]);
            let wrote = self.socket.write(&piece[..most]);
            self.offset += wrote.with_context(|| format!("writing at {} of {end}", self.offset))? as u64;
        }
        Ok(())
    }

    /// Ends our direction.
    pub fn shut(&self) -> Result<()> {
        Ok(self.socket.shutdown(Shutdown::Write)?)
    }

    /// Reads to the end.
    pub fn rest(&mut self) -> Result<String> {
        let mut text = String::new();
        self.socket.read_to_string(&mut text).context("reading to the end")?;
        Ok(text)
    }

    /// Nothing more may come but the end.
    pub fn end(&mut self) -> Result<()> {
        let rest = self.rest()?;
        ensure!(rest.is_empty(), "{} bytes too many", rest.len());
        Ok(())
    }

    /// A whole download.
    pub fn download(from: &Space, to: std::net::IpAddr, count: u64, seed: u64) -> Result<()> {
        let mut visit = Self::open(from, to)?;
        visit.say(&format!("down {count} {seed}\n"))?;
        visit.take(seed, count)?;
        visit.end()
    }

    /// A whole upload.
    pub fn upload(from: &Space, to: std::net::IpAddr, count: u64, seed: u64) -> Result<()> {
        let mut visit = Self::open(from, to)?;
        visit.say(&format!("up {count}\n"))?;
        visit.give(seed, count)?;
        visit.digest(seed, count)
    }

    /// The desk's word on an upload.
    pub fn digest(&mut self, seed: u64, count: u64) -> Result<()> {
        let said = self.rest()?;
        let wanted = Digest::of_stream(seed, count).show();
        ensure!(said == wanted, "the desk got {said:?} of {count} bytes, not {wanted}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let (mut whole, mut cut) = ([0; 1000], [0; 1000]);
        stream(7, 13, &mut whole);
        for (index, piece) in cut.chunks_mut(77).enumerate() {
            stream(7, 13 + index as u64 * 77, piece);
        }
        assert_eq!(whole, cut);
        stream(8, 13, &mut cut);
        assert_ne!(whole, cut);
    }
}
