//! Values that are one word.

use super::suggest::hint;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A word that is none of those that can stand here.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ValueError {
    /// A size that is none.
    #[error("{0:?} is no size; write a number with M, G or nothing (MiB), such as 512M or 2G")]
    Size(String),
    /// A size that no guest can have.
    #[error("{written:?} of memory is {problem}; a guest has from {least} to {most}")]
    Memory {
        /// What was written.
        written: String,
        /// What is wrong with it.
        problem: &'static str,
        /// The least.
        least: Memory,
        /// The most.
        most: Memory,
    },
    /// A number of vCPUs that no guest can have.
    #[error("{0:?} is no number of vCPUs; write one from 1 to {max}", max = Cpus::MOST)]
    Cpus(String),
    /// A name that cannot be shown.
    #[error("{0:?} is no name; write up to 64 letters, digits, '-', '_' and '.'")]
    Name(String),
    /// One of a few words.
    #[error("{written:?} is none of {words}{hint}")]
    Word {
        /// What was written.
        written: String,
        /// What can be.
        words: String,
        /// What was probably meant.
        hint: String,
    },
}

impl ValueError {
    pub(super) fn word(written: &str, words: &[&str]) -> Self {
        let hint = hint(written, words.iter().copied());
        Self::Word { written: written.to_owned(), words: words.join(", "), hint }
    }
}

/// Makes an `enum` of words: its name, `FromStr`, `Display`, and from TOML text.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize)]
        #[serde(try_from = "String")]
        pub enum $name { $($(#[$word_doc])* $variant,)* }

        impl $name {
            /// What can be written, in the order of the variants.
            pub const WORDS: &'static [&'static str] = &[$($word),*];
        }

        impl std::str::FromStr for $name {
            type Err = $crate::config::ValueError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err($crate::config::ValueError::word(text, Self::WORDS)),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)* })
            }
        }

        $crate::config::value::from_text!($name);
    };
}

/// Lets serde read a type as its `FromStr` does.
macro_rules! from_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = <$name as std::str::FromStr>::Err;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }
    };
}

pub(super) use {from_text, words};

words! {
    /// What a guest's reset does.
    OnReset {
        /// It begins anew.
        Reboot = "reboot",
        /// The process ends, with an exit code of its own.
        Exit = "exit",
    }
}

words! {
    /// What happens to a thread that makes a system call which it has no business with.
    SeccompMode {
        /// The process ends.
        On = "on",
        /// The kernel writes it to the audit log.
        Log = "log",
        /// Nothing; there are no filters.
        Off = "off",
    }
}

/// How much RAM: whole MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Memory(u64);

impl Memory {
    /// What is taken when nothing is said.
    pub const DEFAULT: Self = Self(512 << 20);
    /// Less has no place for a kernel.
    pub const LEAST: Self = Self(2 << 20);
    /// KVM takes less than 8 TiB in one piece; what this machine has is found out when it starts.
    pub const MOST: Self = Self(4 << 40);

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Memory {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::Size(text.to_owned());
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
            "" | "m" | "mb" | "mib" => 20,
            "k" | "kb" | "kib" => 10,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(wrong()),
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let refused = |problem| ValueError::Memory {
            written: text.to_owned(),
            problem,
            least: Self::LEAST,
            most: Self::MOST,
        };
        let number: u64 = digits.parse().map_err(|_| refused("too much"))?;
        let bytes = number.checked_mul(1 << shift).ok_or_else(|| refused("too much"))?;
        match Self(bytes) {
            memory if memory < Self::LEAST => Err(refused("too little")),
            memory if memory > Self::MOST => Err(refused("too much")),
            memory if memory.0 % (1 << 20) != 0 => Err(refused("no whole number of MiB")),
            memory => Ok(memory),
        }
    }
}

/// As text, or as a number of MiB.
impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = Memory;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size in MiB, or such as \"512M\" or \"2G\"")
            }
            fn visit_i64<E: de::Error>(self, mib: i64) -> Result<Memory, E> {
                self.visit_str(&mib.to_string())
            }
            fn visit_u64<E: de::Error>(self, mib: u64) -> Result<Memory, E> {
                self.visit_str(&mib.to_string())
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Memory, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Written)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 >> 20 {
            mib if mib % (1 << 20) == 0 => write!(f, "{}T", mib >> 20),
            mib if mib % (1 << 10) == 0 => write!(f, "{}G", mib >> 10),
            mib => write!(f, "{mib}M"),
        }
    }
}

/// How many vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
#[serde(try_from = "u64")]
pub struct Cpus(u8);

impl Cpus {
    /// One.
    pub const ONE: Self = Self(1);
    /// The most that a guest can have.
    pub const MOST: u8 = 16;

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u64> for Cpus {
    type Error = ValueError;
    fn try_from(number: u64) -> Result<Self, ValueError> {
        match u8::try_from(number) {
            Ok(number @ 1..=Self::MOST) => Ok(Self(number)),
            _ => Err(ValueError::Cpus(number.to_string())),
        }
    }
}

impl FromStr for Cpus {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let number: u64 = text.parse().map_err(|_| ValueError::Cpus(text.to_owned()))?;
        number.try_into()
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a guest is called. It goes into file names, thread names and messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Name(String);

impl Name {
    /// What it is when nothing is said.
    pub fn unnamed() -> Self {
        Self("guest".to_owned())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if (1..=64).contains(&text.len()) && text.chars().all(fits) && !text.starts_with(['-', '.']) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError::Name(text.to_owned()))
        }
    }
}

from_text!(Name);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, mib) in [("512M", 512), ("512", 512), ("2G", 2048), ("2gib", 2048), ("1048576k", 1024)] {
            assert_eq!(text.parse::<Memory>().unwrap().bytes(), mib << 20, "{text}");
        }
        for text in ["", "M", "-1", "+1", "1.5G", "512 M", "1P", "0x10", "5M5", "٣M"] {
            assert!(matches!(text.parse::<Memory>(), Err(ValueError::Size(_))), "{text}");
        }
        for (text, problem) in [
            ("0", "too little"),
            ("1M", "too little"),
            ("1025k", "too little"),
            ("3073k", "whole"),
            ("5T", "too much"),
            ("99999999999999999999G", "too much"),
            ("18446744073709551615G", "too much"),
        ] {
            let error = text.parse::<Memory>().unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("from 2M to 4T"), "{text}: {error}");
        }
    }

    #[test]
    fn a_word_that_is_near_is_suggested() {
        let error = "rebot".parse::<OnReset>().unwrap_err().to_string();
        assert_eq!(error, "\"rebot\" is none of reboot, exit; did you mean reboot?");
        assert_eq!("log".parse(), Ok(SeccompMode::Log));
    }

    #[test]
    fn there_are_1_to_16_cpus() {
        assert_eq!("16".parse::<Cpus>().unwrap().get(), 16);
        for text in ["0", "17", "257", "-1", "two", ""] {
            assert!(text.parse::<Cpus>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_can_be_shown_and_be_parts_of_file_names() {
        for text in ["", ".", "..", "a/b", "-x", "a b", "é", &"x".repeat(65)] {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
        assert_eq!("web-1.example".parse::<Name>().unwrap().as_str(), "web-1.example");
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_read_again(mib in 2u64..=(4 << 20)) {
            let memory: Memory = format!("{mib}").parse().unwrap();
            prop_assert_eq!(memory.bytes(), mib << 20);
            prop_assert_eq!(memory.to_string().parse(), Ok(memory));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = (text.parse::<Memory>(), text.parse::<Cpus>(), text.parse::<Name>());
        }
    }
}
