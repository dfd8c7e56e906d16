//! A whole number in a range that is part of its type.

use serde::Deserialize;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A number from `MIN` to `MAX`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub struct Whole<const MIN: u64, const MAX: u64>(u64);

/// A text or a number that is not in the range.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{given} is not a whole number {range}")]
pub struct NotWhole {
    given: String,
    range: String,
}

impl<const MIN: u64, const MAX: u64> Whole<MIN, MAX> {
    /// A number that is known to fit when the program is compiled.
    pub const fn constant<const N: u64>() -> Self {
        const { assert!(MIN <= N && N <= MAX) };
        Self(N)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number, where the platform can address so many.
    pub fn size(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    fn error(given: impl fmt::Display) -> NotWhole {
        let range =
            if MAX == u64::MAX { format!("of {MIN} or more") } else { format!("from {MIN} to {MAX}") };
        NotWhole { given: given.to_string(), range }
    }
}

impl<const MIN: u64, const MAX: u64> TryFrom<u64> for Whole<MIN, MAX> {
    type Error = NotWhole;
    fn try_from(number: u64) -> Result<Self, NotWhole> {
        if (MIN..=MAX).contains(&number) { Ok(Self(number)) } else { Err(Self::error(number)) }
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Whole<MIN, MAX> {
    type Err = NotWhole;
    fn from_str(text: &str) -> Result<Self, NotWhole> {
        text.parse().ok().and_then(|number: u64| number.try_into().ok()).ok_or_else(|| Self::error(text))
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for Whole<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_the_range_and_the_range_is_said() {
        let parse =
            |text: &str| text.parse::<Whole<1, 9>>().map(Whole::get).map_err(|error| error.to_string());
        assert_eq!((parse("1"), parse("9")), (Ok(1), Ok(9)));
        for text in ["0", "10", "-1", "", "x", "1.0", "18446744073709551616"] {
            assert_eq!(parse(text).unwrap_err(), format!("{text} is not a whole number from 1 to 9"));
        }
        let open = "0".parse::<Whole<1, { u64::MAX }>>().unwrap_err().to_string();
        assert_eq!(open, "0 is not a whole number of 1 or more");
        assert_eq!("18446744073709551615".parse::<Whole<0, { u64::MAX }>>().unwrap().get(), u64::MAX);
    }
}
