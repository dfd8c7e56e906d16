//! Where the workspace's binaries are: a test of this crate has no `CARGO_BIN_EXE_…` of another one.

use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Says where a built `colo-proxy` is: in a lab machine nothing is to be compiled.
pub const COLO_PROXY: &str = "COLO_PROXY";
/// Says where a built `colo-vm` is: one version is measured as another was.
pub const COLO_VM: &str = "COLO_VM";

/// The `colo-proxy` binary of the profile that this test was built with, brought up to date once per test program.
pub fn colo_proxy() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    if let Some(given) = std::env::var_os(COLO_PROXY) {
        return Ok(given.into());
    }
    BUILT
        .get_or_init(|| build("colo-proxy").map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)
}

/// The `colo-vm` binary, likewise.
pub fn colo_vm() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    if let Some(given) = std::env::var_os(COLO_VM) {
        return Ok(given.into());
    }
    BUILT
        .get_or_init(|| build("colo-vm").map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)
}

/// The `colo-lab` binary, which is also the agent in lab machines. It is of this package, so cargo has
/// built it along with the test, or it is this program itself.
pub fn colo_lab() -> Result<PathBuf> {
    let binary = Place::of_this()?.dir.join("colo-lab");
    ensure!(binary.exists(), "{} is not there: cargo build -p colo-tests --bins", binary.display());
    Ok(binary)
}

/// The program of another integration test of this package, such as `live_frames`, brought up to date.
pub fn test(name: &str) -> Result<PathBuf> {
    let place = Place::of_this()?;
    let output = place
        .cargo("test")
        .args(["--workspace", "--test", name, "--no-run", "--message-format", "json"])
        .output()?;
    ensure!(
        output.status.success(),
        "cargo could not build {name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let said = String::from_utf8_lossy(&output.stdout);
    let executable = said.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == name).then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    executable.with_context(|| format!("cargo built no {name}"))
}

fn build(name: &str) -> Result<PathBuf> {
    let place = Place::of_this()?;
    // All rooms are selected, as `cargo xtask test` does, so that dependencies have the same features and
    // nothing is compiled twice.
    let status = place.cargo("build").args(["--workspace", "--bin", name]).status()?;
    ensure!(status.success(), "cargo could not build {name}");
    let binary = place.dir.join(name);
    ensure!(binary.exists(), "{} is not there", binary.display());
    Ok(binary)
}

/// Where this program was built.
struct Place {
    dir: PathBuf,
}

impl Place {
    fn of_this() -> Result<Self> {
        // A test is in target/<profile>/deps, a binary one level up.
        let exe = std::env::current_exe()?;
        let dir = exe.ancestors().skip(1).find(|dir| dir.file_name().is_some_and(|name| name != "deps"));
        Ok(Self { dir: dir.context("a test outside a target directory")?.to_owned() })
    }

    /// Cargo, with this profile and target directory.
    fn cargo(&self, verb: &str) -> Command {
        let profile = match self.dir.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(other) => other,
        };
        let mut command = Command::new(env!("CARGO"));
        // Which package this test is of is not cargo's to hear: build scripts that look at it (ring's does)
        // would run again, and all that depends on them be compiled anew.
        let told = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(told)) {
            command.env_remove(name);
        }
        command.args([verb, "--quiet", "--profile", profile, "--target-dir"]);
        command.arg(self.dir.parent().unwrap_or(&self.dir)).current_dir(env!("CARGO_MANIFEST_DIR"));
        command
    }
}
