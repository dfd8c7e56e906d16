//! How fast a guest runs here.
//!
//! Some hosts have a `/dev/kvm` that answers every call but emulates the guest, instruction by instruction,
//! and not all instructions. Stock Linux dies there; it is better to say so than to let people search.

use super::{Error, Kvm, Vm};
use crate::memory;
use kvm_bindings::kvm_regs;
use kvm_ioctls::VcpuExit;
use std::arch::x86_64::__cpuid;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};

const CODE: u64 = 0x1000;
/// `mov ecx, rounds; loop: dec ecx; jnz loop; out 0x10, al`, in 32-bit code.
const GUEST: [u8; 10] = [0xb9, 0, 0, 0, 0, 0x49, 0x75, 0xfd, 0xe6, 0x10];
/// The fewest instructions per second of a CPU that runs them itself. KVM emulates some 2 million; the lab's
/// CPU, which is itself emulated, manages 150 million, and a fraction of that on a busy machine.
const LEAST: f64 = 10e6;
/// Two runs, whose difference is the loop alone, without the way in and out of the guest.
const SHORT: u32 = 1_000;
const LONG: u32 = 51_000;
/// The best of these counts: others may want the CPU too.
const TRIES: usize = 3;

/// What a KVM does with instructions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// The CPU runs them.
    Native {
        /// So many per second, in millions.
        mips: f64,
    },
    /// KVM emulates each.
    Emulated {
        /// So many per second, in millions.
        mips: f64,
    },
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native { mips } => write!(f, "this host's KVM runs guests natively ({mips:.0} MIPS)"),
            Self::Emulated { mips } => write!(
                f,
                "this host's /dev/kvm emulates guests instruction by instruction ({mips:.1} MIPS, no VT-x or AMD-V \
                 behind it) and lacks instructions that stock Linux needs: run colo-vm on hardware with VT-x or \
                 AMD-V, or in a virtual machine with nested virtualisation"
            ),
        }
    }
}

impl Kvm {
    /// Why stock kernels may not run here, if that is to be feared. Costs nothing where the CPU has VT-x or
    /// AMD-V.
    pub fn warning(&self) -> Option<String> {
        let hardware = has_virtualisation();
        if hardware {
            return None;
        }
        self.speed()
            .ok()
            .filter(|speed| matches!(speed, Speed::Emulated { .. }))
            .map(|speed| speed.to_string())
    }

    /// Runs a loop of a few instructions, in some milliseconds (where each is emulated, in a quarter of a second).
    pub fn speed(&self) -> Result<Speed, Error> {
        let mut best = 0.0_f64;
        for _ in 0..TRIES {
            let took = self.time(LONG)?.saturating_sub(self.time(SHORT)?).max(Duration::from_nanos(1));
            best = best.max(f64::from(LONG - SHORT) * 2.0 / took.as_secs_f64());
            if best >= LEAST {
                break;
            }
        }
        let mips = best / 1e6;
        Ok(if best < LEAST { Speed::Emulated { mips } } else { Speed::Native { mips } })
    }

    fn time(&self, rounds: u32) -> Result<Duration, Error> {
        let ram = memory::new(2 << 20).map_err(|_| Error::Missing("memory for a guest of 2 MiB"))?;
        let mut code = GUEST;
        code[1..5].copy_from_slice(&rounds.to_le_bytes());
        ram.write_slice(&code, GuestAddress(CODE)).map_err(|_| Error::Missing("memory at 4096"))?;
        let vm = Arc::new(Vm::new(self, Arc::new(ram))?);
        let mut fd = vm.create_vcpu(0)?;
        let call = Error::call("registers of a trial guest");
        let mut sregs = fd.get_sregs().map_err(&call)?;
        sregs.cr0 |= 1;
        for segment in [&mut sregs.cs, &mut sregs.ds, &mut sregs.es, &mut sregs.ss] {
            (segment.base, segment.limit, segment.selector) = (0, u32::MAX, 16);
            (segment.db, segment.g) = (1, 1);
        }
        sregs.cs.selector = 8;
        fd.set_sregs(&sregs).map_err(&call)?;
        fd.set_regs(&kvm_regs { rip: CODE, rflags: 2, ..Default::default() }).map_err(&call)?;
        let start = Instant::now();
        loop {
            match fd.run() {
                Ok(VcpuExit::IoOut(..)) => return Ok(start.elapsed()),
                Ok(VcpuExit::Intr) => {}
                Ok(_) => return Err(Error::Missing("a way to run a loop of two instructions")),
                Err(error) if error.errno() == libc::EINTR => {}
                Err(source) => return Err(Error::Call { what: "a trial guest", source }),
            }
        }
    }
}

/// Whether Linux's list of CPUs has the flags.
/// Asks the CPU: this is called when a guest fails, and a process that is confined opens no file by then.
fn has_virtualisation() -> bool {
    const VMX: u32 = 1 << 5;
    const SVM: u32 = 1 << 2;
    let amd = __cpuid(0x8000_0000).eax > 0x8000_0000 && __cpuid(0x8000_0001).ecx & SVM != 0;
    amd || __cpuid(1).ecx & VMX != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpus_flags_agree() {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let hardware = cpuinfo.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
        assert_eq!(has_virtualisation(), hardware);
        let speed = Kvm::open().unwrap().speed().unwrap();
        assert_eq!(matches!(speed, Speed::Native { .. }), hardware, "{speed}");
        assert_eq!(Kvm::open().unwrap().warning().is_none(), hardware);
    }
}
