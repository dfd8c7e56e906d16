//! Compiling the programs so that only the sources and the tools' versions decide the bytes.
//!
//! Debug info is needed on the way, because BTF is made of it; it is taken off the object, and what
//! BTF keeps of it (file names) has the folders replaced: the checkout is `/colo`, cargo's registry
//! `/cargo`, the standard library `/rust`.

use crate::command::{cargo, program, root, run, say, works};
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The compiler that the object is built with: another one builds another object.
const RUST: &str = "1.95.0";
/// The linker. Later ones want a system LLVM as new as the compiler's; this one uses the compiler's own.
const LINKER: &str = "0.10.4";
/// Where cargo builds, away from the workspace's own: another target, other flags.
const TARGET_DIR: &str = "target/ebpf";
const TARGET: &str = "bpfel-unknown-none";

/// The tools, all of them there.
pub(super) struct Tools {
    /// The toolchain's top folder.
    sysroot: PathBuf,
    linker: PathBuf,
    rustc: String,
}

impl Tools {
    /// The lines of the lock file that say what built the object.
    pub(super) fn versions(&self) -> Vec<String> {
        vec![self.rustc.clone(), format!("bpf-linker {LINKER}")]
    }

    fn bin(&self, name: &str) -> PathBuf {
        self.sysroot.join("bin").join(name)
    }
}

/// Finds the tools, and installs what is missing.
pub(super) fn prepare() -> Result<Tools> {
    let sysroot = toolchain()?;
    let rustc = version(&sysroot).context("rustc does not tell its version")?;
    Ok(Tools { sysroot, linker: linker()?, rustc })
}

/// The compiler of the right version with the source of `core`, which is built for BPF as well.
fn toolchain() -> Result<PathBuf> {
    let own = output(program("rustc").args(["--print", "sysroot"])).map(PathBuf::from);
    if let Some(own) = own
        && is_wanted(&own)
    {
        if !has_source(&own) {
            say("installing the Rust component rust-src: core is compiled for BPF");
            let mut rustup = program("rustup");
            rustup.args(["component", "add", "rust-src"]);
            run(rustup).context("the source of core is missing, and rustup cannot add rust-src")?;
        }
        return Ok(own);
    }
    say(&format!("installing Rust {RUST} with rust-src: another compiler builds another object"));
    let mut rustup = program("rustup");
    rustup.args(["toolchain", "install", RUST, "--profile", "minimal", "--component", "rust-src"]);
    run(rustup)
        .with_context(|| format!("the object is built with Rust {RUST}, and rustup cannot install it"))?;
    let mut print = program("rustup");
    print.env_remove("RUSTUP_TOOLCHAIN").args(["run", RUST, "rustc", "--print", "sysroot"]);
    output(&mut print)
        .map(PathBuf::from)
        .with_context(|| format!("Rust {RUST} is installed and does not start"))
}

fn version(sysroot: &Path) -> Option<String> {
    output(program(sysroot.join("bin/rustc")).arg("--version"))
}

fn is_wanted(sysroot: &Path) -> bool {
    version(sysroot).is_some_and(|version| version.split(' ').nth(1) == Some(RUST))
}

fn has_source(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core").is_dir()
}

/// The linker of the right version: the one on the path, or our own.
fn linker() -> Result<PathBuf> {
    let name = Path::new("bpf-linker");
    let home = root().join(format!("target/bpf-linker-{LINKER}"));
    let own = home.join("bin").join(name);
    for place in [name, own.as_path()] {
        let mut ask = program(place);
        if output(ask.arg("--version")).is_some_and(|version| version == format!("bpf-linker {LINKER}")) {
            return Ok(place.to_owned());
        }
    }
    say(&format!(
        "installing bpf-linker {LINKER} from crates.io with cargo, into target/: it links the programs"
    ));
    let mut install = cargo(["install", "bpf-linker", "--locked", "--version", LINKER]);
    install.arg("--root").arg(&home).env_remove("RUSTFLAGS");
    run(install).with_context(|| format!("bpf-linker {LINKER} is missing, and cargo cannot install it"))?;
    if !works({
        let mut ask = program(&own);
        ask.arg("--version");
        ask
    }) {
        bail!("bpf-linker {LINKER} was installed as {} and does not start", own.display());
    }
    Ok(own)
}

/// Builds the programs and returns the object's bytes.
pub(super) fn object(tools: &Tools) -> Result<Vec<u8>> {
    run(compile(tools)?)?;
    let built = root().join(TARGET_DIR).join(TARGET).join("release/colo");
    let stripped = built.with_extension("bpf.o");
    let mut strip = program(objcopy(tools)?);
    strip.arg("--strip-debug").arg(&built).arg(&stripped).env("LD_LIBRARY_PATH", tools.sysroot.join("lib"));
    run(strip)?;
    fs::read(&stripped).with_context(|| stripped.display().to_string())
}

fn compile(tools: &Tools) -> Result<Command> {
    let mut build = program(tools.bin("cargo"));
    build.current_dir(root().join("ebpf"));
    build.args(["build", "--release", "--locked", "--target-dir"]).arg(root().join(TARGET_DIR));
    build.arg("--config").arg(setting("linker", &[tools.linker.as_os_str()], false)?);
    let mut flags = vec!["-Dwarnings".to_owned()];
    for (folder, name) in folders(tools)? {
        flags.push(format!("--remap-path-prefix={}={name}", text(folder.as_os_str())?));
    }
    let flags: Vec<&OsStr> = flags.iter().map(OsStr::new).collect();
    build.arg("--config").arg(setting("rustflags", &flags, true)?);
    // `build-std` is for nightly compilers; this lets the stable one take it. Flags from the
    // environment would take the place of those above.
    build.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", tools.bin("rustc"));
    for name in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "CARGO_TARGET_DIR",
    ] {
        build.env_remove(name);
    }
    // The linker takes the LLVM that it finds first.
    build.env("LD_LIBRARY_PATH", tools.sysroot.join("lib"));
    Ok(build)
}

/// The folders that would show in the object, and what shows in their place.
fn folders(tools: &Tools) -> Result<[(PathBuf, &'static str); 3]> {
    let of_user = || std::env::home_dir().map(|home| home.join(".cargo"));
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(of_user);
    let cargo = cargo.context("neither CARGO_HOME nor HOME says where cargo keeps its registry")?;
    Ok([(root(), "/colo"), (cargo, "/cargo"), (tools.sysroot.clone(), "/rust")])
}

/// A setting of the target, as cargo's `--config` takes it.
fn setting(name: &str, values: &[&OsStr], list: bool) -> Result<String> {
    let values = values
        .iter()
        .map(|value| text(value).map(|value| format!("{value:?}")))
        .collect::<Result<Vec<_>>>()?;
    let values = values.join(",");
    Ok(if list {
        format!("target.{TARGET}.{name}=[{values}]")
    } else {
        format!("target.{TARGET}.{name}={values}")
    })
}

fn text(value: &OsStr) -> Result<&str> {
    value.to_str().with_context(|| format!("{}: cargo's settings must be Unicode", value.display()))
}

/// The toolchain's own tool, so that no system LLVM is needed.
fn objcopy(tools: &Tools) -> Result<PathBuf> {
    let rustlib = tools.sysroot.join("lib/rustlib");
    for entry in rustlib.read_dir().with_context(|| rustlib.display().to_string())? {
        let tool = entry?.path().join("bin/rust-objcopy");
        if tool.exists() {
            return Ok(tool);
        }
    }
    bail!("{}: the toolchain comes without rust-objcopy", rustlib.display())
}

/// What a program prints, if it starts and ends well.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_written_as_cargo_reads_them() {
        let one = setting("linker", &[OsStr::new("/a b/ld")], false).unwrap();
        assert_eq!(one, "target.bpfel-unknown-none.linker=\"/a b/ld\"");
        let list = setting("rustflags", &[OsStr::new("-a"), OsStr::new("-b=\"c\"")], true).unwrap();
        assert_eq!(list, "target.bpfel-unknown-none.rustflags=[\"-a\",\"-b=\\\"c\\\"\"]");
    }

    #[test]
    fn the_compiler_is_the_one_that_the_workspace_asks_for() {
        let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
        let wanted = workspace.lines().find_map(|line| line.strip_prefix("rust-version = \"")).unwrap();
        assert!(RUST.starts_with(wanted.trim_end_matches('"')), "rust-version is {wanted}");
    }
}
