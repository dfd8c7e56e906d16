//! The replay itself: a virtual clock round the engine.
//!
//! ```text
//!   Merge ─► (at, frame) ─► the guest's? ─► tick every deadline before `at` ─► room? ─► engine.frame
//!                               │ no                                            │ no
//!                               ▼                                               ▼
//!                            counted                          leave out the flows that hold the most
//! ```
//!
//! No checkpoint is ever made, so what would wait for one is left out instead: a flow is reported
//! at its first divergence and then excluded, and the others go on.

use super::book::Book;
use super::capture::{Capture, Record};
use super::divergence::DivergenceFile;
use super::merge::{Merge, index};
use super::report::{Flow, Report, Summary};
use super::warnings::{self, Sources};
use super::{Mac, Options, ReplayError};
use crate::engine::{Config, Engine, Epoch, Input, Limit, Nanos, Side};
use crate::packet::{self, FlowKey, Offload, Packet, Parsed};
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

/// How often progress is told, in frames.
const PROGRESS: u64 = 4096;

/// The engine's settings for a replay. Ages do not adapt, and messages in another order may be as far
/// apart as anything may, so that a verdict depends on the captures and one figure alone; the limits are wide because no checkpoint makes room, and bound memory all the same: at
/// most twice the total limit of each side, about 1 GiB.
fn config(options: &Options) -> Config {
    let timeout = Nanos::from_millis(options.timeout_ms);
    Config {
        flow_limit: Limit { frames: 16_384, bytes: 64 << 20 },
        total_limit: Limit { frames: 131_072, bytes: 256 << 20 },
        max_flows: 1 << 18,
        age_floor: timeout,
        age_ceiling: timeout,
        // A wait costs a replay nothing, and two captures' messages may be far apart in time.
        reorder_wait: timeout,
        max_reassemblies: 256,
        reassembly_timeout: timeout,
        pass: options.pass.clone(),
        ..Config::default()
    }
}

/// Replays two captures. `progress` is told from time to time how many bytes of both have been read,
/// and how many there are.
pub fn run(options: &Options, mut progress: impl FnMut(u64, u64)) -> Result<Report, ReplayError> {
    let (primary, primary_len) = Capture::open(Side::Primary, &options.primary)?;
    let (secondary, secondary_len) = Capture::open(Side::Secondary, &options.secondary)?;
    let total = primary_len + secondary_len;
    let merge = Merge::new(primary, secondary, options.align_start)?;
    let file = match &options.divergence {
        None => None,
        Some(path) => {
            let same = |input: &Path| same_file(input, path);
            if same(&options.primary) || same(&options.secondary) {
                return Err(ReplayError::OutputIsInput { path: path.clone() });
            }
            Some(DivergenceFile::create(path)?)
        }
    };
    let clock = Clock::new(config(options), Book::new(options.pass.clone(), file, options.stop_at_first));
    replay(merge, clock, options, |read| progress(read, total))
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

fn replay<R: Read>(
    mut merge: Merge<R>,
    mut clock: Clock,
    options: &Options,
    mut progress: impl FnMut(u64),
) -> Result<Report, ReplayError> {
    let (mut frames, mut others) = ([0; 2], [0; 2]);
    let mut sources = Sources::default();
    let mut count = 0_u64;
    while !clock.book.complete()
        && let Some((at, record)) = merge.next()?
    {
        count += 1;
        if count.is_multiple_of(PROGRESS) {
            progress(merge.bytes_read());
        }
        clock.pass(at);
        if clock.book.complete() {
            break;
        }
        if let (Some(guest), Some(source)) = (options.guest_mac, Mac::source(&record.data))
            && guest != source
        {
            others[index(record.side)] += 1;
            sources.note(source);
            continue;
        }
        if record.data.len() < record.original as usize {
            return Err(ReplayError::Snapped {
                path: merge.lane(record.side).path().to_owned(),
                offset: record.offset,
                frame: record.number,
                captured: record.data.len() as u32,
                original: record.original,
            });
        }
        frames[index(record.side)] += 1;
        clock.frame(at, record);
    }
    if let Some(mac) = options.guest_mac
        && count > 0
        && frames == [0; 2]
    {
        return Err(ReplayError::NoGuest { mac, hint: sources.hint() });
    }
    let (mut summary, flows, file) = clock.finish();
    [summary.frames_primary, summary.frames_secondary] = frames;
    [summary.other_direction_primary, summary.other_direction_secondary] = others;
    let warnings = warnings::all(&merge, options, &summary, &flows);
    file.map_or(Ok(()), DivergenceFile::finish)?;
    Ok(Report::new(summary, warnings, flows))
}

/// The engine and its books, driven by the time of the captures.
struct Clock {
    engine: Engine<Record>,
    book: Book,
    limit: Limit,
    now: Nanos,
}

impl Clock {
    fn new(config: Config, book: Book) -> Self {
        let limit = config.total_limit;
        Self { engine: Engine::new(config), book, limit, now: Nanos::default() }
    }

    /// Lets time pass up to `at`, stopping wherever the engine has something to do. What is due at
    /// `at` itself waits for the frames of that time.
    fn pass(&mut self, at: Nanos) {
        while let Some(deadline) = self.engine.next_deadline().filter(|&deadline| deadline < at) {
            self.engine.tick(deadline, &mut self.book);
            self.leave_out();
            if self.book.complete() || self.engine.next_deadline() == Some(deadline) {
                break;
            }
        }
        self.now = self.now.max(at);
    }

    fn frame(&mut self, at: Nanos, frame: Record) {
        let side = frame.side;
        if !self.engine.accepts(side) {
            self.make_room(side);
        }
        let input = Input { side, frame, offload: Offload::default(), at, epoch: Epoch::FIRST };
        self.engine.frame(input, &mut self.book);
        self.leave_out();
    }

    fn leave_out(&mut self) {
        while let Some(key) = self.book.leave_out() {
            self.engine.exclude(&key, &mut self.book);
        }
    }

    /// Leaves out the flows that hold the most until as much is held as may be. Frames are looked
    /// at once only, but since the last time at least as many have come as have to go.
    #[cold]
    fn make_room(&mut self, side: Side) {
        let weight = |frame: &Record| frame.data.len() + self.limit.bytes / self.limit.frames.max(1);
        let mut held: HashMap<FlowKey, usize> = HashMap::new();
        self.engine.compact(Nanos(u64::MAX), |frame| {
            if frame.side == side
                && let Ok(Parsed::Whole(Packet { key, .. })) = packet::parse(&frame.data, Offload::default())
            {
                *held.entry(key).or_default() += weight(frame);
            }
        });
        let mut heaviest: Vec<_> = held.into_iter().map(|(key, weight)| (weight, key)).collect();
        heaviest.sort_unstable_by(|a, b| b.cmp(a));
        for (_, key) in heaviest {
            let usage = self.engine.held(side);
            if usage.frames <= self.limit.frames && usage.bytes <= self.limit.bytes {
                break;
            }
            self.book.overflow(&key);
            self.leave_out();
        }
    }

    /// No more frames will come.
    fn finish(mut self) -> (Summary, Vec<Flow>, Option<DivergenceFile>) {
        if !self.book.complete() {
            self.engine.settle(self.now, &mut self.book);
            self.leave_out();
            self.engine.tick(self.now, &mut self.book);
            self.leave_out();
        }
        let Self { mut engine, mut book, now, .. } = self;
        engine.drain(|flow, _, frame| book.left_over(flow, &frame));
        let (mut summary, flows, file) = book.close();
        summary.duration_ms = now.0 / 1_000_000;
        summary.resumed = engine.stats().flows_created.saturating_sub(summary.flows);
        (summary, flows, file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Proto;
    use crate::replay::Verdict;

    /// A frame of IP protocol 47 from the guest to 10.0.0.`peer`.
    fn record(side: Side, number: u64, peer: u8, payload: u8) -> Record {
        let mut data = vec![0; 14];
        data[12] = 8;
        data.extend([0x45, 0, 0, 21, 0, 0, 0, 0, 64, 47, 0, 0, 10, 0, 0, 2, 10, 0, 0, peer, payload]);
        Record { side, number, time: number, offset: 0, original: data.len() as u32, data }
    }

    fn clock(frames: usize) -> Clock {
        let limit = Limit { frames, bytes: 1 << 20 };
        let config = Config { flow_limit: limit, total_limit: limit, ..Config::default() };
        Clock::new(config, Book::new(crate::engine::PassRules::default(), None, false))
    }

    fn close(clock: Clock) -> (Summary, Vec<Flow>) {
        let (summary, flows, _) = clock.finish();
        (summary, flows)
    }

    #[test]
    fn a_flow_that_holds_too_much_is_left_out() {
        let mut clock = clock(4);
        for number in 0..9 {
            clock.frame(Nanos(number), record(Side::Primary, number, 1, 1));
        }
        let (summary, flows) = close(clock);
        assert_eq!((summary.checkpoints, summary.uncompared, summary.held), (1, 0, 0));
        let finding = flows[0].divergence.as_ref().unwrap();
        assert_eq!((finding.cause, flows[0].primary.frames), (crate::engine::Cause::Overflow, 9));
    }

    #[test]
    fn when_all_flows_hold_too_much_the_heaviest_are_left_out_and_the_others_go_on() {
        let mut clock = clock(8);
        let mut number = 0;
        let mut feed = |clock: &mut Clock, side, peer| {
            number += 1;
            clock.frame(Nanos(number), record(side, number, peer, peer));
        };
        // Flow 1 and 2 hold five each, the others one each: 18 in all, twice the limit and more.
        for peer in [1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11] {
            feed(&mut clock, Side::Primary, peer);
        }
        for peer in 3..=11 {
            feed(&mut clock, Side::Secondary, peer);
        }
        let (summary, flows) = close(clock);
        assert_eq!((summary.flows, summary.uncompared, summary.overflows), (11, 0, 1));
        for flow in flows {
            assert_eq!(flow.key.proto(), Proto::Ip(47));
            let heavy = matches!(flow.key.peer_text().as_str(), "10.0.0.1" | "10.0.0.2");
            let verdict = if heavy { Verdict::Diverged } else { Verdict::Match };
            assert_eq!(flow.verdict(), verdict, "{}", flow.key);
        }
    }

    #[test]
    fn what_there_is_never_room_for_is_incomplete() {
        let mut clock = clock(2);
        // First fragments of six datagrams: they belong to no flow that could be left out.
        for number in 0..6 {
            let mut fragment = record(Side::Primary, number, 1, 1);
            fragment.data.extend([0; 7]);
            fragment.data[17] = 28;
            fragment.data[19] = number as u8;
            fragment.data[20] = 0x20;
            clock.frame(Nanos(number), fragment);
        }
        clock.frame(Nanos(9), record(Side::Primary, 9, 2, 2));
        clock.frame(Nanos(9), record(Side::Secondary, 1, 2, 2));
        let (summary, flows) = close(clock);
        assert!(summary.uncompared > 0, "{summary:?}");
        assert!(flows.iter().all(|flow| flow.verdict() == Verdict::Incomplete), "{flows:?}");
        let frames: u64 = flows.iter().map(|flow| flow.primary.frames + flow.secondary.frames).sum();
        assert_eq!(frames, 8);
    }

    #[test]
    fn flows_that_were_forgotten_and_speak_again_are_counted() {
        let limit = Limit { frames: 100, bytes: 1 << 20 };
        let config = Config { total_limit: limit, max_flows: 2, ..Config::default() };
        let mut clock = Clock::new(config, Book::new(crate::engine::PassRules::default(), None, false));
        for (number, peer) in (0..).zip([1, 2, 3, 4, 1]) {
            clock.frame(Nanos(number), record(Side::Primary, number, peer, peer));
            clock.frame(Nanos(number), record(Side::Secondary, number, peer, peer));
        }
        let (summary, _) = close(clock);
        assert_eq!((summary.flows, summary.matched, summary.resumed), (4, 4, 1));
    }

    #[test]
    fn deadlines_between_frames_are_met_in_time() {
        let mut clock = clock(100);
        clock.frame(Nanos(0), record(Side::Primary, 1, 1, 1));
        clock.pass(Nanos::from_millis(2999));
        assert_eq!(clock.engine.held(Side::Primary).frames, 1);
        clock.pass(Nanos::from_millis(3001));
        assert_eq!(clock.engine.held(Side::Primary).frames, 0, "it is left out at once");
    }
}
