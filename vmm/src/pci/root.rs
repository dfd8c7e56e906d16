//! The root bus: its slots, configuration ports and windows.
//!
//! Configuration mechanism 1 (PCI Local Bus 3.0 §3.2.2.3.2): a double word at 0xcf8 says which register,
//! and 0xcfc–0xcff is that register. Between them is 0xcf9, a port of its own: PCs reset by it.

use crate::bus::BusDevice;
use crate::memory::layout;
use crate::pci::Function;
use crate::pci::config::{AddressSpace, ConfigError, ConfigSpace, ConfigState, Identity, Region};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use thiserror::Error;

/// Slots of a bus.
pub const SLOTS: u8 = 32;
/// Ports of the configuration mechanism, from [`layout::PCI_CONFIG_PORT`] on.
pub const CONFIG_PORTS: u64 = 8;

const ENABLE: u32 = 1 << 31;
/// Bits 30–24 and 1–0 of the address register are reserved, and read as zeros.
const ADDRESS: u32 = 0x80ff_fffc;
const DATA: u64 = 4;
const RESET: u64 = layout::RESET_PORT - layout::PCI_CONFIG_PORT;

/// All slots are taken.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the PCI bus has {SLOTS} slots and all are taken; give the guest fewer devices")]
pub struct NoSlot;

/// The bus's plain state; its functions have theirs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootState {
    /// The configuration address register.
    pub address: u32,
    /// The host bridge.
    pub bridge: ConfigState,
}

/// Who decodes an address.
#[derive(Clone, Debug)]
struct Decoded {
    region: Region,
    function: Arc<dyn Function>,
}

/// By first address.
type Map = BTreeMap<u64, Decoded>;

/// The bus.
#[derive(Debug, Default)]
pub struct Root {
    bridge: Arc<HostBridge>,
    slots: RwLock<Vec<Arc<dyn Function>>>,
    address: AtomicU32,
    memory: RwLock<Map>,
    ports: RwLock<Map>,
    /// Maps are made anew by one vCPU at a time, from slots that no other changes meanwhile.
    rebuild: Mutex<()>,
}

impl Root {
    /// A bus with the host bridge in slot 0.
    pub fn new() -> Arc<Self> {
        let bridge = Arc::new(HostBridge::default());
        let slots: Vec<Arc<dyn Function>> = vec![bridge.clone()];
        Arc::new(Self { bridge, slots: RwLock::new(slots), ..Self::default() })
    }

    /// Puts a function into the next slot, and gives its number.
    pub fn insert(&self, function: Arc<dyn Function>) -> Result<u8, NoSlot> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let slot = u8::try_from(slots.len()).ok().filter(|&slot| slot < SLOTS).ok_or(NoSlot)?;
        slots.push(function);
        drop(slots);
        self.decode_anew();
        Ok(slot)
    }

    /// Who has which addresses, after a BAR or a command register has changed (or a state was loaded).
    pub fn decode_anew(&self) {
        let _one = self.rebuild.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut memory, mut ports) = (Map::new(), Map::new());
        for function in self.slots.read().unwrap_or_else(PoisonError::into_inner).iter() {
            for region in function.regions() {
                let map = match region.space {
                    AddressSpace::Memory => &mut memory,
                    AddressSpace::Ports => &mut ports,
                };
                // Of two that overlap the lower slot answers; on a real bus both would.
                let before = map.range(..=region.last).next_back();
                if before.is_none_or(|(_, other)| other.region.last < region.first) {
                    map.insert(region.first, Decoded { region, function: function.clone() });
                }
            }
        }
        *self.memory.write().unwrap_or_else(PoisonError::into_inner) = memory;
        *self.ports.write().unwrap_or_else(PoisonError::into_inner) = ports;
    }

    /// Its plain state.
    pub fn save(&self) -> RootState {
        RootState { address: self.address.load(Ordering::Relaxed), bridge: self.bridge.space().save() }
    }

    /// Whether a state is of such a bus.
    pub fn check(&self, state: &RootState) -> Result<(), ConfigError> {
        self.bridge.space().check(&state.bridge).map(drop)
    }

    /// Takes a state that was checked; another one is left. Whoever has changed what functions decode calls
    /// [`decode_anew`](Self::decode_anew).
    pub fn load(&self, state: &RootState) {
        let mut bridge = self.bridge.space();
        if let Ok(bytes) = bridge.check(&state.bridge) {
            bridge.load(bytes);
            self.address.store(state.address & ADDRESS, Ordering::Relaxed);
        }
    }

    /// The function and register that the address register selects.
    fn selected(&self, port: u64) -> Option<(Arc<dyn Function>, u8)> {
        let address = self.address.load(Ordering::Relaxed);
        let (bus, function) = (address >> 16 & 0xff, address >> 8 & 7);
        if address & ENABLE == 0 || bus != 0 || function != 0 {
            return None;
        }
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.get((address >> 11 & 0x1f) as usize)?;
        Some((slot.clone(), (address & 0xfc) as u8 + (port - DATA) as u8))
    }

    fn find(&self, space: AddressSpace, address: u64, len: usize) -> Option<(Arc<dyn Function>, u8, u64)> {
        let map = match space {
            AddressSpace::Memory => &self.memory,
            AddressSpace::Ports => &self.ports,
        };
        let map = map.read().unwrap_or_else(PoisonError::into_inner);
        let (&first, decoded) = map.range(..=address).next_back()?;
        let last = address.checked_add(len as u64)?.checked_sub(1)?;
        // The function is called without the lock: it may take its time.
        (last <= decoded.region.last).then(|| (decoded.function.clone(), decoded.region.bar, address - first))
    }
}

/// The ports of the configuration mechanism: give it [`CONFIG_PORTS`] from [`layout::PCI_CONFIG_PORT`] on.
#[derive(Debug)]
pub struct Ports {
    root: Arc<Root>,
    reset: Option<Arc<dyn BusDevice>>,
}

impl Ports {
    /// Bytes at 0xcf9 go to `reset` (at its offset 0), if there is one.
    pub fn new(root: Arc<Root>, reset: Option<Arc<dyn BusDevice>>) -> Self {
        Self { root, reset }
    }
}

impl BusDevice for Ports {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (offset, data.len(), &self.reset) {
            (RESET, 1, Some(reset)) => reset.read(0, data),
            (0, 4, _) => data.copy_from_slice(&self.root.address.load(Ordering::Relaxed).to_le_bytes()),
            (DATA..CONFIG_PORTS, ..) if offset + data.len() as u64 <= CONFIG_PORTS => {
                if let Some((function, register)) = self.root.selected(offset) {
                    function.read_config(register, data);
                }
            }
            _ => {}
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, data, &self.reset) {
            (RESET, [_], Some(reset)) => reset.write(0, data),
            // The register is one double word; what is narrower is no write to it.
            (0, &[a, b, c, d], _) => {
                let address = u32::from_le_bytes([a, b, c, d]) & ADDRESS;
                self.root.address.store(address, Ordering::Relaxed);
            }
            (DATA..CONFIG_PORTS, ..) if offset + data.len() as u64 <= CONFIG_PORTS => {
                if let Some((function, register)) = self.root.selected(offset) {
                    let before = function.regions();
                    function.write_config(register, data);
                    if function.regions() != before {
                        self.root.decode_anew();
                    }
                }
            }
            _ => {}
        }
    }
}

/// A range of addresses that the bus has, for whichever BARs are in it.
#[derive(Debug)]
pub struct Window {
    root: Arc<Root>,
    space: AddressSpace,
    first: u64,
}

impl Window {
    /// All of [`layout::PCI_MEMORY`].
    pub fn memory(root: Arc<Root>) -> Self {
        Self { root, space: AddressSpace::Memory, first: layout::PCI_MEMORY.start }
    }

    /// All of [`layout::PCI_PORTS`].
    pub fn ports(root: Arc<Root>) -> Self {
        Self { root, space: AddressSpace::Ports, first: layout::PCI_PORTS.start }
    }

    /// Memory that begins elsewhere.
    pub fn memory_at(root: Arc<Root>, first: u64) -> Self {
        Self { root, space: AddressSpace::Memory, first }
    }
}

impl BusDevice for Window {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let address = self.first.saturating_add(offset);
        if let Some((function, bar, offset)) = self.root.find(self.space, address, data.len()) {
            function.read(bar, offset, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let address = self.first.saturating_add(offset);
        if let Some((function, bar, offset)) = self.root.find(self.space, address, data.len()) {
            function.write(bar, offset, data);
        }
    }
}

/// What operating systems look for in slot 0 to believe that there is a bus.
#[derive(Debug)]
pub struct HostBridge(Mutex<ConfigSpace>);

impl Default for HostBridge {
    fn default() -> Self {
        // Red Hat's generic bridge: no operating system has a quirk for it.
        let identity =
            Identity { vendor: 0x1b36, device: 0x0008, class: [6, 0, 0], revision: 0, subsystem: 0x1100 };
        Self(Mutex::new(ConfigSpace::new(identity)))
    }
}

impl HostBridge {
    fn space(&self) -> MutexGuard<'_, ConfigSpace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Function for HostBridge {
    fn read_config(&self, offset: u8, data: &mut [u8]) {
        self.space().read(offset, data);
    }

    fn write_config(&self, offset: u8, data: &[u8]) {
        self.space().write(offset, data);
    }

    fn regions(&self) -> Vec<Region> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests;
