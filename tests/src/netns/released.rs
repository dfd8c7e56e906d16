//! The proof that what left is the primary's: two records of one interface's worth of traffic, one at
//! the primary guest's own NIC and one where its host's bridge meets the world.
//!
//! TCP is compared byte for byte at equal sequence numbers, however it was cut; everything else
//! datagram by datagram.

use super::packet::Frame;
use anyhow::{Result, ensure};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

type Flow = (IpAddr, IpAddr, u16, u16);

/// Bytes of TCP streams by their place, in one piece for each 64 KiB.
#[derive(Default)]
struct Streams(HashMap<Flow, BTreeMap<u32, Vec<u8>>>);

/// What was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Bytes of TCP payload that left.
    pub tcp_bytes: u64,
    /// Other frames that left.
    pub messages: u64,
}

enum Part {
    Tcp { flow: Flow, seq: u32, payload: Vec<u8> },
    Other(Vec<u8>),
}

/// Takes a frame apart; the payload of what is not TCP stands for the whole.
fn part(frame: &Frame) -> Option<Part> {
    let sliced = SlicedPacket::from_ethernet(&frame.bytes).ok()?;
    let (source, destination) = match sliced.net.as_ref() {
        Some(NetSlice::Ipv4(ip)) => {
            (IpAddr::from(ip.header().source_addr()), ip.header().destination_addr().into())
        }
        Some(NetSlice::Ipv6(ip)) => {
            (IpAddr::from(ip.header().source_addr()), ip.header().destination_addr().into())
        }
        _ => return Some(Part::Other(frame.bytes.clone())),
    };
    let addresses = format!("{source} {destination} ").into_bytes();
    Some(match sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => Part::Tcp {
            flow: (source, destination, tcp.source_port(), tcp.destination_port()),
            seq: tcp.sequence_number(),
            payload: tcp.payload().to_vec(),
        },
        Some(TransportSlice::Udp(udp)) => Part::Other([&addresses, &b"udp "[..], udp.payload()].concat()),
        Some(TransportSlice::Icmpv4(icmp)) => {
            Part::Other([&addresses, &b"icmp "[..], icmp.payload()].concat())
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            Part::Other([&addresses, &b"icmp6 "[..], icmp.payload()].concat())
        }
        Some(TransportSlice::Igmp(_)) | None => Part::Other(frame.bytes.clone()),
    })
}

/// Bytes of TCP payload in a frame.
pub fn tcp_payload(frame: &Frame) -> usize {
    match part(frame) {
        Some(Part::Tcp { payload, .. }) => payload.len(),
        _ => 0,
    }
}

impl Streams {
    fn insert(&mut self, flow: Flow, seq: u32, payload: Vec<u8>) {
        if payload.is_empty() {
            return;
        }
        let stream = self.0.entry(flow).or_default();
        let longer = stream.get(&seq).is_none_or(|known| known.len() < payload.len());
        if longer {
            stream.insert(seq, payload);
        }
    }

    /// How many of these bytes, from the first on, are in the stream at this place.
    fn agrees(&self, flow: Flow, seq: u32, payload: &[u8]) -> usize {
        let Some(stream) = self.0.get(&flow) else { return 0 };
        let mut at = 0;
        while at < payload.len() {
            let place = seq.wrapping_add(at as u32);
            // A piece that covers the place begins at most one longest frame before it, perhaps on
            // the other side of the wrap.
            let first = place.wrapping_sub(1 << 17);
            let mut before: Vec<_> = if first <= place {
                stream.range(first..=place).collect()
            } else {
                stream.range(first..).chain(stream.range(..=place)).collect()
            };
            before.reverse();
            let step = before.iter().find_map(|(start, piece)| {
                let skip = place.wrapping_sub(**start) as usize;
                let piece = piece.get(skip..)?;
                let common = piece.iter().zip(&payload[at..]).take_while(|(a, b)| a == b).count();
                (common > 0).then_some(common)
            });
            let Some(step) = step else { break };
            at += step;
        }
        at
    }
}

/// Checks that every byte of `left` was said by the guest, as `said` has it.
pub fn is_the_primarys<'a>(
    said: impl Iterator<Item = &'a Frame>,
    left: impl Iterator<Item = &'a Frame>,
) -> Result<Compared> {
    let mut streams = Streams::default();
    let mut messages = HashSet::new();
    for frame in said {
        match part(frame) {
            Some(Part::Tcp { flow, seq, payload }) => streams.insert(flow, seq, payload),
            Some(Part::Other(bytes)) => {
                messages.insert(bytes);
            }
            None => {}
        }
    }
    let mut compared = Compared::default();
    for frame in left {
        match part(frame) {
            Some(Part::Tcp { flow, seq, payload }) => {
                let agrees = streams.agrees(flow, seq, &payload);
                ensure!(
                    agrees == payload.len(),
                    "byte {agrees} of the {} at {seq} of {flow:?} is not what the guest sent",
                    payload.len()
                );
                compared.tcp_bytes += payload.len() as u64;
            }
            Some(Part::Other(bytes)) => {
                ensure!(messages.contains(&bytes), "the guest never sent {bytes:02x?}");
                compared.messages += 1;
            }
            None => anyhow::bail!("a frame that does not parse left: {:02x?}", frame.bytes),
        }
    }
    Ok(compared)
}
