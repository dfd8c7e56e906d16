//! Debian packages and toolchain components: what each is for, and their installation.

use crate::command::{cargo, program, run, say, works};
use anyhow::{Context, Result, bail};
use std::path::Path;

/// A Debian package that a chore needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Package<'a> {
    /// Its name in the archive.
    pub(crate) name: &'a str,
    /// What it is for, for the person who sees it being installed.
    pub(crate) why: &'a str,
}

/// Compiles libFuzzer, which is written in C++.
pub(crate) const CXX: Package<'_> = Package { name: "g++", why: "libFuzzer, the engine of the fuzz targets" };
/// The other side of the benchmark.
pub(crate) const QEMU: Package<'_> =
    Package { name: "qemu-system-x86", why: "QEMU's colo-compare, the other side of the benchmark" };
/// Reads objects for the kernel.
pub(crate) const LLVM: Package<'_> =
    Package { name: "llvm", why: "llvm-objdump, which shows BPF instructions" };
/// Reads the VMM's ACPI tables.
pub(crate) const IASL: Package<'_> =
    Package { name: "acpica-tools", why: "iasl, which checks the ACPI tables" };
/// What the proofs on the lab of network namespaces run: servers, their clients, and what builds a
/// network.
pub(crate) const LAB: [Package<'_>; 11] = [
    Package { name: "iproute2", why: "the lab of network namespaces" },
    Package { name: "nftables", why: "loss on the lab's forward link" },
    Package { name: "ethtool", why: "switching segmentation offload off in the lab" },
    Package { name: "iputils-ping", why: "a client of protected guests" },
    Package { name: "curl", why: "a client of protected guests" },
    Package { name: "nginx-light", why: "a server in protected guests" },
    Package { name: "libnginx-mod-http-headers-more-filter", why: "nginx without a Date header" },
    Package { name: "redis-server", why: "a server in protected guests" },
    Package { name: "iperf3", why: "load on protected guests" },
    Package { name: "dnsmasq-base", why: "a DNS server in protected guests" },
    Package { name: "bind9-dnsutils", why: "dig, a client of protected guests" },
];

/// What the VMM's own tests are judged by.
pub(crate) const JUDGES: [Package<'_>; 6] = [
    IASL,
    Package { name: "qemu-utils", why: "qemu-img, qemu-io and qemu-nbd, which know our disk images and NBD" },
    Package { name: "libnbd-bin", why: "nbdinfo and nbdcopy, clients of our NBD server" },
    Package { name: "fio", why: "a client of our NBD server that verifies" },
    Package { name: "python3-venv", why: "a place for QEMU's Python package, which speaks QMP" },
    Package { name: "xz-utils", why: "unpacking QEMU's script that reads saved machines" },
];

/// What lab machines and their guests are made with. Kernels and busybox are fetched besides, by the lab
/// itself, and not installed.
pub(crate) const MACHINES: [Package<'_>; 5] = [
    Package { name: "qemu-system-x86", why: "the lab's machines" },
    Package { name: "iproute2", why: "clients of the lab's machines" },
    Package { name: "mmdebstrap", why: "a Debian guest for the lab" },
    Package { name: "qemu-utils", why: "qemu-img, for the guest's disk" },
    Package { name: "e2fsprogs", why: "mkfs.ext4, for the guest's disk" },
];

/// What a lab machine measures itself with, beside its guests.
pub(crate) const LIMITS: [Package<'_>; 2] = [
    Package { name: "fio", why: "what a lab machine's files do without a guest" },
    Package { name: "iperf3", why: "what the link between two lab machines carries" },
];

/// Makes sure that packages are there. Installs what is missing, as root, and says so.
pub(crate) fn ensure(packages: &[Package<'_>]) -> Result<()> {
    let missing: Vec<Package<'_>> =
        packages.iter().copied().filter(|package| !installed(package.name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    let by_hand = format!("as root: apt-get install {}", names.join(" "));
    if !works_as_root() {
        bail!("missing: {}; {by_hand}", names.join(", "));
    }
    for package in &missing {
        say(&format!("installing the Debian package {}: {}", package.name, package.why));
    }
    if !lists_are_there() {
        apt_get(&["update", "-q"])?;
    }
    let mut install = vec!["install", "-q", "-y", "--no-install-recommends"];
    install.extend(&names);
    if apt_get(&install).is_err() {
        // The lists may be older than the archive.
        apt_get(&["update", "-q"])?;
        apt_get(&install).with_context(|| format!("cannot install; {by_hand}"))?;
    }
    Ok(())
}

fn installed(name: &str) -> bool {
    let mut query = program("dpkg-query");
    query.args(["--show", "--showformat=${db:Status-Status}", name]);
    query.output().is_ok_and(|output| output.status.success() && output.stdout == b"installed")
}

pub(crate) fn works_as_root() -> bool {
    let mut id = program("id");
    id.arg("-u");
    id.output().is_ok_and(|output| output.stdout == b"0\n")
}

/// Whether `apt-get update` has run: a fresh image comes without package lists.
fn lists_are_there() -> bool {
    let lists = Path::new("/var/lib/apt/lists");
    let is_list = |name: &str| name.contains("_Packages");
    lists.read_dir().is_ok_and(|mut entries| {
        entries.any(|entry| entry.is_ok_and(|entry| is_list(&entry.file_name().to_string_lossy())))
    })
}

fn apt_get(args: &[&str]) -> Result<()> {
    let mut command = program("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    run(command)
}

/// Makes sure that a cargo subcommand of the toolchain is there, as rustup's minimal profile leaves
/// some out.
pub(crate) fn ensure_component(subcommand: &str, component: &str) -> Result<()> {
    if works(cargo([subcommand, "--version"])) {
        return Ok(());
    }
    say(&format!("installing the Rust component {component}"));
    let mut rustup = program("rustup");
    rustup.args(["component", "add", component]);
    run(rustup).with_context(|| format!("cargo {subcommand} is missing, and rustup cannot add {component}"))
}

/// Makes sure that a cargo subcommand from crates.io is there.
pub(crate) fn ensure_subcommand(subcommand: &str, krate: &str, why: &str) -> Result<()> {
    if works(cargo([subcommand, "--version"])) {
        return Ok(());
    }
    say(&format!("installing {krate} from crates.io with cargo: {why}"));
    run(cargo(["install", "--locked", krate]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_debian_has_is_installed_and_nonsense_is_not() {
        assert!(installed("dpkg"));
        assert!(!installed("no-such-package-anywhere"));
    }

    #[test]
    fn what_is_there_is_left_alone() {
        ensure(&[]).unwrap();
        ensure(&[Package { name: "dpkg", why: "the test" }]).unwrap();
    }
}
