//! The maps that programs share with us.

use super::{DatapathError, chain, sys};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use colo_ebpf_shared::layout::{Counter, Nic, Role, SLOTS};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

/// The NICs that share a forward device.
pub struct Slots {
    nics: Array<MapData, sys::Nic>,
    counters: PerCpuArray<MapData, sys::Counters>,
}

fn failed(what: &'static str, map: &'static str) -> impl FnOnce(MapError) -> DatapathError {
    move |error| DatapathError::Map { what, map, why: chain(&error) }
}

fn pinned(folder: &Path, file: &'static str) -> Result<Map, MapError> {
    let data = MapData::from_pin(folder.join(file))?;
    Ok(match file {
        "counters" => Map::PerCpuArray(data),
        "flows" | "addresses" => Map::LruHashMap(data),
        _ => Map::Array(data),
    })
}

impl Slots {
    /// Opens those of the forward device whose folder this is.
    pub fn open(folder: &Path) -> Result<Self, DatapathError> {
        let nics = pinned(folder, "nics").and_then(Array::try_from).map_err(failed("open", "nics"))?;
        let counters =
            pinned(folder, "counters").and_then(PerCpuArray::try_from).map_err(failed("open", "counters"))?;
        Ok(Self { nics, counters })
    }

    /// What a slot holds.
    pub fn get(&self, index: u8) -> Result<Nic, DatapathError> {
        Ok(self.nics.get(&u32::from(index), 0).map_err(failed("read", "nics"))?.0)
    }

    /// Changes a slot.
    pub fn set(&mut self, index: u8, nic: &Nic) -> Result<(), DatapathError> {
        self.nics.set(u32::from(index), sys::Nic(*nic), 0).map_err(failed("write", "nics"))
    }

    /// Changes some of the slot of a vif, by its number. Only one process owns a slot, so nobody else
    /// writes meanwhile; but one whose vif was deleted may have lost it to another.
    pub fn update(
        &mut self,
        index: u8,
        vif: u32,
        change: impl FnOnce(&mut Nic),
    ) -> Result<Nic, DatapathError> {
        let mut nic = self.get(index)?;
        if nic.vif != vif {
            return Err(DatapathError::Map {
                what: "write",
                map: "nics",
                why: format!("the slot {index} belongs to another interface by now"),
            });
        }
        change(&mut nic);
        self.set(index, &nic)?;
        Ok(nic)
    }

    /// Whether no slot is taken.
    pub fn is_empty(&self) -> Result<bool, DatapathError> {
        for index in 0..SLOTS {
            if Role::from_u32(self.get(index as u8)?.role) != Role::None {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What was counted of a NIC, over all CPUs.
    pub fn counters(&self, index: u8) -> Result<[u64; Counter::ALL.len()], DatapathError> {
        let each = self.counters.get(&u32::from(index), 0).map_err(failed("read", "counters"))?;
        let mut sum = [0u64; Counter::ALL.len()];
        for cpu in each.iter() {
            for (sum, count) in sum.iter_mut().zip(cpu.0) {
                *sum = sum.wrapping_add(count);
            }
        }
        Ok(sum)
    }

    /// Forgets what was counted of a NIC.
    pub fn reset_counters(&mut self, index: u8) -> Result<(), DatapathError> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| DatapathError::Map {
            what: "size",
            map: "counters",
            why: error.to_string(),
        })?;
        let zeros = vec![sys::Counters([0; Counter::ALL.len()]); cpus];
        let zeros = aya::maps::PerCpuValues::try_from(zeros).map_err(|error| DatapathError::Map {
            what: "size",
            map: "counters",
            why: error.to_string(),
        })?;
        self.counters.set(u32::from(index), zeros, 0).map_err(failed("write", "counters"))
    }
}

/// The maps of one secondary's NIC.
pub struct NicMaps {
    flows: HashMap<MapData, sys::FlowKey, sys::Flow>,
    addresses: HashMap<MapData, sys::AddressKey, sys::Address>,
}

// aya's maps cannot be shown.
impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").finish_non_exhaustive()
    }
}

impl fmt::Debug for NicMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NicMaps").finish_non_exhaustive()
    }
}

/// An address that a guest was seen to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    /// The address.
    pub address: IpAddr,
    /// The hardware address that goes with it.
    pub mac: [u8; 6],
    /// The VLANs that it was used on, outer and inner.
    pub vlans: [Option<u16>; 2],
}

impl NicMaps {
    pub(super) fn new(flows: Map, addresses: Map) -> Result<Self, DatapathError> {
        Ok(Self {
            flows: flows.try_into().map_err(failed("open", "flows"))?,
            addresses: addresses.try_into().map_err(failed("open", "addresses"))?,
        })
    }

    /// Opens those of the NIC whose folder this is.
    pub fn open(folder: &Path) -> Result<Self, DatapathError> {
        let flows = pinned(folder, "flows").map_err(failed("open", "flows"))?;
        let addresses = pinned(folder, "addresses").map_err(failed("open", "addresses"))?;
        Self::new(flows, addresses)
    }

    /// How many connections are remembered.
    pub fn flows(&self) -> u64 {
        self.flows.keys().flatten().count() as u64
    }

    /// The addresses that the guest was seen to use.
    pub fn addresses(&self) -> Vec<Known> {
        let vlan = |vid: u16| (vid != colo_ebpf_shared::layout::UNTAGGED).then_some(vid);
        let mut known: Vec<Known> = self
            .addresses
            .iter()
            .filter_map(Result::ok)
            .map(|(key, value)| Known {
                address: Ipv6Addr::from(key.0.address).to_canonical(),
                mac: value.0.mac,
                vlans: key.0.vlans.map(vlan),
            })
            .collect();
        known.sort_unstable();
        known
    }
}
