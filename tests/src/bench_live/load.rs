//! What the client does, and what is measured of it.

use super::server::PORT;
use crate::bench::stats::percentile;
use crate::netns::space::Space;
use anyhow::{Result, ensure};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// Bytes of a request and of its answer: a small HTTP exchange.
const REQUEST: usize = 200;

/// Datagrams that are under way at once.
const WINDOW: usize = 64;

/// How long nothing may come before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a load measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// Gigabits, requests or frames for each second; for latencies the median in microseconds.
    pub value: f64,
    /// The 99th percentile of latencies, in microseconds.
    pub p99: Option<f64>,
    /// CPU seconds of the whole machine for each gigabyte.
    pub cpu: Option<f64>,
}

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// So many streams from the guest to the client.
    Down(usize),
    /// So many streams from the client to the guest.
    Up(usize),
    /// Small requests on so many connections that stay open.
    Requests(usize),
    /// One message there and back at a time.
    RoundTrip,
    /// Datagrams of 64 bytes on the wire, there and back.
    Frames,
}

impl Load {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 7] = [
        Self::Down(1),
        Self::Down(8),
        Self::Up(1),
        Self::Up(8),
        Self::Requests(16),
        Self::RoundTrip,
        Self::Frames,
    ];

    /// For people.
    pub fn name(self) -> String {
        match self {
            Self::Down(1) => "guest → client, 1 stream".into(),
            Self::Down(count) => format!("guest → client, {count} streams"),
            Self::Up(1) => "client → guest, 1 stream".into(),
            Self::Up(count) => format!("client → guest, {count} streams"),
            Self::Requests(count) => format!("requests of {REQUEST} B, {count} connections"),
            Self::RoundTrip => "round trip, 64 B over TCP".into(),
            Self::Frames => "UDP, 64 B frames there and back".into(),
        }
    }

    /// What the value is.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Down(_) | Self::Up(_) => "Gbit/s",
            Self::Requests(_) => "requests/s",
            Self::RoundTrip => "µs (median)",
            Self::Frames => "frames/s",
        }
    }

    /// Whether less is better.
    pub fn is_latency(self) -> bool {
        self == Self::RoundTrip
    }

    /// Runs it for about so long.
    pub fn run(self, client: &Space, to: IpAddr, time: Duration) -> Result<Measured> {
        match self {
            Self::Down(count) => bulk(client, to, count, time, down),
            Self::Up(count) => bulk(client, to, count, time, up),
            Self::Requests(count) => requests(client, to, count, time),
            Self::RoundTrip => round_trip(client, to, time),
            Self::Frames => frames(client, to, time),
        }
    }
}

fn connect(client: &Space, to: IpAddr) -> io::Result<TcpStream> {
    let socket = client.enter(|| TcpStream::connect_timeout(&(to, PORT).into(), PATIENCE))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn tell(socket: &mut TcpStream, what: u8, number: u64) -> io::Result<()> {
    let mut message = [what, 0, 0, 0, 0, 0, 0, 0, 0];
    message[1..].copy_from_slice(&number.to_be_bytes());
    socket.write_all(&message)
}

/// CPU time that the machine has spent, idle time not counted.
fn busy() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields: Vec<f64> =
        stat.lines().next().unwrap_or_default().split_whitespace().skip(1).flat_map(str::parse).collect();
    ensure!(fields.len() >= 8, "/proc/stat without CPU times");
    // user nice system idle iowait irq softirq steal, in hundredths of a second
    Ok((fields[0] + fields[1] + fields[2] + fields[5] + fields[6]) / 100.0)
}

/// Bytes of the first go. Each has twice as many as the one before, up to the last number; the time is
/// asked for in between.
const GO: [u64; 2] = [256 << 10, 32 << 20];

fn down(socket: &mut TcpStream, bytes: u64) -> io::Result<()> {
    tell(socket, b'G', bytes)?;
    let mut left = bytes;
    let mut buffer = vec![0; 256 << 10];
    while left > 0 {
        let count = socket.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= count as u64;
    }
    Ok(())
}

fn up(socket: &mut TcpStream, bytes: u64) -> io::Result<()> {
    tell(socket, b'P', bytes)?;
    let chunk = vec![7; 256 << 10];
    for _ in 0..bytes / chunk.len() as u64 {
        socket.write_all(&chunk)?;
    }
    socket.read_exact(&mut [0])
}

fn bulk(
    client: &Space,
    to: IpAddr,
    streams: usize,
    time: Duration,
    go: fn(&mut TcpStream, u64) -> io::Result<()>,
) -> Result<Measured> {
    let mut sockets: Vec<TcpStream> = (0..streams).map(|_| connect(client, to)).collect::<io::Result<_>>()?;
    let (before, begin) = (busy()?, Instant::now());
    let counts: Vec<io::Result<u64>> = std::thread::scope(|scope| {
        let each: Vec<_> = sockets
            .iter_mut()
            .map(|socket| {
                scope.spawn(move || {
                    let (mut bytes, [mut next, most]) = (0, GO);
                    while begin.elapsed() < time {
                        go(socket, next)?;
                        bytes += next;
                        next = most.min(2 * next);
                    }
                    Ok(bytes)
                })
            })
            .collect();
        each.into_iter().map(|one| one.join().unwrap_or_else(|_| Err(io::Error::other("panicked")))).collect()
    });
    let (elapsed, cpu) = (begin.elapsed().as_secs_f64(), busy()? - before);
    let bytes: u64 = counts.into_iter().sum::<io::Result<u64>>()?;
    Ok(Measured {
        value: bytes as f64 * 8.0 / elapsed / 1e9,
        p99: None,
        cpu: Some(cpu / (bytes as f64 / 1e9)),
    })
}

/// One message there and back.
fn echo(socket: &mut TcpStream, message: &mut [u8]) -> io::Result<()> {
    socket.write_all(message)?;
    socket.read_exact(message)
}

fn requests(client: &Space, to: IpAddr, connections: usize, time: Duration) -> Result<Measured> {
    let mut sockets: Vec<TcpStream> =
        (0..connections).map(|_| connect(client, to)).collect::<io::Result<_>>()?;
    let begin = Instant::now();
    let counts: Vec<io::Result<u64>> = std::thread::scope(|scope| {
        let each: Vec<_> = sockets
            .iter_mut()
            .map(|socket| {
                scope.spawn(move || {
                    tell(socket, b'E', REQUEST as u64)?;
                    let (mut count, mut message) = (0, [7; REQUEST]);
                    while begin.elapsed() < time {
                        echo(socket, &mut message)?;
                        count += 1;
                    }
                    Ok(count)
                })
            })
            .collect();
        each.into_iter().map(|one| one.join().unwrap_or_else(|_| Err(io::Error::other("panicked")))).collect()
    });
    let elapsed = begin.elapsed().as_secs_f64();
    let count: u64 = counts.into_iter().sum::<io::Result<u64>>()?;
    Ok(Measured { value: count as f64 / elapsed, ..Measured::default() })
}

fn round_trip(client: &Space, to: IpAddr, time: Duration) -> Result<Measured> {
    let mut socket = connect(client, to)?;
    tell(&mut socket, b'E', 64)?;
    let mut taken = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < time {
        let sent = Instant::now();
        echo(&mut socket, &mut [7; 64])?;
        taken.push(sent.elapsed().as_nanos() as u64);
    }
    taken.sort_unstable();
    let micros = |part| percentile(&taken, part) as f64 / 1000.0;
    Ok(Measured { value: micros(0.5), p99: Some(micros(0.99)), cpu: None })
}

/// A window of datagrams; one that is lost is sent again after a while.
fn frames(client: &Space, to: IpAddr, time: Duration) -> Result<Measured> {
    let socket = client.enter(|| UdpSocket::bind(("0.0.0.0", 0)))?;
    socket.connect((to, PORT))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    // 14 bytes of Ethernet, 20 of IP, 8 of UDP, and the FCS.
    let message = [7; 64 - 14 - 20 - 8 - 4];
    let mut buffer = [0; 64];
    let (mut count, mut under_way) = (0u64, 0usize);
    let begin = Instant::now();
    while begin.elapsed() < time {
        while under_way < WINDOW {
            socket.send(&message)?;
            under_way += 1;
        }
        match socket.recv(&mut buffer) {
            Ok(_) => {
                count += 1;
                under_way -= 1;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                under_way = 0;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Measured { value: count as f64 / begin.elapsed().as_secs_f64(), ..Measured::default() })
}
