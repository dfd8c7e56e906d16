//! `xtask lint`: formatting, clippy, documentation, and the rules of the tree that no tool knows.

use crate::command::{self, cargo, root, say};
use crate::packages::ensure_component;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// A source file longer than this wants to be two.
const LINES_WARN: usize = 500;
/// A source file longer than this is refused.
const LINES_MAX: usize = 800;
/// All captures together; a clone should stay small.
const PCAPS_MAX: u64 = 5 << 20;
/// Rooms with Rust sources.
const ROOMS: [&str; 5] = ["ebpf", "proxy", "vmm", "tests", "xtask"];

pub(crate) fn run() -> Result<()> {
    run_in(None)
}

/// With what cargo builds for it in a folder of its own, where others use the usual one at the same time.
pub(crate) fn run_in(target_dir: Option<&str>) -> Result<()> {
    ensure_component("fmt", "rustfmt")?;
    ensure_component("clippy", "clippy")?;
    command::run(cargo(["fmt", "--all", "--check"]))?;
    command::run(cargo(["fmt", "--check", "--manifest-path", "tests/fuzz/Cargo.toml"]))?;
    command::run(cargo(["fmt", "--check", "--manifest-path", "ebpf/Cargo.toml"]))?;
    let mut clippy = cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    let mut doc = cargo(["doc", "--workspace", "--no-deps", "--document-private-items"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    if let Some(dir) = target_dir {
        for command in [&mut clippy, &mut doc] {
            command.env("CARGO_TARGET_DIR", dir);
        }
    }
    command::run(clippy)?;
    command::run(doc)?;
    tree()
}

/// The rules of the tree.
fn tree() -> Result<()> {
    let mut wrong = Vec::new();
    for path in sources()? {
        let text = fs::read_to_string(root().join(&path)).with_context(|| path.display().to_string())?;
        let lines = text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{}: {lines} lines, more than {LINES_MAX}", path.display()));
        } else if lines > LINES_WARN {
            say(&format!("note: {} has {lines} lines; {LINES_WARN} are enough", path.display()));
        }
        if !is_sys(&path) {
            let places =
                unsafe_lines(&text).map(|line| format!("{}:{line}: unsafe outside sys", path.display()));
            wrong.extend(places);
        }
    }
    let captures = size_of(&root().join("pcaps"))?;
    if captures > PCAPS_MAX {
        wrong.push(format!("pcaps/ holds {captures} bytes, more than {PCAPS_MAX}"));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("the tree breaks its rules:\n  {}", wrong.join("\n  "))
}

/// Every Rust source of the rooms, without what is built.
fn sources() -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for room in ROOMS {
        walk(&root(), Path::new(room), &mut out)?;
    }
    out.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    out.sort();
    Ok(out)
}

fn walk(root: &Path, dir: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    let absolute = root.join(dir);
    if !absolute.is_dir() {
        return Ok(());
    }
    for entry in absolute.read_dir().with_context(|| absolute.display().to_string())? {
        let entry = entry?;
        let path = dir.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_file() {
            out.push(path);
        } else if kind.is_dir() && entry.file_name() != "target" {
            walk(root, &path, out)?;
        }
    }
    Ok(())
}

/// Whether a file is one of the few that may speak to the kernel without the compiler's help. What runs
/// in the kernel does nothing else.
fn is_sys(path: &Path) -> bool {
    path.starts_with("ebpf/src")
        || path.file_name().is_some_and(|name| name == "sys.rs")
        || path.components().any(|part| part.as_os_str() == "sys")
}

/// Lines with the keyword outside comments and strings, counted from 1. This lint need not be
/// perfect: the compiler's `unsafe_code` stands behind it.
fn unsafe_lines(text: &str) -> impl Iterator<Item = usize> {
    let is_use = |line: &str| {
        let code = line.split("//").next().unwrap_or_default();
        let outside_strings = code.split('"').step_by(2);
        let mut words =
            outside_strings.flat_map(|part| part.split(|c: char| !c.is_alphanumeric() && c != '_'));
        words.any(|word| word == "unsafe")
    };
    text.lines().enumerate().filter(move |(_, line)| is_use(line)).map(|(index, _)| index + 1)
}

fn size_of(dir: &Path) -> Result<u64> {
    let mut files = Vec::new();
    walk(dir, Path::new(""), &mut files)?;
    files.iter().map(|file| Ok(fs::metadata(dir.join(file))?.len())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_is_found_in_code_only() {
        let text =
            "#![forbid(unsafe_code)]\n// unsafe\nlet a = \"unsafe\";\nunsafe { f() }\nunsafe fn g() {}";
        assert_eq!(unsafe_lines(text).collect::<Vec<_>>(), [4, 5]);
    }

    #[test]
    fn sys_is_a_file_or_a_folder() {
        assert!(is_sys(Path::new("proxy/src/tap/sys.rs")));
        assert!(is_sys(Path::new("vmm/src/sys/kvm.rs")));
        assert!(is_sys(Path::new("ebpf/src/skb.rs")) && !is_sys(Path::new("ebpf/shared/src/tag.rs")));
        assert!(!is_sys(Path::new("vmm/src/system.rs")));
    }

    #[test]
    fn the_sources_of_this_chore_are_among_the_sources() {
        assert!(sources().unwrap().contains(&PathBuf::from("xtask/src/lint.rs")));
    }
}
