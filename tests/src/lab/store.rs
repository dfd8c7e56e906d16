//! What the lab keeps outside git, under `target/lab/`: packages of the Debian archive, and what is
//! built from them. A fresh machine fetches and builds all of it anew.
//!
//! ```text
//!   packages/NAME/   a package, unpacked and not installed; `.complete` holds its exact name
//!   images/KEY/      guest images; KEY is a hash of the recipe
//!   logs/            what lab machines and guests said on their serial consoles
//! ```

use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Which of Debian's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// `linux-image-amd64`: everything, as on a server. The lab's machines run it.
    Generic,
    /// `linux-image-cloud-amd64`: small, for guests.
    Cloud,
}

impl Kernel {
    /// The package that always depends on the newest kernel of this kind.
    fn newest(self) -> &'static str {
        match self {
            Self::Generic => "linux-image-amd64",
            Self::Cloud => "linux-image-cloud-amd64",
        }
    }

    /// `generic` or `cloud`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Cloud => "cloud",
        }
    }
}

/// A kernel package, unpacked, with its modules indexed.
#[derive(Clone, Debug)]
pub struct KernelFiles {
    /// Its release, as `uname -r` says it.
    pub release: String,
    /// The bzImage.
    pub image: PathBuf,
    /// The folder that holds `RELEASE/` with the modules.
    pub modules: PathBuf,
}

/// `target/lab/`, made if it is not there.
pub fn dir(below: &str) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join("target"));
    let dir = target.join("lab").join(below);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))
}

/// Fetches a kernel, unless it is there.
pub fn kernel(kind: Kernel) -> Result<KernelFiles> {
    let busybox = busybox()?;
    let root = once(&format!("packages/{}", kind.newest()), |dir| {
        let package = newest(kind.newest())?;
        fetch(&package, dir)?;
        let release = package.trim_start_matches("linux-image-");
        // `modules.dep` is made when a package is installed, which this one is not.
        run(Command::new(&busybox).args(["depmod", "-b"]).arg(dir).arg(release))?;
        Ok(package)
    })?;
    let release = fs::read_to_string(root.join(COMPLETE))?.trim_start_matches("linux-image-").to_owned();
    let image = root.join("boot").join(format!("vmlinuz-{release}"));
    ensure!(image.exists(), "{} is not there; remove {} to fetch it anew", image.display(), root.display());
    Ok(KernelFiles { release, image, modules: root.join("lib/modules") })
}

/// The static busybox, fetched unless it is there.
pub fn busybox() -> Result<PathBuf> {
    let root = once("packages/busybox-static", |dir| {
        fetch("busybox-static", dir)?;
        Ok("busybox-static".to_owned())
    })?;
    Ok(root.join("bin/busybox"))
}

/// What says that a folder holds all that it should.
const COMPLETE: &str = ".complete";

/// The folder of that name under `target/lab/`, filled by `fill` if it is not complete. Only one
/// process fills it; others wait. What `fill` answers is written down with it.
pub(super) fn once(name: &str, fill: impl FnOnce(&Path) -> Result<String>) -> Result<PathBuf> {
    let top = dir("")?;
    let (folder, lock) = (top.join(name), top.join(format!("{}.lock", name.replace('/', "-"))));
    if folder.join(COMPLETE).exists() {
        return Ok(folder);
    }
    let lock = File::create(&lock).with_context(|| format!("cannot make {}", lock.display()))?;
    lock.lock().context("cannot wait for the other process that fetches")?;
    if folder.join(COMPLETE).exists() {
        return Ok(folder);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(&folder)?;
    let what = fill(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(folder.join(COMPLETE), what)?;
    Ok(folder)
}

/// A short hash of a recipe, for names of folders.
pub(super) fn key(recipe: impl std::hash::Hash) -> String {
    let mut hasher = DefaultHasher::new();
    recipe.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// The package that a `linux-image-*` package depends on.
pub(super) fn newest(name: &str) -> Result<String> {
    let ask = || -> Result<Option<String>> {
        let text = run(Command::new("apt-cache").args(["show", "--no-all-versions", name]))?;
        Ok(dependency(&text).map(str::to_owned))
    };
    if let Ok(Some(package)) = ask() {
        return Ok(package);
    }
    update()?;
    ask()?.with_context(|| format!("{name} depends on no kernel"))
}

/// The kernel package in the text of `apt-cache show`.
fn dependency(text: &str) -> Option<&str> {
    let line = text.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let mut names = line.split([',', '|']).filter_map(|part| part.split_whitespace().next());
    names.find(|name| name.starts_with("linux-image-"))
}

/// One at a time: apt fails where another one is at work.
fn update() -> Result<()> {
    let lock = dir("")?.join("lists.lock");
    let lock = File::create(&lock).with_context(|| format!("cannot make {}", lock.display()))?;
    lock.lock().context("cannot wait for the other process that updates apt's lists")?;
    run(Command::new("apt-get").args(["update", "-q"])).map(drop)
}

/// Downloads a package with apt and unpacks it into `dir`, without installing it.
fn fetch(package: &str, dir: &Path) -> Result<()> {
    let place = dir.join(".download");
    fs::create_dir_all(&place)?;
    let download = || {
        let mut apt = Command::new("apt-get");
        // The archive's user cannot write to our folder.
        apt.args(["download", "-q", "-o", "APT::Sandbox::User=root", package]).current_dir(&place);
        run(&mut apt)
    };
    if download().is_err() {
        // The lists may be missing, or older than the archive.
        update()?;
        download()?;
    }
    let file = fs::read_dir(&place)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension() == Some(OsStr::new("deb")))
        .with_context(|| format!("apt-get downloaded no {package}"))?;
    run(Command::new("dpkg").arg("-x").arg(&file).arg(dir))?;
    fs::remove_dir_all(&place)?;
    Ok(())
}

/// Runs a program that must succeed; what it printed.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start: {shown}"))?;
    if !output.status.success() {
        let (said, complained) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{shown}: {}\n{}", output.status, tail(&format!("{said}{complained}"), 20));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The last lines of a text.
pub(super) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_what_the_package_depends_on() {
        let text = "Package: linux-image-amd64\nDepends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)\nSize: 1\n";
        assert_eq!(dependency(text), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(dependency("Package: a\nDepends: b, linux-image-7 | c\n"), Some("linux-image-7"));
        assert_eq!(dependency("Package: a\n"), None);
    }

    #[test]
    fn the_tail_is_the_end() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }
}
