//! Segments whose length changes: the lengths and checksums around them.

use super::{Checksum, Segment, TcpFlags, be16};

/// Sets the lengths and checksums of a TCP frame that now ends where `out` ends. None, and nothing is
/// changed, if this is no TCP frame whose length can be set.
pub(super) fn fit(out: &mut [u8], tcp: usize, partial_checksum: bool) -> Option<()> {
    let len = out.get(tcp..).filter(|segment| segment.len() >= 20)?.len() as u16;
    let pseudo = fit_ip(out, tcp)?.sum(&[0, 6]).sum(&len.to_be_bytes());
    let sum = if partial_checksum {
        // What is not summed up yet is left to the device; the field has the pseudo-header.
        !pseudo.finish()
    } else {
        out[tcp + 16..tcp + 18].fill(0);
        pseudo.sum(&out[tcp..]).finish()
    };
    out[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// Sets the IP lengths for a frame that now ends where `out` ends, and returns the pseudo-header's
/// sum of addresses. None, and nothing is changed, if this is no TCP frame whose length can be set.
fn fit_ip(out: &mut [u8], tcp: usize) -> Option<Checksum> {
    let mut at = 14;
    while matches!(be16(out.get(at - 2..at)?, 0), 0x8100 | 0x88a8 | 0x9100) {
        at += 4;
    }
    if tcp < at + 20 {
        return None;
    }
    let len = out.len() - at;
    if len > usize::from(u16::MAX) {
        return None;
    }
    match be16(out, at - 2) {
        0x0800 => {
            out[at + 2..at + 4].copy_from_slice(&(len as u16).to_be_bytes());
            out[at + 10..at + 12].fill(0);
            let sum = super::internet_checksum(&out[at..tcp]);
            out[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
            Some(Checksum::default().sum(&out[at + 12..at + 20]))
        }
        0x86dd if tcp == at + 40 => {
            out[at + 4..at + 6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
            Some(Checksum::default().sum(&out[at + 8..at + 40]))
        }
        _ => None,
    }
}

/// What stands in both parts of a segment that is cut.
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;

/// Whether a segment can be cut: it ends where its frame does, and nothing in it counts from its end.
pub fn can_be_cut(frame: &[u8], segment: &Segment) -> bool {
    let Segment { header, payload, flags, .. } = *segment;
    let whole = (payload.start + payload.len) as usize == frame.len();
    whole && !flags.syn() && !flags.rst() && flags.0 & URG == 0 && ip_is_plain(frame, header as usize)
}

/// Whether the lengths of the IP header in front of this TCP header can be set.
fn ip_is_plain(frame: &[u8], tcp: usize) -> bool {
    let mut headers = frame.get(..tcp + 20).unwrap_or_default().to_vec();
    fit_ip(&mut headers, tcp).is_some()
}

/// Makes segments of the two parts of a frame that was cut behind `kept` bytes of payload: lengths,
/// the second one's sequence number, flags that belong to one of them, checksums. `segment` is the
/// whole one's, and both parts begin with its headers.
pub fn mend_cut(first: &mut [u8], rest: &mut [u8], segment: &Segment, kept: u32, partial_checksum: bool) {
    let at = segment.header as usize;
    let seq = segment.seq.wrapping_add(kept);
    if let (Some(a), Some(b)) = (first.get_mut(at..at + 20), rest.get_mut(at..at + 20)) {
        let (first, rest) = cut_flags(TcpFlags(a[13]));
        (a[13], b[13]) = (first.0, rest.0);
        b[4..8].copy_from_slice(&seq.to_be_bytes());
    }
    for part in [first, rest] {
        // Whether it can be done was seen before the cut.
        let _ = fit(part, at, partial_checksum);
    }
}

/// The flags of the two parts.
pub fn cut_flags(flags: TcpFlags) -> (TcpFlags, TcpFlags) {
    (TcpFlags(flags.0 & !(FIN | PSH)), TcpFlags(flags.0 & !CWR))
}
