//! A VM in KVM: its memory, its interrupt controllers, its notifications.

use super::rings::Rings;
use super::sys::Mapped;
use super::tracking::{Tracked, Tracking};
use super::{Error, Kvm};
use crate::dirty::PageSet;
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
pub struct Vm {
    // The order matters: fields are dropped from the top.
    rings: Option<Rings>,
    mapped: Mapped,
    tracked: Tracked,
}

impl Vm {
    /// Makes one that has `ram`, KVM's PIC, I/O APIC and PIT.
    pub fn new(kvm: &Kvm, ram: Arc<GuestRam>) -> Result<Self, Error> {
        Self::tracked_by(kvm, ram, Tracking::Auto)
    }

    /// The same, and how it is to tell which pages are written is chosen.
    pub fn tracked_by(kvm: &Kvm, ram: Arc<GuestRam>, tracking: Tracking) -> Result<Self, Error> {
        let fd = kvm.create_vm().map_err(Error::call("a VM"))?;
        // Intel CPUs without unrestricted guests run real mode with help of these pages.
        fd.set_identity_map_address(layout::KVM_IDENTITY_MAP)
            .map_err(Error::call("a page for its identity map"))?;
        fd.set_tss_address(layout::KVM_TSS as usize).map_err(Error::call("pages for its task state"))?;
        fd.create_irq_chip().map_err(Error::call("interrupt controllers"))?;
        // The speaker's port is the PIT's too: Linux calibrates with it where it knows nothing better.
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        fd.create_pit2(pit).map_err(Error::call("a timer"))?;
        let tracked = tracking.set_up(&fd)?;
        let rings = match tracked {
            Tracked::Ring(entries) => Some(Rings::new(entries, PageSet::new(&ram))),
            Tracked::Log | Tracked::Not => None,
        };
        let mapped = Mapped::new(fd, ram).map_err(Error::call("the guest's memory"))?;
        Ok(Self { rings, mapped, tracked })
    }

    /// How it tells which pages are written.
    pub fn tracked(&self) -> Tracked {
        self.tracked
    }

    /// Gives the pages that vCPUs wrote, if it has rings, and has nothing to give if not.
    pub(crate) fn collect_rings(&self, into: &mut PageSet) -> Result<(), Error> {
        self.rings.as_ref().map_or(Ok(()), |rings| rings.collect(into))
    }

    /// Has the pages that were collected from rings noted again when they are written.
    pub(crate) fn reset_rings(&self) -> Result<(), Error> {
        self.rings.as_ref().map_or(Ok(()), |rings| rings.reset(self.fd()))
    }

    /// Lets a vCPU go on whose ring is full.
    pub(crate) fn empty_rings(&self) -> Result<(), Error> {
        self.rings.as_ref().map_or(Ok(()), |rings| rings.make_room(self.fd()))
    }

    /// Has KVM note which pages are written, or no more.
    pub(crate) fn set_logging(&self, on: bool) -> Result<(), Error> {
        self.mapped.set_logging(on).map_err(Error::call("a start or an end of noting written pages"))
    }

    /// Its memory.
    pub fn ram(&self) -> &Arc<GuestRam> {
        self.mapped.ram()
    }

    /// KVM's own handle, for what is saved and loaded with it.
    pub fn fd(&self) -> &VmFd {
        self.mapped.fd()
    }

    /// Adds a vCPU. Its number is its APIC's too.
    pub fn create_vcpu(&self, index: u32) -> Result<VcpuFd, Error> {
        let vcpu = self.fd().create_vcpu(u64::from(index)).map_err(Error::call("a vCPU"))?;
        if let Some(rings) = &self.rings {
            rings.add(&vcpu)?;
        }
        Ok(vcpu)
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
