//! All that a vCPU is between two instructions.
//!
//! ```text
//!   save   MP state (it may still process a start) ─► registers … MSRs ─► events (pending interrupts)
//!   check  sizes, the CPU
//!   load   CPUID ─► MP state ─► registers ─► APIC ─► counter ─► MSRs (deadline last) ─► events
//! ```
//!
//! The order of the calls is KVM's: what a call changes beside its own is set after it.

mod apply;
mod cpu;
mod events;
mod registers;

pub use cpu::Leaf;
pub use events::Events;
pub use registers::{DebugRegisters, ExtendedControl, Registers, Segment, SystemRegisters, Table};

use super::counter::{Counter, HostTicks};
use super::msrs::{self, Bank, Msr};
use crate::kvm::{Counters, Error as KvmError};
use crate::memory::GuestRam;
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_SIPI_RECEIVED};
use kvm_ioctls::VcpuFd;
use registers::{MOST_EXTENDED, of_xcrs};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use thiserror::Error;

/// Bytes of the XSAVE area; KVM has a larger one for features that a process must ask for, and we never do.
const XSAVE: usize = 4096;
/// Bytes of the local APIC's page that have registers.
const LAPIC: usize = 1024;
/// More MSRs than any KVM lists.
const MOST_MSRS: usize = 4096;

/// A state that cannot be read or set.
#[derive(Debug, Error)]
pub enum StateError {
    /// It runs.
    #[error("it runs, and only one that stands has a state")]
    Running,
    /// KVM refuses.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A part is not as long as that part is.
    #[error("the state has {len} {what}, and {expected} are possible: it is damaged, or of another machine")]
    Length {
        /// Of what.
        what: &'static str,
        /// How many.
        len: usize,
        /// How many there can be.
        expected: &'static str,
    },
    /// It does something that no vCPU does.
    #[error("the state says that it is in mode {0}, which is none: it is damaged")]
    Mode(u32),
    /// The guest uses what this CPU does not have.
    #[error(
        "the guest uses features of another CPU: bits {missing:#x} of {register} in CPUID leaf {function:#x}.{index} \
         are not on this host; both hosts need the same CPU model and KVM"
    )]
    Cpu {
        /// The leaf.
        function: u32,
        /// The sub-leaf.
        index: u32,
        /// The register.
        register: &'static str,
        /// The bits.
        missing: u32,
    },
    /// A register that this KVM does not take.
    #[error("this host's KVM does not take the value {value:#x} of the guest's MSR {index:#x}")]
    Msr {
        /// Which.
        index: u32,
        /// What is in it.
        value: u64,
    },
    /// What it was before could not be restored either.
    #[error("{refused}; and it cannot be made again what it was: {again}")]
    Lost {
        /// Why the state was refused.
        refused: Box<StateError>,
        /// Why that of before was.
        again: Box<StateError>,
    },
}

/// A vCPU's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuState {
    /// Whether it runs, halts, or waits for its start (`KVM_MP_STATE_…`).
    pub mp_state: u32,
    /// The general registers.
    pub regs: Registers,
    /// Segments, control registers.
    pub sregs: SystemRegisters,
    /// Floating point and vectors, as the XSAVE instruction lays them out.
    pub xsave: Vec<u8>,
    /// What of those is in use.
    pub xcrs: Vec<ExtendedControl>,
    /// Breakpoints.
    pub debug: DebugRegisters,
    /// The local APIC's page.
    pub lapic: Vec<u8>,
    /// The frequency of the time stamp counter.
    pub tsc_khz: u32,
    /// What the time stamp counter says at the instant of the state.
    pub tsc: u64,
    /// The CPU that it is.
    pub cpuid: Vec<Leaf>,
    /// The model-specific registers that this KVM has, the time stamp counter excepted.
    pub msrs: Vec<Msr>,
    /// Exceptions and interrupts that are under way.
    pub events: Events,
}

impl VcpuState {
    /// Makes its time stamp counter begin at zero, with no deadline.
    pub fn clear_counter(&mut self) {
        self.tsc = 0;
        for msr in &mut self.msrs {
            if msr.index == msrs::TSC_DEADLINE {
                msr.value = 0;
            }
        }
    }

    /// Whether a vCPU of this CPU can take it, as far as can be told without trying.
    pub fn check(&self, offered: &[Leaf]) -> Result<(), StateError> {
        let lengths = [
            ("bytes of extended registers", self.xsave.len(), self.xsave.len() == XSAVE, "4096"),
            ("bytes of a local APIC", self.lapic.len(), self.lapic.len() == LAPIC, "1024"),
            ("extended control registers", self.xcrs.len(), self.xcrs.len() <= MOST_EXTENDED, "up to 16"),
            ("CPUID leaves", self.cpuid.len(), self.cpuid.len() <= KVM_MAX_CPUID_ENTRIES, "up to 256"),
            ("MSRs", self.msrs.len(), self.msrs.len() <= MOST_MSRS, "up to 4096"),
        ];
        for (what, len, fits, expected) in lengths {
            if !fits {
                return Err(StateError::Length { what, len, expected });
            }
        }
        if self.mp_state > KVM_MP_STATE_SIPI_RECEIVED {
            return Err(StateError::Mode(self.mp_state));
        }
        if cpu::same(offered, &self.cpuid) { Ok(()) } else { cpu::covers(offered, &self.cpuid) }
    }
}

/// A vCPU's state in KVM: what is needed to read and set it many times a second.
#[derive(Debug)]
pub(super) struct Keeper {
    ram: Arc<GuestRam>,
    counter: Counter,
    bank: Bank,
    /// It changes only with [`load`](Self::load).
    cpuid: Vec<Leaf>,
    /// What it was at first: what this host has.
    offered: Arc<[Leaf]>,
}

impl Keeper {
    /// That of a vCPU that is new, on a KVM that treats `counters` so; `msrs` are its list.
    pub(super) fn new(
        fd: &VcpuFd,
        ram: Arc<GuestRam>,
        msrs: &[u32],
        counters: Counters,
    ) -> Result<Self, KvmError> {
        let counter = Counter::new(fd, counters)?;
        let own: Vec<u32> = msrs.iter().copied().filter(|index| *index != msrs::TSC).collect();
        let cpuid = read_cpuid(fd)?;
        let offered = cpuid.clone().into();
        Ok(Self { ram, counter, bank: Bank::new(&own)?, cpuid, offered })
    }

    pub(super) fn counter_is_its_own(&self) -> bool {
        self.counter.is_its_own()
    }

    pub(super) fn counter_khz(&self) -> u32 {
        self.counter.khz()
    }

    /// The CPU that this host has.
    pub(super) fn offered(&self) -> Arc<[Leaf]> {
        self.offered.clone()
    }

    /// Reads its state at an instant.
    pub(super) fn save(&mut self, fd: &VcpuFd, at: HostTicks) -> Result<VcpuState, StateError> {
        let call = KvmError::call("a vCPU's state");
        let mp_state = fd.get_mp_state().map_err(&call)?.mp_state;
        let regs = (&fd.get_regs().map_err(&call)?).into();
        let sregs = (&fd.get_sregs().map_err(&call)?).into();
        let xsave =
            fd.get_xsave().map_err(&call)?.region.iter().flat_map(|word| word.to_le_bytes()).collect();
        let xcrs = of_xcrs(&fd.get_xcrs().map_err(&call)?);
        let debug = (&fd.get_debug_regs().map_err(&call)?).into();
        let lapic = fd.get_lapic().map_err(&call)?.regs.map(|byte| byte as u8).to_vec();
        let (tsc_khz, tsc) = (self.counter.khz(), self.counter.read(fd, at)?);
        let cpuid = self.cpuid.clone();
        let msrs = self.bank.read(fd)?;
        let events = (&fd.get_vcpu_events().map_err(&call)?).into();
        Ok(VcpuState { mp_state, regs, sregs, xsave, xcrs, debug, lapic, tsc_khz, tsc, cpuid, msrs, events })
    }

    /// Turns its counter back by so many ticks of the host's.
    pub(super) fn turn_back(&mut self, fd: &VcpuFd, ticks: u64) -> Result<(), StateError> {
        Ok(self.counter.turn_back(fd, ticks)?)
    }

    /// Makes it what `state` says, with the counter as it is to be at an instant. Gives what it was; after
    /// an error it is that again.
    pub(super) fn load(
        &mut self,
        fd: &VcpuFd,
        state: &VcpuState,
        at: HostTicks,
    ) -> Result<VcpuState, StateError> {
        let before = self.save(fd, at)?;
        state.check(&self.offered)?;
        let Err(refused) = self.apply(fd, state, &before, at) else { return Ok(before) };
        // Where that stopped is not known: all of it is set.
        match self.apply_all(fd, &before, at) {
            Ok(()) => Err(refused),
            Err(again) => Err(StateError::Lost { refused: Box::new(refused), again: Box::new(again) }),
        }
    }
}

fn read_cpuid(fd: &VcpuFd) -> Result<Vec<Leaf>, KvmError> {
    let cpuid = fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(KvmError::call("a vCPU's CPUID"))?;
    Ok(cpuid.as_slice().iter().map(Leaf::from).collect())
}
