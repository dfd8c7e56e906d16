//! `xtask demo`: the comparator on captures of real traffic: pairs that agree, and pairs that do not.

use crate::command::{self, cargo, program, root};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::PathBuf;

/// The table of the captures, with the verdict that each pair must get.
const TABLE: &str = "pcaps/README.md";

/// A row of the table to show, and how to read the verdict.
struct Scene {
    row: &'static str,
    meaning: &'static str,
}

const SCENES: [Scene; 3] = [
    Scene {
        row: "twin-http",
        meaning: "two kernels cut and number one stream in their own ways; the bytes agree, so all of it may leave",
    },
    Scene {
        row: "twin-tls",
        meaning: "each server made up its own random number; the flow waits there, and a checkpoint is asked for",
    },
    Scene {
        row: "bulk-byte",
        meaning: "one byte of a bulk transfer was changed; all before it may leave, nothing from there on",
    },
];

pub(crate) fn run() -> Result<()> {
    command::run(cargo(["build", "--release", "--package", "colo-proxy", "--bins"]))?;
    let proxy = target_dir().join("release").join("colo-proxy");
    let table = fs::read_to_string(root().join(TABLE)).with_context(|| format!("cannot read {TABLE}"))?;
    for scene in &SCENES {
        let row =
            Row::find(&table, scene.row).with_context(|| format!("{TABLE} has no row `{}`", scene.row))?;
        println!("\n━━ {}: {}\n   expected: {}: {}", scene.row, row.shows, row.verdict, scene.meaning);
        let mut replay = program(&proxy);
        replay.args(row.replay());
        println!("   $ colo-proxy {}\n", row.replay().join(" "));
        let status = replay.status().with_context(|| format!("cannot start {}", proxy.display()))?;
        if status.code() != Some(row.exit) {
            bail!("{}: expected exit status {}, got {status}", scene.row, row.exit);
        }
    }
    println!("\nAll {} verdicts are as expected.", SCENES.len());
    Ok(())
}

fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// What a row of the table says.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    primary: String,
    secondary: String,
    guest: Option<String>,
    options: Vec<String>,
    shows: String,
    verdict: String,
    exit: i32,
}

impl Row {
    /// The row `id` of a table whose columns are named in its head.
    fn find(table: &str, id: &str) -> Result<Self> {
        let lines = table.lines().filter(|line| line.starts_with('|'));
        let mut rows = lines.map(|line| line.trim_matches('|').split('|').map(cell).collect::<Vec<_>>());
        let head = rows.next().context("there is no table")?;
        let row = rows.find(|row| row.first() == Some(&id)).context("there is no such row")?;
        ensure!(row.len() == head.len(), "the row has {} cells, its head {}", row.len(), head.len());
        let get = |name: &str| {
            let index = head.iter().position(|column| *column == name);
            index.map(|index| row[index]).with_context(|| format!("there is no column `{name}`"))
        };
        let given = |name: &str| get(name).map(|text| (text != "-").then_some(text));
        Ok(Self {
            primary: get("primary")?.to_owned(),
            secondary: get("secondary")?.to_owned(),
            guest: given("guest")?.map(str::to_owned),
            options: given("options")?
                .map_or_else(Vec::new, |text| text.split(' ').map(str::to_owned).collect()),
            shows: get("shows")?.to_owned(),
            verdict: get("verdict")?.to_owned(),
            exit: get("exit")?.parse().context("the column `exit` is no number")?,
        })
    }

    /// The arguments that replay this pair.
    fn replay(&self) -> Vec<String> {
        let mut args = vec!["replay".to_owned()];
        args.extend(["--primary".to_owned(), format!("pcaps/{}", self.primary)]);
        args.extend(["--secondary".to_owned(), format!("pcaps/{}", self.secondary)]);
        args.extend(self.guest.iter().flat_map(|mac| ["--guest-mac".to_owned(), mac.clone()]));
        args.extend(self.options.iter().cloned());
        args
    }
}

fn cell(text: &str) -> &str {
    text.trim().trim_matches('`')
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
Text.

| id | primary | secondary | guest | options | shows | verdict | exit |
|---|---|---|---|---|---|---|---|
| `a` | `a.pcap` | `b.pcap` | 52:54:00:00:00:01 | --timeout 100 | It waits | diverged | 1 |
| `b` | `b.pcap` | `b.pcap` | - | - | It is itself | match | 0 |
";

    #[test]
    fn a_row_becomes_a_command() {
        let row = Row::find(SAMPLE, "a").unwrap();
        assert_eq!(
            row.replay().join(" "),
            "replay --primary pcaps/a.pcap --secondary pcaps/b.pcap --guest-mac 52:54:00:00:00:01 --timeout 100"
        );
        assert_eq!((row.exit, row.shows.as_str()), (1, "It waits"));
        let row = Row::find(SAMPLE, "b").unwrap();
        assert_eq!(row.replay().join(" "), "replay --primary pcaps/b.pcap --secondary pcaps/b.pcap");
    }

    #[test]
    fn a_row_that_is_not_there_is_missed() {
        assert!(Row::find(SAMPLE, "c").is_err());
        assert!(Row::find("no table", "a").is_err());
    }
}
