//! A secondary whose kernel chose another initial sequence number.

use super::flows::{self, Key};
use super::{Mac, Rng};
use crate::pcaps::wire::{flag, get32, put32, seal, set_ack, set_seq};
use crate::pcaps::{Capture, Packet};
use std::collections::BTreeMap;

/// For each flow that the guest opened or accepted, what to add to its sequence numbers. The new ones wrap after at most 3000 bytes.
fn shifts(capture: &[Packet], guest: Mac, rng: &mut Rng) -> BTreeMap<Key, u32> {
    let mut shifts = BTreeMap::new();
    for key in flows::all(capture, guest) {
        if let Some(old) = flows::isn(capture, guest, key) {
            let new = 0_u32.wrapping_sub(rng.range(1, 3000) as u32);
            shifts.insert(key, new.wrapping_sub(old));
        }
    }
    shifts
}

/// The whole connection is in the secondary's own space, in both directions, SACK blocks included.
pub fn own(mut capture: Capture, guest: Mac, rng: &mut Rng) -> Capture {
    let shifts = shifts(&capture, guest, rng);
    for packet in &mut capture {
        let Some((key, sent, tcp)) = flows::segment(packet, guest) else { continue };
        let Some(shift) = shifts.get(&key) else { continue };
        if sent {
            set_seq(&mut packet.data, &tcp, tcp.seq.wrapping_add(*shift));
        } else if tcp.has(flag::ACK) {
            set_ack(&mut packet.data, &tcp, tcp.ack.wrapping_add(*shift));
            if let Some(sack) = tcp.option(&packet.data, 5) {
                let end = sack + usize::from(packet.data[sack + 1]);
                for at in (sack + 2..end).step_by(4) {
                    let edge = get32(&packet.data, at).wrapping_add(*shift);
                    put32(&mut packet.data, at, edge);
                }
            }
        }
        seal(&mut packet.data);
    }
    capture
}

/// SYN and SYN-ACK carry the secondary's number; from then on its host has translated them to the primary's space.
pub fn translated(mut capture: Capture, guest: Mac, rng: &mut Rng) -> Capture {
    let shifts = shifts(&capture, guest, rng);
    for packet in &mut capture {
        let Some((key, tcp)) = flows::sent(packet, guest) else { continue };
        let Some(shift) = shifts.get(&key).filter(|_| tcp.has(flag::SYN)) else { continue };
        set_seq(&mut packet.data, &tcp, tcp.seq.wrapping_add(*shift));
        seal(&mut packet.data);
    }
    capture
}
