//! The guest's disks, and who follows them.
//!
//! ```text
//!   image ─┬─ colo-vm run       ► the guest; a record that is there says that nobody followed
//!          ├─ colo-vm primary   ► the guest, with a feed for the secondary
//!          └─ colo-vm secondary ► layers, for the guest here
//! ```
//!
//! All is opened before the process is confined. A record is the file beside the image, unless its disk names one.

use super::Failure;
use super::level::Place;
use crate::block::follow::Follower;
use crate::block::{self, Format, Image, guest_name};
use crate::checkpoint::link::socket;
use crate::config::{self, Cache};
use crate::replication::bitmap::Dirty;
use crate::replication::feed::Feed;
use crate::replication::history::History;
use crate::replication::layers::{Limits, SecondaryDisk};
use crate::replication::{primary, secondary};
use crate::spill;
use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes that a disk's writes may have on their way to the secondary.
const ROOM: usize = 32 << 20;

/// A disk, ready for the guest.
pub(super) struct Ready {
    /// What the guest gets.
    pub(super) image: Arc<dyn Image>,
    /// Who hears of what it writes.
    pub(super) follower: Option<Arc<dyn Follower>>,
    /// Of a guest that is alone: the record is held, so that no other process has it.
    pub(super) history: Option<History>,
}

impl Ready {
    /// What the guest gets for an image, and what its side of a pair needs of it.
    pub(super) fn new(
        number: usize,
        disk: &config::Disk,
        image: Arc<dyn Image>,
        place: &mut Option<&mut Place>,
    ) -> Result<Self, Failure> {
        let alone = Self { image: image.clone(), follower: None, history: None };
        if image.read_only() {
            return Ok(alone);
        }
        let (record, size) = (record(disk), image.size());
        let history = || History::open(&record, size);
        match place {
            // A disk that was never one of two needs none.
            None if record.symlink_metadata().is_err() => Ok(alone),
            None => {
                let (history, _) = history()?;
                history.serve()?;
                Ok(Self { history: Some(history), ..alone })
            }
            Some(Place::Primary { disks, .. }) => {
                let (history, missing) = history()?;
                history.serve()?;
                let dirty = Arc::new(Dirty::new(size));
                if let Some(missing) = missing {
                    dirty.restore(&missing);
                }
                let feed = Feed::new(image, ROOM, dirty.clone()).map_err(|error| {
                    format!("no memory for what {} has on its way: {error}", guest_name(number))
                })?;
                disks.push(primary::Opened { place: number as u8, feed: feed.clone(), dirty, history });
                Ok(Self { follower: Some(feed), ..alone })
            }
            Some(Place::Secondary { listener, directory, disks, .. }) => {
                let (history, _) = history()?;
                let spill = match directory {
                    Some(directory) => Some(spill::open(directory)?),
                    None => beside_image(disk),
                };
                let layers = Arc::new(SecondaryDisk::open(image, Limits::default(), spill)?);
                let listener = socket::listen(beside(listener.local_addr()?, number)?)?;
                let (place, disk) = (number as u8, layers.clone());
                disks.push(secondary::Opened { place, disk, size, history, listener });
                Ok(Self { image: layers, ..alone })
            }
        }
    }
}

/// Where a disk's primary comes in: the next ports, or any if that of the secondary was any.
fn beside(at: SocketAddr, number: usize) -> Result<SocketAddr, Failure> {
    if at.port() == 0 {
        return Ok(at);
    }
    let port = usize::from(at.port()) + 1 + number;
    let port = u16::try_from(port).map_err(|_| {
        format!("--listen {at} has no port behind it for disk {number}; choose one below {}", 65535 - number)
    })?;
    Ok(SocketAddr::new(at.ip(), port))
}

/// What waits for a disk has to find room on it anyway: without `--spill`, beside the image.
fn beside_image(disk: &config::Disk) -> Option<File> {
    let image = disk.path.canonicalize().ok()?;
    // A block device is beside nothing.
    let directory = image.parent().filter(|_| image.is_file())?;
    let spill = spill::open(directory);
    spill.inspect_err(|error| tracing::warn!("what waits for {disk} stays in memory: {error}")).ok()
}

/// Where a disk's history is.
fn record(disk: &config::Disk) -> PathBuf {
    disk.record.clone().unwrap_or_else(|| {
        // Whatever link leads to the image, it has one record.
        let image = disk.path.canonicalize().unwrap_or_else(|_| disk.path.clone());
        let mut beside = OsString::from(image);
        beside.push(".colo");
        beside.into()
    })
}

pub(super) fn open(disk: &config::Disk) -> Result<Arc<dyn Image>, block::OpenError> {
    block::open(&block::Options {
        path: disk.path.clone(),
        format: disk.format.map(|format| match format {
            config::Format::Raw => Format::Raw,
            config::Format::Qcow2 => Format::Qcow2,
        }),
        read_only: disk.readonly,
        direct: disk.cache == Cache::None,
    })
}
