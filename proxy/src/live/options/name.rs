//! Names that people give: of a guest, and of its interface.

use crate::live::spec::{IfName, IfNameError};
use serde::Deserialize;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The longest name of a guest: its control socket's path has to fit 107 bytes.
const LONGEST: usize = 64;

/// The name of a guest: it is shown, and it is part of a file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct GuestName(String);

/// A name that a guest cannot have.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{0:?} cannot be a guest's name: 1 to 64 letters, digits, '.', '_', '-' or '+', the first no '.' or '-'"
)]
pub struct GuestNameError(String);

impl GuestName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GuestName {
    type Err = GuestNameError;
    fn from_str(name: &str) -> Result<Self, GuestNameError> {
        let fits = (1..=LONGEST).contains(&name.len()) && !name.starts_with(['.', '-']);
        if fits && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte)) {
            Ok(Self(name.to_owned()))
        } else {
            Err(GuestNameError(name.to_owned()))
        }
    }
}

impl TryFrom<String> for GuestName {
    type Error = GuestNameError;
    fn try_from(name: String) -> Result<Self, GuestNameError> {
        name.parse()
    }
}

impl fmt::Display for GuestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a guest's interface, where `DOMID.DEVID` is short for the name that Xen's toolstack
/// gives it, `vifDOMID.DEVID`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct VifName(IfName);

impl VifName {
    /// The interface.
    pub fn interface(&self) -> &IfName {
        &self.0
    }
}

impl From<IfName> for VifName {
    fn from(name: IfName) -> Self {
        Self(name)
    }
}

impl FromStr for VifName {
    type Err = IfNameError;
    fn from_str(text: &str) -> Result<Self, IfNameError> {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        match text.split_once('.') {
            Some((domid, devid)) if digits(domid) && digits(devid) => format!("vif{text}").parse(),
            _ => text.parse(),
        }
        .map(Self)
    }
}

impl TryFrom<String> for VifName {
    type Error = IfNameError;
    fn try_from(name: String) -> Result<Self, IfNameError> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_name_is_safe_in_a_path() {
        for name in ["web", "vif1.0", "a+b_c-9", &"x".repeat(64)] {
            assert_eq!(name.parse::<GuestName>().unwrap().as_str(), name);
        }
        for name in ["", ".", "..", ".hidden", "-x", "a/b", "a b", "a\n", "é", &"x".repeat(65)] {
            let error = name.parse::<GuestName>().unwrap_err().to_string();
            assert!(error.contains(&format!("{name:?}")) && error.contains("1 to 64"), "{error}");
        }
    }

    #[test]
    fn a_pair_of_numbers_is_short_for_the_canonical_name() {
        let vif = |text: &str| text.parse::<VifName>().map(|vif| vif.interface().to_string());
        for (text, name) in [
            ("1.0", "vif1.0"),
            ("32751.12", "vif32751.12"),
            ("tap0", "tap0"),
            ("eth0.5", "eth0.5"),
            ("1", "1"),
            ("vif1.0", "vif1.0"),
            ("1.0.0", "1.0.0"),
        ] {
            assert_eq!(vif(text).unwrap(), name);
        }
        // With the letters it is too long for an interface.
        assert!(vif("1234567890.123").is_err());
        for text in ["", "a/b", "sixteen-letters-"] {
            assert!(vif(text).unwrap_err().to_string().contains("1 to 15 characters"));
        }
    }
}
