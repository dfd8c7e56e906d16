//! `pcaps/README.md`, the table of pairs.
//!
//! A row is a line of twelve cells that begins with `| ` and whose first cell is a name in backticks:
//!
//! | cell | form |
//! |---|---|
//! | id, primary, secondary | a name, two file names |
//! | guest | a MAC address, or `-`: every frame is the guest's |
//! | options | further options of `replay`, or `-` |
//! | made | `live`, `twin`, `derived: STEPS`, or `derived from FILE: STEPS / STEPS` (primary's, secondary's; `-` for none) |
//! | shows | free text |
//! | verdict, exit | `match`, `diverged` or `incomplete`; the exit status |
//! | tcp, udp | how many flows |
//! | but | flows that are not a match: `FLOW CAUSE` joined by `;`, or `-` |
//!
//! `FLOW` is `tcp 10.0.0.1:80 10.0.0.2:4000`, `udp …` alike, `icmp 10.0.0.1 10.0.0.2` or `arp`. `CAUSE` is `incomplete`, or the cause
//! of a divergence: one word or several joined by `/`, then `@` and the offset if it has one.

use super::derive::{self, Mac, Step};
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;

/// How a pair was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// What the comparator read while it protected a guest.
    Live,
    /// Two guests were recorded at the same time.
    Twin,
    /// From one recording; by default the primary itself.
    Derived {
        /// The recording.
        source: String,
        /// The primary's steps.
        primary: Vec<Step>,
        /// The secondary's steps.
        secondary: Vec<Step>,
    },
}

/// A flow for which something else than a match is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// `tcp`, `udp`, `icmp` or `arp`.
    pub proto: String,
    /// The guest's end and the peer's, as they are written.
    pub ends: Vec<String>,
    /// Causes that will do; `incomplete` stands alone.
    pub causes: Vec<String>,
    /// Where in the stream.
    pub offset: Option<u64>,
}

/// One pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub id: String,
    /// The primary's capture.
    pub primary: String,
    /// The secondary's capture.
    pub secondary: String,
    /// The guest's MAC address.
    pub guest: Option<Mac>,
    /// Further options of `replay`.
    pub options: Vec<String>,
    /// How it was made.
    pub made: Made,
    /// What it shows.
    pub shows: String,
    /// The verdict over all flows.
    pub verdict: String,
    /// The exit status.
    pub exit: i32,
    /// How many TCP flows there are.
    pub tcp: usize,
    /// How many UDP flows there are.
    pub udp: usize,
    /// What is not a match.
    pub exceptions: Vec<Exception>,
}

/// Reads the table in a file.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    parse(&std::fs::read_to_string(path).with_context(|| path.display().to_string())?)
}

/// Reads the table in a text.
pub fn parse(text: &str) -> Result<Vec<Row>> {
    let lines = text.lines().zip(1..).filter(|(line, _)| line.starts_with("| `"));
    lines.map(|(line, number)| row(line).with_context(|| format!("line {number}"))).collect()
}

fn row(line: &str) -> Result<Row> {
    let line =
        line.strip_prefix('|').and_then(|line| line.strip_suffix('|')).context("no bars round the row")?;
    let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
    let [id, primary, secondary, guest, options, made, shows, verdict, exit, tcp, udp, but] = cells[..]
    else {
        bail!("{} cells instead of 12", cells.len());
    };
    ensure!(["match", "diverged", "incomplete"].contains(&verdict), "verdict `{verdict}`");
    Ok(Row {
        id: id.to_owned(),
        primary: primary.to_owned(),
        secondary: secondary.to_owned(),
        guest: (guest != "-").then(|| mac(guest)).transpose()?,
        options: if options == "-" {
            vec![]
        } else {
            options.split_whitespace().map(str::to_owned).collect()
        },
        made: self::made(made, primary)?,
        shows: shows.to_owned(),
        verdict: verdict.to_owned(),
        exit: exit.parse().context("exit")?,
        tcp: tcp.parse().context("tcp")?,
        udp: udp.parse().context("udp")?,
        exceptions: if but == "-" { vec![] } else { but.split(';').map(exception).collect::<Result<_>>()? },
    })
}

/// Reads a MAC address.
pub fn mac(text: &str) -> Result<Mac> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    bytes?.try_into().ok().with_context(|| format!("`{text}` is no MAC address"))
}

fn made(text: &str, primary: &str) -> Result<Made> {
    match text {
        "live" => return Ok(Made::Live),
        "twin" => return Ok(Made::Twin),
        _ => {}
    }
    let steps = |text: &str| if text.trim() == "-" { Ok(vec![]) } else { derive::parse(text) };
    if let Some(text) = text.strip_prefix("derived: ") {
        return Ok(Made::Derived { source: primary.to_owned(), primary: vec![], secondary: steps(text)? });
    }
    let text = text.strip_prefix("derived from ").with_context(|| format!("made how? `{text}`"))?;
    let (source, text) = text.split_once(": ").context("derived by which steps?")?;
    let (first, second) = text.split_once(" / ").context("steps of one side only")?;
    Ok(Made::Derived { source: source.to_owned(), primary: steps(first)?, secondary: steps(second)? })
}

fn exception(text: &str) -> Result<Exception> {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    let cause = words.pop().context("an empty exception")?;
    ensure!(!words.is_empty(), "`{text}` names no flow");
    let (causes, offset) = match cause.split_once('@') {
        Some((causes, offset)) => (causes, Some(offset.parse()?)),
        None => (cause, None),
    };
    Ok(Exception {
        proto: words[0].to_owned(),
        ends: words[1..].iter().map(|word| (*word).to_owned()).collect(),
        causes: causes.split('/').map(str::to_owned).collect(),
        offset,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "| `x-y` | `a.pcap` | `b.pcapng` | 52:54:00:c0:10:01 | --timeout 100 | derived: recut seed=1, no-fin flow=0 \
        | words | diverged | 1 | 3 | 0 | tcp 10.77.0.2:80 10.77.0.1:4000 fin/rst@12; arp incomplete |";

    #[test]
    fn a_row_is_read() {
        let rows = parse(&format!("# title\n| id | primary |\n|---|---|\n{LINE}\n")).unwrap();
        assert_eq!(rows.len(), 1);
        let row = &rows[0];
        assert_eq!((row.id.as_str(), row.secondary.as_str()), ("x-y", "b.pcapng"));
        assert_eq!(row.guest, Some([0x52, 0x54, 0, 0xc0, 0x10, 1]));
        assert_eq!(row.options, ["--timeout", "100"]);
        assert_eq!((row.exit, row.tcp, row.udp), (1, 3, 0));
        assert_eq!(row.exceptions[0].causes, ["fin", "rst"]);
        assert_eq!(row.exceptions[0].offset, Some(12));
        assert_eq!((row.exceptions[1].proto.as_str(), row.exceptions[1].ends.len()), ("arp", 0));
        let Made::Derived { source, primary, secondary } = &row.made else { panic!("{:?}", row.made) };
        assert_eq!((source.as_str(), primary.len(), secondary.len()), ("a.pcap", 0, 2));
    }

    #[test]
    fn a_bad_row_is_an_error_and_not_skipped() {
        for (from, to) in [
            ("match", "maybe"),
            ("diverged", "maybe"),
            ("| words ", ""),
            ("derived:", "made by"),
            ("| 3 ", "| x "),
        ] {
            if LINE.contains(from) {
                assert!(parse(&LINE.replacen(from, to, 1)).is_err(), "{from} -> {to}");
            }
        }
    }
}
