//! Frames as a guest would send them, built with `etherparse`: independent of the parser under test.

use etherparse::{PacketBuilder, TcpHeader, TcpOptionElement, TcpOptions, VlanId};
use std::net::IpAddr;

/// The guest's MAC address.
pub const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0xc0, 0x10, 0x01];
/// The router's MAC address.
pub const PEER_MAC: [u8; 6] = [0x52, 0x54, 0, 0xc0, 0x10, 0xfe];

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// PSH.
pub const PSH: u8 = 0x08;
/// ACK.
pub const ACK: u8 = 0x10;

/// The two ends of a conversation, the guest's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The guest's address.
    pub guest: IpAddr,
    /// The client's address.
    pub peer: IpAddr,
    /// The guest's port.
    pub guest_port: u16,
    /// The client's port.
    pub peer_port: u16,
    /// An 802.1Q tag.
    pub vlan: Option<u16>,
}

impl Ends {
    /// A conversation over IPv4.
    pub fn v4() -> Self {
        Self {
            guest: [10, 77, 0, 2].into(),
            peer: [10, 77, 0, 1].into(),
            guest_port: 80,
            peer_port: 40_000,
            vlan: None,
        }
    }

    /// A conversation over IPv6.
    pub fn v6() -> Self {
        let address = |last| [0xfd77, 0, 0, 0, 0, 0, 0, last].into();
        Self { guest: address(2), peer: address(1), ..Self::v4() }
    }

    /// The same with another client port.
    #[must_use]
    pub fn peer_port(self, peer_port: u16) -> Self {
        Self { peer_port, ..self }
    }

    /// The same inside a VLAN.
    #[must_use]
    pub fn vlan(self, id: u16) -> Self {
        Self { vlan: Some(id), ..self }
    }

    fn ip(&self, ttl: u8) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        use etherparse::{IpHeaders, Ipv4Header, Ipv6Header};
        let headers = match (self.guest, self.peer) {
            (IpAddr::V4(guest), IpAddr::V4(peer)) => {
                let header = Ipv4Header {
                    source: guest.octets(),
                    destination: peer.octets(),
                    time_to_live: ttl,
                    dont_fragment: true,
                    ..Ipv4Header::default()
                };
                IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
            }
            (IpAddr::V6(guest), IpAddr::V6(peer)) => {
                let header = Ipv6Header {
                    source: guest.octets(),
                    destination: peer.octets(),
                    hop_limit: ttl,
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default())
            }
            _ => panic!("both ends speak one IP version"),
        };
        let ethernet = PacketBuilder::ethernet2(GUEST_MAC, PEER_MAC);
        match self.vlan.and_then(|id| VlanId::try_new(id).ok()) {
            Some(id) => ethernet.single_vlan(id).ip(headers),
            None => ethernet.ip(headers),
        }
    }

    /// A UDP datagram.
    pub fn udp(&self, payload: &[u8]) -> Vec<u8> {
        written(self.ip(64).udp(self.guest_port, self.peer_port), payload)
    }

    /// An ICMP echo reply (of the IP version in use).
    pub fn echo_reply(&self, id: u16, seq: u16, payload: &[u8]) -> Vec<u8> {
        match self.guest {
            IpAddr::V4(_) => written(self.ip(64).icmpv4_echo_reply(id, seq), payload),
            IpAddr::V6(_) => written(self.ip(64).icmpv6_echo_reply(id, seq), payload),
        }
    }

    /// A datagram of another IP protocol.
    ///
    /// # Panics
    ///
    /// If the payload is longer than a datagram can be.
    pub fn other_ip(&self, proto: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
        let step = self.ip(ttl);
        let mut out = Vec::with_capacity(step.size(payload.len()));
        step.write(&mut out, etherparse::IpNumber(proto), payload).expect("a Vec takes everything");
        out
    }

    /// A TCP segment to be described further.
    pub fn tcp(&self, flags: u8, seq: u32, ack: u32) -> Tcp {
        Tcp { ends: *self, flags, seq, ack, window: 1000, options: Vec::new(), payload: Vec::new(), ttl: 64 }
    }
}

fn written<L: etherparse_step::Write>(step: L, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    step.write_to(&mut out, payload);
    out
}

/// The builder's last steps have the same methods and no common trait.
mod etherparse_step {
    use etherparse::{Icmpv4Header, Icmpv6Header, PacketBuilderStep, TcpHeader, UdpHeader};

    pub(super) trait Write {
        fn write_to(self, out: &mut Vec<u8>, payload: &[u8]);
    }

    macro_rules! write {
        ($($header:ty),*) => {$(
            impl Write for PacketBuilderStep<$header> {
                fn write_to(self, out: &mut Vec<u8>, payload: &[u8]) {
                    self.write(out, payload).expect("a Vec takes everything");
                }
            }
        )*};
    }
    write!(UdpHeader, TcpHeader, Icmpv4Header, Icmpv6Header);
}

/// A TCP segment in the making.
#[derive(Clone, Debug)]
pub struct Tcp {
    ends: Ends,
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    options: Vec<TcpOptionElement>,
    payload: Vec<u8>,
    ttl: u8,
}

impl Tcp {
    /// With this payload.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// With this window field.
    #[must_use]
    pub fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    /// With an MSS option.
    #[must_use]
    pub fn mss(mut self, mss: u16) -> Self {
        self.options.push(TcpOptionElement::MaximumSegmentSize(mss));
        self
    }

    /// With a window scale option.
    #[must_use]
    pub fn scale(mut self, shift: u8) -> Self {
        self.options.push(TcpOptionElement::WindowScale(shift));
        self
    }

    /// With a timestamps option.
    #[must_use]
    pub fn timestamps(mut self, value: u32, echo: u32) -> Self {
        self.options.push(TcpOptionElement::Timestamp(value, echo));
        self
    }

    /// With a SACK-permitted option.
    #[must_use]
    pub fn sack_permitted(mut self) -> Self {
        self.options.push(TcpOptionElement::SelectiveAcknowledgementPermitted);
        self
    }

    /// With a SACK block.
    #[must_use]
    pub fn sack(mut self, left: u32, right: u32) -> Self {
        self.options.push(TcpOptionElement::SelectiveAcknowledgement((left, right), [None, None, None]));
        self
    }

    /// With this TTL or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// The frame, checksums and all.
    ///
    /// # Panics
    ///
    /// If the options take more than 40 bytes.
    pub fn frame(self) -> Vec<u8> {
        let mut header = TcpHeader::new(self.ends.guest_port, self.ends.peer_port, self.seq, self.window);
        header.fin = self.flags & FIN != 0;
        header.syn = self.flags & SYN != 0;
        header.rst = self.flags & RST != 0;
        header.psh = self.flags & PSH != 0;
        header.ack = self.flags & ACK != 0;
        header.acknowledgment_number = self.ack;
        header.options = TcpOptions::try_from_elements(&self.options).expect("the options fit");
        written(self.ends.ip(self.ttl).tcp_header(header), &self.payload)
    }
}

/// An ARP packet (RFC 826): operation, sender and target.
pub fn arp(operation: u16, sender: ([u8; 6], [u8; 4]), target: ([u8; 6], [u8; 4])) -> Vec<u8> {
    let destination = if operation == 1 { [0xff; 6] } else { target.0 };
    let mut out = [destination, sender.0].concat();
    out.extend([8, 6, 0, 1, 8, 0, 6, 4]);
    out.extend(operation.to_be_bytes());
    out.extend(sender.0.iter().chain(&sender.1).chain(&target.0).chain(&target.1));
    out
}

/// A frame of another ethertype.
pub fn ether(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = [PEER_MAC, GUEST_MAC].concat();
    out.extend(kind.to_be_bytes());
    out.extend(payload);
    out
}

/// The frame filled up to the shortest Ethernet length with this byte.
pub fn padded(mut frame: Vec<u8>, filler: u8) -> Vec<u8> {
    if frame.len() < 60 {
        frame.resize(60, filler);
    }
    frame
}

/// Cuts an untagged IPv4 frame into fragments whose payloads are at most `size` bytes, with `id`.
pub fn fragments_v4(frame: &[u8], size: usize, id: u16) -> Vec<Vec<u8>> {
    let size = size.max(8) / 8 * 8;
    let (header, payload) = (&frame[..34], &frame[34..]);
    let count = payload.len().div_ceil(size);
    let cut = |(index, piece): (usize, &[u8])| {
        let mut out = [header, piece].concat();
        let more = u16::from(index + 1 < count) << 13;
        out[16..18].copy_from_slice(&((20 + piece.len()) as u16).to_be_bytes());
        out[18..20].copy_from_slice(&id.to_be_bytes());
        out[20..22].copy_from_slice(&(more | (index * size / 8) as u16).to_be_bytes());
        out[24..26].fill(0);
        let sum = colo_proxy::packet::internet_checksum(&out[14..34]);
        out[24..26].copy_from_slice(&sum.to_be_bytes());
        out
    };
    payload.chunks(size).enumerate().map(cut).collect()
}

/// Cuts an untagged IPv6 frame without extension headers into fragments.
pub fn fragments_v6(frame: &[u8], size: usize, id: u32) -> Vec<Vec<u8>> {
    let size = size.max(8) / 8 * 8;
    let (header, payload) = (&frame[..54], &frame[54..]);
    let count = payload.len().div_ceil(size);
    let cut = |(index, piece): (usize, &[u8])| {
        let mut out = header.to_vec();
        let bits = (index * size) as u16 | u16::from(index + 1 < count);
        out.extend([header[20], 0]);
        out.extend(bits.to_be_bytes());
        out.extend(id.to_be_bytes());
        out.extend(piece);
        out[20] = 44;
        out[18..20].copy_from_slice(&((8 + piece.len()) as u16).to_be_bytes());
        out
    };
    payload.chunks(size).enumerate().map(cut).collect()
}

/// The acknowledgement number of an untagged TCP frame over IPv4.
pub fn ack_of(frame: &[u8]) -> u32 {
    frame[42..46].iter().fold(0, |all, &byte| all << 8 | u32::from(byte))
}

/// The window field of an untagged TCP frame over IPv4.
pub fn window_of(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[48], frame[49]])
}

/// Whether all checksums of an untagged or tagged TCP or UDP frame are right, by `etherparse`.
pub fn checksums_are_right(frame: &[u8]) -> bool {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let Ok(sliced) = SlicedPacket::from_ethernet(frame) else { return false };
    let (Some(net), Some(TransportSlice::Tcp(tcp))) = (&sliced.net, &sliced.transport) else { return false };
    match net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            header.calc_header_checksum() == header.header_checksum
                && tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).ok() == Some(tcp.checksum())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            tcp.to_header().calc_checksum_ipv6(&header, tcp.payload()).ok() == Some(tcp.checksum())
        }
        NetSlice::Arp(_) => false,
    }
}
