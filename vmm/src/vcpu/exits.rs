//! Why a vCPU left the guest, and what is done about it.

use super::sys::{InternalError, RunPage};
use crate::bus::Bus;
use crate::kvm::Vm;
use kvm_bindings::{
    KVM_EXIT_DIRTY_RING_FULL, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::fmt::Write as _;
use vm_memory::{Bytes, GuestAddress};

/// Who answers the exits of a machine's vCPUs.
#[derive(Debug, Default)]
pub struct Buses {
    /// `IN` and `OUT`.
    pub ports: Bus,
    /// Addresses that are no memory.
    pub memory: Bus,
}

/// Why a vCPU cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It failed to handle a failure: a PC resets then, and Linux does it on purpose.
    TripleFault,
    /// It asked the hypervisor for a reset.
    Reset,
    /// It asked the hypervisor to power off.
    Off,
    /// KVM cannot run it; in one line, with what is needed to find out why.
    Failed(String),
}

/// What is next after an exit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Enter the guest again.
    Continue,
    /// Somebody wants something.
    Kicked,
    /// No more.
    Ended(Ending),
}

/// Enters the guest, until something is to be done, and does it.
pub(super) fn step(fd: &mut VcpuFd, page: &RunPage, vm: &Vm, buses: &Buses) -> Step {
    let failed = match fd.run() {
        Ok(VcpuExit::IoOut(port, data)) => {
            // A string instruction brings several accesses at once.
            for access in data.chunks(page.port_width(data.len())) {
                buses.ports.write(u64::from(port), access);
            }
            return Step::Continue;
        }
        Ok(VcpuExit::IoIn(port, data)) => {
            for access in data.chunks_mut(page.port_width(data.len())) {
                buses.ports.read(u64::from(port), access);
            }
            return Step::Continue;
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            buses.memory.read(address, data);
            return Step::Continue;
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            buses.memory.write(address, data);
            return Step::Continue;
        }
        Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::SetTpr | VcpuExit::IoapicEoi(_)) => {
            return Step::Continue;
        }
        Ok(VcpuExit::Shutdown) => return Step::Ended(Ending::TripleFault),
        Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => return Step::Ended(Ending::Reset),
        Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => return Step::Ended(Ending::Off),
        Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _)) => "the guest says that it crashed".to_owned(),
        Ok(VcpuExit::SystemEvent(kind, _)) => format!("an unknown system event, {kind}"),
        Ok(VcpuExit::FailEntry(reason, cpu)) => {
            format!("the CPU refuses to enter the guest (reason {reason:#x}, on host CPU {cpu})")
        }
        Ok(VcpuExit::InternalError) => internal(&page.internal_error()),
        Ok(VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL)) => match vm.empty_rings() {
            Ok(()) => return Step::Continue,
            Err(error) => format!("there is no room to note which pages it writes: {error}"),
        },
        Ok(VcpuExit::MemoryFault { gpa, size, .. }) => {
            format!("the host cannot give the guest its memory at {gpa:#x} ({size:#x} bytes)")
        }
        Ok(other) => format!("an exit that nobody asked for: {other:?}"),
        Err(error) => match error.errno() {
            libc::EINTR => return Step::Kicked,
            // A vCPU that was not started yet has been.
            libc::EAGAIN => return Step::Continue,
            _ => format!("KVM refuses to run it: {error}"),
        },
    };
    Step::Ended(Ending::Failed(format!("{failed}; {}", registers(fd, vm))))
}

fn internal(error: &InternalError) -> String {
    // Words of the kernel's documentation (KVM_EXIT_INTERNAL_ERROR).
    let what = match error.suberror {
        1 => "KVM cannot emulate an instruction",
        2 => "KVM met an exception while it delivered another",
        3 => "KVM could not deliver an event",
        4 => "KVM met an exit that it does not know",
        _ => "KVM failed for a reason of its own",
    };
    let mut text = format!("{what} (suberror {}", error.suberror);
    for word in &error.data {
        let _ = write!(text, " {word:#x}");
    }
    text + ")"
}

/// What a developer needs, in one line.
fn registers(fd: &VcpuFd, vm: &Vm) -> String {
    let (Ok(r), Ok(s)) = (fd.get_regs(), fd.get_sregs()) else {
        return "its registers cannot be read".to_owned();
    };
    let mut text = format!(
        "rip={:#x} rsp={:#x} rflags={:#x} rax={:#x} rbx={:#x} rcx={:#x} rdx={:#x} rsi={:#x} rdi={:#x} rbp={:#x} \
         cs={:#x} cr0={:#x} cr2={:#x} cr3={:#x} cr4={:#x} efer={:#x} code=",
        r.rip,
        r.rsp,
        r.rflags,
        r.rax,
        r.rbx,
        r.rcx,
        r.rdx,
        r.rsi,
        r.rdi,
        r.rbp,
        s.cs.base,
        s.cr0,
        s.cr2,
        s.cr3,
        s.cr4,
        s.efer
    );
    let mut code = [0; 15];
    let len = fd
        .translate_gva(s.cs.base.wrapping_add(r.rip))
        .ok()
        .filter(|place| place.valid != 0)
        .and_then(|place| vm.ram().read(&mut code, GuestAddress(place.physical_address)).ok())
        .unwrap_or(0);
    for byte in &code[..len] {
        let _ = write!(text, "{byte:02x}");
    }
    if len == 0 {
        text.push_str("unreadable");
    }
    text
}
