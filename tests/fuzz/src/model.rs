//! What is known of a connection whose two ends were numbered by two kernels, as one would write it
//! down on paper: no flag words, one state for each thing that can be known.

use colo_ebpf_shared::translate::Segment;

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// 2³²: where numbers begin anew.
const WRAP: u64 = 1 << 32;

/// A connection.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// The secondary's initial sequence number.
    isn: u32,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The secondary's SYN went out, and nothing is known of the primary's.
    Begun {
        /// Whether an acknowledgement answers it: it was the answer to a SYN, or crossed one.
        expects: Expects,
        /// Its latest time, if its first had one.
        time: Option<u32>,
    },
    /// The distance of the primary's numbers from the secondary's.
    Known { numbers: u64, times: Option<Times> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    OnlyASyn,
    AnyAcknowledgement,
}

#[derive(Clone, Copy, Debug)]
struct Times {
    /// The distance of the primary's times from the secondary's.
    distance: u64,
    /// The latest of the primary's times that came back.
    echoed: u32,
}

fn up(number: u32, by: u64) -> u32 {
    ((u64::from(number) + by) % WRAP) as u32
}

fn down(number: u32, by: u64) -> u32 {
    ((u64::from(number) + WRAP - by) % WRAP) as u32
}

fn distance(to: u32, from: u32) -> u64 {
    (u64::from(to) + WRAP - u64::from(from)) % WRAP
}

/// Whether one is ahead of the other by less than half of all numbers.
fn is_later(one: u32, other: u32) -> bool {
    (1..WRAP / 2).contains(&distance(one, other))
}

impl Model {
    /// One that begins with the secondary's SYN.
    pub fn begin(syn: &Segment) -> Self {
        let expects = if syn.flags & ACK == 0 { Expects::OnlyASyn } else { Expects::AnyAcknowledgement };
        let time = syn.timestamps.then_some(syn.tsval);
        Self { isn: syn.seq, state: State::Begun { expects, time } }
    }

    /// What a segment of the secondary's becomes.
    pub fn outwards(&mut self, segment: &Segment) -> Segment {
        let is_syn = segment.flags & SYN != 0;
        if is_syn && segment.seq != self.isn {
            *self = Self::begin(segment);
            return *segment;
        }
        if !is_syn && segment.flags & RST != 0 && segment.flags & ACK != 0 && segment.seq == 0 {
            return *segment;
        }
        match &mut self.state {
            State::Begun { expects, time } => {
                if is_syn && segment.flags & ACK != 0 {
                    *expects = Expects::AnyAcknowledgement;
                }
                if is_syn && segment.timestamps && time.is_some() {
                    *time = Some(segment.tsval);
                }
                *segment
            }
            State::Known { numbers, times } => {
                let mut out = Segment { seq: up(segment.seq, *numbers), ..*segment };
                if let (true, Some(times)) = (segment.timestamps, times) {
                    let time = up(segment.tsval, times.distance);
                    out.tsval = if is_later(times.echoed, time) { times.echoed } else { time };
                }
                out
            }
        }
    }

    /// What a segment for the secondary becomes.
    pub fn inwards(&mut self, segment: &Segment) -> Segment {
        let answers_syn = segment.flags & (SYN | RST) != 0;
        if segment.flags & ACK == 0 {
            if let State::Begun { expects, .. } = &mut self.state
                && segment.flags & SYN != 0
            {
                *expects = Expects::AnyAcknowledgement;
            }
            return *segment;
        }
        // Zero is no time.
        let echo = (segment.timestamps && segment.tsecr != 0).then_some(segment.tsecr);
        if let State::Begun { expects, time } = self.state {
            if expects == Expects::OnlyASyn && !answers_syn {
                return *segment;
            }
            let numbers = distance(segment.ack, up(self.isn, 1));
            let times =
                time.zip(echo).map(|(said, echoed)| Times { distance: distance(echoed, said), echoed });
            self.state = State::Known { numbers, times };
        }
        let State::Known { numbers, times } = &mut self.state else { return *segment };
        let mut out = Segment { ack: down(segment.ack, *numbers), ..*segment };
        if let (Some(echo), Some(times)) = (echo, times) {
            if is_later(echo, times.echoed) {
                times.echoed = echo;
            }
            out.tsecr = down(echo, times.distance);
        }
        out
    }
}
