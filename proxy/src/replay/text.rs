//! A report for people.
//!
//! ```text
//!   diverged    tcp 10.0.0.2:80 > 10.0.0.9:40000  payload at stream offset 1234, frames 12 and 13
//!     primary   frame 12      74 68 65 20 73 61 6d 65 31 20 61 6e 64 20 73 6f  the same1 and so
//!     secondary frame 13      74 68 65 20 73 61 6d 65 32 20 61 6e 64 20 73 6f  the same2 and so
//!                                                     ^^
//!   incomplete  udp 10.0.0.2:53 > 10.0.0.9:5353  1 primary frame waits for its twin
//!   2 flows: 1 diverged, 1 incomplete; …
//! ```

use super::divergence::place;
use super::report::{Exhibit, Finding, Flow, Report, Verdict, WINDOW, hex, plural};
use crate::engine::{Cause, Side};
use std::io::{self, Write};

/// How many flows are listed unless all are asked for.
const LISTED: usize = 50;

/// Writes a report: first the flows that need looking at, with `verbose` all, then the sums.
pub fn write_text(report: &Report, verbose: bool, out: &mut impl Write) -> io::Result<()> {
    let wanted = |flow: &&Flow| {
        let verdict = flow.verdict();
        // What was cut short by --stop-at-first is not news.
        verbose || verdict == Verdict::Diverged || verdict != Verdict::Match && !report.summary.stopped
    };
    let mut flows: Vec<&Flow> = report.flows.iter().filter(wanted).collect();
    flows.sort_by_key(|flow| flow.verdict());
    let listed = if verbose { flows.len() } else { flows.len().min(LISTED) };
    for flow in &flows[..listed] {
        write_flow(flow, out)?;
    }
    if listed < flows.len() {
        writeln!(out, "… and {} more flows; --verbose lists them all", flows.len() - listed)?;
    }
    write_summary(report, out)
}

fn write_flow(flow: &Flow, out: &mut impl Write) -> io::Result<()> {
    write!(out, "{:<14} {}  ", flow.verdict().label(), flow.key)?;
    if let Some(finding) = &flow.divergence {
        return write_finding(flow, finding, out);
    }
    let frames = [flow.primary.frames, flow.secondary.frames];
    match flow.verdict() {
        Verdict::Incomplete => {
            let waits = [(flow.held, "primary"), (flow.unmatched, "secondary")];
            let mut parts: Vec<String> = waits
                .into_iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, side)| format!("{} without a twin", plural(count, &format!("{side} frame"))))
                .collect();
            if flow.uncompared > 0 {
                parts.push(format!("{} not compared for want of room", plural(flow.uncompared, "frame")));
            }
            writeln!(out, "{} at the end; {} released", parts.join(", "), plural(flow.released_bytes, "byte"))
        }
        Verdict::PassedThrough => writeln!(out, "by rule; {} and {} frames", frames[0], frames[1]),
        Verdict::Match | Verdict::Diverged => {
            writeln!(out, "{}; {} and {} frames", plural(flow.released_bytes, "byte"), frames[0], frames[1])
        }
    }
}

fn write_finding(flow: &Flow, finding: &Finding, out: &mut impl Write) -> io::Result<()> {
    let why = match (finding.cause, &finding.primary, &finding.secondary) {
        (Cause::Age, Some(_), None) => ": the secondary sent nothing for it in time",
        (Cause::Age, None, Some(_)) => ": the primary sent nothing for it in time",
        (Cause::Overflow, ..) => ": too much of it waits for its twin",
        _ => "",
    };
    writeln!(out, "{}{why}; {} released", place(&flow.key, finding), plural(flow.released_bytes, "byte"))?;
    let exhibits = [&finding.primary, &finding.secondary];
    for exhibit in exhibits.into_iter().flatten() {
        write_exhibit(exhibit, out)?;
    }
    let marked = |exhibit: &&Exhibit| exhibit.mark < exhibit.bytes.len();
    match exhibits.into_iter().flatten().filter(marked).map(|exhibit| exhibit.mark).max() {
        Some(mark) if finding.primary.is_some() && finding.secondary.is_some() => {
            writeln!(out, "{:width$}^^", "", width = MARGIN + 3 * mark)
        }
        _ => Ok(()),
    }
}

/// Where the bytes of an exhibit begin in their line.
const MARGIN: usize = 30;
/// How much room they take.
const HEX: usize = 3 * WINDOW - 1;

fn write_exhibit(exhibit: &Exhibit, out: &mut impl Write) -> io::Result<()> {
    let side = match exhibit.side {
        Side::Primary => "primary",
        Side::Secondary => "secondary",
    };
    let head = format!("  {side:<9} frame {}", exhibit.frame);
    let printable = |&byte: &u8| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '.' };
    let text: String = exhibit.bytes.iter().map(printable).collect();
    let line = if exhibit.bytes.is_empty() {
        let comma = if exhibit.what.is_empty() { "" } else { ", " };
        format!("{head:<MARGIN$}({}{comma}no bytes)", exhibit.what)
    } else {
        format!("{head:<MARGIN$}{:<HEX$}  {text:<WINDOW$}  {}", hex(&exhibit.bytes), exhibit.what)
    };
    writeln!(out, "{}", line.trim_end())
}

fn write_summary(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let it = &report.summary;
    if it.frames_primary + it.frames_secondary == 0 {
        return writeln!(out, "no frames to compare");
    }
    let verdicts = [
        (it.diverged, "diverged"),
        (it.incomplete, "incomplete"),
        (it.passed_through, "passed through"),
        (it.matched, "match"),
    ];
    let verdicts: Vec<_> = verdicts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, verdict)| format!("{count} {verdict}"))
        .collect();
    write!(out, "{}", plural(it.flows, "flow"))?;
    if !verdicts.is_empty() {
        write!(out, ": {}", verdicts.join(", "))?;
    }
    write!(
        out,
        "; {} and {} frames in {}.{:03} s; {} released ({}), {} held; {}",
        it.frames_primary,
        it.frames_secondary,
        it.duration_ms / 1000,
        it.duration_ms % 1000,
        it.released,
        plural(it.released_bytes, "byte"),
        it.held,
        plural(it.checkpoints, "checkpoint"),
    )?;
    let dropped = [
        (it.other_direction_primary + it.other_direction_secondary, "in the other direction"),
        (it.malformed, "malformed"),
        (it.bad_fragments, "bad fragments"),
        (it.uncompared, "not compared"),
    ];
    for (count, what) in dropped.into_iter().filter(|(count, _)| *count > 0) {
        write!(out, "; {count} {what}")?;
    }
    if it.stopped {
        write!(out, "; stopped at the first divergence")?;
    }
    writeln!(out)
}
