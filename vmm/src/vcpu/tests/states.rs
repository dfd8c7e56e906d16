//! Random states of a real vCPU: what KVM is given is what it gives back, byte for byte.
//!
//! Only what a CPU can be in: KVM refuses the rest, or corrects it.

use super::*;
use crate::kvm::Counters;
use crate::state::dice::dice;
use crate::state::{decode, encode_bare};
use kvm_bindings::{KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE};
use proptest::prelude::*;

/// Where a register is in the local APIC's page.
mod apic {
    pub(super) const TASK_PRIORITY: usize = 0x80;
    pub(super) const PROCESSOR_PRIORITY: usize = 0xa0;
    pub(super) const LOGICAL_DESTINATION: usize = 0xd0;
    pub(super) const SPURIOUS: usize = 0xf0;
    pub(super) const REQUESTS: usize = 0x200;
    pub(super) const COMMAND_HIGH: usize = 0x310;
    pub(super) const TIMER: usize = 0x320;
    pub(super) const LINT0: usize = 0x350;
    pub(super) const ERROR: usize = 0x370;
    pub(super) const INITIAL_COUNT: usize = 0x380;
    pub(super) const CURRENT_COUNT: usize = 0x390;
    pub(super) const DIVISOR: usize = 0x3e0;
}

const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const DEADLINE: u32 = 1 << 18;

/// Bits 47 to 63 alike.
fn canonical(address: u64) -> u64 {
    ((address << 16) as i64 >> 16) as u64
}

fn registers(state: &mut VcpuState, seed: u64) {
    // Carry, parity, adjust, zero, sign, interrupts, direction, overflow, and the bit that is always set.
    const FLAGS: u64 = 0xed5;
    let diced: Registers = dice(seed);
    let rflags = diced.rflags & FLAGS | 2;
    state.regs = Registers { rip: diced.rip & 0xffff, rflags, ..diced };
}

/// Real mode with any segments, tables, and what control registers may have in it.
fn system(state: &mut VcpuState, seed: u64) {
    let diced: SystemRegisters = dice(seed);
    let sregs = &mut state.sregs;
    for (segment, diced) in [
        (&mut sregs.ds, diced.ds),
        (&mut sregs.es, diced.es),
        (&mut sregs.fs, diced.fs),
        (&mut sregs.gs, diced.gs),
    ] {
        *segment = Segment { base: u64::from(diced.base as u32), selector: diced.selector, ..*segment };
    }
    for (table, diced) in [(&mut sregs.gdt, diced.gdt), (&mut sregs.idt, diced.idt)] {
        *table = Table { base: canonical(diced.base), limit: diced.limit };
    }
    sregs.cr2 = diced.cr2;
    sregs.cr3 = diced.cr3 & 0x1f_f000;
    sregs.cr8 = diced.cr8 & 15;
    // PSE, DE, OSFXSR, OSXMMEXCPT.
    sregs.cr4 = sregs.cr4 & !0x618 | diced.cr4 & 0x618;
}

fn breakpoints(state: &mut VcpuState, seed: u64) {
    const DR6_ONES: u64 = 0xffff_0ff0;
    const DR7_ONES: u64 = 0x400;
    let diced: DebugRegisters = dice(seed);
    let dr6 = DR6_ONES | diced.dr6 & 15;
    let dr7 = DR7_ONES | diced.dr7 & 0xffff_00ff;
    state.debug = DebugRegisters { db: diced.db.map(canonical), dr6, dr7, ..state.debug };
}

/// Any vectors, and numbers with all their bits.
fn extended(state: &mut VcpuState, seed: u64) {
    const MXCSR: usize = 24;
    const HEADER: usize = 512;
    const AVX: usize = 576;
    let xsave = &mut state.xsave;
    let mut fill = |range: std::ops::Range<usize>| {
        let mut word = seed ^ range.start as u64;
        for byte in &mut xsave[range] {
            word = dice(word.wrapping_add(1));
            *byte = (word >> 8) as u8;
        }
    };
    for number in 0..8 {
        fill(32 + 16 * number..32 + 16 * number + 10);
    }
    fill(160..416);
    let enabled = state.xcrs.iter().find(|xcr| xcr.number == 0).map_or(3, |xcr| xcr.value);
    let mut used = 3;
    if enabled & 4 != 0 {
        fill(AVX..AVX + 256);
        used |= 4;
    }
    let mxcsr = dice::<u32>(seed) & 0xffbf;
    xsave[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr.to_le_bytes());
    // All control bits of the x87, its top and its condition codes, the registers in use.
    xsave[0..2].copy_from_slice(&(0x37f | dice::<u16>(seed) & 0xc00).to_le_bytes());
    xsave[2..4].copy_from_slice(&(dice::<u16>(seed ^ 1) & 0x7f00).to_le_bytes());
    xsave[4] = seed as u8;
    xsave[HEADER..HEADER + 8].copy_from_slice(&u64::to_le_bytes(used));
}

/// Any lines, requests and timer; a timer that runs does so for seconds.
fn local_apic(state: &mut VcpuState, seed: u64) {
    let priority = (state.sregs.cr8 as u32) << 4;
    let deadline = state.msrs.iter().any(|msr| msr.index == msrs::TSC_DEADLINE);
    let bits = |number: u64| dice::<u32>(seed.rotate_left(7) ^ number);
    let mut set = |at: usize, value: u32| state.lapic[at..at + 4].copy_from_slice(&value.to_le_bytes());
    set(apic::TASK_PRIORITY, priority);
    set(apic::PROCESSOR_PRIORITY, priority);
    set(apic::LOGICAL_DESTINATION, bits(0) & 0xff00_0000);
    set(apic::SPURIOUS, bits(1) & 0x100 | 0xff);
    for word in 1..8 {
        set(apic::REQUESTS + 16 * word, bits(2) & bits(10 + word as u64));
    }
    set(apic::COMMAND_HIGH, bits(3) & 0xff00_0000);
    for line in (apic::LINT0..=apic::ERROR).step_by(16) {
        set(line, bits(line as u64) & 0xff | MASKED);
    }
    let mode = [0, PERIODIC, if deadline { DEADLINE } else { 0 }][bits(4) as usize % 3];
    set(apic::TIMER, bits(5) & 0xff | bits(6) & MASKED | mode);
    set(apic::DIVISOR, [0, 1, 2, 3, 8, 9, 10, 11][bits(7) as usize % 8]);
    let count = if mode == DEADLINE || bits(8).is_multiple_of(2) { 0 } else { bits(8) | 1 << 31 };
    set(apic::INITIAL_COUNT, count);
    set(apic::CURRENT_COUNT, count);
    for msr in state.msrs.iter_mut().filter(|msr| msr.index == msrs::TSC_DEADLINE) {
        msr.value = if mode == DEADLINE { state.tsc + (1 << 40) + u64::from(bits(9)) } else { 0 };
    }
}

/// Those that every KVM has, as far as this one does.
fn model_specific(state: &mut VcpuState, seed: u64) {
    const MEMORY_TYPES: [u64; 6] = [0, 1, 4, 5, 6, 7];
    for msr in &mut state.msrs {
        let diced: u64 = dice(seed ^ u64::from(msr.index));
        msr.value = match msr.index {
            // SYSENTER's stack and entry, SYSCALL's entries, GS for SWAPGS.
            0x175 | 0x176 | 0xc000_0082 | 0xc000_0083 | 0xc000_0102 => canonical(diced),
            // SYSCALL's segments.
            0xc000_0081 => diced,
            // SYSENTER's segment, SYSCALL's mask, RDTSCP's number.
            0x174 | 0xc000_0084 | 0xc000_0103 => diced & 0xffff_ffff,
            // The page attribute table.
            0x277 => (0..8).map(|byte| MEMORY_TYPES[(diced >> (8 * byte)) as usize % 6] << (8 * byte)).sum(),
            // What memory is, by fixed ranges.
            0x250 | 0x258 | 0x259 | 0x268..=0x26f => {
                (0..8).map(|byte| [0, 1, 4, 5, 6][(diced >> (8 * byte)) as usize % 5] << (8 * byte)).sum()
            }
            // A guest's own correction of its counter.
            0x3b => diced >> 16,
            _ => msr.value,
        };
    }
}

/// It runs or halts, and an interrupt may be on its way in.
fn events(state: &mut VcpuState, seed: u64) {
    let diced: Events = dice(seed);
    state.mp_state = [KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_HALTED][seed as usize % 2];
    let number = diced.interrupt_number.max(32);
    let injected = diced.interrupt_injected;
    state.events.nmi_masked = diced.nmi_masked;
    state.events.interrupt_injected = injected;
    state.events.interrupt_number = if injected { number } else { 0 };
    state.sregs.interrupt_bitmap = [0; 4];
    if injected {
        state.sregs.interrupt_bitmap[usize::from(number) / 64] = 1 << (number % 64);
    }
}

/// Without what goes on while it stands: counters. Where the counter is the host's, a deadline moves with it.
fn settled(state: &VcpuState) -> VcpuState {
    static COUNTERS: OnceLock<Counters> = OnceLock::new();
    let mut state = state.clone();
    state.tsc = 0;
    if *COUNTERS.get_or_init(|| Kvm::open().unwrap().counters().unwrap()) == Counters::TheHosts {
        let deadline = |msr: &&mut Msr| msr.index == msrs::TSC_DEADLINE;
        state.msrs.iter_mut().filter(deadline).for_each(|msr| msr.value = 0);
    }
    let count = |at| u32::from_le_bytes(*state.lapic[at..].first_chunk().unwrap());
    assert!(count(apic::CURRENT_COUNT) <= count(apic::INITIAL_COUNT));
    state.lapic[apic::CURRENT_COUNT..apic::CURRENT_COUNT + 4].fill(0);
    state
}

/// KVM stops the timer when its mode becomes a deadline, or ceases to be one.
#[test]
fn a_timer_that_counts_is_loaded_over_one_with_a_deadline_and_the_other_way_round() {
    let guest = guest(COUNT);
    let own = save(&guest.vcpu);
    let with = |mode: u32, count: u32, deadline: u64| {
        let mut state = own.clone();
        for (at, value) in
            [(apic::TIMER, mode | 0x40), (apic::INITIAL_COUNT, count), (apic::CURRENT_COUNT, count)]
        {
            state.lapic[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        for msr in state.msrs.iter_mut().filter(|msr| msr.index == msrs::TSC_DEADLINE) {
            msr.value = deadline;
        }
        state
    };
    let (counts, waits) = (with(PERIODIC, u32::MAX, 0), with(DEADLINE, 0, own.tsc + (1 << 40)));
    for state in [&counts, &waits, &counts, &waits] {
        load(&guest.vcpu, state);
        assert_eq!(settled(&save(&guest.vcpu)), settled(state));
    }
}

proptest! {
    #[test]
    fn what_is_loaded_is_saved(seed: u64) {
        thread_local! {
            static GUESTS: [Guest; 2] = [guest(COUNT), guest(COUNT)];
        }
        GUESTS.with(|[one, two]| {
            let mut state = save(&one.vcpu);
            let parts = [registers, system, breakpoints, extended, local_apic, model_specific, events];
            for (part, number) in parts.into_iter().zip(0..) {
                part(&mut state, dice(seed.wrapping_add(number)));
            }
            load(&one.vcpu, &state);
            let saved = save(&one.vcpu);
            assert_eq!(settled(&saved), settled(&state));
            // And from there through bytes into another one.
            let bytes = encode_bare(&saved).unwrap();
            load(&two.vcpu, &decode(bytes.version, &bytes.bytes).unwrap());
            let again = save(&two.vcpu);
            assert_eq!(encode_bare(&settled(&again)), encode_bare(&settled(&saved)));
        });
    }
}
