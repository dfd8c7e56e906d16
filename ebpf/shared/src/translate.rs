//! From the secondary's numbers to the primary's and back.
//!
//! Until a checkpoint makes them one, two kernels choose different initial sequence numbers and
//! different timestamp clocks for the same connection. Clients know the primary's. The difference is
//! learned from the handshake, and from then on each segment is translated:
//!
//! ```text
//!             passive open                                   active open
//!   client          SVM                            SVM          server
//!     │ SYN ─────────► │                             │ SYN(s) ─────► │     remember s
//!     │ ◄──── SYN/ACK(s) │  remember s               │               │
//!     │ ACK(p+1) ────► │  offset = p − s             │ ◄─ SYN/ACK(p+1) │   offset = p − s
//! ```
//!
//! where `p` is the primary's initial sequence number: the client acknowledges the primary, not us.
//! That acknowledgement cannot come first: the comparator lets the primary's SYN out only after the
//! secondary's (promise 1).
//!
//! Outwards `seq` and TSval are translated, inwards `ack`, SACK blocks (RFC 2018) and TSecr
//! (RFC 7323). A TSval never falls behind what the client has echoed: its PAWS check (RFC 7323 §5)
//! would drop the segment.

#![allow(clippy::inline_always, reason = "a call that the verifier follows costs it all that it knows")]

/// What is known of one connection: the value of the map `FLOWS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// The generation that this was learned in.
    pub generation: u32,
    /// Bits of [`flags`].
    pub flags: u32,
    /// The secondary's initial sequence number.
    pub isn: u32,
    /// The primary's numbers minus the secondary's, modulo 2³².
    pub offset: u32,
    /// The TSval of the secondary's latest SYN.
    pub syn_tsval: u32,
    /// The primary's timestamps minus the secondary's, modulo 2³².
    pub ts_offset: u32,
    /// The latest of the primary's timestamps that the client has echoed.
    pub ts_floor: u32,
    /// Always zero.
    pub reserved: u32,
}

/// Bits of [`Flow::flags`].
pub mod flags {
    /// The offset is known.
    pub const LEARNED: u32 = 1;
    /// The secondary's SYN acknowledged something: it answers a SYN.
    pub const ANSWERED: u32 = 2;
    /// A SYN came in after the secondary's: a simultaneous open.
    pub const CROSSED: u32 = 4;
    /// The secondary's SYN had a timestamp.
    pub const TIMESTAMPS: u32 = 8;
    /// The difference of the timestamps is known.
    pub const TS_LEARNED: u32 = 16;
}

/// Flags of a TCP segment (RFC 9293 §3.1).
pub mod tcp {
    /// Synchronize.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// Acknowledgement is significant.
    pub const ACK: u8 = 16;
}

/// The numbers of a segment that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Bits of [`tcp`].
    pub flags: u8,
    /// Whether there is a timestamps option.
    pub timestamps: bool,
    /// Its TSval.
    pub tsval: u32,
    /// Its TSecr.
    pub tsecr: u32,
}

/// What came of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It stays as it is.
    Untouched,
    /// It was translated. Inwards, SACK blocks are to be lowered by [`Flow::offset`] as well.
    Translated,
    /// It is the secondary's SYN of another connection: the entry is to begin anew.
    Another,
}

#[inline]
const fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// The entry that begins with the secondary's SYN.
#[inline(always)]
pub fn begin(generation: u32, syn: &Segment) -> Flow {
    let mut known = 0;
    if syn.flags & tcp::ACK != 0 {
        known |= flags::ANSWERED;
    }
    if syn.timestamps {
        known |= flags::TIMESTAMPS;
    }
    Flow { generation, flags: known, isn: syn.seq, syn_tsval: syn.tsval, ..Flow::default() }
}

/// A segment that the secondary sends on a connection with an entry: its numbers become the
/// primary's.
#[inline(always)]
pub fn outwards(flow: &mut Flow, segment: &mut Segment) -> Outcome {
    if segment.flags & tcp::SYN != 0 {
        if flow.isn != segment.seq {
            return Outcome::Another;
        }
        if segment.flags & tcp::ACK != 0 {
            flow.flags |= flags::ANSWERED;
        }
        // Sent once more, as the primary's is: what the client echoes is the later one's.
        if segment.timestamps && flow.flags & flags::LEARNED == 0 {
            flow.syn_tsval = segment.tsval;
        }
    } else if segment.flags & (tcp::RST | tcp::ACK) == tcp::RST | tcp::ACK && segment.seq == 0 {
        // The answer to a SYN that nobody waits for; its sequence number is no connection's.
        return Outcome::Untouched;
    }
    if flow.flags & flags::LEARNED == 0 {
        return Outcome::Untouched;
    }
    segment.seq = segment.seq.wrapping_add(flow.offset);
    if segment.timestamps && flow.flags & flags::TS_LEARNED != 0 {
        let tsval = segment.tsval.wrapping_add(flow.ts_offset);
        segment.tsval = if is_after(flow.ts_floor, tsval) { flow.ts_floor } else { tsval };
    }
    Outcome::Translated
}

/// A segment for the secondary on a connection with an entry: the primary's numbers become its own.
#[inline(always)]
pub fn inwards(flow: &mut Flow, segment: &mut Segment) -> Outcome {
    if segment.flags & tcp::ACK == 0 {
        if segment.flags & tcp::SYN != 0 && flow.flags & (flags::LEARNED | flags::ANSWERED) == 0 {
            flow.flags |= flags::CROSSED;
        }
        return Outcome::Untouched;
    }
    if flow.flags & flags::LEARNED == 0 {
        // An acknowledgement out of the blue does not answer our SYN: the guest resets it, and the
        // primary's guest does the same with the same number.
        let answers = flow.flags & (flags::ANSWERED | flags::CROSSED) != 0
            || segment.flags & (tcp::SYN | tcp::RST) != 0;
        if !answers {
            return Outcome::Untouched;
        }
        learn(flow, segment);
    }
    segment.ack = segment.ack.wrapping_sub(flow.offset);
    // Zero echoes nothing: it is no time of the primary's, and must stay what it is for the guest.
    if segment.timestamps && segment.tsecr != 0 && flow.flags & flags::TS_LEARNED != 0 {
        if is_after(segment.tsecr, flow.ts_floor) {
            flow.ts_floor = segment.tsecr;
        }
        segment.tsecr = segment.tsecr.wrapping_sub(flow.ts_offset);
    }
    Outcome::Translated
}

/// The first acknowledgement tells the primary's initial sequence number and timestamp.
#[inline(always)]
fn learn(flow: &mut Flow, segment: &Segment) {
    flow.offset = segment.ack.wrapping_sub(1).wrapping_sub(flow.isn);
    flow.flags |= flags::LEARNED;
    if segment.timestamps && segment.tsecr != 0 && flow.flags & flags::TIMESTAMPS != 0 {
        flow.ts_offset = segment.tsecr.wrapping_sub(flow.syn_tsval);
        flow.ts_floor = segment.tsecr;
        flow.flags |= flags::TS_LEARNED;
    }
}

/// How the checksum of a segment changes when the four bytes at `at` change from `old` to `new`,
/// added to `diff`: the difference of two ones' complement sums (RFC 1624), for
/// `bpf_l4_csum_replace`. All numbers as they are in memory.
#[inline(always)]
pub const fn difference(diff: u32, at: u32, old: u32, new: u32) -> u32 {
    differences(diff, at, change(old, new))
}

/// How one word changes. Several words of one run of words may be summed up, up to 2³¹ of them.
#[inline(always)]
pub const fn change(old: u32, new: u32) -> u64 {
    !old as u64 + new as u64
}

/// The same as [`difference`] for a run of words that begins at `at`, by the sum of their changes.
#[inline(always)]
pub const fn differences(diff: u32, at: u32, changes: u64) -> u32 {
    let mut sum = fold(changes);
    // The sum is made of 16-bit words: at an odd place high and low bytes change their parts.
    if at & 1 != 0 {
        sum = sum.rotate_left(8);
    }
    fold(diff as u64 + sum as u64)
}

/// The carries of a sum go round to its lowest bit.
#[inline(always)]
const fn fold(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    (sum + (sum >> 32)) as u32
}

#[cfg(test)]
mod tests;
