//! The ways.

use super::qemu::Qemu;
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
    /// The same without segmentation and checksum offload, on every cable.
    Plain,
    /// Held by QEMU's comparer until both agree.
    Qemu,
}

/// What runs.
#[derive(Debug)]
pub enum Running {
    /// Nothing.
    Nothing,
    /// Two `colo-proxy`.
    Ours(Live),
    /// Two QEMUs.
    Qemu(Qemu),
}

impl Running {
    /// Checkpoints asked for so far. An error, with its last words, if something has ended.
    pub fn checkpoints(&mut self) -> Result<u64> {
        let (p, s, toolstack) = match self {
            Self::Nothing => return Ok(0),
            Self::Ours(live) => (&mut live.p, &mut live.s, &live.toolstack),
            Self::Qemu(qemu) => (&mut qemu.p, &mut qemu.s, &qemu.toolstack),
        };
        p.must_run()?;
        s.must_run()?;
        toolstack.requests()
    }
}

impl Contender {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 6] =
        [Self::Bridge, Self::Mirrored, Self::Passed, Self::Protected, Self::Plain, Self::Qemu];

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bridge => "plain bridge",
            Self::Mirrored => "mirrored",
            Self::Passed => "passed",
            Self::Protected => "protected",
            Self::Plain => "protected, plain frames",
            Self::Qemu => "QEMU",
        }
    }

    /// The lab that it is measured in.
    pub fn lab(self) -> Result<Lab> {
        Lab::new(Options { neighbours: true, offload: self != Self::Plain, ..Options::default() })
    }

    /// Starts what it needs.
    pub fn start(self, lab: &Lab, more: &str) -> Result<Running> {
        let options = match self {
            Self::Bridge => {
                // Two guests of one address on one network would answer by turns.
                lab.s.run(&format!("ip link set {} down", vif(0, 0)))?;
                return Ok(Running::Nothing);
            }
            Self::Mirrored => "--start mirrored",
            Self::Passed => "--pass pass@tcp --pass pass@udp",
            Self::Protected | Self::Plain => "",
            Self::Qemu => return Ok(Running::Qemu(Qemu::start(lab)?)),
        };
        let mut primary = Proxy::of(lab, 0, "primary").with(options).with(more);
        // A rule has spaces in it.
        primary.more.iter_mut().for_each(|word| *word = word.replace('@', " "));
        let secondary = Proxy::of(lab, 0, "secondary");
        Ok(Running::Ours(Live::of(lab, primary, secondary, Conduct::Perform)?))
    }
}
