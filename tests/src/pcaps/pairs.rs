//! A row's files: making the derived ones, and judging a pair.

use super::derive;
use super::io::{self, Format};
use super::oracle::{self, Finding, Flow};
use super::record::net::GUEST_MAC;
use super::rows::{Made, Row, mac};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the captures are in this repository.
pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("pcaps")
}

/// The derived files of a row: name and contents.
pub fn derived(dir: &Path, row: &Row) -> Result<Vec<(String, Vec<u8>)>> {
    let Made::Derived { source, primary, secondary } = &row.made else { return Ok(vec![]) };
    let (capture, format) = io::read(&dir.join(source))?;
    let guest = row.guest.map_or_else(|| mac(GUEST_MAC), Ok)?;
    let mut files = Vec::new();
    for (name, steps) in [(&row.primary, primary), (&row.secondary, secondary)] {
        if name != source {
            let capture = derive::apply(steps, capture.clone(), guest).with_context(|| row.id.clone())?;
            files.push((name.clone(), io::encode(&capture, Format::of(Path::new(name), format.nano))?));
        }
    }
    Ok(files)
}

/// What the oracle says of a row's pair.
pub fn judge(dir: &Path, row: &Row) -> Result<BTreeMap<Flow, Finding>> {
    let (primary, _) = io::read(&dir.join(&row.primary))?;
    let (secondary, _) = io::read(&dir.join(&row.secondary))?;
    oracle::compare(&primary, &secondary, row.guest).with_context(|| row.id.clone())
}
