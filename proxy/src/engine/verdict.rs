//! What goes into the engine and what comes out of it.
//!
//! ```text
//!   Input { side, frame, offload, at, epoch } ─► Engine ─► Sink::release / inject / discard / divergence / trigger
//! ```
//!
//! Every frame that goes in comes out exactly once, as a release or as a discard, or is still held
//! (and is handed out by [`Engine::drain`](super::Engine::drain) in the end). The engine never
//! copies or loses a caller's frame.

use crate::packet::{FlowKey, Offload};
use std::fmt;

/// Which of the two runs of the guest sent a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The run that serves clients (PVM).
    Primary,
    /// The run that follows (SVM).
    Secondary,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        })
    }
}

/// Monotonic time in nanoseconds since an origin that the caller chose.
///
/// Wall clocks step; ages that are judged by one either never expire or expire at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// So many milliseconds after the origin.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// This time, `other` later; stops at the end of time instead of wrapping.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// How long after `earlier` this is; zero if it is not after.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

/// The number of the time between two checkpoints, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch that a protected guest starts in.
    pub const FIRST: Self = Self(1);

    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A caller's frame: an owned handle whose bytes the engine may look at, whose TCP acknowledgement,
/// window, timestamps and checksum it may change in place before it hands it back, and which it may
/// cut in two.
///
/// The bytes start at the Ethernet header and must not change while the engine holds the handle.
pub trait Frame {
    /// The frame from its Ethernet header on, without FCS and without a vnet header.
    fn bytes(&self) -> &[u8];
    /// The same bytes for an in-place rewrite.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// Cuts the frame in two: keeps the first `at` bytes, and gives a frame of its first `header`
    /// bytes with those from `at` on behind them. None, and nothing is changed, where frames cannot
    /// be cut: then one leaves when all of it is verified.
    fn cut(&mut self, header: usize, at: usize) -> Option<Self>
    where
        Self: Sized,
    {
        let _ = (header, at);
        None
    }
}

impl Frame for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }
    fn cut(&mut self, header: usize, at: usize) -> Option<Self> {
        let rest = [self.get(..header)?, self.get(at..)?].concat();
        self.truncate(at);
        Some(rest)
    }
}

impl Frame for bytes::BytesMut {
    fn bytes(&self) -> &[u8] {
        self
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// One frame that a guest sent.
#[derive(Debug)]
pub struct Input<F> {
    /// Who sent it.
    pub side: Side,
    /// The frame.
    pub frame: F,
    /// What the virtio-net header said of it.
    pub offload: Offload,
    /// When it arrived; never earlier than an earlier input's time.
    pub at: Nanos,
    /// The epoch in which the guest produced it.
    pub epoch: Epoch,
}

/// Why a checkpoint is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// Both sides have bytes at one place and they differ.
    Payload,
    /// Both sides have a message and their lengths, or the lengths of their streams, differ.
    Length,
    /// SYN on one side only, or SYNs that would not make the same connection.
    Syn,
    /// FIN on one side where the other has data.
    Fin,
    /// RST on one side where the other has something else, or at another place.
    Rst,
    /// Fields of an ARP, ND or ICMP message differ.
    Fields,
    /// Output of one side has waited longer than the flow's age limit.
    Age,
    /// More frames or bytes are held than the limits allow.
    Overflow,
    /// A timer, in periodic mode.
    Timer,
    /// A person or the VMM asked.
    Operator,
}

impl Cause {
    /// All causes, in the order in which they are counted.
    pub const ALL: [Self; 10] = [
        Self::Payload,
        Self::Length,
        Self::Syn,
        Self::Fin,
        Self::Rst,
        Self::Fields,
        Self::Age,
        Self::Overflow,
        Self::Timer,
        Self::Operator,
    ];

    /// The label used in reports, metrics and events.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Payload => "payload",
            Self::Length => "length",
            Self::Syn => "syn",
            Self::Fin => "fin",
            Self::Rst => "rst",
            Self::Fields => "fields",
            Self::Age => "age",
            Self::Overflow => "overflow",
            Self::Timer => "timer",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Why a frame does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Discard {
    /// Secondary output that has done its work: it was compared, or brought nothing new.
    Compared,
    /// Secondary output that a checkpoint, a mode change or an exclusion made void.
    Superseded,
    /// A frame of an epoch that is over.
    Stale,
    /// The frame does not parse; nothing about it can be verified.
    Malformed,
    /// Fragments that overlap (RFC 5722) or do not fit one datagram.
    BadFragments,
    /// Secondary fragments whose rest never came.
    FragmentTimeout,
    /// A primary's pure acknowledgement that a later one in the same flow makes needless.
    AckSuperseded,
    /// A secondary frame of a flow that waits for a checkpoint already.
    Diverged,
    /// A secondary frame of a flow that is passed through uncompared.
    PassedThrough,
    /// The caller went on feeding although [`Engine::accepts`](super::Engine::accepts) said no.
    Overrun,
    /// A frame of a flow that the caller excluded.
    Excluded,
}

impl Discard {
    /// All causes, in the order in which they are counted.
    pub const ALL: [Self; 11] = [
        Self::Compared,
        Self::Superseded,
        Self::Stale,
        Self::Malformed,
        Self::BadFragments,
        Self::FragmentTimeout,
        Self::AckSuperseded,
        Self::Diverged,
        Self::PassedThrough,
        Self::Overrun,
        Self::Excluded,
    ];

    /// The label used in reports, metrics and events.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Compared => "compared",
            Self::Superseded => "superseded",
            Self::Stale => "stale",
            Self::Malformed => "malformed",
            Self::BadFragments => "bad-fragments",
            Self::FragmentTimeout => "fragment-timeout",
            Self::AckSuperseded => "ack-superseded",
            Self::Diverged => "diverged",
            Self::PassedThrough => "passed-through",
            Self::Overrun => "overrun",
            Self::Excluded => "excluded",
        }
    }
}

impl fmt::Display for Discard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// One side's part in a divergence.
#[derive(Debug)]
pub struct Evidence<'a, F> {
    /// The frame that carries it; of a fragmented datagram, the first fragment.
    pub frame: &'a F,
    /// What is compared, from the place where the sides part: stream bytes or message bytes.
    pub bytes: &'a [u8],
}

/// Two outputs of one flow that do not agree. Reported once per flow and epoch, unless the flow was
/// forgotten for want of room in between.
#[derive(Debug)]
pub struct Divergence<'a, F> {
    /// The flow.
    pub flow: &'a FlowKey,
    /// How they differ.
    pub cause: Cause,
    /// TCP: bytes of agreed stream before the difference. Others: bytes of the message before it.
    pub offset: u64,
    /// The primary's side of it, where it has one.
    pub primary: Option<Evidence<'a, F>>,
    /// The secondary's side of it, where it has one.
    pub secondary: Option<Evidence<'a, F>>,
}

/// The engine wants a checkpoint. At most one trigger is outstanding: the next comes only after
/// [`Engine::checkpoint_done`](super::Engine::checkpoint_done) or
/// [`Engine::checkpoint_failed`](super::Engine::checkpoint_failed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// The first cause; later ones merge into it and are only counted.
    pub cause: Cause,
    /// The flow that caused it, where one did.
    pub flow: Option<FlowKey>,
    /// The epoch that the checkpoint will end.
    pub epoch: Epoch,
}

/// A header-only TCP segment made by the engine: the acknowledgement that was lowered out of an
/// earlier frame and that the secondary has reached since (promise 2). Its checksum is complete,
/// so its vnet header is all zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckFrame(pub Box<[u8]>);

/// Where verdicts go. All methods are called in the order in which things must happen.
pub trait Sink<F> {
    /// A primary's frame that may leave now. `verified` is how many bytes of new stream or message
    /// it releases: 0 for acknowledgements and retransmissions.
    fn release(&mut self, flow: Option<&FlowKey>, frame: F, verified: u32);
    /// A frame of the engine's own that may leave now.
    fn inject(&mut self, flow: &FlowKey, ack: AckFrame);
    /// A frame that goes nowhere. `flow` is none where it has none (malformed, stale).
    fn discard(&mut self, flow: Option<&FlowKey>, side: Side, frame: F, cause: Discard);
    /// Two outputs do not agree.
    fn divergence(&mut self, divergence: &Divergence<'_, F>);
    /// A checkpoint is needed.
    fn trigger(&mut self, trigger: Trigger);
}
