//! The four ways.

use crate::netns::lab::{Lab, Options, vif};
use crate::netns::live::{Live, Proxy};
use crate::netns::toolstack::Conduct;
use anyhow::Result;

/// A way from the guest to its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// A bridge and nothing else.
    Bridge,
    /// A second guest runs along; nothing is captured.
    Mirrored,
    /// Through the comparator, uncompared.
    Passed,
    /// Held until both agree.
    Protected,
}

impl Contender {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 4] = [Self::Bridge, Self::Mirrored, Self::Passed, Self::Protected];

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bridge => "plain bridge",
            Self::Mirrored => "mirrored",
            Self::Passed => "passed",
            Self::Protected => "protected",
        }
    }

    /// Starts what it needs.
    pub fn start(self, lab: &Lab, more: &str) -> Result<Option<Live>> {
        let options = match self {
            Self::Bridge => {
                // Two guests of one address on one network would answer by turns.
                lab.s.run(&format!("ip link set {} down", vif(0, 0)))?;
                return Ok(None);
            }
            Self::Mirrored => "--start mirrored",
            Self::Passed => "--pass pass@tcp --pass pass@udp",
            Self::Protected => "",
        };
        let mut primary = Proxy::of(lab, 0, "primary").with(options).with(more);
        // A rule has spaces in it.
        primary.more.iter_mut().for_each(|word| *word = word.replace('@', " "));
        Ok(Some(Live::of(lab, primary, Proxy::of(lab, 0, "secondary"), Conduct::Perform)?))
    }
}

/// The lab that all of them are measured in.
pub fn lab() -> Result<Lab> {
    Lab::new(Options { neighbours: true, ..Options::default() })
}
