//! Valid frames of a few flows. Payload bytes are a function of their place in the stream, so that
//! both sides agree unless an input bends them.

use arbitrary::Arbitrary;
use etherparse::{EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, PacketBuilder, TcpHeader};

const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GUEST: [u8; 4] = [10, 0, 0, 1];
const PEER: [u8; 4] = [10, 0, 0, 2];

/// What a frame is, before it is bytes.
#[derive(Arbitrary, Clone, Debug)]
pub enum Shape {
    Tcp(Tcp),
    Udp {
        flow: u8,
        len: u8,
        fill: u8,
    },
    /// A piece of a UDP datagram.
    Fragment {
        id: u8,
        offset: u8,
        blocks: u8,
        last: bool,
        tcp: bool,
        fill: u8,
    },
    Echo {
        reply: bool,
        id: u8,
        seq: u8,
        len: u8,
    },
    Arp {
        reply: bool,
        target: u8,
    },
    /// Neighbour solicitation over IPv6.
    Neighbour {
        target: u8,
    },
    Other {
        kind: u8,
        fill: u8,
        len: u8,
    },
    Raw(Vec<u8>),
}

/// A TCP segment.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Tcp {
    /// Which connection: a few, so that segments meet.
    pub flow: u8,
    pub kind: Kind,
    /// Place of the first payload byte in the stream.
    pub place: u8,
    pub len: u8,
    /// What it acknowledges, from a base.
    pub ack: u8,
    pub window: u8,
    /// Change one byte of the payload.
    pub bend: bool,
    /// In the secondary's own sequence space, which lies elsewhere.
    pub own_space: bool,
    pub v6: bool,
}

/// Flags that make sense, and some that do not.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Data,
    Ack,
    Syn,
    SynAck,
    /// A SYN that re-uses the ports.
    Reopen,
    Fin,
    Reset,
    ResetWithoutAck,
    Any(u8),
}

impl Shape {
    /// The frame.
    pub fn build(&self) -> Vec<u8> {
        match self {
            Self::Tcp(tcp) => tcp.build(),
            Self::Udp { flow, len, fill } => {
                let builder = PacketBuilder::ethernet2(GUEST_MAC, PEER_MAC)
                    .ipv4(GUEST, PEER, 64)
                    .udp(53, 1000 + u16::from(*flow));
                let payload = vec![fill % 4; usize::from(len % 64)];
                let mut out = Vec::new();
                builder.write(&mut out, &payload).expect("a valid packet");
                out
            }
            Self::Fragment { id, offset, blocks, last, tcp, fill } => {
                fragment(id % 4, offset % 8, blocks % 6, *last, *tcp, fill % 2)
            }
            Self::Echo { reply, id, seq, len } => {
                let builder = PacketBuilder::ethernet2(GUEST_MAC, PEER_MAC).ipv4(GUEST, PEER, 64);
                let (id, seq) = (u16::from(id % 4), u16::from(seq % 8));
                let builder = if *reply {
                    builder.icmpv4_echo_reply(id, seq)
                } else {
                    builder.icmpv4_echo_request(id, seq)
                };
                let mut out = Vec::new();
                builder.write(&mut out, &vec![7; usize::from(len % 32)]).expect("a valid packet");
                out
            }
            Self::Arp { reply, target } => arp(*reply, target % 4),
            Self::Neighbour { target } => neighbour(target % 4),
            Self::Other { kind, fill, len } => {
                let mut out = ethernet(EtherType(0x8800 | u16::from(kind % 4)));
                out.extend(vec![fill % 4; usize::from(len % 96)]);
                out
            }
            Self::Raw(bytes) => bytes.clone(),
        }
    }
}

impl Tcp {
    fn build(self) -> Vec<u8> {
        // One flow wraps, one does not.
        let flow = self.flow % 3;
        let isn: u32 = if flow == 0 { u32::MAX - 20 } else { 5000 };
        let (header, with_payload) = self.header(flow, isn);
        let payload = if with_payload { self.payload(flow) } else { Vec::new() };
        let builder = PacketBuilder::ethernet2(GUEST_MAC, PEER_MAC);
        let mut out = Vec::new();
        let result = if self.v6 && flow == 2 {
            builder.ipv6([0xfd; 16], [0xfe; 16], 64).tcp_header(header).write(&mut out, &payload)
        } else {
            builder.ipv4(GUEST, PEER, 64).tcp_header(header).write(&mut out, &payload)
        };
        result.expect("a valid packet");
        out
    }

    fn header(self, flow: u8, isn: u32) -> (TcpHeader, bool) {
        let space = if self.own_space { 0x6000_0000 } else { 0 };
        let place = u32::from(self.place % 64);
        let data = isn.wrapping_add(1).wrapping_add(place).wrapping_add(space);
        let window = [0, 1, 100, 500, u16::MAX][usize::from(self.window % 5)];
        let mut header = TcpHeader::new(80, 40_000 + u16::from(flow), data, window);
        header.acknowledgment_number = 9000 + u32::from(self.ack % 32);
        header.ack = true;
        let mut with_payload = true;
        match self.kind {
            Kind::Data => header.psh = true,
            Kind::Ack => with_payload = false,
            Kind::Syn | Kind::SynAck | Kind::Reopen => {
                header.syn = true;
                header.ack = self.kind == Kind::SynAck;
                let other = if self.kind == Kind::Reopen { 0x0100_0000 } else { 0 };
                header.sequence_number = isn.wrapping_add(space).wrapping_add(other);
                with_payload = self.len % 4 == 3;
                let _ = header.set_options_raw(match self.window % 3 {
                    0 => &[3, 3, 7, 1],
                    1 => &[2, 4, 5, 180, 1, 3, 3, 7],
                    _ => &[],
                });
            }
            Kind::Fin => header.fin = true,
            Kind::Reset | Kind::ResetWithoutAck => {
                header.rst = true;
                header.ack = self.kind == Kind::Reset;
                with_payload = false;
            }
            Kind::Any(bits) => {
                header.fin = bits & 1 != 0;
                header.syn = bits & 2 != 0;
                header.rst = bits & 4 != 0;
                header.psh = bits & 8 != 0;
                header.ack = bits & 16 != 0;
                header.urg = bits & 32 != 0;
            }
        }
        (header, with_payload)
    }

    fn payload(self, flow: u8) -> Vec<u8> {
        let len = usize::from(self.len % 40);
        let mut out: Vec<u8> = (0..len).map(|at| (self.place % 64).wrapping_add(at as u8) ^ flow).collect();
        if self.bend
            && let Some(last) = out.last_mut()
        {
            *last ^= 0x55;
        }
        out
    }
}

fn ethernet(ether_type: EtherType) -> Vec<u8> {
    let header = Ethernet2Header { source: GUEST_MAC, destination: PEER_MAC, ether_type };
    header.to_bytes().to_vec()
}

fn fragment(id: u8, offset: u8, blocks: u8, last: bool, tcp: bool, fill: u8) -> Vec<u8> {
    // The datagram has 6 blocks of 8 bytes; the input says which of them this frame brings.
    let mut datagram = [fill; 48];
    if tcp {
        datagram[12] = 5 << 4;
        datagram[13] = 0x10;
    } else {
        datagram[..8].copy_from_slice(&[0, 53, 4, 0, 0, 48, 0, 0]);
    }
    let start = usize::from(offset) * 8;
    let end = (start + usize::from(blocks) * 8).min(48);
    let payload = datagram.get(start..end).unwrap_or(&datagram[40..]);
    let proto = if tcp { IpNumber::TCP } else { IpNumber::UDP };
    let mut ip = Ipv4Header::new(payload.len() as u16, 64, proto, GUEST, PEER).expect("a short payload");
    ip.identification = u16::from(id);
    ip.dont_fragment = false;
    ip.more_fragments = !last;
    ip.fragment_offset = IpFragOffset::try_new(u16::from(offset)).expect("a small offset");
    ip.header_checksum = ip.calc_header_checksum();
    let mut out = ethernet(EtherType::IPV4);
    out.extend(ip.to_bytes());
    out.extend(payload);
    out
}

fn arp(reply: bool, target: u8) -> Vec<u8> {
    let mut out = ethernet(EtherType::ARP);
    out.extend([0, 1, 8, 0, 6, 4, 0, 1 + u8::from(reply)]);
    out.extend(GUEST_MAC);
    out.extend(GUEST);
    out.extend(PEER_MAC);
    out.extend([10, 0, 0, target]);
    out
}

fn neighbour(target: u8) -> Vec<u8> {
    let mut out = ethernet(EtherType::IPV6);
    out.extend([0x60, 0, 0, 0, 0, 32, 58, 255]);
    out.extend([0xfd; 16]);
    out.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, target]);
    out.extend([135, 0, 0, 0, 0, 0, 0, 0]);
    out.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, target]);
    out.extend([1, 1]);
    out.extend(GUEST_MAC);
    out
}
