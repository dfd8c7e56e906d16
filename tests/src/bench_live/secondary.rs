//! The secondary's path through the kernel beside a plain redirect.
//!
//! ```text
//!   guest ── frames as fast as one thread can ──► vif ─► program ─► forward device ──► counted
//!             as a secondary: a known connection's segments, translated: seq, TSval, checksum
//!             as a primary whose capture device is the forward device: the same frames, tagged and
//!             redirected and nothing else
//! ```
//!
//! Both ways get the same frame, because what the kernel does before and behind the program depends on
//! it. They take turns many times, so that what else the machine does is spread over both.

use crate::bench::stats::median;
use crate::netns::lab::{CLIENT_MAC, Lab, addresses, client_addresses, mac};
use crate::netns::live::Proxy;
use crate::netns::packet::PacketSocket;
use crate::netns::wait::until;
use anyhow::{Context, Result};
use colo_ebpf_shared::layout::{Nic, Role};
use colo_ebpf_shared::tag::{TPID, Tag};
use colo_proxy::datapath::{Pins, Slots};
use etherparse::{PacketBuilder, TcpOptionElement};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Bytes of payload in a segment.
const PAYLOAD: [u8; 64] = [7; 64];

/// Initial sequence numbers: the secondary's and the primary's.
const ISN: [u32; 2] = [1000, 900_000];

/// How often the two take turns.
const TURNS: u32 = 10;

/// Frames for each second, both ways.
#[derive(Clone, Copy, Debug)]
pub struct Paths {
    /// Translated segments.
    pub translated: f64,
    /// Segments that are only redirected.
    pub plain: f64,
    /// The first over the second.
    pub ratio: f64,
}

/// Measures both by turns.
pub fn measure(lab: &Lab, time: Duration) -> Result<Paths> {
    let secondary = Proxy::of(lab, 0, "secondary");
    let _running = secondary.run(lab)?;
    let guest = PacketSocket::sender(&lab.sg[0], "eth0")?;
    guest.send(&from_guest(ISN[0], true)?)?;
    PacketSocket::sender(&lab.p, "fwd")?.send(&acknowledgement()?)?;
    until("the offset is learned", || {
        guest.send(&from_guest(ISN[0] + 1, false)?)?;
        Ok((secondary.kernel(lab, "translated")? > 1).then_some(()))
    })?;
    let segment = from_guest(ISN[0] + 1, false)?;
    let forward = lab.s.index_of("fwd")?;
    let folder = lab.s.enter(|| Pins::open(&lab.bpffs())?.forward(forward))?;
    let mut slots = Slots::open(&folder)?;
    let translates = slots.get(0)?;
    let redirects = Nic { role: Role::Primary as u32, capture: translates.forward, ..translates };
    let (mut translated, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        for (nic, rates) in [(&translates, &mut translated), (&redirects, &mut plain)] {
            slots.set(0, nic)?;
            rates.push(rate(lab, &guest, &segment, time / (2 * TURNS))?);
        }
    }
    slots.set(0, &translates)?;
    // Each with its neighbour: what disturbs one turn disturbs both.
    let ratios: Vec<f64> = translated.iter().zip(&plain).map(|(ours, theirs)| ours / theirs).collect();
    Ok(Paths { translated: median(&translated), plain: median(&plain), ratio: median(&ratios) })
}

fn rate(lab: &Lab, guest: &PacketSocket, frame: &[u8], time: Duration) -> Result<f64> {
    let before = lab.p.counter("fwd", "rx", "packets")?;
    let begin = Instant::now();
    while begin.elapsed() < time {
        for _ in 0..256 {
            guest.send(frame)?;
        }
    }
    let elapsed = begin.elapsed().as_secs_f64();
    Ok((lab.p.counter("fwd", "rx", "packets")? - before) as f64 / elapsed)
}

fn v4(address: IpAddr) -> Result<[u8; 4]> {
    match address {
        IpAddr::V4(address) => Ok(address.octets()),
        IpAddr::V6(_) => anyhow::bail!("the first address of a NIC is IPv4"),
    }
}

/// A segment of the guest's connection: its SYN/ACK, or data.
fn from_guest(seq: u32, syn: bool) -> Result<Vec<u8>> {
    let ends = (v4(addresses(0, 0)[0])?, v4(client_addresses(0)[0])?);
    let tcp = PacketBuilder::ethernet2(mac(0, 0), CLIENT_MAC)
        .ipv4(ends.0, ends.1, 64)
        .tcp(80, 40_000, seq, 500)
        .ack(501)
        .options(&[TcpOptionElement::Noop, TcpOptionElement::Noop, TcpOptionElement::Timestamp(7, 9)])
        .context("the options")?;
    let (tcp, payload): (_, &[u8]) = if syn { (tcp.syn(), &[]) } else { (tcp, &PAYLOAD) };
    let mut bytes = Vec::new();
    tcp.write(&mut bytes, payload)?;
    Ok(bytes)
}

/// The client's acknowledgement of the primary's SYN/ACK, as it is on the forward link.
fn acknowledgement() -> Result<Vec<u8>> {
    let ends = (v4(addresses(0, 0)[0])?, v4(client_addresses(0)[0])?);
    let tcp = PacketBuilder::ethernet2(CLIENT_MAC, mac(0, 0))
        .ipv4(ends.1, ends.0, 64)
        .tcp(40_000, 80, 501, 500)
        .ack(ISN[1] + 1)
        .options(&[TcpOptionElement::Noop, TcpOptionElement::Noop, TcpOptionElement::Timestamp(9, 7000)])
        .context("the options")?;
    let mut bytes = Vec::new();
    tcp.write(&mut bytes, &[])?;
    let tag = [TPID.to_be_bytes(), Tag::new(0, 1).tci().to_be_bytes()].concat();
    Ok([&bytes[..12], &tag, &bytes[12..]].concat())
}
