//! A disk: `path=disk.qcow2,readonly,serial=A1`.

use super::options::{Grammar, OptionError};
use super::value::{ValueError, from_text, words};
use serde::Deserialize;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use thiserror::Error;

pub(super) const GRAMMAR: Grammar = Grammar {
    of: "--disk",
    form: "--disk path=FILE[,format=raw|qcow2][,readonly][,serial=TEXT][,cache=writeback|writethrough|none][,record=FILE]",
    keys: &[
        ("path", None),
        ("format", None),
        ("readonly", Some("true")),
        ("serial", None),
        ("cache", None),
        ("record", None),
    ],
};

/// A disk that makes no sense.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DiskError {
    /// Its parts.
    #[error(transparent)]
    Options(#[from] OptionError),
    /// A value of one.
    #[error("{key}: {error}")]
    Value {
        /// Which part.
        key: &'static str,
        /// What is wrong with it.
        error: ValueError,
    },
    /// Its serial number.
    #[error(transparent)]
    Serial(#[from] SerialError),
}

words! {
    /// How an image keeps its blocks.
    Format {
        /// As they are.
        Raw = "raw",
        /// QEMU's copy-on-write format, version 2 and 3.
        Qcow2 = "qcow2",
    }
}

words! {
    /// When a write is done.
    Cache {
        /// The guest flushes; the host's page cache is used.
        Writeback = "writeback",
        /// Every write is on the medium when the guest hears of it.
        Writethrough = "writethrough",
        /// The guest flushes; the host's page cache is passed by (`O_DIRECT`).
        None = "none",
    }
}

/// A text that is no serial number.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no serial number; write up to 20 printable ASCII characters")]
pub struct SerialError(String);

/// What a guest sees as the disk's serial number: the 20 bytes of virtio-blk's `GET_ID`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Serial(String);

impl Serial {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Serial {
    type Err = SerialError;
    fn from_str(text: &str) -> Result<Self, SerialError> {
        let fits = (1..=20).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        fits.then(|| Self(text.to_owned())).ok_or_else(|| SerialError(text.to_owned()))
    }
}

from_text!(Serial);

/// A disk to be given to a guest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Disk {
    /// The image.
    pub path: PathBuf,
    /// Its format. Unless it is said, the image's name and its first bytes have to agree: a guest can write
    /// what it likes into a raw image, but not change its name.
    pub format: Option<Format>,
    /// Whether the guest can write it.
    #[serde(default)]
    pub readonly: bool,
    /// Its serial number.
    pub serial: Option<Serial>,
    /// When a write is done.
    #[serde(default = "Disk::default_cache")]
    pub cache: Cache,
    /// Where it is kept what the other host of a pair may not have; else beside the image, as `PATH.colo`.
    pub record: Option<PathBuf>,
}

impl Disk {
    fn default_cache() -> Cache {
        Cache::Writeback
    }
}

impl FromStr for Disk {
    type Err = DiskError;
    fn from_str(text: &str) -> Result<Self, DiskError> {
        let mut disk = Self {
            path: PathBuf::new(),
            format: None,
            readonly: false,
            serial: None,
            cache: Self::default_cache(),
            record: None,
        };
        for (key, value) in GRAMMAR.parse(text)? {
            let wrong = |error| DiskError::Value { key, error };
            match key {
                "path" => disk.path = value.into(),
                "format" => disk.format = Some(value.parse().map_err(wrong)?),
                "serial" => disk.serial = Some(value.parse()?),
                "record" => disk.record = Some(value.into()),
                "cache" => disk.cache = value.parse().map_err(wrong)?,
                _ => disk.readonly = switch(&value).map_err(wrong)?,
            }
        }
        if disk.path.as_os_str().is_empty() {
            return Err(GRAMMAR.missing("path").into());
        }
        Ok(disk)
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.readonly { f.write_str(" (read-only)") } else { Ok(()) }
    }
}

/// A switch with a value.
fn switch(text: &str) -> Result<bool, ValueError> {
    match text {
        "on" | "true" | "yes" => Ok(true),
        "off" | "false" | "no" => Ok(false),
        _ => Err(ValueError::word(text, &["on", "off"])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_a_path_and_what_is_said_of_it() {
        let disk: Disk = "path=/d/a.qcow2".parse().unwrap();
        assert_eq!((disk.format, disk.readonly, disk.cache), (None, false, Cache::Writeback));
        let disk: Disk = "path=a,format=raw,readonly,serial=A 1,cache=none".parse().unwrap();
        assert_eq!(disk.path, PathBuf::from("a"));
        assert_eq!((disk.format, disk.readonly, disk.cache), (Some(Format::Raw), true, Cache::None));
        assert_eq!(disk.serial.unwrap().as_str(), "A 1");
        assert!(!"path=a,readonly=off".parse::<Disk>().unwrap().readonly);
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for (text, says) in [
            ("a.qcow2", "\"a.qcow2\" is no part of --disk; write --disk path=FILE[,format=raw|qcow2]"),
            ("readonly", "--disk needs path"),
            ("path=a,format=qcow", "format: \"qcow\" is none of raw, qcow2; did you mean qcow2?"),
            ("path=a,serial=123456789012345678901", "no serial number; write up to 20"),
            ("path=a,readonly=maybe", "readonly: \"maybe\" is none of on, off"),
            ("path=a,read-only", "did you mean readonly?"),
        ] {
            let error = text.parse::<Disk>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
