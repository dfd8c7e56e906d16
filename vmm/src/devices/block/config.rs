//! What a driver reads of a disk (virtio 1.3 §5.2.4), and the features that it is offered.

use crate::block::Image;
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};

/// The size of a sector, whatever the block size is.
pub(super) const SECTOR: u64 = 512;
/// The size of each queue.
pub(super) const QUEUE_SIZE: u16 = 256;
/// Segments of data in a request: a queue less the header and the status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// How many sectors one segment discards or zeroes at most: 1 GiB, which takes a bounded time.
pub(super) const MAX_RANGE: u32 = 1 << 21;
/// How many segments one such request has at most.
pub(super) const MAX_RANGES: u32 = 16;
/// What the host's page cache and most disks work in.
const PHYSICAL: u32 = 4096;

pub(super) const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;

/// The features that fit an image.
pub(super) fn features(image: &dyn Image, queues: u16) -> u64 {
    let mut bits =
        vec![VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_FLUSH];
    if image.read_only() {
        bits.push(VIRTIO_BLK_F_RO);
    } else {
        bits.extend([VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]);
    }
    if queues > 1 {
        bits.push(VIRTIO_BLK_F_MQ);
    }
    bits.into_iter().fold(0, |features, bit| features | 1 << bit)
}

/// The smallest request, in bytes.
pub(super) fn block_size(image: &dyn Image) -> u32 {
    image.alignment().max(SECTOR as u32)
}

/// The configuration space.
pub(super) fn layout(image: &dyn Image, queues: u16, write_through: bool) -> [u8; 60] {
    let mut out = [0; 60];
    let mut put = |at: usize, value: &[u8]| out[at..at + value.len()].copy_from_slice(value);
    let block = block_size(image);
    put(0, &(image.size() / SECTOR).to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &block.to_le_bytes());
    // How many blocks are a physical one, as a power of two.
    put(24, &[(PHYSICAL / block).max(1).trailing_zeros() as u8]);
    put(26, &1_u16.to_le_bytes());
    put(32, &[u8::from(!write_through)]); // There is a cache, which FLUSH writes back.
    put(34, &queues.to_le_bytes());
    if !image.read_only() {
        let alignment = u64::from(PHYSICAL.max(block)) / SECTOR;
        for (at, value) in
            [(36, MAX_RANGE), (40, MAX_RANGES), (44, alignment as u32), (48, MAX_RANGE), (52, MAX_RANGES)]
        {
            put(at, &value.to_le_bytes());
        }
        put(56, &[1]); // Zeroing may give space back.
    }
    out
}
