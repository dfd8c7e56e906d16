//! Who answers when a vCPU leaves the guest for an address that is no memory.
//!
//! ```text
//!   exit: IN/OUT port ──► Bus (ports)          ┌─► device.read(offset in its range)
//!   exit: MMIO address ─► Bus (memory) ─ find ─┤
//!                                              └─► nobody: reads are all ones, writes vanish (a PC's bus)
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// Something with registers. Any vCPU may come at any time, several at once.
pub trait BusDevice: Send + Sync + fmt::Debug {
    /// Reads `data.len()` bytes (1, 2, 4 or 8 as the guest asked) at `offset` of the device's range.
    /// What the device does not have reads as all ones, which `data` is filled with before.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Writes them.
    fn write(&self, offset: u64, data: &[u8]);
}

/// A range that cannot be given to a device.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{first:#x}–{last:#x} cannot be given to {name}: {reason}")]
pub struct BusError {
    name: &'static str,
    first: u64,
    last: u64,
    reason: Reason,
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
enum Reason {
    #[error("it is empty or wraps")]
    Empty,
    #[error("{0} has a part of it")]
    Taken(&'static str),
}

#[derive(Clone, Debug)]
struct Place {
    last: u64,
    name: &'static str,
    device: Arc<dyn BusDevice>,
}

/// The devices of one address space. It is made before the vCPUs start and does not change after.
#[derive(Clone, Debug, Default)]
pub struct Bus(BTreeMap<u64, Place>);

impl Bus {
    /// Gives `len` addresses from `first` on to a device.
    pub fn insert(
        &mut self,
        name: &'static str,
        first: u64,
        len: u64,
        device: Arc<dyn BusDevice>,
    ) -> Result<(), BusError> {
        let last = first.wrapping_add(len).wrapping_sub(1);
        let error = |reason| BusError { name, first, last, reason };
        if len == 0 || last < first {
            return Err(error(Reason::Empty));
        }
        if let Some((_, before)) = self.0.range(..=last).next_back()
            && before.last >= first
        {
            return Err(error(Reason::Taken(before.name)));
        }
        self.0.insert(first, Place { last, name, device });
        Ok(())
    }

    /// Reads; all ones where nobody is, and where an access crosses the end of a range.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((offset, device)) = self.find(address, data.len()) {
            device.read(offset, data);
        }
    }

    /// Writes. Says whether somebody was there.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        let found = self.find(address, data.len());
        if let Some((offset, device)) = found {
            device.write(offset, data);
        }
        found.is_some()
    }

    fn find(&self, address: u64, len: usize) -> Option<(u64, &dyn BusDevice)> {
        let (first, place) = self.0.range(..=address).next_back()?;
        let last = address.checked_add(len as u64)?.checked_sub(1)?;
        (last <= place.last).then(|| (address - first, &*place.device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Debug, Default)]
    struct Probe(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Probe {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data[0] = offset as u8;
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn an_access_goes_to_who_has_all_of_it() {
        let mut bus = Bus::default();
        let probe = Arc::new(Probe::default());
        bus.insert("probe", 0x100, 8, probe.clone()).unwrap();
        assert!(bus.write(0x104, &[1, 2, 3, 4]));
        assert!(!bus.write(0x106, &[1, 2, 3, 4]), "it crosses the end");
        assert!(!bus.write(0xff, &[1]));
        assert!(!bus.write(u64::MAX, &[1, 2]));
        assert_eq!(*probe.0.lock().unwrap(), [(4, vec![1, 2, 3, 4])]);
        let mut data = [0; 2];
        bus.read(0x103, &mut data);
        assert_eq!(data, [3, 0xff]);
        bus.read(0x108, &mut data);
        assert_eq!(data, [0xff, 0xff], "nobody is there");
    }

    #[test]
    fn nobody_shares_an_address() {
        let mut bus = Bus::default();
        let probe: Arc<dyn BusDevice> = Arc::new(Probe::default());
        bus.insert("a", 0x10, 0x10, probe.clone()).unwrap();
        for (first, len) in [(0x10, 1), (0x0f, 2), (0x1f, 1), (0, 0x100)] {
            let error = bus.insert("b", first, len, probe.clone()).unwrap_err();
            assert_eq!(error.reason, Reason::Taken("a"));
        }
        assert!(bus.insert("b", 0x20, 0, probe.clone()).is_err());
        assert!(bus.insert("b", u64::MAX, 2, probe.clone()).is_err());
        bus.insert("b", 0x20, 1, probe.clone()).unwrap();
        bus.insert("c", u64::MAX, 1, probe).unwrap();
    }
}
