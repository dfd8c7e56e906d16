//! The secondary's disk, as its primary and other NBD clients see it.
//!
//! ```text
//!   a client with `colo:epoch` ── writes, each of an epoch ──► pending n
//!   any other ──────────────────── reads; and writes, as long as no guest is held here
//! ```
//!
//! One is made for each connection: what is asked for by a connection of a session that is over is refused.

use super::layers::{Epoch, Primary, Refused, SecondaryDisk};
use crate::nbd::Export;
use crate::nbd::export::{Tag, Zeroing};
use std::fmt;
use std::io;
use std::sync::Arc;

/// A disk for one connection.
pub struct DiskExport {
    disk: Arc<SecondaryDisk>,
    primary: Primary,
}

impl DiskExport {
    /// For a connection that begins now.
    pub fn new(disk: Arc<SecondaryDisk>) -> Self {
        let primary = disk.primary();
        Self { disk, primary }
    }
}

impl fmt::Debug for DiskExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskExport").field("primary", &self.primary).finish_non_exhaustive()
    }
}

/// Who knows nothing of epochs writes the disk itself.
fn tag(tag: Tag) -> u32 {
    tag.unwrap_or(0)
}

fn told(refused: Refused) -> io::Error {
    tracing::debug!(%refused, "something is not done to the secondary's disk");
    refused.into()
}

impl Export for DiskExport {
    fn size(&self) -> u64 {
        self.primary.size()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.primary.read(buffer, offset).map_err(told)
    }

    fn write(&self, of: Tag, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.primary.write(tag(of), offset, bytes).map_err(told)
    }

    fn zero(&self, of: Tag, offset: u64, len: u64, how: Zeroing) -> io::Result<()> {
        if how.fast && tag(of) == 0 {
            // Only the base knows, and it does not say.
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.primary.zero(tag(of), offset, len, how.unmap).map_err(told)
    }

    fn trim(&self, of: Tag, offset: u64, len: u64) -> io::Result<()> {
        self.primary.trim(tag(of), offset, len).map_err(told)
    }

    fn flush(&self, _: Tag) -> io::Result<()> {
        self.primary.flush().map_err(told)
    }

    fn epochs(&self) -> bool {
        true
    }

    fn stable_epoch(&self) -> u32 {
        self.disk.status().stable.map_or(0, |epoch| Epoch::new(epoch).tag())
    }

    /// Of what the primary has written, as it reads it: its epochs over what is settled.
    fn sums(&self) -> bool {
        true
    }

    fn multi_conn(&self) -> bool {
        true
    }
}
