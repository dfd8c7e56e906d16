//! The CPU that a guest sees: what KVM offers, and how many there are.
//!
//! The vCPUs are cores of one package, without hyper-threads; a core's number is its APIC's.

use crate::kvm::Error;
use kvm_bindings::{CpuId, kvm_cpuid_entry2};

const FEATURES: u32 = 1;
const CACHES: u32 = 4;
const COUNTERS: u32 = 0xa;
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_2: u32 = 0x1f;
const AMD_FEATURES: u32 = 0x8000_0001;
const POWER: u32 = 0x8000_0007;
const AMD_SIZES: u32 = 0x8000_0008;
const AMD_TOPOLOGY: u32 = 0x8000_001e;
const AMD_COUNTERS: u32 = 0x8000_0022;

/// How many bits of an APIC's number tell cores apart.
fn core_bits(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

/// The CPUID of vCPU `index` of `count`.
pub(super) fn of_vcpu(supported: &CpuId, index: u32, count: u32) -> Result<CpuId, Error> {
    let mut leaves: Vec<_> = supported
        .as_slice()
        .iter()
        .copied()
        // The host's topology is not the guest's.
        .filter(|leaf| !matches!(leaf.function, TOPOLOGY | TOPOLOGY_2))
        .collect();
    for leaf in &mut leaves {
        adapt(leaf, index, count);
    }
    let highest = leaves.iter().find(|leaf| leaf.function == 0).map_or(0, |leaf| leaf.eax);
    for function in [TOPOLOGY, TOPOLOGY_2].into_iter().filter(|function| *function <= highest) {
        leaves.extend(topology(function, index, count));
    }
    CpuId::from_entries(&leaves).map_err(|_| Error::Missing("room for its own list of CPUID leaves"))
}

fn adapt(leaf: &mut kvm_cpuid_entry2, index: u32, count: u32) {
    const HYPERVISOR: u32 = 1 << 31;
    const DEADLINE_TIMER: u32 = 1 << 24;
    const SEVERAL: u32 = 1 << 28;
    const INVARIANT_COUNTER: u32 = 1 << 8;
    const PERFORMANCE_COUNTERS: u32 = 1 << 23 | 1 << 24 | 1 << 28;
    match leaf.function {
        FEATURES => {
            // KVM's APIC has the deadline timer always, and lists it never.
            leaf.ecx |= HYPERVISOR | DEADLINE_TIMER;
            leaf.ebx = leaf.ebx & 0xffff | count << 16 | index << 24;
            leaf.edx = if count > 1 { leaf.edx | SEVERAL } else { leaf.edx & !SEVERAL };
        }
        // Caches: the third level is everyone's, the others are a core's own.
        CACHES if leaf.eax & 0x1f != 0 => {
            let sharers = if leaf.eax >> 5 & 7 >= 3 { (1 << core_bits(count)) - 1 } else { 0 };
            leaf.eax = leaf.eax & 0x3fff | sharers << 14 | ((1 << core_bits(count)) - 1) << 26;
        }
        // Counters of the host's CPU cannot be moved to another host.
        COUNTERS => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0),
        AMD_COUNTERS => (leaf.eax, leaf.ebx) = (0, 0),
        AMD_FEATURES => leaf.ecx &= !PERFORMANCE_COUNTERS,
        // Another host's time stamp counter may have another frequency, and a host may find that its own cannot
        // be relied on: guests that are told of an invariant one take it for their clock, and else kvmclock,
        // which goes on through both.
        POWER => leaf.edx &= !INVARIANT_COUNTER,
        AMD_SIZES => leaf.ecx = leaf.ecx & !0xf0ff | core_bits(count) << 12 | (count - 1),
        AMD_TOPOLOGY => (leaf.eax, leaf.ebx, leaf.ecx) = (index, index, 0),
        _ => {}
    }
}

/// One thread per core; `count` cores.
fn topology(function: u32, index: u32, count: u32) -> [kvm_cpuid_entry2; 3] {
    const THREAD: u32 = 1 << 8;
    const CORE: u32 = 2 << 8;
    let level = |level, bits, of, kind| kvm_cpuid_entry2 {
        function,
        index: level,
        flags: kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: bits,
        ebx: of,
        ecx: level | kind,
        edx: index,
        ..Default::default()
    };
    [level(0, 0, 1, THREAD), level(1, core_bits(count), count, CORE), level(2, 0, 0, 0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::Kvm;

    #[test]
    fn each_vcpu_is_a_core_with_its_own_number() {
        let supported = Kvm::open().unwrap().supported_cpuid().unwrap();
        for count in [1, 2, 3, 16] {
            for index in 0..count {
                let cpuid = of_vcpu(&supported, index, count).unwrap();
                let leaf = |function, level| {
                    cpuid
                        .as_slice()
                        .iter()
                        .filter(|leaf| leaf.function == function && leaf.index == level)
                        .copied()
                        .collect::<Vec<_>>()
                };
                let features = leaf(FEATURES, 0)[0];
                assert_eq!((features.ebx >> 24, features.ebx >> 16 & 0xff), (index, count));
                assert_ne!(features.ecx & 1 << 31, 0, "it knows that it is a guest");
                let [cores] = leaf(TOPOLOGY, 1)[..] else { panic!("one leaf says how many cores there are") };
                assert_eq!((cores.ebx, cores.edx), (count, index));
                assert!(count <= 1 << cores.eax);
            }
        }
    }

    #[test]
    fn kvms_own_leaves_stay() {
        let supported = Kvm::open().unwrap().supported_cpuid().unwrap();
        let cpuid = of_vcpu(&supported, 0, 1).unwrap();
        let [kvm] =
            cpuid.as_slice().iter().filter(|leaf| leaf.function == 0x4000_0000).collect::<Vec<_>>()[..]
        else {
            panic!("KVM's signature is there once");
        };
        assert_eq!(&kvm.ebx.to_le_bytes(), b"KVMK");
    }
}
