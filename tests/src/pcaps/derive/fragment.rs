//! IP datagrams in other fragments.

use super::{Mac, Rng};
use crate::pcaps::wire::{self, View, is_from, proto, resize, seal};
use crate::pcaps::{Capture, Packet};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What names a fragmented datagram.
type Name = (IpAddr, IpAddr, u32);

/// A datagram being put together: a frame to take the headers from, and its payload.
struct Datagram {
    time: u64,
    head: Vec<u8>,
    view: View,
    id: u32,
    pieces: BTreeMap<usize, Vec<u8>>,
    length: Option<usize>,
}

impl Datagram {
    fn payload(&self) -> Option<Vec<u8>> {
        let mut payload = Vec::new();
        for (offset, piece) in &self.pieces {
            if *offset != payload.len() {
                return None;
            }
            payload.extend_from_slice(piece);
        }
        (Some(payload.len()) == self.length).then_some(payload)
    }
}

/// Puts the guest's fragmented datagrams together and cuts them at other borders, and cuts whole ICMP and UDP datagrams of 500 bytes
/// and more too. The pieces come out in another order.
pub fn refragment(capture: &[Packet], guest: Mac, rng: &mut Rng) -> Capture {
    let mut out = Capture::new();
    let mut open: BTreeMap<Name, Datagram> = BTreeMap::new();
    for packet in capture {
        let frame = &packet.data;
        let view = wire::parse(frame).filter(|_| is_from(frame, guest));
        let Some(view) = view.filter(|view| view.fragment.is_some() || is_long(view)) else {
            out.push(packet.clone());
            continue;
        };
        let payload = frame[view.l4..view.end].to_vec();
        let (id, offset, more) =
            view.fragment.map_or((rng.bits() as u32, 0, false), |f| (f.id, f.offset, f.more));
        let name = (view.src(frame), view.dst(frame), id);
        let datagram = open.entry(name).or_insert_with(|| Datagram {
            time: packet.time,
            head: frame.clone(),
            view: view.clone(),
            id,
            pieces: BTreeMap::new(),
            length: None,
        });
        datagram.time = packet.time;
        if offset == 0 {
            datagram.head.clone_from(frame);
            datagram.view = view;
        }
        if !more {
            datagram.length = Some(offset + payload.len());
        }
        datagram.pieces.insert(offset, payload);
        if let Some(payload) = datagram.payload() {
            out.extend(cut(datagram, &payload, rng));
            open.remove(&name);
        }
    }
    out
}

fn is_long(view: &View) -> bool {
    matches!(view.proto, proto::ICMP | proto::UDP | proto::ICMPV6) && view.end - view.l4 >= 500
}

fn cut(datagram: &Datagram, payload: &[u8], rng: &mut Rng) -> Vec<Packet> {
    let mut frames = Vec::new();
    let mut at = 0;
    while at < payload.len() {
        let end = (at + rng.range(20, 175) as usize * 8).min(payload.len());
        frames.push(piece(datagram, at, &payload[at..end], end < payload.len()));
        at = end;
    }
    if rng.one_in(2) {
        frames.reverse();
    } else {
        frames.rotate_left(1);
    }
    frames.into_iter().zip(0..).map(|(data, i)| Packet { time: datagram.time + i * 1000, data }).collect()
}

fn piece(datagram: &Datagram, offset: usize, payload: &[u8], more: bool) -> Vec<u8> {
    let view = &datagram.view;
    let mut frame;
    if view.v6 {
        frame = datagram.head[..view.l3 + 40].to_vec();
        frame[view.l3 + 6] = 44;
        frame.extend([view.proto, 0]);
        frame.extend((offset as u16 | u16::from(more)).to_be_bytes());
        frame.extend(datagram.id.to_be_bytes());
    } else {
        frame = datagram.head[..view.l4].to_vec();
        frame[view.l3 + 4..view.l3 + 6].copy_from_slice(&(datagram.id as u16).to_be_bytes());
        let bits = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
        frame[view.l3 + 6..view.l3 + 8].copy_from_slice(&bits.to_be_bytes());
    }
    frame.extend_from_slice(payload);
    resize(&mut frame, view);
    seal(&mut frame);
    frame
}
