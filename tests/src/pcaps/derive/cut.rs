//! The same TCP stream in other segments.

use super::flows::{self, Key};
use super::{Mac, Rng};
use crate::pcaps::wire::{Tcp, flag, with_data};
use crate::pcaps::{Capture, MS, Packet};
use std::collections::BTreeMap;

/// A guest's data segment with its place in the capture.
struct Segment<'a> {
    packet: &'a Packet,
    tcp: Tcp,
}

/// The guest's segments that carry data, flow by flow; everything else goes to `rest`.
fn data_segments<'a>(
    capture: &'a [Packet],
    guest: Mac,
    rest: &mut Capture,
) -> BTreeMap<Key, Vec<Segment<'a>>> {
    let mut flows: BTreeMap<Key, Vec<Segment<'a>>> = BTreeMap::new();
    for packet in capture {
        match flows::sent(packet, guest) {
            Some((key, tcp)) if !tcp.data.is_empty() && !tcp.has(flag::SYN | flag::RST) => {
                flows.entry(key).or_default().push(Segment { packet, tcp });
            }
            _ => rest.push(packet.clone()),
        }
    }
    flows
}

/// Cuts the data at random borders. A new segment has the time and the acknowledgement of the old one that held its last byte.
/// No segment gets longer than `max`, nor than the flow's longest was.
pub fn recut(capture: &[Packet], guest: Mac, rng: &mut Rng, max: usize) -> Capture {
    let mut out = Capture::new();
    for segments in data_segments(capture, guest, &mut out).into_values() {
        let longest = segments.iter().map(|s| s.tcp.data.len()).max().unwrap_or(1).min(max);
        let follows = |a: &Segment<'_>, b: &Segment<'_>| {
            !a.tcp.has(flag::FIN) && a.tcp.seq.wrapping_add(a.tcp.data.len() as u32) == b.tcp.seq
        };
        for run in segments.chunk_by(follows) {
            recut_run(run, longest, rng, &mut out);
        }
    }
    out
}

fn recut_run(run: &[Segment<'_>], longest: usize, rng: &mut Rng, out: &mut Capture) {
    let stream: Vec<u8> = run.iter().flat_map(|s| &s.packet.data[s.tcp.data.clone()]).copied().collect();
    let mut holder = 0;
    let mut holder_end = run[0].tcp.data.len();
    let mut at = 0;
    while at < stream.len() {
        // Mostly large, sometimes tiny.
        let size =
            if rng.one_in(6) { rng.range(1, 9) } else { rng.range(longest as u64 / 2, longest as u64) };
        let end = (at + (size as usize).max(1)).min(stream.len());
        while holder_end < end {
            holder += 1;
            holder_end += run[holder].tcp.data.len();
        }
        let Segment { packet, tcp } = &run[holder];
        // FIN and PSH stay where the data ends; a border that moved forward takes neither along.
        let last = if end == holder_end { tcp.flags } else { tcp.flags & !(flag::FIN | flag::PSH) };
        let seq = run[0].tcp.seq.wrapping_add(at as u32);
        out.push(Packet {
            time: packet.time,
            data: with_data(&packet.data, tcp, seq, last, &stream[at..end]),
        });
        at = end;
    }
}

/// Puts the data in order and drops retransmissions: what a sender behind a better wire would have sent.
pub fn clean(capture: &[Packet], guest: Mac) -> Capture {
    let mut out = Capture::new();
    for segments in data_segments(capture, guest, &mut out).into_values() {
        let Some(first) =
            segments.iter().map(|s| s.tcp.seq).min_by_key(|seq| seq.wrapping_sub(segments[0].tcp.seq) as i32)
        else {
            continue;
        };
        let place = |s: &Segment<'_>| s.tcp.seq.wrapping_sub(first);
        let times: Vec<u64> = segments.iter().map(|s| s.packet.time).collect();
        let mut sorted: Vec<&Segment<'_>> = segments.iter().collect();
        sorted.sort_by_key(|s| place(s));
        let mut next = 0;
        for (segment, time) in sorted.into_iter().zip(times) {
            let Segment { packet, tcp } = segment;
            let end = place(segment) + tcp.data.len() as u32;
            if end > next {
                let skip = next.saturating_sub(place(segment));
                let data = &packet.data[tcp.data.start + skip as usize..tcp.data.end];
                let seq = tcp.seq.wrapping_add(skip);
                out.push(Packet { time, data: with_data(&packet.data, tcp, seq, tcp.flags, data) });
                next = end;
            }
        }
    }
    out
}

/// Adds retransmissions whose borders are not those of the segments they repeat.
pub fn overlap(capture: &[Packet], guest: Mac, rng: &mut Rng) -> Capture {
    let mut out = Capture::new();
    for segments in data_segments(capture, guest, &mut out).into_values() {
        for (i, segment) in segments.iter().enumerate() {
            out.push(segment.packet.clone());
            let before = i.checked_sub(1).map(|i| &segments[i]);
            let Some(before) = before.filter(|_| rng.one_in(3)) else { continue };
            let Segment { packet, tcp } = segment;
            if before.tcp.seq.wrapping_add(before.tcp.data.len() as u32) != tcp.seq {
                continue;
            }
            let back = rng.range(1, before.tcp.data.len() as u64) as usize;
            let forth = rng.range(0, tcp.data.len() as u64) as usize;
            let mut data = before.packet.data[before.tcp.data.end - back..before.tcp.data.end].to_vec();
            data.extend_from_slice(&packet.data[tcp.data.start..tcp.data.start + forth]);
            let seq = tcp.seq.wrapping_sub(back as u32);
            let time = packet.time + rng.range(0, 3) * MS;
            let flags = tcp.flags & !(flag::FIN | flag::PSH);
            out.push(Packet { time, data: with_data(&packet.data, tcp, seq, flags, &data) });
        }
    }
    out
}
