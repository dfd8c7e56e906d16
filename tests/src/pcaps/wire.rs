//! The fields of one Ethernet frame: where they are, and changing them with checksums kept right.

use std::net::IpAddr;
use std::ops::Range;

/// IP protocol numbers used here.
pub mod proto {
    /// ICMP over IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP over IPv6.
    pub const ICMPV6: u8 = 58;
}

/// TCP flag bits.
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// Push.
    pub const PSH: u8 = 8;
    /// The acknowledgement field is valid.
    pub const ACK: u8 = 16;
}

/// A piece of a fragmented datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
    /// Where the piece belongs, in bytes.
    pub offset: usize,
    /// More pieces follow.
    pub more: bool,
}

/// Where the parts of an IP frame are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Start of the IP header.
    pub l3: usize,
    /// IPv6 instead of IPv4.
    pub v6: bool,
    /// Protocol of what `l4` points to.
    pub proto: u8,
    /// Start of what follows the IP header and its extensions.
    pub l4: usize,
    /// End of the IP packet; what comes after it is padding.
    pub end: usize,
    /// Set if this is a piece of a fragmented datagram.
    pub fragment: Option<Fragment>,
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Whether a frame was sent by `mac`.
pub fn is_from(frame: &[u8], mac: [u8; 6]) -> bool {
    frame.get(6..12) == Some(&mac[..])
}

/// Start of the layer-3 header and its Ethernet type, behind any VLAN tags.
pub fn ether(frame: &[u8]) -> Option<(usize, u16)> {
    let mut at = 12;
    loop {
        match be16(frame, at)? {
            0x8100 | 0x88a8 => at += 4,
            kind => return Some((at + 2, kind)),
        }
    }
}

/// Takes an IP frame apart.
pub fn parse(frame: &[u8]) -> Option<View> {
    let (l3, kind) = ether(frame)?;
    match kind {
        0x0800 => parse_v4(frame, l3),
        0x86dd => parse_v6(frame, l3),
        _ => None,
    }
}

fn parse_v4(frame: &[u8], l3: usize) -> Option<View> {
    let l4 = l3 + usize::from(frame.get(l3)? & 15) * 4;
    let end = l3 + usize::from(be16(frame, l3 + 2)?);
    let bits = be16(frame, l3 + 6)?;
    let fragment = Fragment {
        id: be16(frame, l3 + 4)?.into(),
        offset: usize::from(bits & 0x1fff) * 8,
        more: bits & 0x2000 != 0,
    };
    let fragment = (fragment.more || fragment.offset > 0).then_some(fragment);
    (l4 <= end && end <= frame.len()).then_some(View {
        l3,
        v6: false,
        proto: *frame.get(l3 + 9)?,
        l4,
        end,
        fragment,
    })
}

fn parse_v6(frame: &[u8], l3: usize) -> Option<View> {
    let end = l3 + 40 + usize::from(be16(frame, l3 + 4)?);
    let mut view = View { l3, v6: true, proto: *frame.get(l3 + 6)?, l4: l3 + 40, end, fragment: None };
    loop {
        let at = view.l4;
        match view.proto {
            0 | 43 | 60 => view.l4 += 8 + usize::from(*frame.get(at + 1)?) * 8,
            44 => {
                let bits = be16(frame, at + 2)?;
                let (offset, more) = (usize::from(bits & 0xfff8), bits & 1 != 0);
                view.fragment = Some(Fragment { id: be32(frame, at + 4)?, offset, more });
                view.l4 += 8;
            }
            _ => break,
        }
        view.proto = *frame.get(at)?;
        if view.fragment.is_some_and(|f| f.offset > 0) {
            break;
        }
    }
    (view.l4 <= end && end <= frame.len()).then_some(view)
}

impl View {
    /// The sender's address.
    pub fn src(&self, frame: &[u8]) -> IpAddr {
        self.address(frame, if self.v6 { 8 } else { 12 })
    }

    /// The receiver's address.
    pub fn dst(&self, frame: &[u8]) -> IpAddr {
        self.address(frame, if self.v6 { 24 } else { 16 })
    }

    fn address(&self, frame: &[u8], at: usize) -> IpAddr {
        let at = self.l3 + at;
        if self.v6 {
            let mut octets = [0; 16];
            octets.copy_from_slice(&frame[at..at + 16]);
            IpAddr::from(octets)
        } else {
            IpAddr::from([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
        }
    }

    /// The packet is a whole one of this protocol.
    pub fn is_whole(&self, proto: u8) -> bool {
        self.proto == proto && self.fragment.is_none()
    }
}

/// One TCP segment's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Where the IP parts are.
    pub view: View,
    /// Ports: sender's, receiver's.
    pub ports: (u16, u16),
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// The flag bits, see [`flag`].
    pub flags: u8,
    /// Where the data is in the frame.
    pub data: Range<usize>,
}

impl Tcp {
    /// The TCP segment in a frame, if it is one.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let view = parse(frame)?;
        if !view.is_whole(proto::TCP) {
            return None;
        }
        let at = view.l4;
        let start = at + usize::from(frame.get(at + 12)? >> 4) * 4;
        (start <= view.end).then_some(Self {
            ports: (be16(frame, at)?, be16(frame, at + 2)?),
            seq: be32(frame, at + 4)?,
            ack: be32(frame, at + 8)?,
            flags: *frame.get(at + 13)?,
            data: start..view.end,
            view,
        })
    }

    /// Whether any of these flags is set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Where option `kind` begins in the frame: its kind byte.
    pub fn option(&self, frame: &[u8], kind: u8) -> Option<usize> {
        let mut at = self.view.l4 + 20;
        while at < self.data.start {
            match frame[at] {
                0 => return None,
                1 => at += 1,
                found if found == kind => return Some(at),
                _ => at += usize::from(*frame.get(at + 1)?).max(2),
            }
        }
        None
    }
}

/// Writes a TCP segment's sequence number; [`seal`] is due afterwards.
pub fn set_seq(frame: &mut [u8], tcp: &Tcp, seq: u32) {
    put32(frame, tcp.view.l4 + 4, seq);
}

/// Writes a TCP segment's acknowledgement number; [`seal`] is due afterwards.
pub fn set_ack(frame: &mut [u8], tcp: &Tcp, ack: u32) {
    put32(frame, tcp.view.l4 + 8, ack);
}

/// Writes a TCP segment's flags; [`seal`] is due afterwards.
pub fn set_flags(frame: &mut [u8], tcp: &Tcp, flags: u8) {
    frame[tcp.view.l4 + 13] = flags;
}

/// Writes 32 bits in network order.
pub fn put32(frame: &mut [u8], at: usize, value: u32) {
    frame[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Reads 32 bits in network order; zero behind the end.
pub fn get32(frame: &[u8], at: usize) -> u32 {
    be32(frame, at).unwrap_or(0)
}

/// A segment with the headers of `frame`, and other data at another place.
pub fn with_data(frame: &[u8], tcp: &Tcp, seq: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut new = frame[..tcp.data.start].to_vec();
    new.extend_from_slice(data);
    set_seq(&mut new, tcp, seq);
    set_flags(&mut new, tcp, flags);
    resize(&mut new, &tcp.view);
    seal(&mut new);
    new
}

/// Makes the IP length field fit the frame.
pub fn resize(frame: &mut [u8], view: &View) {
    let (at, length) = if view.v6 { (4, frame.len() - view.l3 - 40) } else { (2, frame.len() - view.l3) };
    frame[view.l3 + at..view.l3 + at + 2].copy_from_slice(&(length as u16).to_be_bytes());
}

/// The Internet checksum's sum, not yet folded or complemented.
fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Makes every checksum of the frame right: IPv4 header, TCP, UDP, ICMP, `ICMPv6`. Of a fragment only the IP header's.
pub fn seal(frame: &mut [u8]) {
    let Some(view) = parse(frame) else { return };
    if !view.v6 {
        frame[view.l3 + 10..view.l3 + 12].fill(0);
        let check = fold(sum(&frame[view.l3..view.l4]));
        frame[view.l3 + 10..view.l3 + 12].copy_from_slice(&check.to_be_bytes());
    }
    if view.fragment.is_none() {
        seal_payload(frame, &view);
    }
}

fn seal_payload(frame: &mut [u8], view: &View) {
    let at = match view.proto {
        proto::TCP => 16,
        proto::UDP => 6,
        proto::ICMP | proto::ICMPV6 => 2,
        _ => return,
    } + view.l4;
    if at + 2 > view.end {
        return;
    }
    frame[at..at + 2].fill(0);
    let mut total = sum(&frame[view.l4..view.end]);
    if view.proto != proto::ICMP {
        let addresses = if view.v6 { view.l3 + 8..view.l3 + 40 } else { view.l3 + 12..view.l3 + 20 };
        total += sum(&frame[addresses]) + u64::from(view.proto) + (view.end - view.l4) as u64;
    }
    let check = match fold(total) {
        0 if view.proto == proto::UDP => 0xffff,
        check => check,
    };
    frame[at..at + 2].copy_from_slice(&check.to_be_bytes());
}
