//! A sink that knows what must never come out of the engine.
//!
//! * Every frame comes out at most once, a secondary's never as a release, and unchanged but for
//!   a TCP acknowledgement, window and checksum.
//! * Output commit: what a comparison releases, the secondary has sent in this epoch, or it was
//!   released or covered by a checkpoint before.
//! * Ack commit: no acknowledgement is released that the secondary has not reached.
//! * One trigger is outstanding at most, and a flow diverges at most once in an epoch.

use colo_proxy::engine::{AckFrame, Discard, Divergence, Epoch, Frame, Side, Sink, Trigger};
use colo_proxy::packet::{self, Body, FlowKey, Offload, Packet, Parsed, Proto, Segment};
use std::collections::{HashMap, HashSet};

/// A frame that knows itself again.
#[derive(Debug)]
pub struct Tagged {
    pub id: usize,
    pub side: Side,
    pub bytes: Vec<u8>,
}

impl Frame for Tagged {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// What the engine was given.
#[derive(Debug)]
struct Fed {
    side: Side,
    bytes: Vec<u8>,
    packet: Option<Packet>,
    epoch: Epoch,
    out: bool,
}

/// A stretch of a TCP stream: where it starts, and its bytes.
type Stretch = (u32, Vec<u8>);

/// What is known of one TCP flow.
#[derive(Debug, Default)]
struct Stream {
    /// What the secondary sent: in which epoch, where, and what.
    sent: Vec<(Epoch, Stretch)>,
    /// Places that may be sent again without another look.
    settled: Vec<(u32, u32)>,
    /// Initial sequence numbers, of each side.
    isns: [HashSet<u32>; 2],
    /// What the secondary acknowledged, or a checkpoint covered.
    acks: Vec<(Epoch, u32)>,
}

impl Stream {
    /// What to add to the secondary's numbers, whichever the engine chose.
    fn offsets(&self) -> HashSet<u32> {
        let [ours, theirs] = &self.isns;
        let apart = ours.iter().flat_map(|ours| theirs.iter().map(|theirs| ours.wrapping_sub(*theirs)));
        apart.chain([0]).collect()
    }

    fn allows(&self, epoch: Epoch, place: u32, byte: u8, offsets: &HashSet<u32>) -> bool {
        let again = self.settled.iter().any(|&(start, len)| place.wrapping_sub(start) < len);
        again
            || self.sent.iter().filter(|(sent_in, _)| *sent_in == epoch).any(|(_, (start, bytes))| {
                offsets.iter().any(|offset| {
                    let index = place.wrapping_sub(start.wrapping_add(*offset));
                    bytes.get(index as usize) == Some(&byte)
                })
            })
    }
}

/// Why the engine may release what it releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warrant {
    /// Both sides agree.
    Comparison,
    /// Nothing is compared.
    Everything,
}

/// The sink.
#[derive(Debug)]
pub struct Watch {
    fed: Vec<Fed>,
    streams: HashMap<FlowKey, Stream>,
    /// Messages of the secondary that have not been spent on a release yet, by epoch.
    messages: HashMap<(FlowKey, Epoch, Vec<u8>), usize>,
    diverged: HashSet<FlowKey>,
    /// A flow that diverged again, although it was not forgotten in between.
    pub diverged_twice: Option<FlowKey>,
    /// The engine's epoch. What belongs to an earlier one is covered by a checkpoint.
    pub epoch: Epoch,
    pub outstanding: bool,
    pub warrant: Warrant,
    /// Whose releases cannot be traced to one frame: fragments, and what a rule lets pass.
    pub untraced: HashSet<Proto>,
    pub counts: [usize; 2],
}

impl Watch {
    pub fn new() -> Self {
        Self {
            fed: Vec::new(),
            streams: HashMap::new(),
            messages: HashMap::new(),
            diverged: HashSet::new(),
            diverged_twice: None,
            epoch: Epoch::FIRST,
            outstanding: false,
            warrant: Warrant::Comparison,
            untraced: HashSet::new(),
            counts: [0; 2],
        }
    }

    /// Takes note of a frame that is about to be fed.
    pub fn feed(&mut self, side: Side, bytes: Vec<u8>, offload: Offload, epoch: Epoch) -> Tagged {
        let packet = match packet::parse(&bytes, offload) {
            Ok(Parsed::Whole(packet)) => Some(packet),
            Ok(Parsed::Fragment(fragment)) => {
                self.untraced.insert(fragment.datagram.ends.proto());
                None
            }
            Err(_) => None,
        };
        if let Some(packet) = packet {
            self.note(side, &packet, &bytes, epoch);
        }
        let id = self.fed.len();
        self.fed.push(Fed { side, bytes: bytes.clone(), packet, epoch, out: false });
        self.counts[usize::from(side == Side::Secondary)] += 1;
        Tagged { id, side, bytes }
    }

    fn note(&mut self, side: Side, packet: &Packet, bytes: &[u8], epoch: Epoch) {
        match packet.body {
            Body::Tcp(segment) => {
                let stream = self.streams.entry(packet.key).or_default();
                if segment.flags.syn() {
                    stream.isns[usize::from(side == Side::Secondary)].insert(segment.seq);
                }
                if side == Side::Secondary {
                    stream.sent.push((epoch, stretch(&segment, bytes)));
                    if segment.flags.ack() {
                        stream.acks.push((epoch, segment.ack));
                    }
                } else if epoch < self.epoch {
                    // Covered already: it comes late.
                    settle(stream, &segment, bytes);
                }
            }
            Body::Message(message) => {
                if side == Side::Secondary {
                    let text =
                        message.regions().iter().flat_map(|region| region.of(bytes)).copied().collect();
                    *self.messages.entry((packet.key, epoch, text)).or_default() += 1;
                }
            }
        }
    }

    /// A checkpoint covers all that was fed of the current epoch and before.
    pub fn checkpoint(&mut self) {
        for fed in self.fed.iter().filter(|fed| fed.side == Side::Primary && fed.epoch <= self.epoch) {
            if let Some(Packet { key, body: Body::Tcp(segment) }) = &fed.packet {
                settle(self.streams.entry(*key).or_default(), segment, &fed.bytes);
            }
        }
        self.epoch = self.epoch.next();
        self.outstanding = false;
        self.forget();
    }

    /// The checkpoint came to nothing: what was of a later epoch is of this one.
    pub fn checkpoint_failed(&mut self) {
        self.outstanding = false;
        let epoch = self.epoch;
        self.fed.iter_mut().for_each(|fed| fed.epoch = fed.epoch.min(epoch));
        for stream in self.streams.values_mut() {
            stream.sent.iter_mut().for_each(|(at, _)| *at = epoch.min(*at));
            stream.acks.iter_mut().for_each(|(at, _)| *at = epoch.min(*at));
        }
        for ((key, at, text), count) in std::mem::take(&mut self.messages) {
            *self.messages.entry((key, at.min(epoch), text)).or_default() += count;
        }
    }

    /// Flows were forgotten, or are compared anew.
    pub fn forget(&mut self) {
        self.diverged.clear();
        self.diverged_twice = None;
    }

    /// A frame leaves the engine, one way or another.
    pub fn out(&mut self, frame: &Tagged) {
        let fed = &mut self.fed[frame.id];
        assert_eq!(fed.side, frame.side);
        assert!(!fed.out, "frame {} came out twice", frame.id);
        fed.out = true;
        assert_eq!(fed.bytes.len(), frame.bytes.len(), "a frame changed its length");
        let changed = |(a, b): (&u8, &u8)| a != b;
        let mut pairs = fed.bytes.iter().zip(&frame.bytes);
        if let Some(first) = pairs.clone().position(changed) {
            let last = pairs.rposition(changed).unwrap_or(first);
            assert!(last - first < 10, "more than acknowledgement, window and checksum changed");
        }
        self.counts[usize::from(frame.side == Side::Secondary)] -= 1;
    }

    /// Whether every frame has come out.
    pub fn all_out(&self) -> bool {
        self.fed.iter().all(|fed| fed.out)
    }

    fn check_release(&mut self, frame: &Tagged) {
        let Fed { packet, epoch, .. } = &self.fed[frame.id];
        let (Some(packet), epoch) = (*packet, *epoch) else { return };
        if self.warrant == Warrant::Everything || epoch < self.epoch {
            return;
        }
        match packet.body {
            Body::Message(_) if self.untraced.contains(&packet.key.proto()) => {}
            // The targets' TCP fragments have ports of their own.
            Body::Tcp(segment) => {
                let stream = self.streams.entry(packet.key).or_default();
                check_stream(stream, &segment, &frame.bytes, epoch);
            }
            Body::Message(message) => {
                let text =
                    message.regions().iter().flat_map(|region| region.of(&frame.bytes)).copied().collect();
                let spent = self.messages.get_mut(&(packet.key, epoch, text));
                let left =
                    spent.unwrap_or_else(|| panic!("{}: released, the secondary never sent it", packet.key));
                *left = left.checked_sub(1).expect("released more often than the secondary sent it");
            }
        }
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

fn stretch(segment: &Segment, bytes: &[u8]) -> Stretch {
    let start = segment.seq.wrapping_add(u32::from(segment.flags.syn()));
    (start, segment.payload.of(bytes).to_vec())
}

/// A checkpoint covers a segment and all that its stream had before it, as far back as a
/// retransmission can reach.
fn settle(stream: &mut Stream, segment: &Segment, bytes: &[u8]) {
    const REACH_BACK: u32 = 1 << 30;
    let (start, bytes) = stretch(segment, bytes);
    let len = bytes.len() as u32;
    stream.settled.push((start.wrapping_sub(REACH_BACK), REACH_BACK + len));
    if segment.flags.ack() {
        stream.acks.push((Epoch(0), segment.ack));
    }
}

fn check_stream(stream: &mut Stream, segment: &Segment, bytes: &[u8], epoch: Epoch) {
    if !segment.flags.rst() {
        let offsets = stream.offsets();
        let (start, payload) = stretch(segment, bytes);
        for (index, byte) in payload.iter().enumerate() {
            let place = start.wrapping_add(index as u32);
            assert!(stream.allows(epoch, place, *byte, &offsets), "released an unverified byte at {place}");
        }
        stream.settled.push((start, payload.len() as u32));
    }
    if segment.flags.ack() {
        let header = segment.header as usize;
        let field = &bytes[header + 8..header + 12];
        let ack = u32::from_be_bytes([field[0], field[1], field[2], field[3]]);
        let reached = stream
            .acks
            .iter()
            .filter(|(at, _)| *at <= epoch)
            .any(|(_, reached)| (ack.wrapping_sub(*reached) as i32) <= 0);
        assert!(reached, "released acknowledgement {ack}, which the secondary has not reached");
    }
}

impl Sink<Tagged> for Watch {
    fn release(&mut self, _: Option<&FlowKey>, frame: Tagged, _: u32) {
        assert_eq!(frame.side, Side::Primary, "a secondary's frame was released");
        self.check_release(&frame);
        self.out(&frame);
    }

    fn inject(&mut self, flow: &FlowKey, ack: AckFrame) {
        let Ok(Parsed::Whole(packet)) = packet::parse(&ack.0, Offload::default()) else {
            panic!("an injected frame does not parse");
        };
        assert_eq!(packet.key, *flow);
        assert!(matches!(packet.body, Body::Tcp(segment) if segment.sequence_len() == 0));
    }

    fn discard(&mut self, _: Option<&FlowKey>, side: Side, frame: Tagged, _: Discard) {
        assert_eq!(frame.side, side);
        self.out(&frame);
    }

    fn divergence(&mut self, divergence: &Divergence<'_, Tagged>) {
        if !self.diverged.insert(*divergence.flow) {
            self.diverged_twice = Some(*divergence.flow);
        }
    }

    fn trigger(&mut self, trigger: Trigger) {
        assert!(!self.outstanding, "a second trigger is outstanding");
        self.outstanding = true;
        assert_eq!(trigger.epoch, self.epoch, "a trigger for another epoch");
    }
}
