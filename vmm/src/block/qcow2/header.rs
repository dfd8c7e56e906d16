//! What a qcow2 header has to be before anything else of the file is believed
//! (QEMU's `docs/interop/qcow2.txt`).

use thiserror::Error;

/// How much of a file the fixed part of a header takes at most.
pub(crate) const LEN: usize = 112;
/// What a file begins with.
pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// The largest L1 table, as in QEMU.
const MAX_L1: u64 = 32 << 20;
/// The largest refcount table, as in QEMU.
const MAX_REFCOUNT_TABLE: u64 = 8 << 20;

/// An image that is not taken.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// Not this format.
    #[error("it does not begin like a qcow2 image")]
    Magic,
    /// A younger or older format.
    #[error("it is qcow2 version {0}; versions 2 and 3 are known")]
    Version(u32),
    /// A field with an impossible value.
    #[error("its header is damaged: {0}")]
    Damaged(&'static str),
    /// It was not closed.
    #[error(
        "it was not closed properly and its reference counts are stale (lazy_refcounts); \
         run `qemu-img check -r all` on it"
    )]
    Dirty,
    /// Somebody found it damaged.
    #[error("it is marked corrupt; run `qemu-img check -r all` on a copy of it, and look at what is lost")]
    Corrupt,
    /// Its data is somewhere else.
    #[error(
        "its data is in another file (data_file), which is not supported; convert it with `qemu-img convert`"
    )]
    DataFile,
    /// Not zlib.
    #[error(
        "its clusters may be compressed with zstd; only zlib is supported: \
         `qemu-img convert -O qcow2 -o compression_type=zlib`"
    )]
    Compression,
    /// Subclusters.
    #[error(
        "it has extended L2 entries, which are not supported: `qemu-img convert -O qcow2 -o extended_l2=off`"
    )]
    ExtendedL2,
    /// Something younger than this program.
    #[error("it needs features that are not known here (bits {0:#x})")]
    Features(u64),
    /// A password would be needed.
    #[error("it is encrypted, which is not supported")]
    Encrypted,
    /// Snapshots inside.
    #[error(
        "it has {0} internal snapshots, which a writer would have to keep; open it read-only, or delete them \
         with `qemu-img snapshot -d`"
    )]
    Snapshots(u32),
}

/// What is needed of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    pub(crate) size: u64,
    /// Where its name of a backing image is, and how long.
    pub(crate) backing: Option<(u64, u32)>,
    /// Where the L1 table is.
    pub(crate) l1: std::ops::Range<u64>,
    pub(crate) refcount_table: u64,
    pub(crate) refcount_clusters: u32,
    /// Where header extensions begin.
    pub(crate) len: u32,
}

impl Header {
    /// Reads and checks the beginning of a file; what is missing of it is zeros.
    pub(crate) fn parse(bytes: &[u8; LEN], write: bool) -> Result<Self, Refusal> {
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
        let long = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        if bytes[..4] != MAGIC {
            return Err(Refusal::Magic);
        }
        let version = word(4);
        if !(2..=3).contains(&version) {
            return Err(Refusal::Version(version));
        }
        let incompatible = if version == 3 { long(72) } else { 0 };
        for (bit, refusal) in [
            (1, Refusal::Corrupt),
            (0, Refusal::Dirty),
            (2, Refusal::DataFile),
            (3, Refusal::Compression),
            (4, Refusal::ExtendedL2),
        ] {
            if incompatible & (1 << bit) != 0 {
                return Err(refusal);
            }
        }
        if incompatible != 0 {
            return Err(Refusal::Features(incompatible));
        }
        let damaged = |what, wrong| if wrong { Err(Refusal::Damaged(what)) } else { Ok(()) };
        let cluster_bits = word(20);
        damaged("its clusters are not 512 bytes to 2 MiB large", !(9..=21).contains(&cluster_bits))?;
        if word(32) != 0 {
            return Err(Refusal::Encrypted);
        }
        let (size, l1_entries, l1_offset) = (long(24), u64::from(word(36)), long(40));
        let (refcount_table, refcount_clusters) = (long(48), word(56));
        damaged("its size is not a whole number of sectors", size % 512 != 0 || size > i64::MAX as u64)?;
        // An L2 table has a cluster of 8-byte entries, each of which maps a cluster.
        let mapped = 1_u64 << (2 * cluster_bits - 3);
        damaged("its L1 table is too large", l1_entries * 8 > MAX_L1)?;
        damaged("its L1 table does not cover its size", size.div_ceil(mapped) > l1_entries)?;
        let mask = (1 << cluster_bits) - 1;
        let wild = |offset: u64| offset & mask != 0 || offset > 1 << 55;
        damaged("its L1 table is at no cluster", wild(l1_offset) || l1_entries > 0 && l1_offset == 0)?;
        damaged("its refcount table is at no cluster", wild(refcount_table) || refcount_table == 0)?;
        let len = u64::from(refcount_clusters) << cluster_bits;
        damaged("its refcount table is empty or too large", len == 0 || len > MAX_REFCOUNT_TABLE)?;
        let (order, len) = if version == 3 { (word(96), word(100)) } else { (4, 72) };
        damaged("its refcounts have more than 64 bits", order > 6)?;
        damaged(
            "its header has no possible length",
            version == 3 && !(104..=1 << 9).contains(&len) || len % 8 != 0,
        )?;
        let l1 = l1_offset..l1_offset + l1_entries * 8;
        let snapshots = word(60);
        if snapshots > 0 && write {
            return Err(Refusal::Snapshots(snapshots));
        }
        let (at, len_of_name) = (long(8), word(16));
        let backing = (at != 0).then_some((at, len_of_name));
        let end = at.checked_add(u64::from(len_of_name));
        damaged(
            "the name of its backing image is not in its first cluster",
            backing.is_some() && (len_of_name > 1023 || end.is_none_or(|end| end > 1 << cluster_bits)),
        )?;
        Ok(Self { version, cluster_bits, size, backing, l1, refcount_table, refcount_clusters, len })
    }

    pub(crate) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"QFI\xfb\0\0\0\x03");
        put(20, &16_u32.to_be_bytes());
        put(24, &(1_u64 << 30).to_be_bytes());
        put(36, &2_u32.to_be_bytes());
        put(40, &(3_u64 << 16).to_be_bytes());
        put(48, &(1_u64 << 16).to_be_bytes());
        put(56, &1_u32.to_be_bytes());
        put(96, &4_u32.to_be_bytes());
        put(100, &104_u32.to_be_bytes());
        bytes
    }

    #[test]
    fn a_good_header_is_taken() {
        let header = Header::parse(&good(), true).unwrap();
        assert_eq!((header.version, header.cluster(), header.size), (3, 65536, 1 << 30));
        assert_eq!(header.backing, None);
    }

    #[test]
    fn what_cannot_be_served_is_refused_by_name() {
        let with = |at: usize, value: u8| {
            let mut bytes = good();
            bytes[at] = value;
            Header::parse(&bytes, true)
        };
        assert_eq!(with(0, b'q'), Err(Refusal::Magic));
        assert_eq!(with(7, 4), Err(Refusal::Version(4)));
        assert_eq!(with(79, 1), Err(Refusal::Dirty));
        assert_eq!(with(79, 3), Err(Refusal::Corrupt));
        assert_eq!(with(79, 4), Err(Refusal::DataFile));
        assert_eq!(with(79, 8), Err(Refusal::Compression));
        assert_eq!(with(79, 16), Err(Refusal::ExtendedL2));
        assert_eq!(with(79, 32), Err(Refusal::Features(32)));
        assert_eq!(with(35, 1), Err(Refusal::Encrypted));
        assert_eq!(with(63, 2), Err(Refusal::Snapshots(2)));
        for (at, value) in [
            (23, 8),
            (23, 22),
            (31, 1),
            (24, 0x80),
            (36, 1),
            (39, 1),
            (47, 1),
            (55, 1),
            (53, 0),
            (99, 7),
            (103, 1),
        ] {
            let found = with(at, value);
            assert!(matches!(found, Err(Refusal::Damaged(_))), "byte {at} = {value}: {found:?}");
        }
    }

    #[test]
    fn snapshots_may_be_read_past() {
        let mut bytes = good();
        bytes[63] = 1;
        assert!(Header::parse(&bytes, false).is_ok());
    }
}
