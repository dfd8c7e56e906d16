//! A time in milliseconds.

use serde::Deserialize;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use thiserror::Error;

/// A time that is none, or none that makes sense.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no time; write milliseconds, from 1 to {most} (an hour)", most = Millis::MOST)]
pub struct MillisError(String);

/// From 1 ms to 1 h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "u64")]
pub struct Millis(u32);

impl Millis {
    /// An hour.
    pub const MOST: u32 = 3_600_000;

    /// A time that is known to be one.
    pub(super) const fn of(ms: u32) -> Self {
        assert!(ms >= 1 && ms <= Self::MOST);
        Self(ms)
    }

    /// As others count it.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0 as u64)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u64> for Millis {
    type Error = MillisError;
    fn try_from(number: u64) -> Result<Self, MillisError> {
        match u32::try_from(number) {
            Ok(ms @ 1..=Self::MOST) => Ok(Self(ms)),
            _ => Err(MillisError(number.to_string())),
        }
    }
}

impl FromStr for Millis {
    type Err = MillisError;
    fn from_str(text: &str) -> Result<Self, MillisError> {
        let wrong = || MillisError(text.to_owned());
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u64>().ok().filter(|_| digits).ok_or_else(wrong)?.try_into().map_err(|_| wrong())
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_from_a_millisecond_to_an_hour() {
        assert_eq!("50".parse::<Millis>().unwrap().duration(), Duration::from_millis(50));
        assert_eq!("3600000".parse::<Millis>().unwrap().to_string(), "3600000 ms");
        for text in ["", "0", "3600001", "-1", "+1", "1.5", "1s", "99999999999999999999"] {
            let error = text.parse::<Millis>().unwrap_err().to_string();
            assert!(error.contains("write milliseconds, from 1 to 3600000"), "{text}: {error}");
        }
    }
}
