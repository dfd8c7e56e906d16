//! TCP segments in any stack of headers, written by `etherparse`: VLAN tags, IPv4 or IPv6, extension
//! headers, and options byte by byte.

use crate::frames::{ACK, FIN, GUEST_MAC, PEER_MAC, PSH, RST, SYN};
use colo_ebpf_shared::layout::{FlowKey, UNTAGGED};
use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader, TcpOptions};

/// IPv6 extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Hop-by-hop options.
    HopByHop,
    /// Destination options, of so many times eight bytes.
    Destination(u8),
    /// A routing header.
    Routing,
    /// A fragment header, with the offset in units of eight bytes.
    Fragment(u16),
}

impl Extension {
    fn number(self) -> u8 {
        match self {
            Self::HopByHop => 0,
            Self::Destination(_) => 60,
            Self::Routing => 43,
            Self::Fragment(_) => 44,
        }
    }

    fn bytes(self, next: u8) -> Vec<u8> {
        match self {
            // PadN fills them.
            Self::HopByHop => vec![next, 0, 1, 4, 0, 0, 0, 0],
            Self::Destination(units) => {
                let mut out = vec![next, units - 1, 1, units * 8 - 4];
                out.resize(usize::from(units) * 8, 0);
                out
            }
            Self::Routing => vec![next, 0, 4, 0, 0, 0, 0, 0],
            Self::Fragment(offset) => {
                let [high, low] = (offset << 3 | 1).to_be_bytes();
                vec![next, 0, high, low, 0, 0, 0, 7]
            }
        }
    }
}

/// A TCP segment.
#[derive(Clone, Debug)]
pub struct Segment {
    /// From the guest, or to it.
    pub out: bool,
    /// IPv6 in place of IPv4.
    pub v6: bool,
    /// VLAN tags, the outermost first: ethertype and TCI.
    pub tags: Vec<(u16, u16)>,
    /// IPv6 extension headers.
    pub extensions: Vec<Extension>,
    /// IPv4 options, a multiple of four bytes.
    pub ip_options: Vec<u8>,
    /// The IPv4 fragment offset in units of eight bytes.
    pub fragment: u16,
    /// The other end's port.
    pub peer_port: u16,
    /// The sequence number.
    pub seq: u32,
    /// The acknowledgement number.
    pub ack: u32,
    /// The flags.
    pub flags: u8,
    /// The options as they are; filled up to a multiple of four bytes.
    pub options: Vec<u8>,
    /// The payload.
    pub payload: Vec<u8>,
}

/// The guest's port.
pub const GUEST_PORT: u16 = 80;
const GUEST: u8 = 2;
const PEER: u8 = 1;

impl Segment {
    /// A segment from the guest over IPv4.
    pub fn outwards(flags: u8, seq: u32, ack: u32) -> Self {
        Self {
            out: true,
            v6: false,
            tags: Vec::new(),
            extensions: Vec::new(),
            ip_options: Vec::new(),
            fragment: 0,
            peer_port: 40_000,
            seq,
            ack,
            flags,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// A segment to the guest over IPv4.
    pub fn inwards(flags: u8, seq: u32, ack: u32) -> Self {
        Self { out: false, ..Self::outwards(flags, seq, ack) }
    }

    /// The same over IPv6.
    #[must_use]
    pub fn v6(self) -> Self {
        Self { v6: true, ..self }
    }

    /// The same inside these VLANs.
    #[must_use]
    pub fn tags(self, tags: &[(u16, u16)]) -> Self {
        Self { tags: tags.to_vec(), ..self }
    }

    /// The same behind these extension headers.
    #[must_use]
    pub fn extensions(self, extensions: &[Extension]) -> Self {
        Self { extensions: extensions.to_vec(), ..self }
    }

    /// The same with more options.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options.extend(options);
        self
    }

    /// The same with a timestamps option behind two NOPs, as nearly everybody sends it.
    #[must_use]
    pub fn timestamps(self, tsval: u32, tsecr: u32) -> Self {
        self.options(&[1, 1]).options(&timestamps(tsval, tsecr))
    }

    /// The same with this payload.
    #[must_use]
    pub fn payload(self, payload: &[u8]) -> Self {
        Self { payload: payload.to_vec(), ..self }
    }

    /// The key of its connection.
    pub fn key(&self) -> FlowKey {
        let address = |last| {
            if self.v6 {
                [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
            } else {
                [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 77, 0, last]
            }
        };
        let vlan = |depth| self.tags.get(depth).map_or(UNTAGGED, |&(_, tci): &(u16, u16)| tci & 0xfff);
        FlowKey {
            guest: address(GUEST),
            peer: address(PEER),
            guest_port: GUEST_PORT.to_be_bytes(),
            peer_port: self.peer_port.to_be_bytes(),
            vlans: [vlan(0), vlan(1)],
        }
    }

    /// The frame, checksums and all.
    ///
    /// # Panics
    ///
    /// If the options are longer than a header can be.
    pub fn frame(&self) -> Vec<u8> {
        let (macs, hosts, ports) = if self.out {
            ([PEER_MAC, GUEST_MAC], [GUEST, PEER], [GUEST_PORT, self.peer_port])
        } else {
            ([GUEST_MAC, PEER_MAC], [PEER, GUEST], [self.peer_port, GUEST_PORT])
        };
        let mut out = macs.concat();
        for (kind, tci) in &self.tags {
            out.extend(kind.to_be_bytes());
            out.extend(tci.to_be_bytes());
        }
        let tcp = self.tcp(ports);
        if self.v6 {
            self.ip6(&mut out, hosts, tcp);
        } else {
            self.ip4(&mut out, hosts, tcp);
        }
        out.extend(&self.payload);
        out
    }

    fn tcp(&self, [source, destination]: [u16; 2]) -> TcpHeader {
        let mut header = TcpHeader::new(source, destination, self.seq, 1000);
        header.acknowledgment_number = self.ack;
        header.fin = self.flags & FIN != 0;
        header.syn = self.flags & SYN != 0;
        header.rst = self.flags & RST != 0;
        header.psh = self.flags & PSH != 0;
        header.ack = self.flags & ACK != 0;
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        header.options = TcpOptions::try_from_slice(&options).expect("the options fit");
        header
    }

    fn ip4(&self, out: &mut Vec<u8>, [from, to]: [u8; 2], mut tcp: TcpHeader) {
        let length = tcp.header_len() + self.payload.len();
        let address = |last| [10, 77, 0, last];
        let mut ip =
            Ipv4Header::new(0, 64, IpNumber::TCP, address(from), address(to)).expect("no payload yet");
        ip.options = self.ip_options.as_slice().try_into().expect("the options fit");
        ip.set_payload_len(length).expect("the payload fits");
        ip.fragment_offset = self.fragment.try_into().expect("thirteen bits");
        ip.header_checksum = ip.calc_header_checksum();
        tcp.checksum = tcp.calc_checksum_ipv4(&ip, &self.payload).expect("the payload fits");
        out.extend([0x08, 0x00]);
        out.extend(ip.to_bytes());
        out.extend(tcp.to_bytes());
    }

    fn ip6(&self, out: &mut Vec<u8>, [from, to]: [u8; 2], mut tcp: TcpHeader) {
        let address = |last| [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        let mut next = 6;
        let mut extensions = Vec::new();
        for extension in self.extensions.iter().rev() {
            extensions = [extension.bytes(next), extensions].concat();
            next = extension.number();
        }
        let length = extensions.len() + tcp.header_len() + self.payload.len();
        let ip = Ipv6Header {
            payload_length: length as u16,
            next_header: IpNumber(next),
            hop_limit: 64,
            source: address(from),
            destination: address(to),
            ..Ipv6Header::default()
        };
        tcp.checksum = tcp.calc_checksum_ipv6(&ip, &self.payload).expect("the payload fits");
        out.extend([0x86, 0xdd]);
        out.extend(ip.to_bytes());
        out.extend(extensions);
        out.extend(tcp.to_bytes());
    }
}

/// A timestamps option.
pub fn timestamps(tsval: u32, tsecr: u32) -> Vec<u8> {
    [&[8, 10][..], &tsval.to_be_bytes(), &tsecr.to_be_bytes()].concat()
}

/// A SACK option.
pub fn sack(blocks: &[(u32, u32)]) -> Vec<u8> {
    let mut out = vec![5, 2 + 8 * blocks.len() as u8];
    for (left, right) in blocks {
        out.extend(left.to_be_bytes());
        out.extend(right.to_be_bytes());
    }
    out
}
