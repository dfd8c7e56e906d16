//! A guest that writes at random places, on real vCPUs, in two regions of RAM.
//!
//! ```text
//!   0        1 M            2 M          3 M                        4 G           4 G + 1 M
//!   ├ tables ┤ devices write ┤ guest writes ┤ 5 pages │    hole      ├ guest writes ┤ 3 pages │
//! ```

use crate::boot::Entry;
use crate::dirty::{PAGE, PageSet, Tracker, Tracking, choose};
use crate::kvm::{Kvm, Vm};
use crate::memory::GuestRam;
use crate::sandbox::Sandbox;
use crate::vcpu::{Buses, Ending, Reset, Vcpu};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// Where devices write too.
pub(super) const DEVICES: u64 = 1 << 20;
/// Where the guest writes, in a window of 1 MiB or more.
const LOW: u64 = 2 << 20;
/// And there.
pub(super) const HIGH: u64 = 4 << 30;

const CODE: u64 = 0x1000;
/// A page for each vCPU, which counts its rounds in it.
const COUNTS: u64 = 0x8000;
const TABLES: u64 = 0x2_0000;

/// A round: the next random number decides which window is written, and where.
const PROGRAM: [u8; 42] = [
    0x48, 0x69, 0xc0, 0x0d, 0x66, 0x19, 0x00, // imul rax, rax, 1664525
    0x48, 0x05, 0x5f, 0xf3, 0x6e, 0x3c, // add rax, 1013904223
    0x48, 0x89, 0xc2, // mov rdx, rax
    0x48, 0xc1, 0xea, 0x10, // shr rdx, 16
    0x48, 0x21, 0xca, // and rdx, rcx
    0x48, 0x89, 0xde, // mov rsi, rbx
    0xa9, 0x00, 0x00, 0x00, 0x40, // test eax, 1 << 30
    0x48, 0x0f, 0x45, 0xf5, // cmovnz rsi, rbp
    0x48, 0x89, 0x04, 0x16, // mov [rsi + rdx], rax
    0x48, 0xff, 0x07, // inc qword [rdi]
];
/// `jmp` to the start.
const AGAIN: [u8; 2] = [0xeb, 0xd4];
/// `out 0x80, al`, at which the vCPU leaves the guest; and the `jmp`.
const LEAVE_AND_AGAIN: [u8; 4] = [0xe6, 0x80, 0xeb, 0xd2];

pub(super) struct Guest {
    vcpus: Vec<Vcpu>,
    pub(super) vm: Arc<Vm>,
    endings: Receiver<Ending>,
}

impl Guest {
    pub(super) fn new(tracking: Tracking, vcpus: u32) -> Self {
        Self::with_window(tracking, vcpus, 1 << 20, &AGAIN)
    }

    /// It writes to many more pages, and leaves the guest in each round: a KVM that emulates it looks at its
    /// ring only then.
    pub(super) fn large(tracking: Tracking, vcpus: u32) -> Self {
        Self::with_window(tracking, vcpus, 16 << 20, &LEAVE_AND_AGAIN)
    }

    /// It writes to as many, and does not leave.
    pub(super) fn large_and_silent(tracking: Tracking, vcpus: u32) -> Self {
        Self::with_window(tracking, vcpus, 16 << 20, &AGAIN)
    }

    /// The two windows of the guest have so many bytes each, a power of two.
    fn with_window(tracking: Tracking, vcpus: u32, window: u64, end: &[u8]) -> Self {
        let ranges = [(0, LOW + window + 5 * PAGE), (HIGH, window + 3 * PAGE)];
        let ram = GuestRam::from_ranges(&ranges.map(|(at, len)| (GuestAddress(at), len as usize))).unwrap();
        ram.write_slice(&[&PROGRAM, end].concat(), GuestAddress(CODE)).unwrap();
        write_tables(&ram);
        let kvm = Kvm::open().unwrap();
        let vm = Arc::new(Vm::tracked_by(&kvm, Arc::new(ram), tracking).unwrap());
        let resets: Vec<_> = (0..vcpus).map(|index| Reset::new(&kvm, &vm, index, vcpus).unwrap()).collect();
        let (ended, endings) = channel();
        let start = |(index, reset): (u64, Reset)| {
            begin(&vm, &reset, index, window);
            let ended = ended.clone();
            reset
                .start(Arc::new(Buses::default()), Sandbox::default(), move |_, ending| {
                    drop(ended.send(ending));
                })
                .unwrap()
        };
        let vcpus = (0..).zip(resets).map(start).collect();
        Self { vcpus, vm, endings }
    }

    /// A tracker that takes all of RAM as copied.
    pub(super) fn clean_tracker(&self) -> Box<dyn Tracker> {
        let mut tracker = choose(&self.vm).unwrap();
        tracker.start().unwrap();
        let mut all = PageSet::new(self.vm.ram());
        tracker.collect(&mut all).unwrap();
        tracker.rearm(&all).unwrap();
        tracker
    }

    pub(super) fn resume(&self) {
        self.vcpus
            .iter()
            .map(Vcpu::resume)
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|done| done.wait().unwrap());
    }

    pub(super) fn pause(&self) {
        self.vcpus
            .iter()
            .map(Vcpu::pause)
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|done| done.wait().unwrap());
    }

    /// Waits until each vCPU has done so many rounds more.
    pub(super) fn wait(&self, rounds: u64) {
        self.try_wait(rounds).unwrap();
    }

    /// The same, unless one of them ends.
    pub(super) fn try_wait(&self, rounds: u64) -> Result<(), Ending> {
        for index in 0..self.vcpus.len() as u64 {
            let count = || self.vm.ram().read_obj::<u64>(GuestAddress(COUNTS + index * PAGE)).unwrap();
            let end = count() + rounds;
            while count() < end {
                self.endings.try_recv().map_or(Ok(()), Err)?;
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    pub(super) fn run_a_while(&self) {
        self.resume();
        self.wait(50);
        self.pause();
    }

    /// Every byte of RAM.
    pub(super) fn contents(&self) -> Vec<Vec<u8>> {
        let read = |region: &<GuestRam as GuestMemoryBackend>::R| {
            let mut bytes = vec![0; region.len() as usize];
            self.vm.ram().read_slice(&mut bytes, region.start_addr()).unwrap();
            bytes
        };
        self.vm.ram().iter().map(read).collect()
    }

    /// The oracle: each page whose bytes are not those of `then`.
    pub(super) fn changed_since(&self, then: &[Vec<u8>]) -> PageSet {
        let mut changed = PageSet::new(self.vm.ram());
        for (region, (now, then)) in self.contents().iter().zip(then).enumerate() {
            let pages = now.chunks(PAGE as usize).zip(then.chunks(PAGE as usize));
            for (page, _) in (0..).zip(pages).filter(|(_, (now, then))| now != then) {
                assert!(changed.insert_in(region, page));
            }
        }
        changed
    }
}

/// Long mode, at the start of the program.
fn begin(vm: &Vm, reset: &Reset, index: u64, window: u64) {
    let mut sregs = reset.fd().get_sregs().unwrap();
    let mut regs = Entry::Linux64 { rip: CODE, zero_page: 0 }.prepare(vm.ram(), &mut sregs).unwrap();
    sregs.cr3 = TABLES;
    (regs.rax, regs.rdi) = (index + 1, COUNTS + index * PAGE);
    (regs.rbx, regs.rbp, regs.rcx) = (LOW, HIGH, window - 8);
    reset.fd().set_sregs(&sregs).unwrap();
    reset.fd().set_regs(&regs).unwrap();
    // The others wait for the first to start them, which it never does.
    let runs = kvm_bindings::kvm_mp_state { mp_state: kvm_bindings::KVM_MP_STATE_RUNNABLE };
    reset.fd().set_mp_state(runs).unwrap();
}

/// The first GiB and that from 4 GiB on, in pages of 2 MiB, all of them accessed and dirty.
fn write_tables(ram: &GuestRam) {
    const TABLE: u64 = 0b10_0011;
    const LARGE: u64 = 0b1110_0011;
    let write = |at: u64, entry: u64| ram.write_obj(entry, GuestAddress(at)).unwrap();
    write(TABLES, (TABLES + PAGE) | TABLE);
    for (directory, gibibyte) in [(TABLES + 2 * PAGE, 0), (TABLES + 3 * PAGE, 4)] {
        write(TABLES + PAGE + gibibyte * 8, directory | TABLE);
        for entry in 0..512 {
            write(directory + entry * 8, (gibibyte << 30) | (entry << 21) | LARGE);
        }
    }
}
