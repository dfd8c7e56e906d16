//! Message-signalled interrupts: a vector is a route in KVM and an eventfd.
//!
//! ```text
//!   device ── signal ──► eventfd ──irqfd──► GSI ──route──► (address, data) ──► local APIC
//!                           │
//!                           └─ masked: no irqfd; the count waits, and is sent when unmasked
//! ```

use crate::kvm::{Error, Vm};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KVM_MAX_IRQ_ROUTES, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The pins of the I/O APIC; messages have the numbers after them.
const PINS: u32 = 24;
/// The pins of both PICs.
const PIC_PINS: u32 = 16;

/// A message: what a device would write, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    address: u64,
    data: u32,
}

/// All interrupt routes of a VM: the pins of its controllers, and the messages of its devices.
#[derive(Clone, Debug)]
pub struct Routes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    vm: Arc<Vm>,
    messages: Mutex<BTreeMap<u32, Option<Message>>>,
}

impl Routes {
    /// Sets the routes of the pins. A VM has one of this.
    pub fn new(vm: Arc<Vm>) -> Result<Self, Error> {
        let shared = Shared { vm, messages: Mutex::default() };
        shared.install(&shared.messages())?;
        Ok(Self(Arc::new(shared)))
    }

    /// A new vector: it has no message, and is masked.
    pub fn vector(&self) -> Result<MsiVector, Error> {
        let event = EventFd::new(EFD_NONBLOCK)
            .map_err(|error| Error::Call { what: "an eventfd", source: errno::Error::from(error) })?;
        let mut messages = self.0.messages();
        let most = KVM_MAX_IRQ_ROUTES - pins().len();
        let gsi = (PINS..)
            .take(most)
            .find(|gsi| !messages.contains_key(gsi))
            .ok_or(Error::Routes(KVM_MAX_IRQ_ROUTES))?;
        messages.insert(gsi, None);
        drop(messages);
        Ok(MsiVector { shared: self.0.clone(), gsi, event, connected: Mutex::new(Wire::default()) })
    }
}

impl Shared {
    fn messages(&self) -> MutexGuard<'_, BTreeMap<u32, Option<Message>>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// KVM takes the whole table at once, and keeps irqfds connected.
    fn install(&self, messages: &BTreeMap<u32, Option<Message>>) -> Result<(), Error> {
        let mut entries = pins();
        entries
            .extend(messages.iter().filter_map(|(&gsi, message)| message.map(|message| route(gsi, message))));
        let routes = KvmIrqRouting::from_entries(&entries).map_err(|_| Error::Routes(KVM_MAX_IRQ_ROUTES))?;
        self.vm.set_routes(&routes)
    }
}

/// As on a PC: both kinds of controller see a line, and the PIT's (0) is the I/O APIC's pin 2.
fn pins() -> Vec<kvm_irq_routing_entry> {
    let pin = |gsi, irqchip, pin| {
        let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
        entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
        entry
    };
    let pic = (0..PIC_PINS).filter(|&gsi| gsi != 2).map(|gsi| match gsi {
        0..8 => pin(gsi, KVM_IRQCHIP_PIC_MASTER, gsi),
        _ => pin(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8),
    });
    let io_apic = (0..PINS)
        .filter(|&gsi| gsi != 2)
        .map(|gsi| pin(gsi, KVM_IRQCHIP_IOAPIC, if gsi == 0 { 2 } else { gsi }));
    pic.chain(io_apic).collect()
}

fn route(gsi: u32, message: Message) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..Default::default()
    };
    entry
}

/// How a vector is connected now.
#[derive(Debug, Default)]
struct Wire {
    message: Option<Message>,
    unmasked: bool,
    connected: bool,
}

/// A vector of a device.
///
/// Masked it remembers that it was signalled, and says so ([`pending`](Self::pending)).
#[derive(Debug)]
pub struct MsiVector {
    shared: Arc<Shared>,
    gsi: u32,
    event: EventFd,
    connected: Mutex<Wire>,
}

impl MsiVector {
    /// What is sent from now on. The same again costs nothing.
    pub fn set(&self, address: u64, data: u32) -> Result<(), Error> {
        let mut wire = self.wire();
        let message = Message { address, data };
        if wire.message == Some(message) {
            return Ok(());
        }
        let mut messages = self.shared.messages();
        let before = messages.insert(self.gsi, Some(message)).flatten();
        if let Err(error) = self.shared.install(&messages) {
            // What KVM refuses (no APIC has such an address) must not make it refuse the others later.
            messages.insert(self.gsi, before);
            return Err(error);
        }
        drop(messages);
        wire.message = Some(message);
        self.rewire(&mut wire)
    }

    /// Keeps what is signalled from now on.
    pub fn mask(&self) -> Result<(), Error> {
        let mut wire = self.wire();
        wire.unmasked = false;
        self.rewire(&mut wire)
    }

    /// Sends what was kept, if anything was, and all that comes. Without a message it goes on keeping.
    pub fn unmask(&self) -> Result<(), Error> {
        let mut wire = self.wire();
        wire.unmasked = true;
        self.rewire(&mut wire)
    }

    /// Whether it was signalled while masked.
    pub fn pending(&self) -> bool {
        let wire = self.wire();
        if wire.connected {
            return false;
        }
        // The count can only be read by taking it.
        match self.event.read() {
            Ok(count) => {
                let _ = self.event.write(count);
                true
            }
            Err(_) => false,
        }
    }

    /// Keeps nothing any more. What is sent at once is not kept.
    pub fn forget(&self) {
        let wire = self.wire();
        if !wire.connected {
            // None is no failure: nothing was kept.
            let _ = self.event.read();
        }
    }

    /// Interrupts.
    pub fn signal(&self) {
        // A full counter (2^64 − 2) is the only failure, and then an interrupt is due already.
        let _ = self.event.write(1);
    }

    /// What signals it: for workers, and for kernels that interrupt by themselves.
    pub fn eventfd(&self) -> &EventFd {
        &self.event
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rewire(&self, wire: &mut Wire) -> Result<(), Error> {
        let wanted = wire.unmasked && wire.message.is_some();
        if wanted != wire.connected {
            if wanted {
                // KVM looks at the count when it is connected but does not take it: taken here, and
                // put back when KVM listens, it is sent once.
                let kept = self.event.read().is_ok();
                self.shared.vm.connect(&self.event, self.gsi)?;
                if kept {
                    self.signal();
                }
            } else {
                // Returns when nothing is on its way any more.
                self.shared.vm.disconnect(&self.event, self.gsi)?;
            }
            wire.connected = wanted;
        }
        Ok(())
    }
}

impl Drop for MsiVector {
    fn drop(&mut self) {
        if let Err(error) = self.mask() {
            tracing::warn!(gsi = self.gsi, %error, "an interrupt vector stays connected");
            return;
        }
        let mut messages = self.shared.messages();
        messages.remove(&self.gsi);
        if let Err(error) = self.shared.install(&messages) {
            tracing::warn!(gsi = self.gsi, %error, "an interrupt route stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::Kvm;
    use crate::memory;

    fn routes() -> Routes {
        let ram = Arc::new(memory::new(2 << 20).unwrap());
        Routes::new(Arc::new(Vm::new(&Kvm::open().unwrap(), ram).unwrap())).unwrap()
    }

    #[test]
    fn a_vector_that_is_dropped_leaves_its_number() {
        let routes = routes();
        let (first, second) = (routes.vector().unwrap(), routes.vector().unwrap());
        assert_eq!((first.gsi, second.gsi), (24, 25));
        drop(first);
        assert_eq!(routes.vector().unwrap().gsi, 24);
    }

    #[test]
    fn a_masked_vector_keeps_what_is_signalled() {
        let routes = routes();
        let vector = routes.vector().unwrap();
        vector.set(0xfee0_0000, 0x31).unwrap();
        vector.signal();
        assert!(vector.pending());
        assert!(vector.pending(), "looking does not take it");
        vector.unmask().unwrap();
        assert!(!vector.pending());
        assert!(vector.event.read().is_err(), "KVM has taken it");
        vector.mask().unwrap();
        assert!(!vector.pending());
    }

    #[test]
    fn without_a_message_nothing_is_sent() {
        let routes = routes();
        let vector = routes.vector().unwrap();
        vector.unmask().unwrap();
        vector.signal();
        assert!(vector.pending());
        vector.set(0xfee0_0000, 0x31).unwrap();
        assert!(!vector.pending());
    }

    #[test]
    fn what_kvm_refuses_does_not_harm_others() {
        let routes = routes();
        let (bad, good) = (routes.vector().unwrap(), routes.vector().unwrap());
        // With 32-bit APIC identifiers KVM wants the address's low byte empty in its high half.
        let _ = bad.set(0xff_fee0_0000, 0);
        good.set(0xfee0_0000, 0x31).unwrap();
        good.unmask().unwrap();
    }
}
