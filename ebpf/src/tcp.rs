//! A TCP header with its options: read where it is, and copied and walked by the kernel's own loop
//! only where the options are not as nearly everybody sends them.

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

/// The part of a header that every segment has.
pub struct Header {
    words: [u32; 5],
    /// Where the options end, or the frame.
    end: u32,
}

/// Where in a header the options are that carry the connection's numbers: 0 where there is none.
pub struct Options {
    /// Where TSval and TSecr are.
    pub timestamps: u32,
    /// Where the SACK blocks are.
    pub sack: u32,
    /// How many bytes they take.
    pub sack_length: u32,
    /// TSval and TSecr, as they are on the wire.
    times: [u32; 2],
}

impl Header {
    /// Reads the header at `at`. None if the frame ends before it does.
    #[inline(always)]
    pub fn read(skb: &Skb, at: u32) -> Option<Self> {
        let words: [u32; 5] = skb.read(at)?;
        let length = u32::from(words[3].to_ne_bytes()[0] >> 4) * 4;
        Some(Self { words, end: length.min(skb.len().saturating_sub(at)) })
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

    /// Finds the options.
    #[inline(always)]
    pub fn options(&self, skb: &Skb, at: u32) -> Options {
        let none = Options { timestamps: 0, sack: 0, sack_length: 0, times: [0; 2] };
        if self.end <= HEADER {
            return none;
        }
        if self.end >= BEHIND_TIMESTAMPS
            && let Some([ALIGNED_TIMESTAMPS, tsval, tsecr]) = skb.read::<[u32; 3]>(at + HEADER)
        {
            let aligned = Options { timestamps: ALIGNED, times: [tsval, tsecr], ..none };
            if self.end == BEHIND_TIMESTAMPS {
                return aligned;
            }
            // Two NOPs and a SACK option that fills the rest.
            if let Some([1, 1, 5, length]) = skb.read::<[u8; 4]>(at + BEHIND_TIMESTAMPS)
                && self.end == BEHIND_TIMESTAMPS + 2 + u32::from(length)
                && length > 2
            {
                let sack_length = (u32::from(length) - 2) & !3;
                return Options { sack: BEHIND_TIMESTAMPS + 4, sack_length, ..aligned };
            }
        }
        self.walk(skb, at).unwrap_or(none)
    }

    /// The segment's numbers.
    #[inline(always)]
    pub fn segment(&self, options: &Options) -> Segment {
        Segment {
            seq: u32::from_be(self.words[1]),
            ack: u32::from_be(self.words[2]),
            flags: self.flags(),
            timestamps: options.timestamps != 0,
            tsval: u32::from_be(options.times[0]),
            tsecr: u32::from_be(options.times[1]),
        }
    }

    /// Finds options that are where nobody has them. At most one for each byte of them.
    #[inline(always)]
    fn walk(&self, skb: &Skb, at: u32) -> Option<Options> {
        let mut walk =
            Walk { words: [0; WORDS], place: HEADER, end: self.end, timestamps: 0, sack: 0, sack_length: 0 };
        let length = skb.len().checked_sub(at)?.min(LONGEST);
        if length < HEADER || !skb.load_into(at, &mut walk.words, length) {
            return None;
        }
        // SAFETY: the function takes what it is given here, and does not outlive the call.
        unsafe { bpf_loop(LONGEST - HEADER, option as *mut _, (&raw mut walk).cast(), 0) };
        let times = match walk.timestamps {
            0 => [0; 2],
            place => skb.load(at + place)?,
        };
        Some(Options { timestamps: walk.timestamps, sack: walk.sack, sack_length: walk.sack_length, times })
    }
}

/// A walk over a header's options.
#[repr(C, align(8))]
struct Walk {
    words: [u32; WORDS],
    /// Where it is. Not at a multiple of eight: there the verifier would remember what is written, and
    /// follow the walk through every place that it can come to.
    place: u32,
    /// Where the options end, or the frame.
    end: u32,
    timestamps: u32,
    sack: u32,
    sack_length: u32,
}

/// One option. Called by the kernel's own loop: the verifier looks at it once, where a loop of ours
/// would be followed through every way that forty bytes can be read.
unsafe extern "C" fn option(_: u32, walk: *mut Walk) -> i64 {
    const GO_ON: i64 = 0;
    const STOP: i64 = 1;
    // SAFETY: the caller's own, for as long as the loop runs.
    let walk = unsafe { &mut *walk };
    // SAFETY: a field of ours. Volatile, because the compiler knows that the mask below changes
    // nothing and would leave it out, but the verifier does not.
    let place = unsafe { core::ptr::read_volatile(&raw const walk.place) };
    if place >= walk.end {
        return STOP;
    }
    // SAFETY: the words as bytes; the mask keeps both places inside.
    let [kind, length] = unsafe {
        let bytes = (&raw const walk.words).cast::<u8>().add((place & MASK) as usize);
        [*bytes, *bytes.add(1)]
    };
    let length = u32::from(length);
    if kind == 1 {
        walk.place = place + 1;
        return GO_ON;
    }
    if kind == 0 || length < 2 || place + length > walk.end {
        return STOP;
    }
    if kind == 8 && length == 10 {
        walk.timestamps = place + 2;
    } else if kind == 5 {
        walk.sack = place + 2;
        walk.sack_length = (length - 2) & !3;
    }
    walk.place = place + length;
    GO_ON
}
