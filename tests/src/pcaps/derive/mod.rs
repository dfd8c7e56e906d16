//! Derived captures: a secondary's capture made from a primary's by documented, seeded steps.
//!
//! A step takes a whole capture and gives a whole capture, no files in between; `guest` is the MAC whose frames are the output that is
//! compared. A step is written `name key=value …`, several are joined by commas: `recut seed=1, retime seed=2 ms=20`.
//!
//! | step | what it does to the guest's output | arguments |
//! |---|---|---|
//! | `recut` | TCP data cut at other borders | `seed`, and if wanted `max` |
//! | `clean` | TCP data in order and once | |
//! | `overlap` | adds TCP retransmissions with other borders | `seed` |
//! | `duplicate` | adds copies of TCP segments | `seed` |
//! | `reorder` | swaps frames with near ones | `seed` |
//! | `retime` | delays frames, in order | `seed`, `ms` |
//! | `late-acks` | acknowledgements lag behind | `ms` |
//! | `isn-own` | another ISN, all of the connection in that space; it wraps early | `seed` |
//! | `isn-translated` | another ISN in SYN only, the rest in the primary's space | `seed` |
//! | `noise` | IP identification, TTL, TCP timestamps | `seed` |
//! | `pad` | short frames padded to 60 bytes with rubbish | `seed` |
//! | `refragment` | IP datagrams fragmented at other borders | `seed` |
//! | `guest-only` | keeps only the guest's frames | |
//! | `byte` | one byte of a TCP stream changed, in every segment that carries it | `flow`, `at` |
//! | `datagram-byte` | the last byte of the n-th datagram of a protocol changed | `proto`, `n` |
//! | `arp-address` | the sender's address of the n-th ARP frame changed | `n` |
//! | `drop-tail` | only the first frames of the guest are kept | `keep` |
//! | `no-fin` | a TCP flow's FIN is left out | `flow` |
//! | `rst-for-fin` | a TCP flow's FIN becomes a RST | `flow` |
//! | `wscale` | another window scale in a TCP flow's SYN | `flow` |
//! | `no-timestamps` | a TCP flow's SYN without the timestamp option | `flow` |
//! | `mss` | another MSS in a TCP flow's SYN | `flow` |
//! | `extra` | bytes more before a TCP flow's FIN | `flow`, `bytes` |
//! | `silent` | nothing of a TCP flow | `flow` |
//!
//! TCP flows are numbered from 0 in the order of the guest's first frame.

pub mod acks;
pub mod breaks;
pub mod cut;
pub mod events;
pub mod flows;
pub mod fragment;
pub mod isn;
pub mod noise;
pub mod order;
pub mod rng;

#[cfg(test)]
mod tests;

use super::Capture;
use anyhow::{Context, Result, bail, ensure};
use rng::Rng;
use std::collections::BTreeMap;
use std::str::FromStr;

/// A MAC address.
pub type Mac = [u8; 6];

/// One transformation with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    name: String,
    arguments: BTreeMap<String, u64>,
}

impl FromStr for Step {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let name = words.next().context("a step without a name")?.to_owned();
        let mut arguments = BTreeMap::new();
        for word in words {
            let (key, value) = word.split_once('=').with_context(|| format!("`{word}` is not key=value"))?;
            let value = value.parse().with_context(|| format!("`{word}`"))?;
            ensure!(arguments.insert(key.to_owned(), value).is_none(), "`{key}` twice");
        }
        Ok(Self { name, arguments })
    }
}

/// Reads steps joined by commas.
pub fn parse(text: &str) -> Result<Vec<Step>> {
    text.split(',').map(str::parse).collect()
}

/// Applies steps one after the other.
pub fn apply(steps: &[Step], capture: Capture, guest: Mac) -> Result<Capture> {
    let mut capture = capture;
    for step in steps {
        capture = step.apply(capture, guest).with_context(|| format!("step `{}`", step.name))?;
    }
    Ok(capture)
}

/// Takes a step's arguments, and notices if any is left over.
struct Arguments(BTreeMap<String, u64>);

impl Arguments {
    fn take(&mut self, key: &str) -> Result<u64> {
        self.0.remove(key).with_context(|| format!("needs `{key}`"))
    }

    fn rng(&mut self) -> Result<Rng> {
        Ok(Rng::new(self.take("seed")?))
    }

    fn index(&mut self, key: &str) -> Result<usize> {
        Ok(usize::try_from(self.take(key)?)?)
    }
}

impl Step {
    /// The capture after this step; frames are again in the order of their times.
    pub fn apply(&self, capture: Capture, guest: Mac) -> Result<Capture> {
        let mut a = Arguments(self.arguments.clone());
        let mut out = match self.name.as_str() {
            "recut" => cut::recut(&capture, guest, &mut a.rng()?, a.index("max").unwrap_or(usize::MAX)),
            "clean" => cut::clean(&capture, guest),
            "overlap" => cut::overlap(&capture, guest, &mut a.rng()?),
            "duplicate" => order::duplicate(&capture, guest, &mut a.rng()?),
            "reorder" => order::reorder(capture, guest, &mut a.rng()?),
            "retime" => order::retime(capture, guest, &mut a.rng()?, a.take("ms")?),
            "late-acks" => acks::late(&capture, guest, a.take("ms")?),
            "isn-own" => isn::own(capture, guest, &mut a.rng()?),
            "isn-translated" => isn::translated(capture, guest, &mut a.rng()?),
            "noise" => noise::noise(capture, guest, &mut a.rng()?),
            "pad" => noise::pad(capture, guest, &mut a.rng()?),
            "refragment" => fragment::refragment(&capture, guest, &mut a.rng()?),
            "guest-only" => order::guest_only(capture, guest),
            "byte" => breaks::byte(capture, guest, a.index("flow")?, a.index("at")?)?,
            "datagram-byte" => breaks::datagram_byte(capture, guest, a.index("proto")? as u8, a.index("n")?)?,
            "arp-address" => breaks::arp_address(capture, guest, a.index("n")?)?,
            "drop-tail" => order::drop_tail(capture, guest, a.index("keep")?),
            "no-fin" => events::no_fin(capture, guest, a.index("flow")?)?,
            "rst-for-fin" => events::rst_for_fin(capture, guest, a.index("flow")?)?,
            "wscale" => events::wscale(capture, guest, a.index("flow")?)?,
            "no-timestamps" => events::no_timestamps(capture, guest, a.index("flow")?)?,
            "mss" => events::mss(capture, guest, a.index("flow")?)?,
            "extra" => events::extra(&capture, guest, a.index("flow")?, a.index("bytes")?)?,
            "silent" => events::silent(capture, guest, a.index("flow")?)?,
            other => bail!("unknown step `{other}`"),
        };
        ensure!(a.0.is_empty(), "does not take {:?}", a.0.keys());
        out.sort_by_key(|packet| packet.time);
        Ok(out)
    }
}
