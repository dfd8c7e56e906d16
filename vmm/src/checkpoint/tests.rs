//! Both sides, over a link that is cut at any byte of either direction, again and again.
//!
//! ```text
//!   a copy of the primary's memory at each checkpoint ──┐ is what the secondary is, whichever it says it holds,
//!   cut ─► what the secondary says it holds ────────────┘ but for what its own guest has written since
//! ```

use super::disks::NoDisks;
use super::output::Unheld;
use super::primary::{Copier, Parts, SessionError as PrimaryError, Source};
use super::protocol::hello::Block;
use super::protocol::{Channel, Limits, Patience, primary, secondary};
use super::ram::pack::Packing;
use super::ram::{Blocks, PAGE, Staged};
use super::secondary::{Sink, Step};
use super::status::Mode;
use super::*;
use crate::control::Control;
use crate::dirty;
use crate::kvm::Vm;
use crate::machine::tests::frozen::{Running, begun, booted, end};
use crate::machine::{After, Begin, Freezer, Frozen, Time};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Instant;
use vm_memory::{Bytes as _, GuestAddress};

/// A side's end of a link, which takes so many bytes of it.
struct Cut {
    stream: UnixStream,
    left: usize,
}

impl Channel for Cut {
    fn send(&mut self, parts: &mut [IoSlice<'_>], _: Instant) -> io::Result<()> {
        for part in parts {
            let now = part.len().min(self.left);
            self.left -= now;
            self.stream.write_all(&part[..now])?;
            if now < part.len() {
                let _ = self.stream.shutdown(Shutdown::Both);
                return Err(ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8], _: Instant) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.stream.read(&mut buffer[done..]) {
                Ok(0) => break,
                Ok(count) => done += count,
                // What the peer had not taken when it ended.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// A guest that waits for interrupts which never come: `cli; hlt; jmp` to the `hlt`.
const NOTHING: &[u8] = &[0xfa, 0xf4, 0xeb, 0xfd];

/// A machine whose guest does nothing: all that is written is written by the test.
struct Host {
    freezer: Freezer,
    vm: Arc<Vm>,
    board: Arc<Board>,
    control: Arc<dyn Control>,
    thread: Running,
}

impl Host {
    fn new(role: Role) -> Self {
        let (freezer, control, thread) = match role {
            Role::Primary => booted(NOTHING, 1),
            Role::Secondary => begun(Begin::Wait(None), 1),
        };
        let find = |frozen: &mut Frozen<'_>| (frozen.vm().clone(), After::AsBefore);
        let (vm, _) = freezer.freeze(Time::GoesOn, find).unwrap();
        let board = Arc::new(Board::new(role, Mode::Periodic, Duration::ZERO));
        Self { freezer, vm, board, control, thread }
    }

    fn ram(&self) -> Vec<u8> {
        let ram = self.vm.ram();
        let mut bytes = vec![0; Blocks::of(ram).bytes() as usize];
        ram.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        bytes
    }

    /// Writes a word to each of some pages.
    fn write(&self, writes: &[Run], pages: &mut BTreeSet<usize>) {
        for (first, count, word) in writes {
            for page in *first..(first + count).min(PAGES) {
                self.vm.ram().write_obj(word ^ page as u64, GuestAddress((page * PAGE) as u64 + 8)).unwrap();
                pages.insert(page);
            }
        }
    }
}

const PAGES: usize = (16 << 20) / PAGE;

/// Pages, how many, and what is written there.
type Run = (usize, usize, u64);

fn runs() -> impl Strategy<Value = Vec<Run>> {
    // Some are more than are left to a checkpoint, so that they are sent ahead.
    vec((0..PAGES, prop_oneof![4 => 1..20_usize, 1 => 600..900_usize], any::<u64>()), 0..4)
}

/// From one cut to the next.
#[derive(Clone, Debug)]
struct Session {
    /// What each side sends before the link is cut: bytes.
    takes: [usize; 2],
    /// What the primary's guest writes before each checkpoint.
    checkpoints: Vec<Vec<Run>>,
    /// What both guests write while there is no link.
    alone: [Vec<Run>; 2],
}

fn sessions() -> impl Strategy<Value = Vec<Session>> {
    // All memory is some 40 KiB of records of zeros; a checkpoint is some KiB or MiB.
    let takes = || prop_oneof![0..1000_usize, 0..60_000_usize, 0..8_000_000_usize, Just(usize::MAX)];
    let answers = prop_oneof![0..300_usize, Just(usize::MAX), Just(usize::MAX)];
    let session = (takes(), answers, vec(runs(), 1..4), runs(), runs()).prop_map(
        |(said, answered, checkpoints, ours, theirs)| Session {
            takes: [said, answered],
            checkpoints,
            alone: [ours, theirs],
        },
    );
    vec(session, 1..9)
}

fn packing() -> impl Strategy<Value = Packing> {
    prop_oneof![Just(Packing::None), Just(Packing::Zeros), Just(Packing::Delta)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, ..ProptestConfig::default() })]
    #[test]
    fn a_link_that_is_cut_anywhere_again_and_again_costs_no_whole_checkpoint(
        mut plan in sessions(),
        packing in packing(),
    ) {
        // At last nothing is cut.
        plan.push(Session {
            takes: [usize::MAX; 2],
            checkpoints: vec![vec![(7, 3, 99)]],
            alone: [Vec::new(), Vec::new()],
        });
        let (here, there) = (Host::new(Role::Primary), Host::new(Role::Secondary));
        let ram = here.vm.ram().clone();
        let blocks = Arc::new(Blocks::of(&ram));
        let limits = Limits::of(&[Block { name: "pc.ram".parse().unwrap(), size: blocks.bytes() }]);
        let mut source = Source::new(Parts {
            freezer: here.freezer.clone(),
            copier: Copier::new(dirty::choose(&here.vm).unwrap(), &ram, &blocks, packing).unwrap(),
            ram: ram.clone(),
            blocks: blocks.clone(),
            packing,
            board: here.board.clone(),
            output: Arc::new(Unheld),
            disks: Arc::new(NoDisks),
            now: Now::default(),
            step: Duration::from_mins(2),
        });
        let tracker = dirty::choose(&there.vm).unwrap();
        let staged = Staged::with_bound(blocks, None, 64 << 20).unwrap();
        let theirs = there.vm.ram().clone();
        let mut sink = Sink::new(there.freezer.clone(), theirs, staged, tracker, Mode::Periodic, there.board.clone(), Arc::new(NoDisks));
        let holding = sink.holding();
        // The oracle: what the primary was, at each checkpoint.
        let mut copies = BTreeMap::new();
        let mut foreign = BTreeSet::new();
        for (number, Session { takes, checkpoints, alone }) in plan.into_iter().enumerate() {
            let session = number as u64 + 1000;
            let held = holding.get();
            let (one, two) = UnixStream::pair().unwrap();
            let [said, answered] = takes;
            let mut completed = 0;
            std::thread::scope(|scope| {
                let sink = &mut sink;
                scope.spawn(move || {
                    let link = secondary::Syncing::new(Cut { stream: two, left: answered }, limits, Patience::default());
                    let mut step = sink.sync(link, session, 1);
                    while let Ok(Step::Level(link)) = step {
                        step = sink.next(link);
                    }
                    sink.abandon().unwrap();
                });
                let link = primary::Syncing::new(Cut { stream: one, left: said }, limits, Patience::default());
                let over = (|| {
                    let mut level = source.begin(link, session, held)?;
                    for writes in &checkpoints {
                        here.write(writes, &mut BTreeSet::new());
                        source.waiting()?;
                        source.ahead(&mut level)?;
                        copies.insert((session, level.epoch()), here.ram());
                        level = source.checkpoint(level, Cause::Timer)?;
                        completed += 1;
                    }
                    Ok::<_, PrimaryError>(())
                })();
                assert!(matches!(over, Ok(()) | Err(PrimaryError::Protocol(_))), "{over:?}");
            });
            let holds = holding.get();
            if completed > 0 {
                let sync = here.board.read().sync;
                prop_assert_eq!(sync.incremental, held.epoch > 0, "{:?}: what is held is gone on from", held);
                prop_assert!(holds.session == session && holds.epoch >= completed, "{:?}", holds);
            }
            if (holds.session, holds.epoch) != (held.session, held.epoch) {
                foreign.clear();
            }
            prop_assert_eq!(sink.level(), holds.epoch > 0);
            if held.epoch > 0 {
                prop_assert!(holds.epoch > 0, "it could take over, and can still");
            }
            if holds.epoch > 0 {
                let (now, copy) = (there.ram(), &copies[&(holds.session, holds.epoch)]);
                let differ: Vec<_> = (0..PAGES)
                    .filter(|page| !foreign.contains(page))
                    .filter(|page| now[page * PAGE..][..PAGE] != copy[page * PAGE..][..PAGE])
                    .collect();
                prop_assert_eq!(differ, Vec::<usize>::new(), "session {}, {:?}", number, holds);
            }
            let [ours, theirs] = alone;
            here.write(&ours, &mut BTreeSet::new());
            if holds.epoch > 0 {
                there.write(&theirs, &mut foreign);
            }
        }
        prop_assert_eq!(here.ram(), there.ram());
        end(&*here.control, here.thread);
        end(&*there.control, there.thread);
    }
}
