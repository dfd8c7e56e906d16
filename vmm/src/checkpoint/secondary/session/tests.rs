//! A primary that is lost at every moment: its secondary is what the last complete checkpoint made it, or all of
//! the next.
//!
//! ```text
//!   synced │ ram ahead │ request │ pages │ package        what a session from one checkpoint to the next says
//!   ───────┴─────✂─────┴────✂────┴───✂───┴────✂────       cut anywhere: the one before
//!                                                  └►     all of it: the next, whoever hears of that
//! ```

use super::*;
use crate::checkpoint::disks::NoDisks;
use crate::checkpoint::protocol::hello::Block;
use crate::checkpoint::protocol::{Code, Header, Limits, Patience};
use crate::checkpoint::ram::records::{CONTINUE, DELTA, EOS, LZ4, PLAIN, ZERO};
use crate::checkpoint::ram::{Blocks, PAGE};
use crate::checkpoint::status::Role;
use crate::control::Control;
use crate::dirty;
use crate::machine::tests::frozen::{
    COUNT_IN_BOTH, COUNTER, Running, assert_same, begun, booted, copied, counts, end,
};
use crate::machine::{Begin, MachineState};
use std::io::{self, ErrorKind};
use vm_memory::{Bytes as _, GuestAddress};

/// The number of every session here.
const SESSION: u64 = 0x5e55;
/// A page that the guest's kernel never touches, and those after it.
const FREE: usize = 0x40_0000;
/// How many of them change from one moment to the next.
const CHANGED: usize = 9;
const FREE_END: usize = FREE + CHANGED * PAGE;

/// A primary that says this, takes so many messages, and is gone.
struct Gone<'a> {
    says: &'a [u8],
    takes: usize,
}

impl Channel for Gone<'_> {
    fn send(&mut self, _: &mut [IoSlice<'_>], _: Instant) -> io::Result<()> {
        self.takes = self.takes.checked_sub(1).ok_or(ErrorKind::BrokenPipe)?;
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8], _: Instant) -> io::Result<usize> {
        let count = self.says.len().min(buffer.len());
        let (now, rest) = self.says.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.says = rest;
        Ok(count)
    }
}

/// A guest at one moment.
#[derive(Clone)]
struct Moment {
    state: MachineState,
    ram: Vec<u8>,
}

impl Moment {
    fn of(freezer: &Freezer) -> Self {
        let copy = |frozen: &mut crate::machine::Frozen<'_>| (copied(frozen), After::AsBefore);
        let ((state, ram), _) = freezer.freeze(Time::GoesOn, copy).unwrap();
        Self { state, ram }
    }

    /// Everything but its clocks, which go on while it stands.
    fn without_clocks(&self) -> MachineState {
        let mut state = self.state.clone();
        state.clock.nanoseconds = 0;
        state.pm.nanoseconds = 0;
        state.rtc.milliseconds = 0;
        state.vcpus.iter_mut().for_each(|vcpu| vcpu.tsc = 0);
        state
    }

    /// Byte for byte.
    fn assert_is(&self, other: &Self, when: &str) {
        let (one, two) = (self.without_clocks(), other.without_clocks());
        if package::write(&one).unwrap() != package::write(&two).unwrap() {
            println!("{when}");
            assert_same(&one, &two);
        }
        let pages = self.ram.chunks(PAGE).zip(other.ram.chunks(PAGE));
        let differ: Vec<_> = pages.enumerate().filter(|(_, (one, two))| one != two).collect();
        assert!(differ.is_empty(), "{when}: page {:#x} and {} others", differ[0].0, differ.len() - 1);
        assert!(self.state.clock.nanoseconds >= other.state.clock.nanoseconds, "{when}: its clock went back");
    }
}

/// Three moments of a guest that counts, and has changed pages in every way between them.
fn moments() -> [Moment; 3] {
    let (freezer, control, thread) = booted(COUNT_IN_BOTH, 2);
    let moments = [1_u8, 2, 3].map(|number| {
        counts(&freezer);
        let work = move |frozen: &mut crate::machine::Frozen<'_>| {
            for page in 0..CHANGED {
                // Each has pages of zeros, and the others have not the same ones.
                let fill = if page % 3 == usize::from(number) - 1 { 0 } else { number * 16 + page as u8 };
                let bytes: Vec<u8> = (0..PAGE).map(|at| if at % 7 == 0 { fill } else { 0 }).collect();
                let at = GuestAddress((FREE + page * PAGE) as u64);
                frozen.ram().write_slice(&bytes, at).unwrap();
            }
            ((), After::AsBefore)
        };
        freezer.freeze(Time::GoesOn, work).unwrap();
        Moment::of(&freezer)
    });
    end(&*control, thread);
    moments
}

/// The RAM records of every page that differs, in two pieces; each kind of record is among them.
fn pieces(before: &[u8], after: &[u8]) -> [Vec<u8>; 2] {
    let pages = before.chunks(PAGE).zip(after.chunks(PAGE)).enumerate();
    let changed: Vec<_> = pages.filter(|(_, (before, after))| before != after).collect();
    let (ahead, rest) = changed.split_at(changed.len() / 2);
    [ahead, rest].map(|pages| {
        let mut piece = Vec::new();
        for (number, (page, (before, after))) in pages.iter().enumerate() {
            let begun = if number == 0 { 0 } else { CONTINUE };
            let mut put = |flags: u64, content: &[u8]| {
                piece.extend((((page * PAGE) as u64) | flags | begun).to_be_bytes());
                if begun == 0 {
                    piece.extend(b"\x06pc.ram");
                }
                piece.extend(content);
            };
            let compressed = |page: &[u8]| {
                let compressed = lz4_flex::block::compress(page);
                [&(compressed.len() as u16).to_be_bytes(), &compressed[..]].concat()
            };
            let difference: Vec<u8> = before.iter().zip(*after).map(|(one, two)| one ^ two).collect();
            match number % 3 {
                _ if after.iter().all(|byte| *byte == 0) => put(ZERO, &[0]),
                0 => put(PLAIN, after),
                1 => put(LZ4, &compressed(after)),
                _ => put(DELTA, &compressed(&difference)),
            }
        }
        piece.extend(EOS.to_be_bytes());
        piece
    })
}

fn message(code: Code, epoch: u64, payload: &[u8]) -> Vec<u8> {
    [&Header { code: code.number(), epoch, len: payload.len() as u64 }.to_bytes(), payload].concat()
}

/// What a session says that has one checkpoint, message by message: from what the secondary has to this.
fn session_to(before: &Moment, after: &Moment) -> Vec<Vec<u8>> {
    let [ahead, rest] = pieces(&before.ram, &after.ram);
    vec![
        message(Code::Resume, 0, &[]),
        message(Code::Ram, 1, &ahead),
        message(Code::CheckpointRequest, 1, &[]),
        message(Code::VmstateSend, 1, &rest),
        message(Code::VmstateSize, 1, &package::write(&after.state).unwrap()),
    ]
}

/// A secondary, and the machine in it.
struct Secondary {
    sink: Sink,
    limits: Limits,
    freezer: Freezer,
    control: Arc<dyn Control>,
    thread: Running,
}

impl Secondary {
    /// One that waits.
    fn new(mode: Mode) -> Self {
        let (freezer, control, thread) = begun(Begin::Wait(None), 2);
        let find = |frozen: &mut crate::machine::Frozen<'_>| (frozen.vm().clone(), After::AsBefore);
        let (vm, _) = freezer.freeze(Time::GoesOn, find).unwrap();
        let (ram, tracker) = (vm.ram().clone(), dirty::choose(&vm).unwrap());
        let blocks = Arc::new(Blocks::of(&ram));
        let limits = Limits::of(&[Block { name: "pc.ram".parse().unwrap(), size: blocks.bytes() }]);
        let board = Arc::new(Board::new(Role::Secondary, mode, Duration::ZERO));
        let staged = Staged::new(blocks, None).unwrap();
        let sink = Sink::new(freezer.clone(), ram, staged, tracker, mode, board, Arc::new(NoDisks));
        Self { sink, limits, freezer, control, thread }
    }

    /// One that was made this.
    fn at(moment: &Moment, mode: Mode) -> Self {
        let mut secondary = Self::new(mode);
        let nothing = Moment { ram: vec![0; moment.ram.len()], ..moment.clone() };
        let mut says = session_to(&nothing, moment);
        // The first sync is of pages that are nobody's yet.
        let [ahead, _] = pieces(&nothing.ram, &moment.ram);
        says.splice(..2, [message(Code::Ram, 0, &ahead), message(Code::Synced, 0, &[])]);
        let error = secondary.hear(&says.concat(), usize::MAX);
        assert!(matches!(error, SessionError::Protocol(ProtocolError::Closed(_))), "{error}");
        assert!(secondary.sink.level());
        secondary
    }

    /// Hears this of a primary that takes so many messages; gives how that ended.
    fn hear(&mut self, says: &[u8], takes: usize) -> SessionError {
        let mut peer = Gone { says, takes };
        let error = self.session(&mut peer).unwrap_err();
        self.sink.abandon().unwrap();
        error
    }

    fn session(&mut self, peer: &mut Gone<'_>) -> Result<(), SessionError> {
        let link = Syncing::new(peer, self.limits, Patience::default());
        let mut step = self.sink.sync(link, SESSION, 1)?;
        while let Step::Level(link) = step {
            step = self.sink.next(link)?;
        }
        Ok(())
    }

    /// The pages that every moment changes.
    fn free(&self) -> Vec<u8> {
        let mut bytes = vec![0; CHANGED * PAGE];
        self.sink.ram.read_slice(&mut bytes, GuestAddress(FREE as u64)).unwrap();
        bytes
    }

    fn assert_is(&self, moment: &Moment, when: &str) {
        Moment::of(&self.freezer).assert_is(moment, when);
    }

    fn end(self) {
        end(&*self.control, self.thread);
    }
}

#[test]
fn a_checkpoint_that_is_cut_at_any_byte_leaves_the_one_before_whole() {
    let [first, second, _] = moments();
    let mut secondary = Secondary::at(&first, Mode::Periodic);
    secondary.assert_is(&first, "before");
    let says = session_to(&first, &second).concat();
    for cut in 0..says.len() {
        let error = secondary.hear(&says[..cut], usize::MAX);
        let lost = matches!(
            error,
            SessionError::Protocol(ProtocolError::Closed(_) | ProtocolError::Truncated { .. })
        );
        assert!(lost && secondary.sink.level(), "{cut}: {error}");
        assert!(secondary.free() == first.ram[FREE..FREE_END], "cut at byte {cut} of {}", says.len());
        // Everything else now and then: what a cut breaks no later one mends.
        if cut % 997 == 0 || cut == says.len() - 1 {
            secondary.assert_is(&first, &format!("cut at byte {cut} of {} or before", says.len()));
        }
    }
    secondary.hear(&says, usize::MAX);
    secondary.assert_is(&second, "all of it");
    // And it can take over after any of them.
    secondary.sink.take_over().unwrap();
    let counted = second.state.vcpus[0].regs.rbx as u32;
    assert!(counts(&secondary.freezer) >= counted, "it goes on from there");
    secondary.end();
}

#[test]
fn a_primary_that_hears_no_answer_has_a_secondary_that_is_whole() {
    let [first, second, third] = moments();
    let mut secondary = Secondary::at(&first, Mode::Periodic);
    // It is lost at: ready, reply, received, loaded. From "received" on nothing can prevent the checkpoint.
    for (takes, from, to, after) in [
        (0, &first, &second, &first),
        (1, &first, &second, &first),
        (2, &first, &second, &second),
        (3, &second, &third, &third),
        (4, &third, &first, &first),
    ] {
        let error = secondary.hear(&session_to(from, to).concat(), takes);
        let unheard = matches!(error, SessionError::Protocol(ProtocolError::Send { .. }));
        assert_eq!(unheard, takes < 4, "{takes}: {error}");
        assert!(secondary.sink.level(), "{takes}");
        secondary.assert_is(after, &format!("it took {takes} messages"));
    }
    secondary.end();
}

#[test]
fn a_checkpoint_that_makes_no_sense_leaves_the_one_before_whole() {
    let [first, second, _] = moments();
    let mut secondary = Secondary::at(&first, Mode::Periodic);
    let with = |code: Code, payload: &[u8]| {
        let mut says = session_to(&first, &second);
        let place = says.iter_mut().find(|message| message[..4] == code.number().to_be_bytes()).unwrap();
        *place = message(code, 1, payload);
        says.concat()
    };
    // Only KVM refuses this one, after it has taken another vCPU's state.
    let mut refused = second.state.clone();
    refused.vcpus[1].sregs.cr4 = u64::MAX;
    let error = secondary.hear(&with(Code::VmstateSize, &package::write(&refused).unwrap()), usize::MAX);
    assert!(matches!(error, SessionError::Load(LoadError::Refused(_))), "{error}");
    secondary.assert_is(&first, "a state that KVM refuses");
    let mut fewer = second.state.clone();
    fewer.vcpus.pop();
    let error = secondary.hear(&with(Code::VmstateSize, &package::write(&fewer).unwrap()), usize::MAX);
    assert!(matches!(error, SessionError::Load(LoadError::Cpus { found: 1, said: 2 })), "{error}");
    secondary.assert_is(&first, "a vCPU is missing");
    let error = secondary.hear(&with(Code::VmstateSize, &[0; 40]), usize::MAX);
    assert!(matches!(error, SessionError::Package(_)), "{error}");
    secondary.assert_is(&first, "no package");
    for code in [Code::Ram, Code::VmstateSend] {
        // Good pages, and one that is outside.
        let [mut piece, _] = pieces(&first.ram, &second.ram);
        let outside = (first.ram.len() as u64 | ZERO | CONTINUE).to_be_bytes();
        piece.splice(piece.len() - 8..piece.len() - 8, [&outside[..], &[0]].concat());
        let error = secondary.hear(&with(code, &piece), usize::MAX);
        assert!(matches!(error, SessionError::Stage(StageError::Record(_))), "{error}");
        secondary.assert_is(&first, "pages outside");
    }
    secondary.hear(&session_to(&first, &second).concat(), usize::MAX);
    secondary.assert_is(&second, "after all of these");
    secondary.end();
}

/// A truncated package is none, also one that says that it is as short as it is.
#[test]
fn a_package_of_a_real_machine_cut_at_every_byte_is_an_error() {
    let [moment, ..] = moments();
    let whole = package::write(&moment.state).unwrap();
    assert_eq!(package::read(&whole).unwrap(), moment.state);
    for len in 0..whole.len() {
        let mut cut = whole[..len].to_vec();
        package::read(&cut).unwrap_err();
        if let Some(says) = len.checked_sub(9) {
            cut[5..9].copy_from_slice(&(says as u32).to_be_bytes());
            package::read(&cut).unwrap_err();
        }
    }
}

#[test]
fn a_guest_that_runs_between_checkpoints_goes_on_when_one_is_cut() {
    let [first, second, _] = moments();
    let mut secondary = Secondary::at(&first, Mode::Colo);
    let says = session_to(&first, &second);
    // Within the pages, and within the package: the guest stood already.
    for messages in [3, 4] {
        let half = says[messages].len() / 2;
        let cut = says[..messages].iter().map(Vec::len).sum::<usize>() + half;
        secondary.hear(&says.concat()[..cut], usize::MAX);
        counts(&secondary.freezer);
        let now = Moment::of(&secondary.freezer);
        let free = FREE..FREE_END;
        assert!(now.ram[free.clone()] == first.ram[free], "pages of an epoch that never came");
        assert!(now.state.vcpus[0].regs.rbx > first.state.vcpus[0].regs.rbx);
    }
    // What its own guest has written is overwritten by a whole one.
    let counter = COUNTER.0 as usize;
    let mut before = first.clone();
    before.ram[counter..counter + 4].fill(0xff);
    secondary.hear(&session_to(&before, &second).concat(), usize::MAX);
    let counted = second.state.vcpus[0].regs.rbx as u32;
    assert!(counts(&secondary.freezer) >= counted);
    let now = Moment::of(&secondary.freezer);
    let free = FREE..FREE_END;
    assert!(now.ram[free.clone()] == second.ram[free]);
    secondary.end();
}
