//! A driver's way to a device that works (virtio 1.3 §2.1, §3.1).
//!
//! ```text
//!   Reset ─ACKNOWLEDGE─► Acknowledged ─DRIVER─► Driver ─FEATURES_OK─► Negotiated ─DRIVER_OK─► Running
//!     ▲                                                                                          │
//!     └── 0 is written ◄──────────────────────────── Failed ◄─── FAILED, from anywhere ◄─────────┘
//! ```

pub(super) const ACKNOWLEDGE: u8 = 1;
pub(super) const DRIVER: u8 = 2;
pub(super) const DRIVER_OK: u8 = 4;
pub(super) const FEATURES_OK: u8 = 8;
pub(super) const NEEDS_RESET: u8 = 64;
pub(super) const FAILED: u8 = 128;

/// How far a driver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Reset,
    Acknowledged,
    Driver,
    /// Both sides agree on features.
    Negotiated,
    /// The device may work.
    Running,
    /// The driver has given up, with these bits set before.
    Failed(u8),
}

impl Stage {
    /// The bits of the status register.
    pub(super) fn bits(self) -> u8 {
        match self {
            Self::Reset => 0,
            Self::Acknowledged => ACKNOWLEDGE,
            Self::Driver => ACKNOWLEDGE | DRIVER,
            Self::Negotiated => ACKNOWLEDGE | DRIVER | FEATURES_OK,
            Self::Running => ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK,
            Self::Failed(before) => before | FAILED,
        }
    }

    /// What has such bits; none if nothing has.
    pub(super) fn from_bits(bits: u8) -> Option<Self> {
        let stages = [Self::Reset, Self::Acknowledged, Self::Driver, Self::Negotiated, Self::Running];
        let plain = stages.into_iter().find(|stage| stage.bits() == bits & !FAILED)?;
        Some(if bits & FAILED == 0 { plain } else { Self::Failed(plain.bits()) })
    }

    /// Where the driver gets by writing bits that are not 0. It can skip nothing, but may do several
    /// steps at once; bits that it leaves out are not taken back. `agreed`: its features will do.
    pub(super) fn write(self, bits: u8, agreed: bool) -> Self {
        if let Self::Failed(_) = self {
            return self;
        }
        if bits & FAILED != 0 {
            return Self::Failed(self.bits());
        }
        let mut stage = self;
        loop {
            let (bit, next) = match stage {
                Self::Reset => (ACKNOWLEDGE, Self::Acknowledged),
                Self::Acknowledged => (DRIVER, Self::Driver),
                Self::Driver if agreed => (FEATURES_OK, Self::Negotiated),
                Self::Negotiated => (DRIVER_OK, Self::Running),
                Self::Driver | Self::Running | Self::Failed(_) => return stage,
            };
            if bits & bit == 0 {
                return stage;
            }
            stage = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_step_is_skipped_and_none_taken_back() {
        use Stage::{Acknowledged, Driver, Failed, Negotiated, Reset, Running};
        assert_eq!(Reset.write(DRIVER_OK, true), Reset);
        assert_eq!(Reset.write(ACKNOWLEDGE | DRIVER_OK, true), Acknowledged);
        assert_eq!(Reset.write(ACKNOWLEDGE | DRIVER, true), Driver);
        assert_eq!(Driver.write(FEATURES_OK | DRIVER_OK, false), Driver);
        assert_eq!(Driver.write(FEATURES_OK, true), Negotiated);
        assert_eq!(Negotiated.write(ACKNOWLEDGE, true), Negotiated);
        assert_eq!(Negotiated.write(DRIVER_OK, true), Running);
        assert_eq!(Running.write(FAILED, true), Failed(15));
        assert_eq!(Failed(15).write(15, true), Failed(15));
    }

    #[test]
    fn bits_and_stages_are_one_to_one() {
        let stages: Vec<_> = (0..=u8::MAX).filter_map(|bits| Some((bits, Stage::from_bits(bits)?))).collect();
        assert_eq!(stages.len(), 10);
        assert!(stages.iter().all(|(bits, stage)| stage.bits() == *bits));
    }
}
