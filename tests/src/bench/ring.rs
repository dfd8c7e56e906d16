//! Prebuilt frames of both sides, framed for the wire and laid end to end, fed round and round.
//!
//! All frames of a ring have one size, so a byte count is a frame count and the hot loop need not look at
//! a frame. Each carries its slot number at the start of its payload. When a slot is fed again, one lap
//! later, its TCP sequence number has been moved on by what its flow has sent in between.

use anyhow::{Context, Result, ensure};
use etherparse::{IpHeaders, IpNumber, Ipv4Header, PacketBuilder, TcpHeader};

use super::workload::{Transport, Workload};

const ETHERNET: usize = 14;
const L4: usize = ETHERNET + 20;
const GUEST: [u8; 4] = [10, 0, 0, 2];
const MSS: u16 = 1448;

/// The frames of one workload, both sides.
pub struct Ring {
    primary: Vec<u8>,
    secondary: Vec<u8>,
    stride: usize,
    frames: usize,
    flows: usize,
    slot_at: usize,
    seq: Option<Moving>,
    laid: u64,
}

/// Where the fields are that change from lap to lap, and by how much.
#[derive(Clone, Copy)]
struct Moving {
    seq_at: usize,
    /// Absent when the device completes the checksum, which then leaves the sequence number out.
    checksum_at: Option<usize>,
    per_lap: u32,
}

impl Ring {
    /// Builds the frames of a workload.
    pub fn build(workload: &Workload) -> Result<Self> {
        let Workload { transport, payload, flows, frames, .. } = *workload;
        ensure!(frames > 0 && flows > 0 && frames % flows == 0, "frames must be a multiple of flows");
        ensure!(payload >= 4, "the payload must hold its slot number");
        let framing = if workload.vnet() { 4 + 4 + 12 } else { 4 };
        let l4 = framing + L4;
        let per_lap = (frames / flows * payload) as u32;
        let seq = (transport != Transport::Udp).then_some(Moving {
            seq_at: l4 + 4,
            checksum_at: (transport == Transport::Tcp).then_some(l4 + 16),
            per_lap,
        });
        let stride = framing + workload.frame_bytes();
        let mut ring = Self {
            primary: Vec::with_capacity(frames * stride),
            secondary: Vec::with_capacity(frames * stride),
            stride,
            frames,
            flows,
            slot_at: stride - payload,
            seq,
            laid: frames as u64,
        };
        let mut body = vec![0; payload];
        for slot in 0..frames {
            fill(&mut body, slot as u32);
            let id = slot as u16;
            push(&mut ring.primary, workload, slot, id, &body)?;
            push(&mut ring.secondary, workload, slot, id ^ 0x5555, &body)?;
        }
        ensure!(ring.primary.len() == frames * stride, "a frame has an unexpected size");
        Ok(ring)
    }

    /// Bytes of one framed frame.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// How many frames there are.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// How many flows the frames go round.
    pub fn flows(&self) -> usize {
        self.flows
    }

    /// The flow of a slot.
    pub fn flow(&self, slot: usize) -> usize {
        slot % self.flows
    }

    /// The primary's framed bytes from a place in the endless stream on, up to the end of the lap.
    pub fn primary(&self, place: u64) -> &[u8] {
        &self.primary[self.offset(place)..]
    }

    /// The secondary's, likewise.
    pub fn secondary(&self, place: u64) -> &[u8] {
        &self.secondary[self.offset(place)..]
    }

    /// The primary's framed frame in a slot.
    pub fn slot(&self, slot: usize) -> &[u8] {
        &self.primary[slot * self.stride..][..self.stride]
    }

    /// The slot number that a framed frame carries.
    pub fn slot_of(&self, framed: &[u8]) -> Option<usize> {
        let bytes = framed.get(self.slot_at..self.slot_at + 4)?;
        let slot = u32::from_be_bytes(bytes.try_into().ok()?) as usize;
        (slot < self.frames).then_some(slot)
    }

    /// Makes frames up to (not including) this index of the endless stream ready to be fed.
    ///
    /// What was in their slots a lap ago must have come out by then.
    pub fn lay(&mut self, until: u64) {
        while self.laid < until {
            if let Some(moving) = self.seq {
                let at = (self.laid % self.frames as u64) as usize * self.stride;
                moving.advance(&mut self.primary[at..at + self.stride]);
                moving.advance(&mut self.secondary[at..at + self.stride]);
            }
            self.laid += 1;
        }
    }

    fn offset(&self, place: u64) -> usize {
        (place % self.primary.len() as u64) as usize
    }
}

impl Moving {
    fn advance(self, frame: &mut [u8]) {
        let Some(field) = frame[self.seq_at..].first_chunk_mut::<4>() else { return };
        let old = u32::from_be_bytes(*field);
        let new = old.wrapping_add(self.per_lap);
        *field = new.to_be_bytes();
        let Some(checksum) = self.checksum_at.and_then(|at| frame[at..].first_chunk_mut::<2>()) else {
            return;
        };
        // RFC 1624, equation 3, over both halves of the sequence number.
        let halves = |x: u32| (x >> 16) + (x & 0xffff);
        let sum = u32::from(!u16::from_be_bytes(*checksum)) + halves(!old) + halves(new);
        *checksum = (!fold(sum)).to_be_bytes();
    }
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// Payload no two slots share: the slot number, then a cheap mix of slot and place.
fn fill(body: &mut [u8], slot: u32) {
    let mut state = slot.wrapping_mul(0x9e37_79b9) | 1;
    for byte in body.iter_mut() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        *byte = state as u8;
    }
    body[..4].copy_from_slice(&slot.to_be_bytes());
}

/// Appends one frame with its framing.
fn push(to: &mut Vec<u8>, workload: &Workload, slot: usize, id: u16, body: &[u8]) -> Result<()> {
    let flow = slot % workload.flows;
    let turn = (slot / workload.flows) as u32;
    let client = [10, 0, 1 + (flow >> 8) as u8, flow as u8];
    let port = 20_000 + flow as u16;
    let udp = workload.transport == Transport::Udp;
    let protocol = if udp { IpNumber::UDP } else { IpNumber::TCP };
    let mut ip = Ipv4Header::new(0, 64, protocol, GUEST, client).context("IPv4 header")?;
    ip.identification = id;
    ip.dont_fragment = true;
    let link = PacketBuilder::ethernet2([0x52, 0x54, 0, 0, 0, 2], [0x52, 0x54, 0, 0, 0, 1]);
    let network = link.ip(IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default()));
    let mut frame = Vec::with_capacity(body.len() + 54);
    if udp {
        network.udp(53, port).write(&mut frame, body)
    } else {
        let start = 1_000_000_u32.wrapping_add((flow as u32).wrapping_mul(7919));
        let seq = start.wrapping_add(turn.wrapping_mul(body.len() as u32));
        let mut tcp = TcpHeader::new(80, port, seq, 0xfffe);
        tcp.ack = true;
        tcp.acknowledgment_number = 5000;
        network.tcp_header(tcp).write(&mut frame, body)
    }
    .context("frame")?;
    if workload.vnet() {
        leave_checksum_to_device(&mut frame, client);
        to.extend(((12 + frame.len()) as u32).to_be_bytes());
        to.extend(12_u32.to_be_bytes());
        to.extend(vnet_header());
    } else {
        to.extend((frame.len() as u32).to_be_bytes());
    }
    to.extend(frame);
    Ok(())
}

/// virtio 1.2 §5.1.6: checksum needed, to be cut as TCP over IPv4, one buffer.
fn vnet_header() -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = 1;
    header[1] = 1;
    header[2..4].copy_from_slice(&((L4 + 20) as u16).to_le_bytes());
    header[4..6].copy_from_slice(&MSS.to_le_bytes());
    header[6..8].copy_from_slice(&(L4 as u16).to_le_bytes());
    header[8..10].copy_from_slice(&16_u16.to_le_bytes());
    header[10..12].copy_from_slice(&1_u16.to_le_bytes());
    header
}

/// Puts only the pseudo-header's sum into the TCP checksum, as a guest with checksum offload does.
fn leave_checksum_to_device(frame: &mut [u8], client: [u8; 4]) {
    let words = [GUEST, client].concat();
    let addresses: u32 = words.chunks(2).map(|pair| (u32::from(pair[0]) << 8) + u32::from(pair[1])).sum();
    let length = (frame.len() - L4) as u32;
    let sum = fold(addresses + 6 + length);
    frame[L4 + 16..L4 + 18].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workload::{ALL, by_name};
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    fn check(framed: &[u8], vnet: bool) -> u32 {
        let skip = if vnet { 20 } else { 4 };
        let length = u32::from_be_bytes(framed[..4].try_into().unwrap()) as usize;
        assert_eq!(length, framed.len() - if vnet { 8 } else { 4 });
        let packet = SlicedPacket::from_ethernet(&framed[skip..]).unwrap();
        let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!("not IPv4") };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        match packet.transport.unwrap() {
            TransportSlice::Tcp(tcp) => {
                if !vnet {
                    let sum = tcp.calc_checksum_ipv4(header.source, header.destination).unwrap();
                    assert_eq!(sum, tcp.checksum());
                }
                tcp.sequence_number()
            }
            TransportSlice::Udp(udp) => {
                let sum = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
                assert_eq!(sum, udp.checksum());
                0
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn frames_are_valid_on_both_sides() {
        for workload in ALL {
            let ring = Ring::build(workload).unwrap();
            for slot in [0, 1, ring.frames() - 1] {
                check(ring.slot(slot), workload.vnet());
                assert_eq!(ring.slot_of(ring.slot(slot)), Some(slot));
                let place = (slot * ring.stride()) as u64;
                check(&ring.secondary(place)[..ring.stride()], workload.vnet());
                assert_ne!(&ring.primary(place)[..ring.stride()], &ring.secondary(place)[..ring.stride()]);
            }
        }
    }

    #[test]
    fn sequence_numbers_run_on_across_laps_and_the_wrap() {
        let workload = by_name("tcp-mtu").unwrap();
        let mut ring = Ring::build(workload).unwrap();
        let laps = (u64::from(u32::MAX) / (1448 * 4096)) + 3;
        let mut last = check(ring.slot(4095), false);
        for lap in 1..laps {
            ring.lay((lap + 1) * 4096);
            assert_eq!(check(ring.slot(0), false), last.wrapping_add(1448));
            last = check(ring.slot(4095), false);
        }
    }

    #[test]
    fn a_gso_frame_carries_the_pseudo_header_sum() {
        let ring = Ring::build(by_name("tcp-gso").unwrap()).unwrap();
        let frame = &ring.slot(0)[20..];
        assert_eq!(frame.len(), 60_000);
        let ip = Ipv4Header::from_slice(&frame[14..]).unwrap().0;
        // A header-only segment with a zero checksum field sums to the pseudo-header plus its own words.
        let mut bare = TcpHeader::from_slice(&frame[34..]).unwrap().0;
        let partial = bare.checksum;
        bare.checksum = 0;
        let full = bare.calc_checksum_ipv4(&ip, &frame[54..]).unwrap();
        let words = frame[34..]
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b)));
        // Summing the segment with the partial sum in place is how a device completes it.
        assert_eq!(!fold(fold(words.sum::<u32>()).into()), full);
        assert_ne!(partial, full);
    }
}
