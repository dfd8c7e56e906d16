//! Where the workspace's binaries are: a test of this crate has no `CARGO_BIN_EXE_…` of another one.

use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The `colo-proxy` binary of the profile that this test was built with, brought up to date once per test program.
pub fn colo_proxy() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT
        .get_or_init(|| build("colo-proxy", "colo-proxy").map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)
}

/// The `colo-lab` binary, which is also the agent in lab machines; this program itself if it is that.
pub fn colo_lab() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let this = std::env::current_exe()?;
    if this.file_name().is_some_and(|name| name == "colo-lab") {
        return Ok(this);
    }
    BUILT
        .get_or_init(|| build("colo-tests", "colo-lab").map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)
}

fn build(package: &str, name: &str) -> Result<PathBuf> {
    // A test is in target/<profile>/deps, a binary one level up.
    let exe = std::env::current_exe()?;
    let dir = exe.ancestors().skip(1).find(|dir| dir.file_name().is_some_and(|name| name != "deps"));
    let dir = dir.context("a test outside a target directory")?;
    let profile = match dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let target = dir.parent().context("a target directory without a parent")?;
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", package, "--bin", name, "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()?;
    ensure!(status.success(), "cargo could not build {name}");
    let binary = dir.join(name);
    ensure!(binary.exists(), "{} is not there", binary.display());
    Ok(binary)
}
