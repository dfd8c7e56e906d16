//! Reads the tables of an image the slow way, and says what is wrong with them.

use std::collections::BTreeMap;

fn word(bytes: &[u8], at: u64) -> u64 {
    let at = at as usize;
    let get = |n| bytes.get(at + n).copied().unwrap_or(0);
    (0..8).fold(0, |sum, n| sum << 8 | u64::from(get(n)))
}

fn half(bytes: &[u8], at: u64) -> u64 {
    word(bytes, at) >> 32
}

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// What would lose data: clusters in use that are counted as free or less often than they are used, or
/// that are used twice. Clusters counted and not used are leaks, which are fine.
pub(super) fn errors(bytes: &[u8]) -> Vec<String> {
    let bits = half(bytes, 20);
    let cluster = 1_u64 << bits;
    let mut used = BTreeMap::<u64, u64>::new();
    let mut errors = Vec::new();
    let mut refer = |offset: u64, what: &str| {
        if !offset.is_multiple_of(cluster) {
            errors.push(format!("{what} at {offset:#x} is at no cluster"));
        }
        *used.entry(offset / cluster).or_default() += 1;
    };
    refer(0, "header");
    let (l1, entries) = (word(bytes, 40), half(bytes, 36));
    for n in 0..(entries * 8).div_ceil(cluster) {
        refer(l1 + n * cluster, "L1 table");
    }
    let (table, clusters) = (word(bytes, 48), half(bytes, 56));
    for n in 0..clusters {
        refer(table + n * cluster, "refcount table");
    }
    let blocks: Vec<u64> = (0..clusters * cluster / 8).map(|n| word(bytes, table + n * 8) & !511).collect();
    for &block in blocks.iter().filter(|&&block| block != 0) {
        refer(block, "refcount block");
    }
    for n in 0..entries {
        let l2 = word(bytes, l1 + n * 8) & OFFSET;
        if l2 == 0 {
            continue;
        }
        refer(l2, "L2 table");
        for m in 0..cluster / 8 {
            let entry = word(bytes, l2 + m * 8);
            assert_eq!(entry >> 62 & 1, 0, "nothing here makes compressed clusters");
            if entry & OFFSET != 0 {
                refer(entry & OFFSET, "data");
            }
        }
    }
    for (&index, &count) in &used {
        // 16-bit counts, `cluster / 2` in a block.
        let block = blocks.get((index / (cluster / 2)) as usize).copied().unwrap_or(0);
        let counted = if block == 0 { 0 } else { half(bytes, block + index % (cluster / 2) * 2) >> 16 };
        if counted < count || count > 1 {
            errors.push(format!("cluster {index} is used {count} times and counted {counted} times"));
        }
    }
    errors
}
