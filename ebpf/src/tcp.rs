//! A TCP header with its options: read with one call, walked by the kernel's own loop.

use crate::skb::Skb;
use aya_ebpf::helpers::generated::bpf_loop;
use colo_ebpf_shared::translate::Segment;

/// Bytes of the header without options (RFC 9293 §3.1).
const HEADER: u32 = 20;
/// Bytes of the longest header.
const LONGEST: u32 = 60;
/// Words that hold it: a power of two, so that a place can be masked, and one behind them.
const WORDS: usize = 16 + 1;
const MASK: u32 = 63;

/// Where things are in the header.
pub const SEQ: u32 = 4;
pub const ACK: u32 = 8;
pub const CHECKSUM: u32 = 16;

/// Where a timestamps option's numbers are, if it is where nearly everybody has it.
const ALIGNED: u32 = HEADER + 4;
const BEHIND_TIMESTAMPS: u32 = ALIGNED + 8;
/// Two NOPs and a timestamps option: how nearly every segment's options begin.
const ALIGNED_TIMESTAMPS: u32 = u32::from_ne_bytes([1, 1, 8, 10]);

/// Edges of SACK blocks that fit a header.
pub const EDGES: usize = 8;

/// A header as it is in the frame, and where in it the options are that carry the connection's
/// numbers: 0 where there is none.
#[repr(C, align(8))]
pub struct Header {
    words: [u32; WORDS],
    /// Where the walk is. Not at a multiple of eight: there the verifier would remember what is
    /// written, and follow the walk through every place that it can come to.
    place: u32,
    /// Where the options end, or the frame.
    end: u32,
    /// Where TSval and TSecr are.
    pub timestamps: u32,
    /// Where the SACK blocks are.
    pub sack: u32,
    /// How many bytes they take.
    pub sack_length: u32,
}

impl Header {
    /// One that is to be loaded.
    #[inline(always)]
    pub const fn new() -> Self {
        Self { words: [0; WORDS], place: HEADER, end: 0, timestamps: 0, sack: 0, sack_length: 0 }
    }

    /// Reads the header at `at`. False if the frame ends before it does.
    #[inline(always)]
    pub fn load(&mut self, skb: &Skb, at: u32) -> bool {
        let Some(left) = skb.len().checked_sub(at) else { return false };
        let length = left.min(LONGEST);
        if length < HEADER || !skb.load_into(at, &mut self.words, length) {
            return false;
        }
        self.end = self.length().min(length);
        true
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        u32::from(self.words[3].to_ne_bytes()[0] >> 4) * 4
    }

    #[inline(always)]
    pub fn flags(&self) -> u8 {
        self.words[3].to_ne_bytes()[1]
    }

    /// Source and destination, as they are on the wire.
    #[inline(always)]
    pub fn ports(&self) -> [[u8; 2]; 2] {
        let [a, b, c, d] = self.words[0].to_ne_bytes();
        [[a, b], [c, d]]
    }

    /// Finds the options, and returns the segment's numbers.
    #[inline(always)]
    pub fn segment(&mut self, skb: &Skb, at: u32) -> Segment {
        if self.end >= BEHIND_TIMESTAMPS && self.words[5] == ALIGNED_TIMESTAMPS {
            self.timestamps = ALIGNED;
            self.place = BEHIND_TIMESTAMPS;
            // Two NOPs and a SACK option that fills the rest.
            let [first, second, kind, length] = self.words[8].to_ne_bytes();
            let length = u32::from(length);
            if [first, second, kind] == [1, 1, 5] && self.end == BEHIND_TIMESTAMPS + 2 + length && length > 2
            {
                self.sack = BEHIND_TIMESTAMPS + 4;
                self.sack_length = (length - 2) & !3;
                self.place = self.end;
            }
        }
        if self.place < self.end {
            self.walk();
        }
        let mut times = [self.words[6], self.words[7]];
        if self.timestamps != ALIGNED {
            times = [0; 2];
            if self.timestamps != 0
                && let Some(there) = skb.load(at + self.timestamps)
            {
                times = there;
            }
        }
        Segment {
            seq: u32::from_be(self.words[1]),
            ack: u32::from_be(self.words[2]),
            flags: self.flags(),
            timestamps: self.timestamps != 0,
            tsval: u32::from_be(times[0]),
            tsecr: u32::from_be(times[1]),
        }
    }

    /// Walks over the options. At most one for each byte of them.
    #[inline(always)]
    fn walk(&mut self) {
        // SAFETY: the function takes what it is given here, and does not outlive the call.
        unsafe { bpf_loop(LONGEST - HEADER, option as *mut _, (&raw mut *self).cast(), 0) };
    }
}

/// One option. Called by the kernel's own loop: the verifier looks at it once, where a loop of ours
/// would be followed through every way that forty bytes can be read.
unsafe extern "C" fn option(_: u32, header: *mut Header) -> i64 {
    const GO_ON: i64 = 0;
    const STOP: i64 = 1;
    // SAFETY: the caller's own, for as long as the loop runs.
    let header = unsafe { &mut *header };
    // SAFETY: a field of ours. Volatile, because the compiler knows that the mask below changes
    // nothing and would leave it out, but the verifier does not.
    let place = unsafe { core::ptr::read_volatile(&raw const header.place) };
    if place >= header.end {
        return STOP;
    }
    // SAFETY: the words as bytes; the mask keeps both places inside.
    let [kind, length] = unsafe {
        let bytes = (&raw const header.words).cast::<u8>().add((place & MASK) as usize);
        [*bytes, *bytes.add(1)]
    };
    let length = u32::from(length);
    if kind == 1 {
        header.place = place + 1;
        return GO_ON;
    }
    if kind == 0 || length < 2 || place + length > header.end {
        return STOP;
    }
    if kind == 8 && length == 10 {
        header.timestamps = place + 2;
    } else if kind == 5 {
        header.sack = place + 2;
        header.sack_length = (length - 2) & !3;
    }
    header.place = place + length;
    GO_ON
}
