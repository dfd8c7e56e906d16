//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The source address of a frame, if it has one.
    pub fn source(frame: &[u8]) -> Option<Self> {
        frame.get(6..)?.first_chunk().copied().map(Self)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if at == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail = || format!("'{text}' is no MAC address; write it like 52:54:00:12:34:56");
        let mut out = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut out {
            let digits = |part: &&str| part.len() <= 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
            let digits = parts.next().filter(digits).ok_or_else(fail)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| fail())?;
        }
        if parts.next().is_some() { Err(fail()) } else { Ok(Self(out)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for text in ["52:54:00:0a:bc:01", "52-54-0-A-bC-1"] {
            assert_eq!(text.parse::<Mac>().unwrap().to_string(), "52:54:00:0a:bc:01");
        }
        for text in
            ["", "52:54:00:0a:bc", "52:54:00:0a:bc:01:02", "52:54:00:0a:bc:zz", "+1:2:3:4:5:6", "525400:1"]
        {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }
}
