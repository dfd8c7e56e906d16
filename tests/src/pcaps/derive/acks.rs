//! A secondary that acknowledges later than the primary.

use super::Mac;
use super::flows::{self, Key};
use crate::pcaps::wire::{flag, seal, set_ack, with_data};
use crate::pcaps::{Capture, MS, Packet};
use std::collections::BTreeMap;

/// Acknowledgement numbers lag by `ms`: a pure acknowledgement comes later, a segment with data or FIN carries an older number and a
/// pure acknowledgement follows.
pub fn late(capture: &[Packet], guest: Mac, ms: u64) -> Capture {
    let lag = ms * MS;
    // What each flow had acknowledged, and when.
    let mut history: BTreeMap<Key, Vec<(u64, u32)>> = BTreeMap::new();
    let mut out = Capture::new();
    for packet in capture {
        let Some((key, tcp)) = flows::sent(packet, guest).filter(|(_, tcp)| tcp.has(flag::ACK)) else {
            out.push(packet.clone());
            continue;
        };
        let history = history.entry(key).or_default();
        history.push((packet.time, tcp.ack));
        if tcp.has(flag::SYN | flag::RST) {
            out.push(packet.clone());
        } else if tcp.data.is_empty() && !tcp.has(flag::FIN) {
            out.push(Packet { time: packet.time + lag, data: packet.data.clone() });
        } else {
            let known =
                history.iter().rev().find(|(time, _)| time + lag <= packet.time).or_else(|| history.first());
            let old = known.map_or(tcp.ack, |(_, ack)| *ack);
            let mut data = packet.data.clone();
            set_ack(&mut data, &tcp, old);
            seal(&mut data);
            out.push(Packet { time: packet.time, data });
            if old != tcp.ack {
                let end = tcp.data.len() as u32 + u32::from(tcp.has(flag::FIN));
                let data = with_data(&packet.data, &tcp, tcp.seq.wrapping_add(end), flag::ACK, &[]);
                out.push(Packet { time: packet.time + lag, data });
            }
        }
    }
    out
}
