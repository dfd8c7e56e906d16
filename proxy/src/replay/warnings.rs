//! What a reader of the verdicts should know about the captures: that they do not fit together, or
//! hold more than the guest's output.

use super::merge::Merge;
use super::report::{Flow, Summary, plural};
use super::{Mac, Options};
use crate::engine::{Cause, Side};
use crate::packet::Proto;
use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;

/// How many addresses are remembered to make a suggestion with.
const SOURCES: usize = 64;

/// Who sends the frames that are not the guest's.
#[derive(Debug, Default)]
pub(super) struct Sources(HashMap<Mac, u64>);

impl Sources {
    pub(super) fn note(&mut self, source: Mac) {
        if self.0.len() < SOURCES || self.0.contains_key(&source) {
            *self.0.entry(source).or_default() += 1;
        }
    }

    /// The most frequent sources, as a suggestion.
    pub(super) fn hint(&self) -> String {
        let mut sources: Vec<_> = self.0.iter().map(|(mac, count)| (*count, *mac)).collect();
        sources.sort_unstable_by(|a, b| b.cmp(a));
        let sources: Vec<_> = sources.iter().take(4).map(|(count, mac)| format!("{mac} ({count})")).collect();
        format!("the frames there come from {}", sources.join(", "))
    }
}

/// Everything there is to say.
pub(super) fn all<R: Read>(
    merge: &Merge<R>,
    options: &Options,
    summary: &Summary,
    flows: &[Flow],
) -> Vec<String> {
    let mut out = Vec::new();
    out.extend(no_frames(summary));
    if !summary.stopped {
        out.extend(apart(merge, options));
    }
    for side in [Side::Primary, Side::Secondary] {
        let (path, backwards) = (merge.lane(side).path(), merge.lane(side).backwards());
        if backwards > 0 {
            out.push(format!(
                "'{}' goes back in time at {}, taken to be as late as the one before ('reordercap' sorts a capture)",
                path.display(),
                plural(backwards, "frame"),
            ));
        }
    }
    if options.guest_mac.is_none() {
        out.extend(both_directions(flows, [&options.primary, &options.secondary]));
    }
    let overflowed = |flow: &&Flow| flow.divergence.as_ref().is_some_and(|it| it.cause == Cause::Overflow);
    let overflows = flows.iter().filter(overflowed).count() as u64;
    if overflows > 0 {
        out.push(format!(
            "{} left out because too much waited for its twin: one capture may lack frames, or its clock may be ahead of the other's (--align-start)",
            plural(overflows, "flow")
        ));
    }
    if summary.resumed > 0 {
        out.push(format!(
            "{} forgotten for want of room while idle, and compared as new ones when they spoke again",
            plural(summary.resumed, "flow")
        ));
    }
    if summary.uncompared > 0 {
        out.push(format!(
            "{} not compared for want of room, so that their flows are incomplete",
            plural(summary.uncompared, "frame")
        ));
    }
    out
}

fn no_frames(summary: &Summary) -> Option<String> {
    Some(match (summary.frames_primary, summary.frames_secondary) {
        (0, 0) => "there are no frames to compare".to_owned(),
        (0, _) => "the primary's capture holds no frame of the guest".to_owned(),
        (_, 0) => "the secondary's capture holds no frame of the guest".to_owned(),
        _ => return None,
    })
}

/// Captures so far apart that no frame of one can wait for its twin in the other.
fn apart<R: Read>(merge: &Merge<R>, options: &Options) -> Option<String> {
    let (primary, secondary) = (merge.lane(Side::Primary), merge.lane(Side::Secondary));
    let (ours, theirs) = (primary.span()?, secondary.span()?);
    let (earlier, later, gap) = if ours.1 < theirs.0 {
        (primary, secondary, theirs.0 - ours.1)
    } else {
        (secondary, primary, ours.0.checked_sub(theirs.1)?)
    };
    if options.align_start || gap <= options.timeout_ms.saturating_mul(1_000_000) {
        return None;
    }
    Some(format!(
        "the captures do not overlap in time: '{}' begins {}.{:03} s after '{}' ends; --align-start takes the first frame of each for time 0",
        later.path().display(),
        gap / 1_000_000_000,
        gap / 1_000_000 % 1000,
        earlier.path().display(),
    ))
}

/// A conversation seen from both its ends: the clients' frames are compared as if the guest had
/// sent them.
fn both_directions(flows: &[Flow], paths: [&Path; 2]) -> Option<String> {
    let ends = |flow: &Flow| Some((flow.key.proto(), flow.key.guest()?, flow.key.peer()?));
    let known: HashSet<(Proto, SocketAddr, SocketAddr)> = flows.iter().filter_map(ends).collect();
    let is_mirrored = |flow: &&Flow| {
        ends(flow).is_some_and(|(proto, guest, peer)| guest != peer && known.contains(&(proto, peer, guest)))
    };
    // The guest has a part in every conversation; a client or router maybe in as many, and then the
    // end with the lower port is more likely the one that serves.
    let mut sources: HashMap<Mac, (u64, u16)> = HashMap::new();
    let mut example = None;
    let mut mirrored = 0_u64;
    for flow in flows.iter().filter(is_mirrored) {
        mirrored += 1;
        if sources.len() < SOURCES || sources.contains_key(&flow.source) {
            let port = flow.key.guest().map_or(0, |guest| guest.port());
            let entry = sources.entry(flow.source).or_insert((0, port));
            *entry = (entry.0 + 1, entry.1.min(port));
        }
        if example.is_none_or(|example: &Flow| !example.key.proto().has_ports()) {
            example = Some(flow);
        }
    }
    let example = example?;
    let mut sources: Vec<_> = sources.into_iter().collect();
    sources.sort_unstable_by_key(|&(mac, (count, port))| (std::cmp::Reverse(count), port, mac));
    let macs: Vec<_> = sources.iter().take(2).map(|(mac, _)| mac.to_string()).collect();
    Some(format!(
        "'{}' and '{}' hold both directions of {} ({} and back), and the clients' frames were compared as if the guest had sent them; tell the guest by --guest-mac {}",
        paths[0].display(),
        paths[1].display(),
        plural(mirrored / 2, "conversation"),
        example.key,
        macs.join(" or "),
    ))
}
