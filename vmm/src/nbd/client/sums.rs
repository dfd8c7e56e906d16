//! What a server says that regions come to, checked against what it was asked.

use super::Facts;
use crate::nbd::sum::{Sum, pieces};
use crate::nbd::wire::Extent;
use thiserror::Error;

/// No sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SumsError {
    /// Nobody can have asked for them.
    #[error("the NBD server makes no sums of regions; it is not of our kind, or older")]
    None,
    /// One of the contexts is not there.
    #[error("the NBD server's sums lack a quarter; it is broken")]
    Quarter,
    /// Fewer or more than was asked for.
    #[error("the NBD server has {came} sums for {asked} regions; it is broken")]
    Count {
        /// Those that came.
        came: usize,
        /// Those that were to come.
        asked: usize,
    },
    /// Of something else.
    #[error("the NBD server's sum at {offset:#x} is of {came} bytes and not of {asked}; it is broken")]
    Length {
        /// Where.
        offset: u64,
        /// Of how many.
        came: u32,
        /// Of how many it was to be.
        asked: u64,
    },
}

impl Facts {
    /// The sums of the regions of a range, from the block status of that range.
    pub fn read_sums(
        &self,
        status: &[(u32, Vec<Extent>)],
        offset: u64,
        len: u64,
    ) -> Result<Vec<Sum>, SumsError> {
        let ids = self.sums.ok_or(SumsError::None)?;
        let asked = pieces(offset, len).count();
        let mut all = vec![[0; 4]; asked];
        for (quarter, id) in ids.into_iter().enumerate() {
            let (_, extents) = status.iter().find(|(of, _)| *of == id).ok_or(SumsError::Quarter)?;
            if extents.len() != asked {
                return Err(SumsError::Count { came: extents.len(), asked });
            }
            for ((sum, extent), (offset, asked)) in all.iter_mut().zip(extents).zip(pieces(offset, len)) {
                if u64::from(extent.len) != asked {
                    return Err(SumsError::Length { offset, came: extent.len, asked });
                }
                sum[quarter] = extent.status;
            }
        }
        Ok(all.into_iter().map(Sum::from_quarters).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_that_are_not_those_of_the_regions_are_not_taken() {
        let facts = Facts { sums: Some([3, 4, 5, 6]), ..Facts::default() };
        let extent = |len, status| Extent { len, status };
        // 64 KiB, and a last region of 512 bytes.
        let whole: Vec<_> = (3..7).map(|id| (id, vec![extent(65_536, id), extent(512, 10 * id)])).collect();
        let read = |status: &[(u32, Vec<Extent>)]| facts.read_sums(status, 0, 66_048);
        let sums = [[3, 4, 5, 6], [30, 40, 50, 60]].map(Sum::from_quarters);
        assert_eq!(read(&whole), Ok(sums.to_vec()));
        assert_eq!(Facts::default().read_sums(&whole, 0, 66_048), Err(SumsError::None));
        let mut lacking = whole.clone();
        lacking.remove(2);
        assert_eq!(read(&lacking), Err(SumsError::Quarter));
        let with = |extents: Vec<Extent>| {
            let mut status = whole.clone();
            status[3].1 = extents;
            read(&status)
        };
        assert_eq!(with(vec![extent(65_536, 1)]), Err(SumsError::Count { came: 1, asked: 2 }));
        assert_eq!(with(vec![extent(512, 1); 3]), Err(SumsError::Count { came: 3, asked: 2 }));
        let odd = SumsError::Length { offset: 65_536, came: 513, asked: 512 };
        assert_eq!(with(vec![extent(65_536, 1), extent(513, 1)]), Err(odd));
        let long = SumsError::Length { offset: 0, came: u32::MAX, asked: 65_536 };
        assert_eq!(with(vec![extent(u32::MAX, 1), extent(512, 1)]), Err(long));
    }
}
