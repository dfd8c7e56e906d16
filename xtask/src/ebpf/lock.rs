//! The lock file: digests of the sources that an object was built from, and of the object.
//!
//! ```text
//!   rustc 1.95.0 (59807616e 2026-04-14)
//!   bpf-linker 0.10.4
//!   <sha256>  ebpf/object/colo.bpf.o
//!   <sha256>  ebpf/src/main.rs
//!   …
//! ```
//!
//! The lines with digests are those of `sha256sum`, so `sha256sum --check` reads the file too.

use super::OBJECT;
use crate::command::root;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};

/// Folders whose sources go into the object.
const SOURCES: [&str; 2] = ["ebpf/src", "ebpf/shared/src"];
/// What else decides how it comes out.
const FILES: [&str; 4] =
    ["ebpf/Cargo.toml", "ebpf/Cargo.lock", "ebpf/.cargo/config.toml", "ebpf/shared/Cargo.toml"];

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lock {
    versions: Vec<String>,
    digests: BTreeMap<String, String>,
}

impl Lock {
    /// The lock of this object and of the sources as they are now.
    pub(super) fn of(object: &[u8], versions: &[String]) -> Result<Self> {
        let mut digests = BTreeMap::from([(OBJECT.to_owned(), digest(object))]);
        for path in sources()? {
            let bytes = fs::read(root().join(&path)).with_context(|| path.display().to_string())?;
            digests.insert(path.display().to_string(), digest(&bytes));
        }
        Ok(Self { versions: versions.to_vec(), digests })
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut lock = Self { versions: Vec::new(), digests: BTreeMap::new() };
        for line in text.lines() {
            match line.split_once("  ") {
                Some((digest, path)) if digest.len() == 64 => {
                    lock.digests.insert(path.to_owned(), digest.to_owned());
                }
                _ if line.starts_with("rustc ") || line.starts_with("bpf-linker ") => {
                    lock.versions.push(line.to_owned());
                }
                _ => bail!("a line that means nothing: {line:?}"),
            }
        }
        Ok(lock)
    }

    pub(super) fn versions(&self) -> &[String] {
        &self.versions
    }

    /// What is not as this lock says, one line for each file.
    pub(super) fn differences(&self, now: &Self) -> Vec<String> {
        let mut out = Vec::new();
        for (path, digest) in &self.digests {
            match now.digests.get(path) {
                None => out.push(format!("{path}: gone")),
                Some(other) if other != digest => out.push(format!("{path}: changed")),
                Some(_) => {}
            }
        }
        out.extend(
            now.digests
                .keys()
                .filter(|path| !self.digests.contains_key(*path))
                .map(|path| format!("{path}: new")),
        );
        out
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for version in &self.versions {
            writeln!(f, "{version}")?;
        }
        for (path, digest) in &self.digests {
            writeln!(f, "{digest}  {path}")?;
        }
        Ok(())
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The files that decide how the object comes out, without tests in files of their own.
fn sources() -> Result<Vec<PathBuf>> {
    let mut out: Vec<PathBuf> = FILES.iter().map(PathBuf::from).collect();
    for folder in SOURCES {
        walk(Path::new(folder), &mut out)?;
    }
    Ok(out)
}

fn walk(folder: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    let entries = root().join(folder).read_dir().with_context(|| folder.display().to_string())?;
    for entry in entries {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if path.file_stem().is_some_and(|name| name == "tests") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            walk(&path, out)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> Lock {
        Lock::of(b"an object", &["rustc 1.2.3".to_owned(), "bpf-linker 4.5.6".to_owned()]).unwrap()
    }

    #[test]
    fn a_lock_reads_back_as_it_was_written() {
        assert_eq!(Lock::parse(&lock().to_string()).unwrap(), lock());
        assert!(Lock::parse("nonsense\n").is_err());
    }

    #[test]
    fn programs_and_what_they_share_are_in_it_and_their_tests_are_not() {
        let lock = lock();
        for path in ["ebpf/src/main.rs", "ebpf/shared/src/translate.rs", "ebpf/Cargo.lock", OBJECT] {
            assert!(lock.digests.contains_key(path), "{path}");
        }
        assert!(!lock.digests.keys().any(|path| path.contains("tests")));
    }

    #[test]
    fn the_digest_is_sha256() {
        assert_eq!(digest(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn each_difference_is_told() {
        let was = lock();
        let mut now = lock();
        *now.digests.get_mut("ebpf/src/main.rs").unwrap() = digest(b"other");
        now.digests.remove("ebpf/src/skb.rs");
        now.digests.insert("ebpf/src/new.rs".to_owned(), digest(b""));
        assert_eq!(
            was.differences(&now),
            ["ebpf/src/main.rs: changed", "ebpf/src/skb.rs: gone", "ebpf/src/new.rs: new"]
        );
        assert!(was.differences(&lock()).is_empty());
    }
}
