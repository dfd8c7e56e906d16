//! TCP flows of a capture, as seen from the guest.

use super::Mac;
use crate::pcaps::wire::{Tcp, is_from};
use crate::pcaps::{Capture, Packet};
use anyhow::{Context, Result};
use std::net::SocketAddr;

/// A TCP flow: the guest's end, the peer's end.
pub type Key = (SocketAddr, SocketAddr);

/// A frame's TCP segment, its flow, and whether the guest sent it.
pub fn segment(packet: &Packet, guest: Mac) -> Option<(Key, bool, Tcp)> {
    let tcp = Tcp::parse(&packet.data)?;
    let from = SocketAddr::new(tcp.view.src(&packet.data), tcp.ports.0);
    let to = SocketAddr::new(tcp.view.dst(&packet.data), tcp.ports.1);
    let sent = is_from(&packet.data, guest);
    Some((if sent { (from, to) } else { (to, from) }, sent, tcp))
}

/// A segment that the guest sent.
pub fn sent(packet: &Packet, guest: Mac) -> Option<(Key, Tcp)> {
    segment(packet, guest).filter(|(_, sent, _)| *sent).map(|(key, _, tcp)| (key, tcp))
}

/// All flows, in the order of the guest's first frame.
pub fn all(capture: &[Packet], guest: Mac) -> Vec<Key> {
    let mut keys = Vec::new();
    for (key, _) in capture.iter().filter_map(|packet| sent(packet, guest)) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// The flow with this number.
pub fn nth(capture: &[Packet], guest: Mac, flow: usize) -> Result<Key> {
    all(capture, guest).get(flow).copied().with_context(|| format!("there is no TCP flow {flow}"))
}

/// The guest's initial sequence number in a flow.
pub fn isn(capture: &[Packet], guest: Mac, key: Key) -> Option<u32> {
    capture
        .iter()
        .filter_map(|packet| sent(packet, guest))
        .find_map(|(found, tcp)| (found == key && tcp.has(crate::pcaps::wire::flag::SYN)).then_some(tcp.seq))
}

/// Replaces each frame that the guest sent in `key` by what `edit` makes of it.
pub fn edit(
    capture: Capture,
    guest: Mac,
    key: Key,
    mut edit: impl FnMut(Packet, &Tcp) -> Option<Packet>,
) -> Capture {
    let keep = |packet: Packet| match sent(&packet, guest) {
        Some((found, tcp)) if found == key => edit(packet, &tcp),
        _ => Some(packet),
    };
    capture.into_iter().filter_map(keep).collect()
}
