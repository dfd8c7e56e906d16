//! ICMP (RFC 792), `ICMPv6` (RFC 4443), neighbour discovery (RFC 4861): which fields count.
//!
//! | message | compared |
//! |---|---|
//! | echo request, reply | type, code, id (in the key), sequence number, payload |
//! | errors | type, code, MTU / gateway / pointer, and of the packet they quote: protocol, addresses, first 8 transport bytes |
//! | NS, NA, RS | type, code, flags, target, link-layer address options (not the nonce, RFC 7527) |
//! | anything else | type, code, and all after the checksum |

use super::{Body, FlowKey, Malformed, Message, Packet, Proto, be16, chunk};

const ND_FIRST: u8 = 133;
const ND_LAST: u8 = 137;

fn packet(key: FlowKey, message: Message) -> Packet {
    Packet { key, body: Body::Message(message) }
}

pub(super) fn parse_v4(ends: FlowKey, data: &[u8], at: usize) -> Result<Packet, Malformed> {
    let header: &[u8; 8] = chunk(data, at, "ICMP")?;
    let id = be16(header, 4);
    Ok(match header[0] {
        8 => packet(ends.with_ids(id, 0), whole(data, at)),
        0 => packet(ends.with_ids(0, id), whole(data, at)),
        3..=5 | 11 | 12 => packet(ends, error(data, at, quoted_v4)),
        _ => packet(ends, whole(data, at)),
    })
}

pub(super) fn parse_v6(ends: FlowKey, data: &[u8], at: usize) -> Result<Packet, Malformed> {
    let header: &[u8; 8] = chunk(data, at, "ICMPv6")?;
    let id = be16(header, 4);
    match header[0] {
        128 => Ok(packet(ends.with_ids(id, 0), whole(data, at))),
        129 => Ok(packet(ends.with_ids(0, id), whole(data, at))),
        1..=127 => Ok(packet(ends, error(data, at, quoted_v6))),
        ND_FIRST..=ND_LAST => neighbour(ends.with_proto(Proto::Nd), header[0], data, at),
        _ => Ok(packet(ends, whole(data, at))),
    }
}

/// Everything but the checksum.
fn whole(data: &[u8], at: usize) -> Message {
    let mut message = Message::of(at, 2);
    message.push(at + 4, data.len() - at - 4);
    message
}

/// An error: its own fields, and what identifies the packet it quotes. That packet came from the
/// client, but its TTL, checksum and (for translated TCP) acknowledgement can differ between hosts.
fn error(data: &[u8], at: usize, quoted: fn(&[u8], usize, &mut Message)) -> Message {
    let mut message = Message::of(at, 2);
    message.push(at + 4, 4);
    quoted(data, at + 8, &mut message);
    message
}

fn rest(data: &[u8], at: usize, message: &mut Message) {
    message.push(at, data.len().saturating_sub(at));
}

fn quoted_v4(data: &[u8], at: usize, message: &mut Message) {
    let Ok(header) = chunk::<20>(data, at, "quoted IPv4") else { return rest(data, at, message) };
    let start = at + usize::from(header[0] & 0x0f) * 4;
    if start < at + 20 || start > data.len() {
        return rest(data, at, message);
    }
    message.push(at + 9, 1);
    message.push(at + 12, 8);
    message.push(start, (data.len() - start).min(8));
}

fn quoted_v6(data: &[u8], at: usize, message: &mut Message) {
    if chunk::<40>(data, at, "quoted IPv6").is_err() {
        return rest(data, at, message);
    }
    message.push(at + 6, 1);
    message.push(at + 8, 32);
    message.push(at + 40, (data.len() - at - 40).min(8));
}

fn neighbour(ends: FlowKey, kind: u8, data: &[u8], at: usize) -> Result<Packet, Malformed> {
    let fixed = match kind {
        133 => 8,
        135 | 136 => 24,
        // Router advertisements and redirects: all of it counts.
        _ => return Ok(packet(ends, whole(data, at))),
    };
    if data.len() - at < fixed {
        return Err(Malformed::Truncated("ND"));
    }
    let mut message = Message::of(at, 2);
    message.push(at + 4, fixed - 4);
    let mut option = at + fixed;
    while option < data.len() {
        let header: &[u8; 2] = chunk(data, option, "ND option")?;
        let len = usize::from(header[1]) * 8;
        if len == 0 || len > data.len() - option {
            return Err(Malformed::Length("ND option"));
        }
        // Source and target link-layer address.
        if matches!(header[0], 1 | 2) && !message.push(option, len) {
            return Err(Malformed::Contradiction("ND"));
        }
        option += len;
    }
    Ok(packet(ends, message))
}
