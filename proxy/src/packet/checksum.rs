//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// A checksum in the making.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checksum(u64);

impl Checksum {
    /// Adds bytes; every piece but the last must have an even length.
    #[must_use]
    pub fn sum(mut self, bytes: &[u8]) -> Self {
        let mut words = bytes.chunks_exact(2);
        for word in &mut words {
            self.0 += u64::from(u16::from_be_bytes([word[0], word[1]]));
        }
        if let [last] = words.remainder() {
            self.0 += u64::from(*last) << 8;
        }
        self
    }

    /// Folds the sum and complements it.
    pub fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }
}

/// The checksum of one stretch of bytes.
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    Checksum::default().sum(bytes).finish()
}

/// The checksum after one 16-bit word of what it covers changed (RFC 1624 equation 3).
pub(super) fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let mut sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(internet_checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    proptest! {
        #[test]
        fn an_update_is_as_good_as_a_new_sum(mut data in prop::collection::vec(any::<u8>(), 4..64), new: u16) {
            data.truncate(data.len() & !1);
            let before = internet_checksum(&data);
            let old = u16::from_be_bytes([data[2], data[3]]);
            data[2..4].copy_from_slice(&new.to_be_bytes());
            let (full, quick) = (internet_checksum(&data), update(before, old, new));
            // Of the two forms of zero a receiver takes either.
            prop_assert!(full == quick || (full ^ quick) == 0xffff && (full == 0 || quick == 0));
        }
    }
}
