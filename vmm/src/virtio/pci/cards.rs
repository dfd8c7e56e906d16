//! All virtio devices of a machine, on its PCI bus.
//!
//! ```text
//!   machine ─ add ───────────► Device + vectors + doorbells ─► VirtioPci ─► a slot
//!           ─ insert_into ───► ports 0xcf8–0xcff, the port window, the memory window
//!           ─ pause, save, load, resume ─► each card, then the bus
//! ```

use super::{CardState, LoadError, TransportError, VirtioPci, vectors};
use crate::bus::{Bus, BusDevice, BusError};
use crate::irq::Routes;
use crate::kvm::{Error as KvmError, Vm};
use crate::memory::layout;
use crate::pci::config::ConfigError;
use crate::pci::msix::Vector;
use crate::pci::root::{CONFIG_PORTS, NoSlot, Ports, Root, RootState, Window};
use crate::pci::space::Space;
use crate::virtio::Device;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use thiserror::Error;

/// A device that finds no place in the machine.
#[derive(Debug, Error)]
pub enum CardError {
    /// It cannot be made a PCI function.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The bus is full.
    #[error(transparent)]
    Slot(#[from] NoSlot),
    /// KVM has no interrupt for it.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// The plain state of the bus and of all cards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardsState {
    /// The bus.
    pub root: RootState,
    /// The cards, by slot.
    pub cards: Vec<CardState>,
}

/// A saved bus that is not this machine's.
#[derive(Debug, Error)]
pub enum CardsError {
    /// More cards, or fewer.
    #[error(
        "the saved machine has {theirs} virtio devices, this one {ours}; are both hosts' options the same?"
    )]
    Count {
        /// In the state.
        theirs: usize,
        /// Here.
        ours: usize,
    },
    /// A card's state is another's.
    #[error("the virtio device in slot {slot}: {error}")]
    Card {
        /// Where it is.
        slot: usize,
        /// What is wrong.
        error: LoadError,
    },
    /// The bus's state is another's.
    #[error(transparent)]
    Root(#[from] ConfigError),
}

/// The devices and their bus.
#[derive(Debug)]
pub struct Cards {
    root: Arc<Root>,
    space: Space,
    slots: Vec<Arc<VirtioPci>>,
}

impl Default for Cards {
    fn default() -> Self {
        Self { root: Root::new(), space: Space::default(), slots: Vec::new() }
    }
}

impl Cards {
    /// Puts a device into the next slot; gives its number.
    pub fn add(&mut self, device: Box<dyn Device>, vm: &Arc<Vm>, routes: &Routes) -> Result<u8, CardError> {
        let mut interrupts: Vec<Box<dyn Vector>> = Vec::new();
        for _ in 0..vectors(&*device) {
            interrupts.push(Box::new(routes.vector()?));
        }
        let card = VirtioPci::new(device, vm.ram().clone(), interrupts, Some(vm.clone()), &mut self.space)?;
        let slot = self.root.insert(card.clone())?;
        self.slots.push(card);
        Ok(slot)
    }

    /// Gives the bus its addresses. Bytes at port 0xcf9 go to `reset`.
    pub fn insert_into(
        &self,
        ports: &mut Bus,
        memory: &mut Bus,
        reset: Arc<dyn BusDevice>,
    ) -> Result<(), BusError> {
        let config = Arc::new(Ports::new(self.root.clone(), Some(reset)));
        ports.insert("PCI configuration", layout::PCI_CONFIG_PORT, CONFIG_PORTS, config)?;
        let (io, mmio) = (layout::PCI_PORTS, layout::PCI_MEMORY);
        ports.insert("PCI ports", io.start, io.end - io.start, Arc::new(Window::ports(self.root.clone())))?;
        let window = Arc::new(Window::memory(self.root.clone()));
        memory.insert("PCI memory", mmio.start, mmio.end - mmio.start, window)
    }

    /// Nothing is in flight when this returns. The vCPUs stand already.
    pub fn pause(&self) {
        // Each is told before any is waited for.
        self.slots.iter().for_each(|card| card.call());
        self.slots.iter().for_each(|card| card.pause());
    }

    /// They go on, before a vCPU does.
    pub fn resume(&self) {
        self.slots.iter().for_each(|card| card.resume());
    }

    /// As after power-on.
    pub fn reset(&self) {
        self.slots.iter().for_each(|card| card.reset());
    }

    /// The plain state, while they are paused.
    pub fn save(&self) -> CardsState {
        CardsState { root: self.root.save(), cards: self.slots.iter().map(|card| card.save()).collect() }
    }

    /// Whether these are the states of such cards.
    pub fn check(&self, root: &RootState, cards: &[CardState]) -> Result<(), CardsError> {
        let (theirs, ours) = (cards.len(), self.slots.len());
        if theirs != ours {
            return Err(CardsError::Count { theirs, ours });
        }
        for (slot, (card, state)) in (1..).zip(self.slots.iter().zip(cards)) {
            card.check(state).map_err(|error| CardsError::Card { slot, error })?;
        }
        Ok(self.root.check(root)?)
    }

    /// Takes states that were checked, while they are paused; [`resume`](Self::resume) makes them work.
    pub fn load(&self, root: &RootState, cards: &[CardState]) {
        let mut moved = false;
        for (card, state) in self.slots.iter().zip(cards) {
            moved |= card.load(state);
        }
        self.root.load(root);
        if moved {
            self.root.decode_anew();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::rng::Rng;
    use crate::kvm::Kvm;

    fn cards(count: usize) -> (Cards, Arc<Vm>) {
        let ram = Arc::new(crate::memory::new(2 << 20).unwrap());
        let vm = Arc::new(Vm::new(&Kvm::open().unwrap(), ram).unwrap());
        let routes = Routes::new(vm.clone()).unwrap();
        let mut cards = Cards::default();
        for slot in 1..=count {
            assert_eq!(usize::from(cards.add(Box::<Rng>::default(), &vm, &routes).unwrap()), slot);
        }
        (cards, vm)
    }

    #[derive(Debug)]
    struct Reset;
    impl BusDevice for Reset {
        fn read(&self, _: u64, _: &mut [u8]) {}
        fn write(&self, _: u64, _: &[u8]) {}
    }

    #[test]
    fn a_machines_cards_are_found_and_move_to_another() {
        let (first, _vm) = cards(3);
        let (mut ports, mut memory) = (Bus::default(), Bus::default());
        first.insert_into(&mut ports, &mut memory, Arc::new(Reset)).unwrap();
        let identity = |slot: u32| {
            ports.write(0xcf8, &(1 << 31 | slot << 11).to_le_bytes());
            let mut data = [0; 4];
            ports.read(0xcfc, &mut data);
            u32::from_le_bytes(data)
        };
        assert_eq!([1, 2, 3, 4].map(identity), [0x1044_1af4, 0x1044_1af4, 0x1044_1af4, u32::MAX]);
        // A guest that moves a BAR: the state knows.
        ports.write(0xcf8, &0x8000_1010_u32.to_le_bytes());
        ports.write(0xcfc, &0xd000_0000_u32.to_le_bytes());
        first.pause();
        let state = first.save();
        let (second, _vm) = cards(3);
        assert_ne!(second.save(), state);
        second.check(&state.root, &state.cards).unwrap();
        second.load(&state.root, &state.cards);
        assert_eq!(second.save(), state);
        let fewer = cards(2).0.check(&state.root, &state.cards);
        assert!(matches!(fewer, Err(CardsError::Count { theirs: 3, ours: 2 })));
    }
}
