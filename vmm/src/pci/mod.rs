//! PCI: one root bus, found through configuration mechanism 1.
//!
//! ```text
//!   ports 0xcf8–0xcff ─► root::Ports ──► Function::read_config / write_config     (by slot)
//!   PCI port window   ─► root::Window ─┬► decode map ─► Function::read / write    (by BAR)
//!   PCI memory window ─► root::Window ─┘      ▲ made anew when a BAR or a command register changes
//! ```
//!
//! * [`config`]: a configuration space, with its BARs and capabilities.
//! * [`msix`]: a table of messages, masks and pending bits.
//! * [`root`]: the bus, its ports and windows, and the host bridge.
//! * [`space`]: where BARs are before an operating system moves them; there is no firmware to place them.

pub mod config;
pub mod msix;
pub mod root;
pub mod space;

use crate::pci::config::Region;
use std::fmt;

/// Something in a slot of the bus; its only function is 0. Any vCPU may come at any time.
pub trait Function: Send + Sync + fmt::Debug {
    /// Reads its configuration space; `offset` and `offset + data.len()` are within 256 bytes.
    fn read_config(&self, offset: u8, data: &mut [u8]);
    /// Writes it. The bus asks for [`regions`](Self::regions) after.
    fn write_config(&self, offset: u8, data: &[u8]);
    /// What it decodes now.
    fn regions(&self) -> Vec<Region>;
    /// Reads from the region of a BAR; `data` is all ones before.
    fn read(&self, _bar: u8, _offset: u64, _data: &mut [u8]) {}
    /// Writes to it.
    fn write(&self, _bar: u8, _offset: u64, _data: &[u8]) {}
}
