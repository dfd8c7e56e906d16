//! A few bytes of both sides around the place where they part.
//!
//! ```text
//!   what is compared of a frame   ░░░░░░░░░░░░░░░░│▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒
//!   the engine's evidence                         │▒▒▒▒▒▒▒▒
//!   shown                                 ░░░░░░░░│▒▒▒▒▒▒▒▒
//! ```
//!
//! The engine's evidence begins at the difference. What stands before it is found again in the
//! frame, as far as both sides have it, so that the two rows start at one place of the stream.

use super::capture::Record;
use super::report::{Exhibit, Finding, WINDOW};
use crate::engine::{Divergence, Evidence, Frame};
use crate::packet::{self, Body, Offload, Packet, Parsed, Segment, SynOptions};

/// How much is shown of what both sides agree in.
const CONTEXT: usize = WINDOW / 2;

/// What the engine says, without the frames it says it of.
pub(super) fn finding(divergence: &Divergence<'_, Record>) -> Finding {
    let primary = divergence.primary.as_ref().map(surroundings);
    let secondary = divergence.secondary.as_ref().map(surroundings);
    let before = primary.iter().chain(&secondary).map(|(before, _)| before.len()).min();
    let mark = before.unwrap_or_default().min(CONTEXT);
    let exhibit = |evidence: &Option<Evidence<'_, Record>>, around: Option<(&[u8], &[u8])>| {
        let (evidence, (before, after)) = (evidence.as_ref()?, around?);
        let bytes = [&before[before.len() - mark..], &after[..after.len().min(WINDOW - mark)]].concat();
        let Record { side, number, .. } = *evidence.frame;
        Some(Exhibit { side, frame: number, what: kind(evidence.frame), bytes, mark })
    };
    Finding {
        cause: divergence.cause,
        offset: divergence.offset,
        primary: exhibit(&divergence.primary, primary),
        secondary: exhibit(&divergence.secondary, secondary),
    }
}

/// What is compared before and from the place where the sides part.
fn surroundings<'a>(evidence: &Evidence<'a, Record>) -> (&'a [u8], &'a [u8]) {
    let frame = evidence.frame.bytes();
    let alone = (&[][..], evidence.bytes);
    // Of a reassembled datagram the evidence lies elsewhere.
    let Some(at) = evidence.bytes.as_ptr().addr().checked_sub(frame.as_ptr().addr()) else { return alone };
    if at + evidence.bytes.len() > frame.len() {
        return alone;
    }
    let Ok(Parsed::Whole(packet)) = packet::parse(frame, Offload::default()) else { return alone };
    let regions = match &packet.body {
        Body::Tcp(segment) => std::slice::from_ref(&segment.payload),
        Body::Message(message) => message.regions(),
    };
    let bounds = regions.iter().map(|region| (region.start as usize, (region.start + region.len) as usize));
    let holds = |&(start, end): &(usize, usize)| start <= at && at + evidence.bytes.len() <= end;
    let Some((start, end)) = bounds.into_iter().find(holds) else { return alone };
    match (frame.get(start..at), frame.get(at..end)) {
        (Some(before), Some(after)) => (before, after),
        _ => alone,
    }
}

/// What kind of frame it is, where that says more than its bytes.
fn kind(frame: &Record) -> String {
    match packet::parse(frame.bytes(), Offload::default()) {
        Ok(Parsed::Fragment(_)) => "fragment".to_owned(),
        Ok(Parsed::Whole(Packet { body: Body::Tcp(segment), .. })) => segment_kind(frame.bytes(), &segment),
        _ => String::new(),
    }
}

fn segment_kind(frame: &[u8], segment: &Segment) -> String {
    let flags = segment.flags;
    match (flags.syn(), flags.ack()) {
        (true, ack) => {
            let it = SynOptions::parse(frame, segment.header);
            let mut out = if ack { "SYN+ACK" } else { "SYN" }.to_owned();
            out.extend(it.mss.map(|mss| format!(" mss {mss}")));
            out.extend(it.window_scale.map(|shift| format!(" wscale {shift}")));
            out.push_str(if it.sack_permitted { " sack" } else { "" });
            out.push_str(if it.timestamps { " timestamps" } else { "" });
            out
        }
        _ if flags.rst() => "RST".to_owned(),
        _ if flags.fin() => "FIN".to_owned(),
        _ if segment.payload.len == 0 => "ACK".to_owned(),
        _ => String::new(),
    }
}
