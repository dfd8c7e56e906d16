//! The CPU that a state was made on, and whether this one can be it.

use super::StateError;
use kvm_bindings::kvm_cpuid_entry2;
use serde::{Deserialize, Serialize};

/// A leaf of CPUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the registers have their names from the processor's manuals")]
pub struct Leaf {
    /// The leaf's number.
    pub function: u32,
    /// The sub-leaf's.
    pub index: u32,
    /// KVM's flags: whether the sub-leaf counts.
    pub flags: u32,
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

impl From<&kvm_cpuid_entry2> for Leaf {
    fn from(leaf: &kvm_cpuid_entry2) -> Self {
        let kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, .. } = *leaf;
        Self { function, index, flags, eax, ebx, ecx, edx }
    }
}

impl From<&Leaf> for kvm_cpuid_entry2 {
    fn from(leaf: &Leaf) -> Self {
        let Leaf { function, index, flags, eax, ebx, ecx, edx } = *leaf;
        Self { function, index, flags, eax, ebx, ecx, edx, ..Default::default() }
    }
}

/// Whether two lists are one CPU: what shows control registers, or a size that follows from them, aside.
pub(super) fn same(one: &[Leaf], other: &[Leaf]) -> bool {
    let constant = |leaf: &Leaf| {
        let (mut ebx, mut ecx, mut edx) = (leaf.ebx, leaf.ecx, leaf.edx);
        match leaf.function {
            // OSXSAVE and MWAIT; whether the local APIC is on.
            1 => (ecx, edx) = (ecx & !(1 << 27 | 1 << 3), edx & !(1 << 9)),
            // OSPKE.
            7 => ecx &= !(1 << 4),
            // The size of what is switched on.
            0xd => ebx = 0,
            _ => {}
        }
        (leaf.function, leaf.index, leaf.eax, ebx, ecx, edx)
    };
    one.iter().map(constant).eq(other.iter().map(constant))
}

/// The registers whose bits are features that software uses when it sees them: leaf, sub-leaf, register.
const FEATURES: [(u32, u32, usize); 14] = [
    (1, 0, 2),
    (1, 0, 3),
    (7, 0, 1),
    (7, 0, 2),
    (7, 0, 3),
    (7, 1, 0),
    (7, 1, 3),
    (0xd, 0, 0),
    (0xd, 1, 0),
    (0x8000_0001, 0, 2),
    (0x8000_0001, 0, 3),
    (0x8000_0007, 0, 3),
    (0x8000_0008, 0, 1),
    (0x4000_0001, 0, 0),
];

/// Bits of those that show what software has switched on, or what is always there in KVM's APIC.
fn dynamic(function: u32, register: usize) -> u32 {
    match (function, register) {
        (1, 2) => 1 << 27 | 1 << 3,
        (1, 3) => 1 << 9,
        (7, 2) => 1 << 4,
        _ => 0,
    }
}

/// Whether software that runs on `theirs` finds all that it uses on `ours`.
pub(super) fn covers(ours: &[Leaf], theirs: &[Leaf]) -> Result<(), StateError> {
    let find = |list: &[Leaf], function, index, register: usize| {
        let leaf = list.iter().find(|leaf| (leaf.function, leaf.index) == (function, index));
        leaf.map_or(0, |leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx][register])
    };
    for (function, index, register) in FEATURES {
        let (wanted, have) = (find(theirs, function, index, register), find(ours, function, index, register));
        let missing = wanted & !have & !dynamic(function, register);
        if missing != 0 {
            let register = ["eax", "ebx", "ecx", "edx"][register];
            return Err(StateError::Cpu { function, index, register, missing });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, ecx: u32) -> Leaf {
        Leaf { function, ecx, ..Leaf::default() }
    }

    #[test]
    fn a_cpu_is_itself_whatever_is_switched_on() {
        assert!(same(&[leaf(1, 5)], &[leaf(1, 5 | 1 << 27)]));
        assert!(!same(&[leaf(1, 5)], &[leaf(1, 7)]));
        assert!(!same(&[leaf(1, 5)], &[leaf(1, 5), leaf(2, 0)]));
    }

    #[test]
    fn a_cpu_with_less_is_refused_and_what_it_lacks_is_said() {
        covers(&[leaf(1, 7)], &[leaf(1, 5)]).unwrap();
        covers(&[leaf(1, 1)], &[leaf(1, 1 | 1 << 27)]).unwrap();
        let error = covers(&[leaf(1, 5)], &[leaf(1, 7)]).unwrap_err();
        assert!(
            matches!(error, StateError::Cpu { function: 1, index: 0, register: "ecx", missing: 2 }),
            "{error}"
        );
    }
}
