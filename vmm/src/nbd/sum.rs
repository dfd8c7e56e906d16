//! What the bytes of a region come to: two hosts that have the same sum of it have the same bytes.
//!
//! ```text
//!   offset                                          offset + len
//!     │ ◄─ to the next multiple of 64 KiB ─► │ 64 KiB │ … │ rest │      one sum each: the first 128 bits of BLAKE3
//!                                                                     colo:sum-0 … colo:sum-3: 32 of them each
//! ```
//!
//! No two regions have the same sum by chance; who wants two that have it tries some 2⁶⁴.

use std::iter;

/// The places at whose multiples a region ends.
pub const SUMMED: u64 = 64 << 10;

/// 128 bits for a region's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum([u8; 16]);

impl Sum {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let hash = blake3::hash(bytes);
        Self(hash.as_bytes().first_chunk().copied().unwrap_or_default())
    }

    /// As block status has it: what each of the four contexts says.
    pub fn quarters(self) -> [u32; 4] {
        let all = u128::from_be_bytes(self.0);
        [96, 64, 32, 0].map(|shift| (all >> shift) as u32)
    }

    /// From what each of the four contexts says.
    pub fn from_quarters(quarters: [u32; 4]) -> Self {
        Self(quarters.iter().fold(0_u128, |all, quarter| all << 32 | u128::from(*quarter)).to_be_bytes())
    }
}

/// The regions of a range, as they are summed: where each begins, and how long it is.
pub fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    let (mut at, end) = (offset, offset.saturating_add(len));
    iter::from_fn(move || {
        let begin = at;
        at = (begin / SUMMED + 1).saturating_mul(SUMMED).min(end);
        (begin < end).then(|| (begin, at - begin))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_the_first_half_of_a_blake3() {
        // The specification's test vectors: no bytes; and 1024, each its place modulo 251.
        let none = [0xaf13_49b9, 0xf5f9_a1a6, 0xa040_4dea, 0x36dc_c949];
        assert_eq!(Sum::of(b"").quarters(), none);
        assert_eq!(Sum::from_quarters(none), Sum::of(b""));
        let bytes: Vec<u8> = (0..1024).map(|at| (at % 251) as u8).collect();
        assert_eq!(Sum::of(&bytes).quarters(), [0x4221_4739, 0xf095_a406, 0xf3fc_83de, 0xb889_744a]);
    }

    #[test]
    fn a_range_is_summed_in_regions_that_end_where_regions_end() {
        let all = |offset, len| pieces(offset, len).collect::<Vec<_>>();
        assert_eq!(all(0, 0), []);
        assert_eq!(all(512, 512), [(512, 512)]);
        assert_eq!(all(65_536, 65_537), [(65_536, 65_536), (131_072, 1)]);
        assert_eq!(all(65_535, 65_538), [(65_535, 1), (65_536, 65_536), (131_072, 1)]);
        assert_eq!(all(u64::MAX - 1, 5), [(u64::MAX - 1, 1)]);
    }
}
