//! SYN, FIN and RST that differ, streams that are longer, and flows of which nothing comes.

use super::Mac;
use super::flows::{self, Key};
use crate::pcaps::wire::{Tcp, flag, seal, set_flags, set_seq, with_data};
use crate::pcaps::{Capture, Packet};
use anyhow::{Context, Result, ensure};

/// Edits the frames of a flow and insists that something changed.
fn edit(
    capture: Capture,
    guest: Mac,
    key: Key,
    what: &str,
    mut change: impl FnMut(&mut Packet, &Tcp) -> Option<bool>,
) -> Result<Capture> {
    let mut changes = 0;
    let out = flows::edit(capture, guest, key, |mut packet, tcp| {
        let changed = change(&mut packet, tcp)?;
        if changed {
            seal(&mut packet.data);
            changes += 1;
        }
        Some(packet)
    });
    ensure!(changes > 0 || what.is_empty(), "the flow has no {what}");
    Ok(out)
}

/// Leaves out the FIN: a bare one goes, one with data loses the flag, and what comes after it has not counted it.
pub fn no_fin(capture: Capture, guest: Mac, flow: usize) -> Result<Capture> {
    let key = flows::nth(&capture, guest, flow)?;
    let has_fin =
        capture.iter().filter_map(|p| flows::sent(p, guest)).any(|(k, t)| k == key && t.has(flag::FIN));
    ensure!(has_fin, "the flow has no FIN");
    let mut after = None;
    edit(capture, guest, key, "", |packet, tcp| {
        if tcp.has(flag::FIN) {
            after = Some(tcp.seq.wrapping_add(tcp.data.len() as u32).wrapping_add(1));
            if tcp.data.is_empty() {
                return None;
            }
        } else if after == Some(tcp.seq) {
            set_seq(&mut packet.data, tcp, tcp.seq.wrapping_sub(1));
            return Some(true);
        }
        set_flags(&mut packet.data, tcp, tcp.flags & !flag::FIN);
        Some(tcp.has(flag::FIN))
    })
}

/// Makes the FIN a RST, and ends the flow there.
pub fn rst_for_fin(capture: Capture, guest: Mac, flow: usize) -> Result<Capture> {
    let key = flows::nth(&capture, guest, flow)?;
    let mut over = false;
    edit(capture, guest, key, "FIN", |packet, tcp| {
        if over {
            return None;
        }
        over = tcp.has(flag::FIN);
        if over {
            set_flags(&mut packet.data, tcp, tcp.flags & !flag::FIN | flag::RST);
        }
        Some(over)
    })
}

/// Another window scale in the SYN: half or twice.
pub fn wscale(capture: Capture, guest: Mac, flow: usize) -> Result<Capture> {
    let key = flows::nth(&capture, guest, flow)?;
    edit(capture, guest, key, "window scale", |packet, tcp| {
        let option = tcp.option(&packet.data, 3).filter(|_| tcp.has(flag::SYN));
        if let Some(at) = option {
            packet.data[at + 2] ^= 1;
        }
        Some(option.is_some())
    })
}

/// The SYN's timestamp option becomes padding.
pub fn no_timestamps(capture: Capture, guest: Mac, flow: usize) -> Result<Capture> {
    let key = flows::nth(&capture, guest, flow)?;
    edit(capture, guest, key, "timestamp option", |packet, tcp| {
        let option = tcp.option(&packet.data, 8).filter(|_| tcp.has(flag::SYN));
        if let Some(at) = option {
            packet.data[at..at + 10].fill(1);
        }
        Some(option.is_some())
    })
}

/// Another maximum segment size in the SYN: 60 bytes less.
pub fn mss(capture: Capture, guest: Mac, flow: usize) -> Result<Capture> {
    let key = flows::nth(&capture, guest, flow)?;
    edit(capture, guest, key, "MSS", |packet, tcp| {
        let option = tcp.option(&packet.data, 2).filter(|_| tcp.has(flag::SYN));
        if let Some(at) = option {
            let size = u16::from_be_bytes([packet.data[at + 2], packet.data[at + 3]]) - 60;
            packet.data[at + 2..at + 4].copy_from_slice(&size.to_be_bytes());
        }
        Some(option.is_some())
    })
}

/// Sends `bytes` more before the FIN; the FIN and what comes after it move on.
pub fn extra(capture: &[Packet], guest: Mac, flow: usize, bytes: usize) -> Result<Capture> {
    let key = flows::nth(capture, guest, flow)?;
    let mut out = Capture::new();
    let mut fin = None;
    for packet in capture {
        let Some((_, tcp)) = flows::sent(packet, guest).filter(|(found, _)| *found == key) else {
            out.push(packet.clone());
            continue;
        };
        let end = tcp.seq.wrapping_add(tcp.data.len() as u32);
        if tcp.has(flag::FIN) && fin.is_none() {
            fin = Some(end);
            let flags = tcp.flags & !flag::FIN;
            let mut data = packet.data[tcp.data.clone()].to_vec();
            data.extend((b'a'..=b'z').cycle().take(bytes));
            out.push(Packet {
                time: packet.time,
                data: with_data(&packet.data, &tcp, tcp.seq, flags, &data),
            });
            let seq = end.wrapping_add(bytes as u32);
            out.push(Packet { time: packet.time, data: with_data(&packet.data, &tcp, seq, tcp.flags, &[]) });
        } else {
            let mut packet = packet.clone();
            if fin.is_some_and(|fin| end.wrapping_sub(fin) as i32 > 0 || tcp.has(flag::FIN)) {
                set_seq(&mut packet.data, &tcp, tcp.seq.wrapping_add(bytes as u32));
                seal(&mut packet.data);
            }
            out.push(packet);
        }
    }
    fin.context("the flow has no FIN")?;
    Ok(out)
}

/// Nothing of the flow.
pub fn silent(capture: Capture, guest: Mac, flow: usize) -> Result<Capture> {
    let key = flows::nth(&capture, guest, flow)?;
    edit(capture, guest, key, "", |_, _| None)
}
