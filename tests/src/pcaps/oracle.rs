//! What differs between two whole captures: the plainest comparison that can be right.
//!
//! It has all of both captures at once, knows nothing of time, acknowledgements or windows, and shares no code with the comparator,
//! nor with [`wire`](super::wire): frames are taken apart by `etherparse`. It says what a row of the table must say.

use super::Packet;
use anyhow::{Result, ensure};
use etherparse::defrag::IpDefragPool;
use etherparse::{IpNumber, NetSlice, SlicedPacket, TcpHeaderSlice, TcpOptionElement};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What is compared on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flow {
    /// A TCP connection: the guest's end and the peer's.
    Tcp(SocketAddr, SocketAddr),
    /// UDP between two ends.
    Udp(SocketAddr, SocketAddr),
    /// `ICMP` or `ICMPv6` between two hosts.
    Icmp(IpAddr, IpAddr),
    /// All ARP.
    Arp,
    /// Everything else.
    Other,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(a, b) => write!(f, "tcp {a} {b}"),
            Self::Udp(a, b) => write!(f, "udp {a} {b}"),
            Self::Icmp(a, b) => write!(f, "icmp {a} {b}"),
            Self::Arp => f.write_str("arp"),
            Self::Other => f.write_str("other"),
        }
    }
}

/// What one flow's two sides come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// All that the primary sent, the secondary sent too.
    Same,
    /// They differ: why, and for TCP at which byte of the stream.
    Differs(&'static str, Option<u32>),
    /// The secondary sent less.
    Missing,
}

/// One direction of a TCP connection, put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// The first SYN's number.
    pub isn: Option<u32>,
    /// Window scale, and whether timestamps are offered.
    pub options: (Option<u8>, bool),
    /// Every byte that was sent, by its place; a byte sent twice differently makes the stream unusable.
    pub bytes: BTreeMap<u32, u8>,
    /// Place of the FIN.
    pub fin: Option<u32>,
    /// Place of the RST.
    pub rst: Option<u32>,
    /// The furthest acknowledgement, from the first.
    pub acked: Option<u32>,
    /// Segments that carried data.
    pub segments: usize,
}

impl Stream {
    /// The data without holes from the start.
    pub fn data(&self) -> Vec<u8> {
        self.bytes.iter().zip(0..).take_while(|((at, _), i)| **at == *i).map(|((_, byte), _)| *byte).collect()
    }

    /// Puts a segment in its place. `other` is the ISN of the primary, whose space a translated segment is in.
    fn add(&mut self, tcp: &TcpHeaderSlice<'_>, payload: &[u8], other: Option<u32>) -> Result<()> {
        let seq = tcp.sequence_number();
        if tcp.syn() {
            self.isn = Some(seq);
            for option in tcp.options_iterator().flatten() {
                match option {
                    TcpOptionElement::WindowScale(scale) => self.options.0 = Some(scale),
                    TcpOptionElement::Timestamp(..) => self.options.1 = true,
                    _ => {}
                }
            }
        }
        if tcp.ack() {
            let ack = tcp.acknowledgment_number();
            let ahead = self.acked.is_none_or(|old| ack.wrapping_sub(old) as i32 > 0);
            self.acked = if ahead { Some(ack) } else { self.acked };
        }
        let near = |isn: &u32| (seq.wrapping_sub(*isn) as i32) >= 0 && seq.wrapping_sub(*isn) < 1 << 24;
        let base = self.isn.filter(near).or(other.filter(near)).unwrap_or(seq);
        let at = if tcp.syn() { 0 } else { seq.wrapping_sub(base).wrapping_sub(1) };
        for (byte, i) in payload.iter().zip(0..) {
            let old = self.bytes.insert(at.wrapping_add(i), *byte);
            ensure!(
                old.is_none_or(|old| old == *byte),
                "byte {} sent twice, differently",
                at.wrapping_add(i)
            );
        }
        self.segments += usize::from(!payload.is_empty());
        let end = at.wrapping_add(payload.len() as u32);
        self.fin = if tcp.fin() { Some(end) } else { self.fin };
        // A reset that refuses a connection has no stream to stand in.
        let place = if self.isn.is_some() { end } else { 0 };
        self.rst = if tcp.rst() { self.rst.or(Some(place)) } else { self.rst };
        Ok(())
    }

    fn compare(&self, secondary: &Self) -> Finding {
        let Self { fin, rst, bytes, .. } = secondary;
        if secondary.isn.is_some() && self.isn.is_some() && self.options != secondary.options {
            return Finding::Differs("syn", None);
        }
        let differs = |(at, byte): &(&u32, &u8)| bytes.get(at).is_some_and(|other| other != *byte);
        let byte = self.bytes.iter().find(differs).map(|(at, _)| (*at, "payload"));
        // One side ends where the other goes on, or ends otherwise.
        let mine = [(self.fin, *fin, *rst, "fin"), (self.rst, *rst, *fin, "rst")];
        let mine = mine.into_iter().filter_map(|(end, same, other, cause)| {
            let end = end?;
            let goes_on = same.is_none() && (other == Some(end) || bytes.contains_key(&end));
            (goes_on || same.is_some_and(|same| same != end)).then_some((end.min(same.unwrap_or(end)), cause))
        });
        let theirs = [(*fin, "fin"), (*rst, "rst")].into_iter().filter_map(|(end, cause)| {
            let end = end?;
            self.bytes.contains_key(&end).then_some((end, cause))
        });
        match mine.chain(theirs).chain(byte).min() {
            Some((at, cause)) => Finding::Differs(cause, Some(at)),
            None if self.lacks(secondary) => Finding::Missing,
            None => Finding::Same,
        }
    }

    fn lacks(&self, secondary: &Self) -> bool {
        let behind = match (self.acked, secondary.acked) {
            (Some(mine), Some(other)) => (mine.wrapping_sub(other) as i32) > 0,
            (mine, other) => mine.is_some() && other.is_none(),
        };
        behind
            || self.bytes.keys().any(|at| !secondary.bytes.contains_key(at))
            || (self.fin.is_some() && secondary.fin.is_none())
            || (self.rst.is_some() && secondary.rst.is_none())
            || (self.isn.is_some() && secondary.isn.is_none())
    }
}

/// All that a guest sent.
#[derive(Debug, Default)]
pub struct Output {
    /// TCP connections.
    pub streams: BTreeMap<Flow, Stream>,
    /// Messages of everything else.
    pub messages: BTreeMap<Flow, Vec<Vec<u8>>>,
}

impl Output {
    /// Takes a capture apart. `guest` limits it to one sender; `other` is the primary's output if this is the secondary's.
    pub fn new(capture: &[Packet], guest: Option<[u8; 6]>, other: Option<&Self>) -> Result<Self> {
        let mut output = Self::default();
        let mut pool = IpDefragPool::<(), ()>::new();
        for packet in capture.iter().filter(|p| guest.is_none_or(|mac| p.data[6..12] == mac)) {
            let sliced = SlicedPacket::from_ethernet(&packet.data)?;
            let (src, dst) = match &sliced.net {
                Some(NetSlice::Ipv4(ip)) => {
                    (IpAddr::from(ip.header().source_addr()), IpAddr::from(ip.header().destination_addr()))
                }
                Some(NetSlice::Ipv6(ip)) => {
                    (IpAddr::from(ip.header().source_addr()), IpAddr::from(ip.header().destination_addr()))
                }
                Some(NetSlice::Arp(arp)) => {
                    let zero = IpAddr::from(Ipv4Addr::UNSPECIFIED);
                    output.message(Flow::Arp, arp.slice(), zero, zero);
                    continue;
                }
                _ => {
                    let zero = IpAddr::from(Ipv6Addr::UNSPECIFIED);
                    output.message(Flow::Other, &packet.data[12..], zero, zero);
                    continue;
                }
            };
            if sliced.is_ip_payload_fragmented() {
                if let Some(whole) = pool.process_sliced_packet(&sliced, (), ())? {
                    output.payload(whole.ip_number, &whole.payload, src, dst, other)?;
                }
            } else if let Some(payload) = sliced.ip_payload() {
                output.payload(payload.ip_number, payload.payload, src, dst, other)?;
            }
        }
        Ok(output)
    }

    fn payload(
        &mut self,
        kind: IpNumber,
        bytes: &[u8],
        a: IpAddr,
        b: IpAddr,
        other: Option<&Self>,
    ) -> Result<()> {
        match kind {
            IpNumber::TCP => {
                let tcp = TcpHeaderSlice::from_slice(bytes)?;
                let (a, b) =
                    (SocketAddr::new(a, tcp.source_port()), SocketAddr::new(b, tcp.destination_port()));
                let flow = Flow::Tcp(a, b);
                let isn = other.and_then(|other| other.streams.get(&flow)).and_then(|stream| stream.isn);
                let payload = &bytes[tcp.slice().len()..];
                self.streams.entry(flow).or_default().add(&tcp, payload, isn)?;
            }
            IpNumber::UDP => {
                ensure!(bytes.len() >= 8, "a short UDP datagram");
                let port = |at| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
                let flow = Flow::Udp(SocketAddr::new(a, port(0)), SocketAddr::new(b, port(2)));
                self.message(flow, &bytes[8..], a, b);
            }
            IpNumber::ICMP | IpNumber::IPV6_ICMP => {
                let mut bytes = bytes.to_vec();
                bytes[2..4].fill(0);
                self.message(Flow::Icmp(a, b), &bytes, a, b);
            }
            _ => self.message(Flow::Other, bytes, a, b),
        }
        Ok(())
    }

    fn message(&mut self, flow: Flow, bytes: &[u8], a: IpAddr, b: IpAddr) {
        let mut message = format!("{a} {b} ").into_bytes();
        message.extend_from_slice(bytes);
        self.messages.entry(flow).or_default().push(message);
    }

    /// Every flow of the primary, and what became of it.
    pub fn compare(&self, secondary: &Self) -> BTreeMap<Flow, Finding> {
        let nothing = Stream::default();
        let streams = self
            .streams
            .iter()
            .map(|(flow, stream)| (*flow, stream.compare(secondary.streams.get(flow).unwrap_or(&nothing))));
        let none = Vec::new();
        let messages = self.messages.iter().map(|(flow, mine)| {
            // What differs in ARP is a field; what differs in a datagram is taken for its payload.
            let cause = if *flow == Flow::Arp { "fields" } else { "payload" };
            (*flow, compare_messages(mine, secondary.messages.get(flow).unwrap_or(&none), cause))
        });
        streams.chain(messages).collect()
    }
}

fn compare_messages(mine: &[Vec<u8>], others: &[Vec<u8>], cause: &'static str) -> Finding {
    let mut others = others.to_vec();
    let mut left = 0;
    for message in mine {
        match others.iter().position(|other| other == message) {
            Some(at) => drop(others.remove(at)),
            None => left += 1,
        }
    }
    match (left, others.len()) {
        (0, _) => Finding::Same,
        (_, 0) => Finding::Missing,
        _ => Finding::Differs(cause, None),
    }
}

/// Compares two captures.
pub fn compare(
    primary: &[Packet],
    secondary: &[Packet],
    guest: Option<[u8; 6]>,
) -> Result<BTreeMap<Flow, Finding>> {
    let primary = Output::new(primary, guest, None)?;
    let secondary = Output::new(secondary, guest, Some(&primary))?;
    Ok(primary.compare(&secondary))
}
