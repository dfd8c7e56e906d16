//! The maps, and how they are looked at.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, LruHashMap, PerCpuArray};
use colo_ebpf_shared::layout::{
    ADDRESSES as MAX_ADDRESSES, Address, AddressKey, Counter, Counters, FLOWS as MAX_FLOWS, FlowKey, Nic,
    SLOTS,
};
use colo_ebpf_shared::translate::Flow;

/// Every NIC that shares a forward device, by index.
#[map]
static NICS: Array<Nic> = Array::with_max_entries(SLOTS, 0);

/// What was counted of each.
#[map]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(SLOTS, 0);

/// A secondary's connections.
#[map]
pub static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(MAX_FLOWS, 0);

/// The addresses that a secondary's guest was seen to use.
#[map]
pub static ADDRESSES: LruHashMap<AddressKey, Address> = LruHashMap::with_max_entries(MAX_ADDRESSES, 0);

/// Which NIC the programs on a vif and on its capture tap are for. Set when they are loaded.
#[unsafe(no_mangle)]
static INDEX: u32 = 0;

/// The NIC that this program is for.
#[inline(always)]
pub fn own_nic() -> Option<(u32, &'static Nic)> {
    // SAFETY: a static of ours; volatile, because the loader sets it after it was compiled.
    let index = unsafe { core::ptr::read_volatile(&raw const INDEX) };
    nic(index).map(|nic| (index, nic))
}

/// The NIC with this index.
#[inline(always)]
pub fn nic(index: u32) -> Option<&'static Nic> {
    NICS.get(index)
}

/// The NIC with this index, for the few things that a program finds out by itself. Another CPU may
/// find the same at the same time, and writes the same.
#[inline(always)]
pub fn nic_mut(index: u32) -> Option<*mut Nic> {
    NICS.get_ptr_mut(index)
}

/// Counts one of `counter`.
#[inline(always)]
pub fn count(index: u32, counter: Counter) {
    if let Some(counters) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the map's value is this CPU's own, and programs do not interrupt each other on one.
        unsafe { (*counters)[counter as usize] += 1 };
    }
}
