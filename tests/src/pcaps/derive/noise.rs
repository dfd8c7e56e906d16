//! Fields that two runs never share: identification, TTL, timestamps, padding.

use super::flows;
use super::{Mac, Rng};
use crate::pcaps::Capture;
use crate::pcaps::wire::{self, get32, is_from, proto, put32, seal};
use std::collections::BTreeMap;

/// Other IPv4 identifications and TTLs, IPv6 flow labels and hop limits, and TCP timestamps shifted by a constant per flow.
pub fn noise(mut capture: Capture, guest: Mac, rng: &mut Rng) -> Capture {
    let salt = rng.bits() as u16 | 1;
    let mut clocks = BTreeMap::new();
    for packet in &mut capture {
        if let Some((key, sent, tcp)) = flows::segment(packet, guest) {
            let shift = *clocks.entry(key).or_insert_with(|| rng.bits() as u32);
            if let Some(option) = tcp.option(&packet.data, 8) {
                // The guest's clock is TSval in what it sends, TSecr in what it gets; TSecr of a first SYN is zero.
                let at = option + if sent { 2 } else { 6 };
                let old = get32(&packet.data, at);
                if sent || old != 0 {
                    put32(&mut packet.data, at, old.wrapping_add(shift));
                }
            }
        }
        if is_from(&packet.data, guest) {
            header_noise(&mut packet.data, salt, rng);
        }
        seal(&mut packet.data);
    }
    capture
}

fn header_noise(frame: &mut [u8], salt: u16, rng: &mut Rng) {
    let Some(view) = wire::parse(frame) else { return };
    let hops = [64, 128, 63, 255][rng.range(0, 3) as usize];
    if view.v6 {
        let label = get32(frame, view.l3) & 0xfff0_0000 | rng.range(0, 0xf_ffff) as u32;
        put32(frame, view.l3, label);
        // Neighbour discovery is valid with 255 only.
        if view.proto != proto::ICMPV6 {
            frame[view.l3 + 7] = hops;
        }
    } else {
        // The pieces of one datagram keep one identification.
        let id = u16::from_be_bytes([frame[view.l3 + 4], frame[view.l3 + 5]])
            .wrapping_mul(salt)
            .wrapping_add(salt);
        frame[view.l3 + 4..view.l3 + 6].copy_from_slice(&id.to_be_bytes());
        frame[view.l3 + 8] = hops;
    }
}

/// Pads short frames to the least that Ethernet carries, with bytes that mean nothing.
pub fn pad(mut capture: Capture, guest: Mac, rng: &mut Rng) -> Capture {
    for packet in capture.iter_mut().filter(|packet| is_from(&packet.data, guest)) {
        while packet.data.len() < 60 {
            packet.data.push(rng.bits() as u8);
        }
    }
    capture
}
