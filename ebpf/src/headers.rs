//! Where things are in a frame.

use crate::skb::Skb;
use aya_ebpf::helpers::generated::bpf_loop;
use colo_ebpf_shared::layout::{FlowKey, UNTAGGED};

pub const ETH_IPV4: u16 = 0x0800;
const ETH_ARP: u16 = 0x0806;
pub const ETH_IPV6: u16 = 0x86dd;
pub const ETH_8021Q: u16 = 0x8100;
pub const ETH_8021AD: u16 = 0x88a8;

pub const IP_TCP: u8 = 6;
pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const DESTINATION: u8 = 60;

/// IPv6 extension headers that are walked over; a packet with more is not translated.
const EXTENSIONS: u32 = 6;

/// Which way a frame goes, seen from the guest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Out,
    In,
}

/// Reads a frame of IP, or of ARP on its way out: the key of its connection but for the ports, and
/// where its TCP header is, 0 if there is none. None if it is neither.
#[inline(always)]
pub fn packet(skb: &Skb, direction: Direction, key: &mut FlowKey) -> Option<u32> {
    let (kind, at) = frame(skb, &mut key.vlans)?;
    let (source, destination) = match direction {
        Direction::Out => (&mut key.guest, &mut key.peer),
        Direction::In => (&mut key.peer, &mut key.guest),
    };
    if kind == ETH_IPV4.to_be() {
        let [first, second, third, from, to]: [u32; 5] = skb.read(at)?;
        *source = mapped(from);
        *destination = mapped(to);
        let words = u32::from(first.to_ne_bytes()[0] & 15);
        // The offset of a fragment, and the protocol.
        let whole = second & 0x1fff_u32.to_be() == 0;
        let tcp = third.to_ne_bytes()[1] == IP_TCP;
        return Some(if whole && tcp && words >= 5 { at + words * 4 } else { 0 });
    }
    if kind == ETH_IPV6.to_be() {
        let [_, second, a, b, c, d, e, f, g, h]: [u32; 10] = skb.read(at)?;
        *source = bytes([a, b, c, d]);
        *destination = bytes([e, f, g, h]);
        let next = second.to_ne_bytes()[2];
        return Some(if next == IP_TCP { at + 40 } else { behind_extensions(skb, at + 40, next) });
    }
    // The sender's address in a message for IPv4 (RFC 826).
    if kind == ETH_ARP.to_be() && direction == Direction::Out {
        *source = mapped(skb.read(at + 14)?);
        return Some(0);
    }
    None
}

/// Reads the Ethernet header and up to two VLAN tags: the ethertype of the network layer, as it is on
/// the wire, and where that is.
#[inline(always)]
fn frame(skb: &Skb, vlans: &mut [u16; 2]) -> Option<(u16, u32)> {
    // The ethertype, and what two tags would be. No packet that matters is shorter.
    let [first, outer, second, inner, third]: [u16; 5] = skb.read(12)?;
    let (mut kind, mut at) = (first, 14);
    let mut tags = [UNTAGGED; 2];
    if is_tag(first) {
        tags[0] = u16::from_be(outer) & 0xfff;
        (kind, at) = (second, 18);
        if is_tag(second) {
            tags[1] = u16::from_be(inner) & 0xfff;
            (kind, at) = (third, 22);
        }
    }
    if let Some((_, tci)) = skb.tag_beside() {
        let innermost = if tags[1] == UNTAGGED { tags[0] } else { tags[1] };
        tags = [tci & 0xfff, innermost];
    }
    *vlans = tags;
    Some((kind, at))
}

#[inline(always)]
fn is_tag(kind: u16) -> bool {
    kind == ETH_8021Q.to_be() || kind == ETH_8021AD.to_be()
}

#[inline(always)]
fn mapped(address: u32) -> [u8; 16] {
    bytes([0, 0, 0xffff_u32.to_be(), address])
}

#[inline(always)]
fn bytes(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: plain bytes, as many of one as of the other.
    unsafe { core::mem::transmute(words) }
}

/// The state of a walk over extension headers.
struct Walk<'a> {
    skb: &'a Skb,
    at: u32,
    next: u32,
    tcp: u32,
}

/// Walks over extension headers (RFC 8200 §4) to a TCP header.
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
        FRAGMENT if u16::from_be_bytes([high, low]) & 0xfff8 == 0 => walk.at += 8,
        _ => return STOP,
    }
    walk.next = u32::from(following);
    if following == IP_TCP {
        walk.tcp = walk.at;
        return STOP;
    }
    GO_ON
}
