//! One byte that differs.

use super::{Mac, flows};
use crate::pcaps::Capture;
use crate::pcaps::wire::{self, ether, is_from, seal};
use anyhow::{Context, Result, bail, ensure};

/// What is done to a byte: never a no-op, and never out of printable text.
const CHANGE: u8 = 1;

/// Changes byte `at` of the guest's stream in a TCP flow, wherever it is sent.
pub fn byte(capture: Capture, guest: Mac, flow: usize, at: usize) -> Result<Capture> {
    let key = flows::nth(&capture, guest, flow)?;
    let isn = flows::isn(&capture, guest, key).context("the flow has no SYN")?;
    let mut hits = 0;
    let out = flows::edit(capture, guest, key, |mut packet, tcp| {
        let start = tcp.seq.wrapping_sub(isn).wrapping_sub(1) as usize;
        if (start..start.saturating_add(tcp.data.len())).contains(&at) {
            packet.data[tcp.data.start + (at - start)] ^= CHANGE;
            seal(&mut packet.data);
            hits += 1;
        }
        Some(packet)
    });
    ensure!(hits > 0, "the stream has no byte {at}");
    Ok(out)
}

/// Changes the last byte of the guest's `n`-th whole datagram of a protocol, from 0.
pub fn datagram_byte(mut capture: Capture, guest: Mac, proto: u8, n: usize) -> Result<Capture> {
    let mut matching = capture.iter_mut().filter_map(|packet| {
        let view = wire::parse(&packet.data).filter(|view| view.is_whole(proto))?;
        is_from(&packet.data, guest).then_some((packet, view))
    });
    let Some((packet, view)) = matching.nth(n) else { bail!("there is no datagram {n}") };
    packet.data[view.end - 1] ^= CHANGE;
    seal(&mut packet.data);
    Ok(capture)
}

/// Changes the sender's hardware address in the guest's `n`-th ARP frame, from 0.
pub fn arp_address(mut capture: Capture, guest: Mac, n: usize) -> Result<Capture> {
    let mut matching = capture.iter_mut().filter_map(|packet| {
        let (at, kind) = ether(&packet.data)?;
        (kind == 0x0806 && is_from(&packet.data, guest)).then_some((packet, at))
    });
    let Some((packet, at)) = matching.nth(n) else { bail!("there is no ARP frame {n}") };
    *packet.data.get_mut(at + 13).context("a short ARP frame")? ^= CHANGE;
    Ok(capture)
}
