//! A VM in KVM: its memory, its interrupt controllers, its notifications.

use super::sys::Mapped;
use super::{Error, Kvm};
use crate::memory::{GuestRam, layout};
use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, KvmIrqRouting, kvm_pit_config};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VcpuFd, VmFd};
use std::sync::Arc;
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// How wide a write to a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortWidth {
    /// `outb`.
    Byte,
    /// `outw`.
    Word,
    /// `outl`.
    Long,
}

/// A VM with memory and interrupt controllers, and no vCPU yet.
#[derive(Debug)]
pub struct Vm(Mapped);

impl Vm {
    /// Makes one that has `ram`, KVM's PIC, I/O APIC and PIT.
    pub fn new(kvm: &Kvm, ram: Arc<GuestRam>) -> Result<Self, Error> {
        let fd = kvm.create_vm().map_err(Error::call("a VM"))?;
        // Intel CPUs without unrestricted guests run real mode with help of these pages.
        fd.set_identity_map_address(layout::KVM_IDENTITY_MAP)
            .map_err(Error::call("a page for its identity map"))?;
        fd.set_tss_address(layout::KVM_TSS as usize).map_err(Error::call("pages for its task state"))?;
        fd.create_irq_chip().map_err(Error::call("interrupt controllers"))?;
        // The speaker's port is the PIT's too: Linux calibrates with it where it knows nothing better.
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        fd.create_pit2(pit).map_err(Error::call("a timer"))?;
        Ok(Self(Mapped::new(fd, ram).map_err(Error::call("the guest's memory"))?))
    }

    /// Its memory.
    pub fn ram(&self) -> &Arc<GuestRam> {
        self.0.ram()
    }

    /// KVM's own handle, for what is saved and loaded with it.
    pub fn fd(&self) -> &VmFd {
        self.0.fd()
    }

    /// Adds a vCPU. Its number is its APIC's too.
    pub fn create_vcpu(&self, index: u32) -> Result<VcpuFd, Error> {
        self.fd().create_vcpu(u64::from(index)).map_err(Error::call("a vCPU"))
    }

    /// Raises or lowers a pin of the interrupt controllers.
    pub fn set_line(&self, gsi: u32, high: bool) -> Result<(), Error> {
        self.fd().set_irq_line(gsi, high).map_err(Error::call("a change of an interrupt line"))
    }

    pub(crate) fn set_routes(&self, routes: &KvmIrqRouting) -> Result<(), Error> {
        self.fd().set_gsi_routing(routes).map_err(Error::call("interrupt routes"))
    }

    pub(crate) fn connect(&self, event: &EventFd, gsi: u32) -> Result<(), Error> {
        self.fd().register_irqfd(event, gsi).map_err(Error::call("an interrupt by eventfd"))
    }

    pub(crate) fn disconnect(&self, event: &EventFd, gsi: u32) -> Result<(), Error> {
        self.fd().unregister_irqfd(event, gsi).map_err(Error::call("the end of an interrupt by eventfd"))
    }

    /// Gives an eventfd that counts the guest's writes to `port`, which then reach no bus. With a `value`
    /// only writes of that value in that width count; without, those of every width do.
    pub fn notify_on_port(&self, port: u16, width: PortWidth, value: Option<u32>) -> Result<EventFd, Error> {
        let event = EventFd::new(EFD_NONBLOCK)
            .map_err(|error| Error::Call { what: "an eventfd", source: errno::Error::from(error) })?;
        self.attach_port(&event, port, width, value)?;
        Ok(event)
    }

    /// As [`notify_on_port`](Self::notify_on_port), with an eventfd that is there already: for a BAR that moves.
    pub fn attach_port(
        &self,
        event: &EventFd,
        port: u16,
        width: PortWidth,
        value: Option<u32>,
    ) -> Result<(), Error> {
        let address = IoEventAddress::Pio(u64::from(port));
        match (value, width) {
            (None, _) => self.fd().register_ioevent(event, &address, NoDatamatch),
            (Some(value), PortWidth::Byte) => self.fd().register_ioevent(event, &address, value as u8),
            (Some(value), PortWidth::Word) => self.fd().register_ioevent(event, &address, value as u16),
            (Some(value), PortWidth::Long) => self.fd().register_ioevent(event, &address, value),
        }
        .map_err(Error::call("a notification by eventfd"))
    }

    /// Takes back what [`attach_port`](Self::attach_port) or [`notify_on_port`](Self::notify_on_port) did.
    pub fn detach_port(
        &self,
        event: &EventFd,
        port: u16,
        width: PortWidth,
        value: Option<u32>,
    ) -> Result<(), Error> {
        let address = IoEventAddress::Pio(u64::from(port));
        match (value, width) {
            (None, _) => self.fd().unregister_ioevent(event, &address, NoDatamatch),
            (Some(value), PortWidth::Byte) => self.fd().unregister_ioevent(event, &address, value as u8),
            (Some(value), PortWidth::Word) => self.fd().unregister_ioevent(event, &address, value as u16),
            (Some(value), PortWidth::Long) => self.fd().unregister_ioevent(event, &address, value),
        }
        .map_err(Error::call("the end of a notification by eventfd"))
    }
}
