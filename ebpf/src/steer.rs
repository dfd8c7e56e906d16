//! Which queue of the capture tap a frame goes to: one conversation, one queue, whoever sent it.
//!
//! ```text
//!   TCP, whole ────────────► VLANs, addresses, ports ──┐
//!   other IP, fragments ───► VLANs, addresses ─────────┼─► hash ─► the kernel takes it modulo the queues
//!   ARP, other ethertypes ─► 0 ────────────────────────┘
//! ```
//!
//! Only what the comparator tells conversations apart by goes in, and it is read from the frame's own
//! bytes: not the forward tag, which is beside the frame and differs between the two guests and from
//! epoch to epoch; not the kernel's flow hash, which sees that tag; not what the guests may do
//! differently (segmentation, extension headers).
//!
//! A datagram that one guest sends whole and the other in fragments meets itself, because ports do not
//! count but for TCP, as does an ICMP error with what it is about. Where both guests send a TCP segment
//! in fragments, they meet apart from the rest of their connection.

use crate::headers::{
    DESTINATION, ETH_8021AD, ETH_8021Q, ETH_IPV4, ETH_IPV6, FRAGMENT, HOP_BY_HOP, IP_TCP, ROUTING,
};
use crate::skb::Skb;
use aya_ebpf::helpers::generated::bpf_loop;
use colo_ebpf_shared::layout::UNTAGGED;

/// IPv6 extension headers that are walked over, as many as the comparator does.
const EXTENSIONS: u32 = 16;

const AUTHENTICATION: u8 = 51;

/// A number that is the same for every frame of one conversation.
#[inline(always)]
pub fn queue(skb: &Skb) -> u32 {
    let Some([first, outer, second, inner, third]) = skb.load::<[u16; 5]>(12) else { return 0 };
    let (mut kind, mut at, mut vlans) = (first, 14, [UNTAGGED; 2]);
    if is_tag(first) {
        vlans[0] = u16::from_be(outer) & 0xfff;
        (kind, at) = (second, 18);
        if is_tag(second) {
            vlans[1] = u16::from_be(inner) & 0xfff;
            (kind, at) = (third, 22);
        }
    }
    let vlans = Hash::new(u32::from(vlans[0]) | u32::from(vlans[1]) << 16);
    let hash = if kind == ETH_IPV4.to_be() {
        ipv4(skb, at, vlans)
    } else if kind == ETH_IPV6.to_be() {
        ipv6(skb, at, vlans)
    } else {
        None
    };
    hash.map_or(0, Hash::finish)
}

#[inline(always)]
fn ipv4(skb: &Skb, at: u32, hash: Hash) -> Option<Hash> {
    let header: Ipv4 = skb.load(at)?;
    let hash = hash.word(u32::from_ne_bytes(header.source)).word(u32::from_ne_bytes(header.destination));
    // More fragments, or not the first one.
    let is_fragment = header.fragment & 0x3fff_u16.to_be() != 0;
    if header.protocol != IP_TCP || is_fragment {
        return Some(hash);
    }
    Some(ports(skb, at + u32::from(header.version_length & 15) * 4, hash))
}

#[inline(always)]
fn ipv6(skb: &Skb, at: u32, mut hash: Hash) -> Option<Hash> {
    let header: Ipv6 = skb.load(at)?;
    for address in [header.source, header.destination] {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
        hash = hash.word(u32::from_ne_bytes([a, b, c, d])).word(u32::from_ne_bytes([e, f, g, h]));
        hash = hash.word(u32::from_ne_bytes([i, j, k, l])).word(u32::from_ne_bytes([m, n, o, p]));
    }
    let tcp = if header.next == IP_TCP { at + 40 } else { behind_extensions(skb, at + 40, header.next) };
    Some(if tcp == 0 { hash } else { ports(skb, tcp, hash) })
}

/// With the ports of a TCP header, if it is there.
#[inline(always)]
fn ports(skb: &Skb, at: u32, hash: Hash) -> Hash {
    match skb.load::<u32>(at) {
        Some(ports) => hash.word(ports),
        None => hash,
    }
}

#[inline(always)]
fn is_tag(kind: u16) -> bool {
    kind == ETH_8021Q.to_be() || kind == ETH_8021AD.to_be()
}

/// Words in, one well mixed word out: a multiplication carries each bit upwards, a shift brings it down
/// again.
#[derive(Clone, Copy)]
struct Hash(u64);

impl Hash {
    #[inline(always)]
    fn new(word: u32) -> Self {
        Self(0x2545_f491_4f6c_dd1d).word(word)
    }

    #[inline(always)]
    fn word(self, word: u32) -> Self {
        Self(self.0 ^ u64::from(word)).stir(0x9e37_79b9_7f4a_7c15, 29)
    }

    #[inline(always)]
    fn stir(self, factor: u64, shift: u32) -> Self {
        let mixed = self.0.wrapping_mul(factor);
        Self(mixed ^ mixed >> shift)
    }

    /// Few queues are told apart by few bits, so all bits must have a say in them.
    #[inline(always)]
    fn finish(self) -> u32 {
        let mixed =
            Self(self.0 ^ self.0 >> 30).stir(0xbf58_476d_1ce4_e5b9, 27).stir(0x94d0_49bb_1331_11eb, 31);
        (mixed.0 >> 32) as u32
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv4 {
    version_length: u8,
    tos: u8,
    length: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: [u8; 4],
    destination: [u8; 4],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6 {
    version: u32,
    length: u16,
    next: u8,
    hops: u8,
    source: [u8; 16],
    destination: [u8; 16],
}

/// The state of a walk over extension headers.
struct Walk<'a> {
    skb: &'a Skb,
    at: u32,
    next: u32,
    tcp: u32,
}

/// Walks over extension headers (RFC 8200 §4) to the TCP header of a whole datagram; 0 if there is none.
#[inline(always)]
fn behind_extensions(skb: &Skb, at: u32, next: u8) -> u32 {
    let mut walk = Walk { skb, at, next: u32::from(next), tcp: 0 };
    // SAFETY: the function takes what it is given here, and does not outlive the call.
    unsafe { bpf_loop(EXTENSIONS, extension as *mut _, (&raw mut walk).cast(), 0) };
    walk.tcp
}

/// One extension header. Called by the kernel's own loop, so that the verifier looks at it once.
unsafe extern "C" fn extension(_: u32, walk: *mut Walk<'_>) -> i64 {
    const GO_ON: i64 = 0;
    const STOP: i64 = 1;
    // SAFETY: the caller's own, for as long as the loop runs.
    let walk = unsafe { &mut *walk };
    let Some([following, length, high, low]) = walk.skb.load::<[u8; 4]>(walk.at) else { return STOP };
    match walk.next as u8 {
        HOP_BY_HOP | ROUTING | DESTINATION => walk.at += (u32::from(length) + 1) * 8,
        AUTHENTICATION => walk.at += (u32::from(length) + 2) * 4,
        // One without others stands for itself (RFC 6946).
        FRAGMENT if u16::from_be_bytes([high, low]) & 0xfff9 == 0 => walk.at += 8,
        _ => return STOP,
    }
    walk.next = u32::from(following);
    if following == IP_TCP {
        walk.tcp = walk.at;
        return STOP;
    }
    GO_ON
}
