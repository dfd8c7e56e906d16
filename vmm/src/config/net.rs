//! A network card: `tap=vif1.0,mac=02:00:00:00:00:01,queues=2`.

use super::options::{Grammar, OptionError};
use super::value::from_text;
use serde::Deserialize;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

pub(super) const GRAMMAR: Grammar = Grammar {
    of: "--net",
    form: "--net tap=NAME[,mac=02:00:00:00:00:01][,queues=N]",
    keys: &[("tap", None), ("mac", None), ("queues", None)],
};

/// A network card that makes no sense.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NetError {
    /// Its parts.
    #[error(transparent)]
    Options(#[from] OptionError),
    /// Its tap.
    #[error(
        "{0:?} is no name of a tap; write 1 to 15 characters without '/', ':', '%' and spaces, such as vif1.0"
    )]
    Tap(String),
    /// Its address.
    #[error(
        "{0:?} is no MAC address; write six bytes in hexadecimal with colons between them, such as 02:00:00:00:00:01"
    )]
    Mac(String),
    /// An address that no single card can have.
    #[error(
        "{0} is {1}; a card's first byte is even and one of its bytes is not 0, such as 02:00:00:00:00:01"
    )]
    NotUnicast(Mac, &'static str),
    /// Its queues.
    #[error("{0:?} is no number of queue pairs; write one from 1 to {max}", max = Net::MOST_QUEUES)]
    Queues(String),
}

/// The name of a tap: what the kernel takes as the name of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Tap(String);

impl Tap {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tap {
    type Err = NetError;
    fn from_str(text: &str) -> Result<Self, NetError> {
        // dev_valid_name, and no '%', which asks the kernel for a number.
        let fits = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '/' | ':' | '%');
        let valid = (1..=15).contains(&text.len()) && text.chars().all(fits) && !matches!(text, "." | "..");
        valid.then(|| Self(text.to_owned())).ok_or_else(|| NetError::Tap(text.to_owned()))
    }
}

from_text!(Tap);

impl fmt::Display for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A unicast Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// The address that a card has when nothing is said: the same each time for the same tap name, on
    /// every host, so that both nodes of a guest agree.
    pub fn of_tap(tap: &Tap) -> Self {
        // FNV-1a, written out, because it must never change.
        let hash = tap.0.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let [first, rest @ .., _, _] = (hash ^ (hash >> 32)).to_le_bytes();
        let mut bytes = [0; 6];
        bytes[1..].copy_from_slice(&rest);
        // Locally administered, and to one card (IEEE 802c).
        bytes[0] = (first & 0xfc) | 2;
        Self(bytes)
    }

    /// Its bytes, in the order of the wire.
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for Mac {
    type Err = NetError;
    fn from_str(text: &str) -> Result<Self, NetError> {
        let wrong = || NetError::Mac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| (1..=2).contains(&part.len())).ok_or_else(wrong)?;
            let hex = part.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = u8::from_str_radix(part, 16).ok().filter(|_| hex).ok_or_else(wrong)?;
        }
        let mac = Self(bytes);
        if parts.next().is_some() {
            return Err(wrong());
        }
        match bytes {
            [first, ..] if first & 1 != 0 => Err(NetError::NotUnicast(mac, "the address of a group")),
            [0, 0, 0, 0, 0, 0] => Err(NetError::NotUnicast(mac, "nobody's address")),
            _ => Ok(mac),
        }
    }
}

from_text!(Mac);

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(out, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(out, ":{byte:02x}"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// A network card to be given to a guest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Said")]
pub struct Net {
    /// The host's end.
    pub tap: Tap,
    /// The guest's address.
    pub mac: Mac,
    /// How many pairs of queues it has.
    pub queues: u8,
}

/// What a file says of one.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Said {
    tap: Tap,
    mac: Option<Mac>,
    queues: Option<u64>,
}

impl Net {
    /// The most pairs of queues: one for each vCPU.
    pub const MOST_QUEUES: u8 = super::Cpus::MOST;
}

impl TryFrom<Said> for Net {
    type Error = NetError;
    fn try_from(Said { tap, mac, queues }: Said) -> Result<Self, NetError> {
        let mac = mac.unwrap_or_else(|| Mac::of_tap(&tap));
        let queues = queues.unwrap_or(1);
        match u8::try_from(queues) {
            Ok(queues @ 1..=Self::MOST_QUEUES) => Ok(Self { tap, mac, queues }),
            _ => Err(NetError::Queues(queues.to_string())),
        }
    }
}

impl FromStr for Net {
    type Err = NetError;
    fn from_str(text: &str) -> Result<Self, NetError> {
        let (mut tap, mut mac, mut queues) = (None, None, None);
        for (key, value) in GRAMMAR.parse(text)? {
            match key {
                "tap" => tap = Some(value.parse()?),
                "mac" => mac = Some(value.parse()?),
                _ => queues = Some(value.parse().map_err(|_| NetError::Queues(value))?),
            }
        }
        Said { tap: tap.ok_or_else(|| GRAMMAR.missing("tap"))?, mac, queues }.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn a_card_has_a_tap_an_address_and_queues() {
        let net: Net = "tap=vif1.0".parse().unwrap();
        assert_eq!((net.tap.as_str(), net.queues), ("vif1.0", 1));
        assert_eq!(net.mac, Mac::of_tap(&net.tap));
        let net: Net = "tap=t,mac=52:54:0:AB:cd:ef,queues=4".parse().unwrap();
        assert_eq!((net.mac.to_string().as_str(), net.queues), ("52:54:00:ab:cd:ef", 4));
        assert_eq!("52-54-00-ab-cd-ef".parse(), Ok(net.mac));
    }

    #[test]
    fn the_address_that_a_name_gives_never_changes() {
        // Guests know their cards by it.
        let of = |name: &str| Mac::of_tap(&name.parse().unwrap()).to_string();
        assert_eq!(
            (of("vif1.0"), of("tap0")),
            ("b2:29:13:94:cd:e9".to_owned(), "fa:2c:cf:de:ef:fc".to_owned())
        );
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for (text, says) in [
            ("vif1.0", "is no part of --net; write --net tap=NAME"),
            ("mac=02:00:00:00:00:01", "--net needs tap"),
            ("tap=a/b", "\"a/b\" is no name of a tap"),
            ("tap=tap%d", "is no name of a tap"),
            ("tap=0123456789abcdef", "1 to 15 characters"),
            ("tap=t,mac=02:00:00:00:00", "is no MAC address"),
            ("tap=t,mac=02:00:00:00:00:01:02", "is no MAC address"),
            ("tap=t,mac=+2:00:00:00:00:01", "is no MAC address"),
            ("tap=t,mac=ff:ff:ff:ff:ff:ff", "ff:ff:ff:ff:ff:ff is the address of a group"),
            ("tap=t,mac=00:00:00:00:00:00", "nobody's address"),
            ("tap=t,queues=0", "is no number of queue pairs; write one from 1 to 16"),
            ("tap=t,queue=2", "did you mean queues?"),
        ] {
            let error = text.parse::<Net>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn names_of_a_fleet_give_different_addresses() {
        let names = (0..100).flat_map(|guest| (0..8).map(move |card| format!("vif{guest}.{card}")));
        let all: HashSet<Mac> = names.map(|name| Mac::of_tap(&name.parse().unwrap())).collect();
        assert_eq!(all.len(), 800);
    }

    proptest! {
        #[test]
        fn every_name_gives_an_address_that_a_card_can_have(name in "[a-z0-9.]{1,15}") {
            prop_assume!(name != "." && name != "..");
            let mac = Mac::of_tap(&name.parse().unwrap());
            prop_assert_eq!(mac.bytes()[0] & 3, 2);
            prop_assert_eq!(mac.to_string().parse(), Ok(mac));
        }
    }
}
