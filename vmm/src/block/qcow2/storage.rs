//! The file under a qcow2 image, as the library wants it: any [`Image`].
//!
//! ```text
//!   refcount blocks ─┐                     ┌─ L2 and L1 tables
//!        written     └── barrier (sync) ───┘     written
//! ```
//!
//! The library writes tables in an order that is right as long as the host lives: references are counted
//! before they are made, and unmade before they are no longer counted. A host that loses power may have
//! written them in another, so between the two kinds the file is synced.
//!
//! One of its orders is not right: it enters a new L2 table into the L1 table at once, while the count of
//! that table's cluster is still in memory. Who is killed then has a table in a cluster that counts as
//! free. So what goes to the L1 table is kept here until all else is stable ([`Under::enter`]); the library
//! has its own copy of that table and does not read it again.

use super::header::{Header, LEN};
use crate::block::{Image, read_at, write_at};
use imago::storage::drivers::CommonStorageHelper;
use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Display};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// The file under an image.
#[derive(Debug)]
pub(super) struct Under {
    pub(super) image: Arc<dyn Image>,
    order: Option<Arc<Mutex<Order>>>,
    pub(super) helper: CommonStorageHelper,
}

/// What was written since the last sync.
#[derive(Debug, Default)]
struct Order {
    /// Where refcount blocks are.
    blocks: HashSet<u64>,
    /// Where the refcount table is.
    table: std::ops::Range<u64>,
    cluster: u64,
    counts: bool,
    others: bool,
    /// Where the L1 table is, and what is still to be written to it.
    l1: std::ops::Range<u64>,
    late: BTreeMap<u64, Vec<u8>>,
    /// How large the file is at least.
    end: u64,
    /// From where on it is zeros, since nobody but us made it so large and nothing was written there.
    untouched: u64,
}

/// How much a file grows at a time: a cluster each time would be a system call each time.
const GROWTH: u64 = 4 << 20;

impl Order {
    /// Looks up where refcount blocks are.
    fn load(&mut self, image: &dyn Image) -> io::Result<()> {
        let mut bytes = [0; LEN];
        read_at(image, &mut bytes, 0)?;
        // A header that is no good is another's to refuse.
        let Ok(header) = Header::parse(&bytes, false) else { return Ok(()) };
        self.cluster = header.cluster();
        self.l1 = header.l1.clone();
        let len = u64::from(header.refcount_clusters) * self.cluster;
        self.table = header.refcount_table..header.refcount_table + len;
        let mut table = vec![0; len as usize];
        read_at(image, &mut table, header.refcount_table)?;
        let entries =
            table.chunks_exact(8).map(|entry| u64::from_be_bytes(entry.try_into().unwrap_or_default()));
        let mut entries = entries.peekable();
        if entries.peek().is_some_and(|first| first >> 9 == 0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "its header and tables count as free, and would be written over; run `qemu-img check -r all` on it",
            ));
        }
        self.blocks = entries.map(|entry| entry & !511).filter(|&offset| offset != 0).collect();
        Ok(())
    }

    /// Whether a write there has to wait until what was written before is stable.
    fn barrier(&mut self, offset: u64) -> bool {
        let counts = self.blocks.contains(&(offset & !(self.cluster.max(1) - 1)));
        let wait = if counts { self.others } else { self.counts };
        if wait {
            (self.counts, self.others) = (false, false);
        }
        *if counts { &mut self.counts } else { &mut self.others } = true;
        wait
    }
}

impl Under {
    /// A file that is written, with barriers.
    pub(super) fn written(image: Arc<dyn Image>) -> io::Result<Self> {
        let mut order = Order { end: image.size(), ..Order::default() };
        order.load(&*image)?;
        order.untouched = order.end.next_multiple_of(order.cluster.max(1));
        Ok(Self { image, order: Some(Arc::new(Mutex::new(order))), helper: CommonStorageHelper::default() })
    }

    /// The same file, for whoever flushes the library's tables.
    pub(super) fn twin(&self) -> Self {
        let (image, order) = (self.image.clone(), self.order.clone());
        Self { image, order, helper: CommonStorageHelper::default() }
    }

    /// A file that is only read.
    pub(super) fn read(image: Arc<dyn Image>) -> Self {
        Self { image, order: None, helper: CommonStorageHelper::default() }
    }

    /// Writes to the L1 table what was kept. Whoever calls has flushed the library's tables.
    pub(super) fn enter(&self) -> io::Result<()> {
        let late = self.with(|order| std::mem::take(&mut order.late)).unwrap_or_default();
        if late.is_empty() {
            return Ok(());
        }
        let written = self.image.flush().and_then(|()| {
            late.iter().try_for_each(|(&offset, data)| write_at(&*self.image, &mut data.clone(), offset))
        });
        self.with(|order| {
            if written.is_err() {
                // To be tried again, but not over what came since.
                for (offset, data) in late {
                    order.late.entry(offset).or_insert(data);
                }
            }
            (order.counts, order.others) = (false, written.is_ok());
        });
        written
    }

    /// Keeps a write that is within the L1 table.
    pub(super) fn keep(&self, buffers: &[std::io::IoSlice<'_>], offset: u64, len: u64) -> bool {
        let keep = |order: &mut Order| {
            // The library writes entries one by one, in the smallest piece that the file takes. Anything
            // larger is a damaged image's data, which is not to fill our memory.
            let entry = len <= u64::from(self.image.alignment()).max(8);
            let inside = entry && order.l1.contains(&offset);
            if inside {
                let data = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
                order.late.insert(offset, data);
            }
            inside
        };
        self.with(keep).unwrap_or(false)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Order) -> T) -> Option<T> {
        self.order.as_ref().map(|order| act(&mut order.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Before a write.
    pub(super) fn order(&self, offset: u64) -> io::Result<()> {
        if self.with(|order| order.barrier(offset)) == Some(true) { self.image.flush() } else { Ok(()) }
    }

    /// Makes the file reach to the end of a range, and says what of the range may be anything but zeros.
    pub(super) fn make_room(&self, offset: u64, end: u64) -> io::Result<u64> {
        let make = |order: &mut Order| {
            if end > order.end {
                let further = end.next_multiple_of(GROWTH);
                // What is no file, but a block device, is as large as it is.
                let grown = self.image.grow(further).map(|()| further);
                order.end = grown.or_else(|_| self.image.grow(end).map(|()| end))?;
            }
            let dirty = if offset >= order.untouched { 0 } else { end - offset };
            order.untouched = order.untouched.max(end);
            Ok(dirty)
        };
        self.with(make).unwrap_or_else(|| self.image.grow(end).map(|()| end - offset))
    }

    /// After a write: the refcount table may have another block, or be another table.
    pub(super) fn reload(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.saturating_add(len);
        let concerns = |order: &mut Order| {
            order.end = order.end.max(end);
            order.untouched = order.untouched.max(end);
            let table = offset < order.table.end && end > order.table.start;
            if table || offset < LEN as u64 { order.load(&*self.image) } else { Ok(()) }
        };
        self.with(concerns).unwrap_or(Ok(()))
    }
}

impl Display for Under {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} image", self.image.format())
    }
}
