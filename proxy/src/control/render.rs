//! A status for people.
//!
//! ```text
//!   web: primary, protected, epoch 17 (pid 4711, up 2 h 3 min)
//!     checkpoints: 16 complete; asked for: payload 12, age 5; the last took 83 ms
//!     vif1 > eth1, index 0, bridge br0, flows: 12
//!       kernel: captured 1203, received 1199, released 1203
//!       held: primary 3 frames (4.2 kB), secondary nothing
//!       FLOW                                       P  S    FOR  LIMIT  WHY
//!       tcp 10.77.0.2:80 > 10.77.0.1:40000         3  0  12 ms    3 s  waits for the secondary's output
//! ```

use super::status::{
    CheckpointStatus, DelayStatus, FlowStatus, GuestStatus, HeldStatus, NicStatus, NodeStatus,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// Held flows that are shown of a NIC.
const SHOWN: usize = 20;

/// The statuses as text, each guest under its own line.
pub fn text(nodes: &[NodeStatus]) -> String {
    let mut out = String::new();
    let all = nodes.iter().flat_map(|node| node.guests.iter().map(move |guest| (node, guest)));
    for (node, guest) in all {
        // Writing to a string does not fail.
        let _ = render_guest(&mut out, node, guest);
    }
    out
}

fn render_guest(out: &mut String, node: &NodeStatus, guest: &GuestStatus) -> fmt::Result {
    write!(
        out,
        "{}: {}, {}, epoch {}",
        clean(&guest.name),
        clean(&guest.role),
        clean(&guest.state),
        guest.epoch
    )?;
    match node.pid {
        0 => writeln!(out, " (no process runs)"),
        pid => writeln!(out, " (pid {pid}, version {}, up {})", clean(&node.version), Millis(node.uptime_ms)),
    }?;
    if let Some(failure) = &guest.failure {
        writeln!(out, "  failed: {}", clean(failure))?;
    }
    if let Some(waiting) = &guest.waiting_for {
        writeln!(out, "  waits for: {}", clean(waiting))?;
    }
    render_checkpoints(out, &guest.checkpoints)?;
    guest.nics.iter().try_for_each(|nic| render_nic(out, nic))
}

fn render_checkpoints(out: &mut String, all: &CheckpointStatus) -> fmt::Result {
    write!(out, "  checkpoints: {} complete", all.completed)?;
    if all.failed > 0 {
        write!(out, ", {} failed", all.failed)?;
    }
    if let Some(causes) = counts(&all.triggers) {
        write!(out, "; asked for: {causes}")?;
    }
    if let Some(ms) = all.last_ms {
        write!(out, "; the last took {}", Millis(ms))?;
    }
    if let Some(performer) = &all.performer {
        write!(out, "; by {}", clean(performer))?;
    }
    writeln!(out)?;
    match &all.outstanding {
        Some(why) => writeln!(out, "  asked for now: {}, for {}", clean(why), Millis(all.outstanding_ms)),
        None => Ok(()),
    }
}

fn render_nic(out: &mut String, nic: &NicStatus) -> fmt::Result {
    write!(out, "  {} > {}, index {}", clean(&nic.vif), clean(&nic.forward), nic.index)?;
    if let Some(bridge) = &nic.bridge {
        write!(out, ", bridge {}", clean(bridge))?;
    }
    writeln!(out, ", flows: {}", nic.flows)?;
    if let Some(kernel) = counts(&nic.kernel) {
        writeln!(out, "    kernel: {kernel}")?;
    }
    if nic.capture_dropped > 0 {
        writeln!(out, "    did not fit the comparator's queue: {}", nic.capture_dropped)?;
    }
    for side in ["primary", "secondary"] {
        let discards = nic.engine.as_ref().and_then(|engine| engine.get(side)?.get("discards")?.as_object());
        let discards = discards.into_iter().flatten();
        let discards =
            discards.filter_map(|(cause, count): (&String, &Value)| Some((cause.clone(), count.as_u64()?)));
        if let Some(discards) = counts(&discards.collect()) {
            writeln!(out, "    {side} discarded: {discards}")?;
        }
    }
    if let Some([primary, secondary]) = nic.held {
        writeln!(out, "    held: primary {}, secondary {}", Held(primary), Held(secondary))?;
    }
    if let Some(delay) = nic.match_delay.filter(|delay| delay.count > 0) {
        writeln!(out, "    match delay: {}", Delay(delay))?;
    }
    if !nic.addresses.is_empty() {
        writeln!(out, "    addresses: {}", clean(&nic.addresses.join(", ")))?;
    }
    render_flows(out, &nic.held_flows)
}

fn render_flows(out: &mut String, flows: &[FlowStatus]) -> fmt::Result {
    if flows.is_empty() {
        return Ok(());
    }
    let row = |flow: &FlowStatus| flow_row(flow);
    let head = ["FLOW", "P", "S", "FOR", "LIMIT", "WHY"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(flows.iter().take(SHOWN).map(row)).collect();
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let [flow_width, ours_width, theirs_width, age_width, limit_width, _] = widths;
    for [flow, ours, theirs, age, limit, why] in &rows {
        writeln!(
            out,
            "    {flow:flow_width$}  {ours:>ours_width$}  {theirs:>theirs_width$}  {age:>age_width$}  {limit:>limit_width$}  {why}"
        )?;
    }
    match flows.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => writeln!(out, "    … and {more} more (--json has them)"),
    }
}

/// A held flow as cells: flow, frames of each side, age, limit, why.
pub fn flow_row(flow: &FlowStatus) -> [String; 6] {
    let [primary, secondary] = flow.held;
    let limit = flow.limit_ms.map_or_else(|| "-".to_owned(), |ms| Millis(ms).to_string());
    [
        clean(&flow.flow),
        primary.frames.to_string(),
        secondary.frames.to_string(),
        Millis(flow.oldest_ms).to_string(),
        limit,
        clean(&flow.why),
    ]
}

/// `name number` of those that are not zero; none if all are.
fn counts(all: &BTreeMap<String, u64>) -> Option<String> {
    let some: Vec<String> = all
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{} {count}", clean(name)))
        .collect();
    (!some.is_empty()).then(|| some.join(", "))
}

/// Text that cannot move a terminal's cursor.
pub fn clean(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

struct Held(HeldStatus);

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.frames {
            0 => f.write_str("nothing"),
            1 => write!(f, "1 frame ({})", Bytes(self.0.bytes as f64)),
            frames => write!(f, "{frames} frames ({})", Bytes(self.0.bytes as f64)),
        }
    }
}

struct Delay(DelayStatus);

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let delay = self.0;
        let [p50, p90, p99, max] = [delay.p50_us, delay.p90_us, delay.p99_us, delay.max_us].map(Micros);
        write!(f, "50% {p50}, 90% {p90}, 99% {p99}, longest {max}, of {} frames", delay.count)
    }
}

/// Milliseconds for people: two figures of what matters.
#[derive(Clone, Copy, Debug)]
pub struct Millis(pub u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        let (minutes, hours) = (seconds / 60, seconds / 3600);
        match self.0 {
            0..1000 => write!(f, "{} ms", self.0),
            1000..60_000 if self.0.is_multiple_of(1000) => write!(f, "{seconds} s"),
            // Cut, not rounded: 59.96 s are not a minute.
            1000..60_000 => write!(f, "{seconds}.{} s", self.0 % 1000 / 100),
            60_000..3_600_000 => write!(f, "{minutes} min {} s", seconds % 60),
            3_600_000..86_400_000 => write!(f, "{hours} h {} min", minutes % 60),
            _ => write!(f, "{} d {} h", hours / 24, hours % 24),
        }
    }
}

/// Microseconds for people.
#[derive(Clone, Copy, Debug)]
pub struct Micros(pub u64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..1000 => write!(f, "{} µs", self.0),
            1000..10_000 => write!(f, "{}.{} ms", self.0 / 1000, self.0 % 1000 / 100),
            _ => Millis(self.0 / 1000).fmt(f),
        }
    }
}

/// Bytes for people, in powers of 1000.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub f64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 999.5 {
            return write!(f, "{:.0} B", self.0);
        }
        let (mut rest, mut units) = (self.0 / 1000.0, ["kB", "MB", "GB", "TB"].into_iter());
        let mut unit = units.next().unwrap_or_default();
        for next in units {
            if rest < 999.95 {
                break;
            }
            (rest, unit) = (rest / 1000.0, next);
        }
        write!(f, "{rest:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_cut_to_what_matters() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1 s"),
            (1099, "1.0 s"),
            (59_999, "59.9 s"),
            (60_000, "1 min 0 s"),
            (3_599_999, "59 min 59 s"),
            (3_600_000, "1 h 0 min"),
            (86_400_000 + 7_200_000, "1 d 2 h"),
            (u64::MAX, "213503982334 d 14 h"),
        ] {
            assert_eq!(Millis(ms).to_string(), text);
        }
        for (us, text) in
            [(999, "999 µs"), (1000, "1.0 ms"), (9999, "9.9 ms"), (10_000, "10 ms"), (2_000_000, "2 s")]
        {
            assert_eq!(Micros(us).to_string(), text);
        }
    }

    #[test]
    fn bytes_change_units_where_they_are_rounded_up() {
        for (bytes, text) in [
            (0.0, "0 B"),
            (999.4, "999 B"),
            (999.6, "1.0 kB"),
            (999_940.0, "999.9 kB"),
            (999_960.0, "1.0 MB"),
            (1.5e9, "1.5 GB"),
            (5e15, "5000.0 TB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn what_a_process_says_cannot_move_the_cursor() {
        let guest = GuestStatus { name: "a\x1b[2J\r\n\u{9b}b".to_owned(), ..GuestStatus::default() };
        let node = NodeStatus { guests: vec![guest], ..NodeStatus::default() };
        let shown = text(&[node]);
        assert!(shown.lines().count() == 2 && shown.contains("(no process runs)"), "{shown:?}");
        assert!(shown.replace('\n', "").chars().all(|char| !char.is_control()), "{shown:?}");
    }
}
