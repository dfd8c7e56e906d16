//! What a host's network looks like, in lines that can be compared: what a set-up adds, teardown and
//! roll-back must take away, and nothing else.

use super::lab::Lab;
use super::space::Space;
use anyhow::Result;
use aya::programs::SchedClassifier;
use aya::programs::tc::TcAttachType;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// The lines of one host at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Looks at a host: links, bridge ports and VLANs, queueing disciplines, rules, TCX programs,
    /// filters, pinned files.
    pub fn of(lab: &Lab, host: &Space) -> Result<Self> {
        let mut lines = BTreeSet::new();
        let links: Value = serde_json::from_str(&host.run("ip -d -j link show")?)?;
        for link in links.as_array().into_iter().flatten() {
            let mut link = link.clone();
            if let Some(fields) = link.as_object_mut() {
                // What time changes by itself.
                for timer in ["stats", "stats64"] {
                    fields.remove(timer);
                }
            }
            lines.insert(format!("link {}", without_timers(&link)));
            let name = link["ifname"].as_str().unwrap_or_default().to_owned();
            for (way, hook) in [("ingress", TcAttachType::Ingress), ("egress", TcAttachType::Egress)] {
                // A kernel without TCX (before 6.6) does not know the question, and has none.
                if let Ok((_, programs)) = host.enter(|| SchedClassifier::query_tcx(&name, hook)) {
                    let names: Vec<String> = programs
                        .iter()
                        .map(|program| String::from_utf8_lossy(program.name()).into_owned())
                        .collect();
                    lines.insert(format!("tcx {name} {way} {names:?}"));
                }
                let filters = host.run(&format!("tc filter show dev {name} {way}")).unwrap_or_default();
                lines.extend(filters.lines().map(|line| format!("filter {name} {way}: {line}")));
            }
        }
        for line in
            ["bridge -d link show", "bridge vlan show", "tc qdisc show", "ip rule show", "ip -o address show"]
        {
            let said = host.run(line)?;
            lines.extend(said.lines().map(|said| format!("{line}: {said}")));
        }
        files(&lab.bpffs(), &mut lines);
        files(&lab.dir().join("run"), &mut lines);
        Ok(Self(lines))
    }

    /// What the other has and this has not, and the other way round; empty if they are the same.
    pub fn difference(&self, later: &Self) -> Vec<String> {
        let gone = self.0.difference(&later.0).map(|line| format!("- {line}"));
        let new = later.0.difference(&self.0).map(|line| format!("+ {line}"));
        gone.chain(new).collect()
    }
}

/// Bridges report how long their timers have to go.
fn without_timers(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| !name.contains("timer"))
            .map(|(name, value)| (name.clone(), without_timers(value)))
            .collect(),
        other => other.clone(),
    }
}

/// Files below a folder; empty folders are nobody's concern.
fn files(dir: &Path, lines: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(&entry.path(), lines);
        } else {
            lines.insert(format!("file {}", entry.path().display()));
        }
    }
}
