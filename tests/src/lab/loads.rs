//! `colo-load` as one static file, for guests: see `tests/load/`.

use super::store::{self, key, run};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/load/src");
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A name that changes with what it is built from.
pub(super) fn version() -> Result<String> {
    let mut files = Vec::new();
    collect(Path::new(SOURCES), &mut files)?;
    files.sort();
    let texts =
        files.iter().map(|file| fs::read(file).with_context(|| format!("cannot read {}", file.display())));
    Ok(key(texts.collect::<Result<Vec<_>>>()?))
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// The program, built unless it is there.
pub fn colo_load() -> Result<PathBuf> {
    let dir = store::once(&format!("images/load-{}", version()?), |dir| {
        build(dir)?;
        Ok("colo-load".to_owned())
    })?;
    Ok(dir.join("colo-load"))
}

/// With a C library inside, as guests have another one or none. Cargo is told the target, so that what runs
/// here while building (macros, build scripts) is built as ever.
fn build(dir: &Path) -> Result<()> {
    let target_dir = store::dir("build")?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "colo-load",
        "--target",
        TARGET,
        "--target-dir",
    ]);
    cargo.arg(&target_dir).current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static\x1f-Cstrip=symbols");
    run(&mut cargo).context("cannot build the guests' loads")?;
    let built = target_dir.join(TARGET).join("release/colo-load");
    fs::copy(&built, dir.join("colo-load")).with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(())
}
