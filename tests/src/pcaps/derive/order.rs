//! The same frames at other times, in another order, twice, or not at all.

use super::{Mac, Rng, flows};
use crate::pcaps::wire::{flag, is_from};
use crate::pcaps::{Capture, MS, Packet};

/// How far apart two frames may be that change places.
const REACH: u64 = 300 * MS;

/// Swaps frames of the guest with one of its next three; a handshake and a reset stay where they are, since a wire that moved them
/// would show something else.
pub fn reorder(mut capture: Capture, guest: Mac, rng: &mut Rng) -> Capture {
    let fixed =
        |packet: &Packet| flows::sent(packet, guest).is_some_and(|(_, tcp)| tcp.has(flag::SYN | flag::RST));
    let mine: Vec<usize> =
        (0..capture.len()).filter(|i| is_from(&capture[*i].data, guest) && !fixed(&capture[*i])).collect();
    for (place, &i) in mine.iter().enumerate() {
        let other = place + rng.range(1, 3) as usize;
        let wanted = rng.one_in(3);
        let Some(&j) = mine.get(other).filter(|_| wanted) else { continue };
        // The handshake of a later connection may lie between: frames only trade places within their own stretch.
        let between = capture[i..=j].iter().any(fixed);
        if !between && capture[j].time - capture[i].time <= REACH {
            let (a, b) = (capture[i].data.clone(), capture[j].data.clone());
            capture[i].data = b;
            capture[j].data = a;
        }
    }
    capture
}

/// Adds copies of TCP segments, a little later.
pub fn duplicate(capture: &[Packet], guest: Mac, rng: &mut Rng) -> Capture {
    let mut out = capture.to_vec();
    for packet in capture {
        let candidate = flows::sent(packet, guest).is_some_and(|(_, tcp)| !tcp.has(flag::RST));
        if candidate && rng.one_in(3) {
            out.push(Packet { time: packet.time + rng.range(0, 4) * MS + 1000, data: packet.data.clone() });
        }
    }
    out
}

/// Delays the guest's frames by up to `ms`; their order stays.
pub fn retime(mut capture: Capture, guest: Mac, rng: &mut Rng, ms: u64) -> Capture {
    let mut last = 0;
    for packet in capture.iter_mut().filter(|packet| is_from(&packet.data, guest)) {
        // Rounded so that a microsecond format keeps the order too.
        last = (packet.time + rng.range(0, ms * 1000) * 1000).max(last + 1000);
        packet.time = last;
    }
    capture
}

/// Keeps the guest's first frames, and nothing of it afterwards.
pub fn drop_tail(capture: Capture, guest: Mac, keep: usize) -> Capture {
    let mut seen = 0;
    let mut stays = |packet: &Packet| {
        let mine = is_from(&packet.data, guest);
        seen += usize::from(mine);
        !mine || seen <= keep
    };
    capture.into_iter().filter(|packet| stays(packet)).collect()
}

/// Drops everything that the guest did not send.
pub fn guest_only(capture: Capture, guest: Mac) -> Capture {
    capture.into_iter().filter(|packet| is_from(&packet.data, guest)).collect()
}
