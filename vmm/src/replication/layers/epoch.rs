//! Epochs as they are on the wire.

/// An epoch, modulo 2³¹: what fits beside "none" in 32 bits. Its neighbours within 2³⁰ can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(u32);

const BITS: u32 = 31;
const MASK: u32 = (1 << BITS) - 1;

impl Epoch {
    /// The epoch that is ended by a checkpoint of that number.
    pub fn new(number: u64) -> Self {
        Self(number as u32 & MASK)
    }

    /// From the wire: `None` is a write that belongs to no epoch. The upper bit says nothing.
    pub fn from_tag(tag: u32) -> Option<Self> {
        (tag != 0).then_some(Self(tag & MASK))
    }

    /// For the wire: never 0, whatever the number.
    pub fn tag(self) -> u32 {
        self.0 | !MASK
    }

    /// The number that it was made of, which is not after `newest` and as near to it as can be.
    pub fn number(self, newest: u64) -> u64 {
        newest.saturating_sub(((newest as u32).wrapping_sub(self.0) & MASK).into())
    }

    /// Whether it comes after another.
    pub fn after(self, other: Self) -> bool {
        let ahead = self.0.wrapping_sub(other.0) & MASK;
        ahead != 0 && ahead < 1 << (BITS - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_have_an_order_also_where_their_numbers_begin_again() {
        for number in [0, 1, 5, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, u64::MAX - 1] {
            let (this, next) = (Epoch::new(number), Epoch::new(number + 1));
            assert!(next.after(this) && !this.after(next) && !this.after(this), "{number}");
            assert_ne!(this.tag(), 0);
            assert_eq!(Epoch::from_tag(this.tag()), Some(this));
            for newest in [number, number.saturating_add(1), number.saturating_add(1000)] {
                assert_eq!(this.number(newest), number, "{newest}");
            }
        }
        assert_eq!(Epoch::from_tag(0), None);
        assert_eq!(Epoch::from_tag(7), Some(Epoch::new(7)));
    }
}
