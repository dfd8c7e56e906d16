//! The host's KVM, looked at before anything is built on it.

use super::{Counters, Error};
use kvm_bindings::CpuId;
use kvm_ioctls::Cap;
use std::sync::OnceLock;
use vmm_sys_util::errno;

/// What every guest needs, in words that a search engine knows.
const NEEDED: &[(Cap, &str)] = &[
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY (guest memory given by the program)"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP (interrupt controllers in the kernel)"),
    (Cap::Pit2, "KVM_CAP_PIT2 (a timer in the kernel)"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING (message-signalled interrupts)"),
    (Cap::Irqfd, "KVM_CAP_IRQFD (interrupts by eventfd)"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD (notifications by eventfd)"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT (vCPUs that can be paused)"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID (CPUID leaves)"),
    (Cap::MpState, "KVM_CAP_MP_STATE (vCPUs that wait for their start)"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS (saving pending interrupts)"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK (kvmclock)"),
];

/// The host's KVM.
#[derive(Debug)]
pub struct Kvm {
    device: kvm_ioctls::Kvm,
    /// Once it was tried.
    pub(super) counters: OnceLock<Counters>,
}

impl Kvm {
    /// Opens `/dev/kvm`, and looks for all that guests need.
    pub fn open() -> Result<Self, Error> {
        let kvm = kvm_ioctls::Kvm::new().map_err(|source| Error::Open { source, hint: hint(source) })?;
        let version = kvm.get_api_version();
        if version != 12 {
            return Err(Error::Version(version));
        }
        if let Some((_, name)) = NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            return Err(Error::Missing(name));
        }
        Ok(Self { device: kvm, counters: OnceLock::new() })
    }

    /// The most vCPUs that one VM can have.
    pub fn max_vcpus(&self) -> usize {
        self.device.get_max_vcpus()
    }

    /// The CPU that it can give to guests.
    pub fn supported_cpuid(&self) -> Result<CpuId, Error> {
        self.device
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(Error::call("the list of CPUID leaves"))
    }

    /// The model-specific registers that belong to a vCPU's state.
    pub fn msr_indices(&self) -> Result<Vec<u32>, Error> {
        let list = self.device.get_msr_index_list().map_err(Error::call("the list of MSRs"))?;
        Ok(list.as_slice().to_vec())
    }

    pub(super) fn create_vm(&self) -> Result<kvm_ioctls::VmFd, errno::Error> {
        self.device.create_vm()
    }
}

fn hint(error: errno::Error) -> &'static str {
    match error.errno() {
        libc::ENOENT => {
            "load the module (modprobe kvm_intel or kvm_amd); if that fails, switch on VT-x or AMD-V in the \
             firmware, or nested virtualisation if this is a virtual machine"
        }
        libc::EACCES | libc::EPERM => {
            "run as root, or join the group that owns it (usually: adduser USER kvm)"
        }
        libc::EBUSY => "another hypervisor holds the CPU's virtualisation: end it first",
        libc::ENODEV | libc::ENXIO => {
            "the kernel has the device but no CPU support: see dmesg for lines of kvm"
        }
        _ => "see dmesg for lines of kvm",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_what_is_needed() {
        let kvm = Kvm::open().unwrap();
        assert!(kvm.max_vcpus() >= 16);
        assert!(kvm.supported_cpuid().unwrap().as_slice().iter().any(|leaf| leaf.function == 1));
        assert!(kvm.msr_indices().unwrap().contains(&0x10), "the time stamp counter is state");
    }

    #[test]
    fn each_way_to_fail_says_what_to_do() {
        for (number, words) in
            [(libc::ENOENT, "modprobe"), (libc::EACCES, "adduser"), (libc::EBUSY, "another")]
        {
            let source = errno::Error::new(number);
            let text = Error::Open { source, hint: hint(source) }.to_string();
            assert!(text.contains(words) && text.contains("/dev/kvm"), "{text}");
        }
    }
}
