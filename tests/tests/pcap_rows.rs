//! `pcaps/README.md` is true: every row is replayed, and its files are what it says.

use anyhow::{Context, Result, ensure};
use colo_tests::binary::colo_proxy;
use colo_tests::pcaps::oracle::{Finding, Flow};
use colo_tests::pcaps::rows::{self, Exception, Made, Row};
use colo_tests::pcaps::{Capture, io, pairs, wire};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

/// What all captures together may take.
const LIMIT: u64 = 5 << 20;

fn table() -> Vec<Row> {
    let rows = rows::read(&pairs::dir().join("README.md")).expect("a readable table");
    assert!(rows.len() >= 25, "only {} rows", rows.len());
    rows
}

/// Runs a check on every row and fails with all complaints at once.
fn every_row(check: impl Fn(&Row) -> Result<()>) {
    let complaints: Vec<String> = table()
        .iter()
        .filter_map(|row| check(row).err().map(|error| format!("{}: {error:#}", row.id)))
        .collect();
    assert!(complaints.is_empty(), "{} rows are not true:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn every_file_has_a_row_and_every_row_its_files() {
    let mut named = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for row in table() {
        assert!(ids.insert(row.id.clone()), "{} twice", row.id);
        if let Made::Derived { source, .. } = &row.made {
            named.insert(source.clone());
        }
        named.extend([row.primary, row.secondary]);
    }
    let mut size = 0;
    let mut there = BTreeSet::new();
    for entry in std::fs::read_dir(pairs::dir()).unwrap() {
        let entry = entry.unwrap();
        size += entry.metadata().unwrap().len();
        there.insert(entry.file_name().into_string().unwrap());
    }
    assert!(there.remove("README.md"));
    assert_eq!(named, there, "rows name the files on the left, the ones on the right are there");
    assert!(size < LIMIT, "{size} bytes");
}

#[test]
fn every_container_and_unit_appears() {
    let mut formats = BTreeSet::new();
    for row in table() {
        for file in [&row.primary, &row.secondary] {
            let (_, format) = io::read(&pairs::dir().join(file)).unwrap();
            formats.insert((format.ng, format.nano));
        }
    }
    assert_eq!(formats.len(), 4, "(pcapng, nanoseconds): {formats:?}");
}

#[test]
fn derived_files_are_what_their_steps_make() {
    every_row(|row| {
        for (name, bytes) in pairs::derived(&pairs::dir(), row)? {
            ensure!(std::fs::read(pairs::dir().join(&name))? == bytes, "{name} is not what its steps make");
        }
        Ok(())
    });
}

#[test]
fn a_plain_comparison_of_whole_streams_finds_what_the_row_says() {
    every_row(|row| {
        let findings = pairs::judge(&pairs::dir(), row)?;
        let count = |is: fn(&Flow) -> bool| findings.keys().filter(|flow| is(flow)).count();
        let (tcp, udp) = (count(|f| matches!(f, Flow::Tcp(..))), count(|f| matches!(f, Flow::Udp(..))));
        ensure!((tcp, udp) == (row.tcp, row.udp), "{tcp} TCP and {udp} UDP flows");
        let odd: Vec<_> = findings.iter().filter(|(_, finding)| **finding != Finding::Same).collect();
        ensure!(odd.len() == row.exceptions.len(), "found {odd:?}");
        for (flow, finding) in odd {
            let said = flow.to_string();
            let names = |e: &&Exception| format!("{} {}", e.proto, e.ends.join(" ")).trim() == said;
            let expected =
                row.exceptions.iter().find(names).with_context(|| format!("{flow} {finding:?}"))?;
            let has = |cause: &str| expected.causes.iter().any(|c| c == cause);
            let right = match finding {
                Finding::Same => false,
                Finding::Missing => has("incomplete") || has("age"),
                Finding::Differs(cause, offset) => has(cause) && expected.offset == offset.map(u64::from),
            };
            ensure!(right, "{flow} {finding:?}, expected {expected:?}");
        }
        Ok(())
    });
}

#[test]
fn the_verdict_follows_from_the_exceptions() {
    every_row(|row| {
        let incomplete = |e: &Exception| e.causes == ["incomplete"];
        let verdict = match row.exceptions.as_slice() {
            [] => "match",
            all if all.iter().all(incomplete) => "incomplete",
            _ => "diverged",
        };
        ensure!(row.verdict == verdict && row.exit == i32::from(verdict != "match"), "should be {verdict}");
        Ok(())
    });
}

#[test]
fn replay_comes_to_every_rows_verdict() {
    let binary = colo_proxy().unwrap();
    every_row(|row| {
        let mut command = Command::new(&binary);
        command.current_dir(pairs::dir()).args([
            "replay",
            "--primary",
            &row.primary,
            "--secondary",
            &row.secondary,
        ]);
        if let Some([a, b, c, d, e, f]) = row.guest {
            command.args(["--guest-mac", &format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")]);
        }
        let output = command.args(&row.options).arg("--json").output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let json: Value = serde_json::from_slice(&output.stdout).with_context(|| {
            format!("{}, no JSON: {}", output.status, said.lines().next().unwrap_or("silence"))
        })?;
        check_replay(row, &json)?;
        ensure!(output.status.code() == Some(row.exit), "{}", output.status);
        Ok(())
    });
}

fn check_replay(row: &Row, json: &Value) -> Result<()> {
    ensure!(json["version"] == 1, "version {}", json["version"]);
    let flows = json["flows"].as_array().context("no flows")?;
    ensure!(json["summary"]["flows"] == flows.len(), "the summary has {} flows", json["summary"]["flows"]);
    for (proto, expected) in [("tcp", row.tcp), ("udp", row.udp)] {
        let found = flows.iter().filter(|flow| flow["proto"] == proto).count();
        ensure!(found == expected, "{found} {proto} flows instead of {expected}");
    }
    let files =
        (io::read(&pairs::dir().join(&row.primary))?.0, io::read(&pairs::dir().join(&row.secondary))?.0);
    let mut met = vec![false; row.exceptions.len()];
    for flow in flows {
        let expected = row.exceptions.iter().position(|exception| is_flow(exception, flow));
        if let Some(i) = expected {
            check_exception(&row.exceptions[i], flow, met[i])?;
            met[i] |= flow["verdict"] != "match";
        } else {
            let passed =
                flow["verdict"] == "passed-through" && flow["proto"] != "tcp" && flow["proto"] != "udp";
            ensure!(flow["verdict"] == "match" || passed, "unexpected: {flow}");
            ensure!(flow["divergence"].is_null(), "a match with a divergence: {flow}");
        }
        check_frames(flow, &files, row)?;
    }
    let missed: Vec<_> = row.exceptions.iter().zip(&met).filter(|(_, met)| !**met).map(|(e, _)| e).collect();
    ensure!(missed.is_empty(), "not found: {missed:?}");
    Ok(())
}

/// An end without its port, if the replay gives ICMP and ARP one.
fn address(end: &str) -> &str {
    if end.parse::<IpAddr>().is_ok() {
        return end;
    }
    end.rsplit_once(':').map_or(end, |(host, _)| host.trim_matches(['[', ']']))
}

fn is_flow(exception: &Exception, flow: &Value) -> bool {
    let text = |key: &str| flow[key].as_str().unwrap_or_default();
    let ends = [text("a"), text("b")];
    match exception.proto.as_str() {
        proto @ ("tcp" | "udp") => {
            let same =
                |(a, b): (&&str, &String)| a.parse::<SocketAddr>().ok() == b.parse::<SocketAddr>().ok();
            text("proto") == proto && ends.iter().zip(&exception.ends).all(same)
        }
        "icmp" => {
            text("proto").starts_with("icmp")
                && ends.iter().zip(&exception.ends).all(|(a, b)| address(a) == b)
        }
        proto => text("proto") == proto,
    }
}

/// Of several flows that an exception may mean (an ICMP identifier each), one must meet it and the others match.
fn check_exception(exception: &Exception, flow: &Value, met: bool) -> Result<()> {
    let many = !matches!(exception.proto.as_str(), "tcp" | "udp");
    if flow["verdict"] == "match" && many {
        return Ok(());
    }
    ensure!(!met, "two flows for {exception:?}");
    if exception.causes == ["incomplete"] {
        ensure!(flow["verdict"] == "incomplete", "not incomplete: {flow}");
        return Ok(());
    }
    ensure!(flow["verdict"] == "diverged", "not diverged: {flow}");
    let cause = flow["divergence"]["cause"].as_str().context("a divergence without a cause")?;
    ensure!(
        exception.causes.iter().any(|expected| expected == cause),
        "cause `{cause}`, expected {exception:?}"
    );
    if let Some(offset) = exception.offset {
        ensure!(flow["divergence"]["offset"] == offset, "expected {exception:?}, got {flow}");
    }
    Ok(())
}

/// The frames that a divergence points to are the guest's, and of that flow.
fn check_frames(flow: &Value, files: &(Capture, Capture), row: &Row) -> Result<()> {
    for (key, file) in [("primary_frame", &files.0), ("secondary_frame", &files.1)] {
        let Some(number) = flow["divergence"][key].as_u64() else { continue };
        let frame =
            usize::try_from(number)?.checked_sub(1).and_then(|i| file.get(i)).context("no such frame")?;
        ensure!(
            row.guest.is_none_or(|mac| wire::is_from(&frame.data, mac)),
            "{key} {number} is not the guest's"
        );
        if let Some(tcp) = wire::Tcp::parse(&frame.data).filter(|_| flow["proto"] == "tcp") {
            let from = SocketAddr::new(tcp.view.src(&frame.data), tcp.ports.0);
            let a = flow["a"].as_str().and_then(|a| a.parse().ok());
            ensure!(a == Some(from), "{key} {number} is of another flow: {flow}");
        }
    }
    Ok(())
}
