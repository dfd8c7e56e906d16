//! The registers of a vCPU, by their names.

use crate::kvm::mirror::{Same, mirror};
use kvm_bindings::{kvm_debugregs, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs, kvm_xcr, kvm_xcrs};
use serde::{Deserialize, Serialize};

mirror! {
    /// The general registers.
    Registers of kvm_regs {
        rax: u64, rbx: u64, rcx: u64, rdx: u64, rsi: u64, rdi: u64, rsp: u64, rbp: u64,
        r8: u64, r9: u64, r10: u64, r11: u64, r12: u64, r13: u64, r14: u64, r15: u64,
        rip: u64, rflags: u64,
    }
}

mirror! {
    /// A segment register with what is cached behind it.
    Segment of kvm_segment {
        base: u64, limit: u32, selector: u16, kind: u8 = type_, present: u8, dpl: u8, db: u8, s: u8, l: u8,
        g: u8, avl: u8, unusable: u8,
    }
}

mirror! {
    /// Where a table of descriptors is.
    Table of kvm_dtable { base: u64, limit: u16 }
}

mirror! {
    /// Segments, tables, control registers.
    SystemRegisters of kvm_sregs {
        cs: Segment, ds: Segment, es: Segment, fs: Segment, gs: Segment, ss: Segment, tr: Segment, ldt: Segment,
        gdt: Table, idt: Table,
        cr0: u64, cr2: u64, cr3: u64, cr4: u64, cr8: u64, efer: u64, apic_base: u64,
        interrupt_bitmap: [u64; 4],
    }
}

mirror! {
    /// Breakpoints.
    DebugRegisters of kvm_debugregs { db: [u64; 4], dr6: u64, dr7: u64, flags: u64 }
}

impl Same<kvm_segment> for Segment {
    fn of(theirs: &kvm_segment) -> Self {
        theirs.into()
    }
    fn back(&self) -> kvm_segment {
        self.into()
    }
}

impl Same<kvm_dtable> for Table {
    fn of(theirs: &kvm_dtable) -> Self {
        theirs.into()
    }
    fn back(&self) -> kvm_dtable {
        self.into()
    }
}

/// An extended control register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtendedControl {
    /// Its number.
    pub number: u32,
    /// What is in it.
    pub value: u64,
}

/// How many KVM's struct has room for.
pub(super) const MOST_EXTENDED: usize = 16;

pub(super) fn of_xcrs(xcrs: &kvm_xcrs) -> Vec<ExtendedControl> {
    let all = xcrs.xcrs.iter().take(xcrs.nr_xcrs as usize);
    all.map(|xcr| ExtendedControl { number: xcr.xcr, value: xcr.value }).collect()
}

pub(super) fn to_xcrs(registers: &[ExtendedControl]) -> kvm_xcrs {
    let mut xcrs = kvm_xcrs { nr_xcrs: registers.len().min(MOST_EXTENDED) as u32, ..Default::default() };
    for (to, from) in xcrs.xcrs.iter_mut().zip(registers) {
        *to = kvm_xcr { xcr: from.number, value: from.value, ..Default::default() };
    }
    xcrs
}

#[cfg(test)]
mod tests {
    use super::super::Events;
    use super::*;
    use crate::state::dice::dice;
    use kvm_bindings::kvm_vcpu_events;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_kvm_is_given_is_what_it_gives_back(seed: u64, xcrs in 0..=MOST_EXTENDED) {
            let registers: Registers = dice(seed);
            prop_assert_eq!(Registers::from(&kvm_regs::from(&registers)), registers);
            let segment: Segment = dice(seed);
            prop_assert_eq!(Segment::from(&kvm_segment::from(&segment)), segment);
            let system: SystemRegisters = dice(seed);
            prop_assert_eq!(SystemRegisters::from(&kvm_sregs::from(&system)), system);
            let debug: DebugRegisters = dice(seed);
            prop_assert_eq!(DebugRegisters::from(&kvm_debugregs::from(&debug)), debug);
            let events: Events = dice(seed);
            prop_assert_eq!(Events::from(&kvm_vcpu_events::from(&events)), events);
            let extended: Vec<ExtendedControl> = (0..xcrs as u64).map(|more| dice(seed ^ more)).collect();
            prop_assert_eq!(of_xcrs(&to_xcrs(&extended)), extended);
        }
    }
}
