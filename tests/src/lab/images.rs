//! Guests for the lab, built from Debian packages.
//!
//! * [`busybox`]: an initramfs with a shell, the virtio drivers of its kernel and an init that runs
//!   the script on the kernel command line ([`run_argument`]).
//! * [`loaded`]: the same with `colo-load`, whose loads know what is right.
//! * [`disk`]: a Debian with systemd, nginx, redis, open-vm-tools, fio, iperf3, sqlite3, `PostgreSQL` and
//!   `colo-load`, raw and qcow2, with the cloud kernel and its stock initrd beside it; root logs in by itself on `ttyS0`.
//!
//! All say `colo-guest: ready at … s` on the console, run `lab.run=`, say `colo-guest: status N` and
//! power off; all give their first network card the address `lab.ip=`.

use super::cpio::Archive;
use super::loads;
use super::modules::Modules;
use super::store::{self, Kernel, key, run};
use super::sys::die_with_parent;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// What a small guest loads.
const MODULES: [&str; 13] = [
    "virtio_pci",
    "virtio_mmio",
    "virtio_net",
    "virtio_blk",
    "virtio_rng",
    "virtio_console",
    "ext4",
    "overlay",
    "crc32c_generic",
    "af_packet",
    "button",
    "rtc_cmos",
    "vmw_vsock_virtio_transport",
];
const INIT: &str = include_str!("guest-init.sh");

/// What the guest on the disk has besides a minimal Debian.
const PACKAGES: [&str; 19] = [
    "systemd-sysv",
    "udev",
    "dbus",
    "kmod",
    "iproute2",
    "iputils-ping",
    "ethtool",
    "e2fsprogs",
    "nginx-light",
    "redis-server",
    "open-vm-tools",
    "fio",
    "iperf3",
    "curl",
    "procps",
    "sqlite3",
    "postgresql",
    "initramfs-tools",
    "linux-image-cloud-amd64",
];
/// What is left out of its packages, under `/usr`: nobody reads it. A database compiles its queries if it finds a
/// compiler of 110 MB.
const LEFT_OUT: [&str; 5] =
    ["share/doc/*", "share/man/*", "share/locale/*", "share/info/*", "lib/x86_64-linux-gnu/libLLVM*"];
const RECIPE: [(&str, &str); 3] = [
    ("customize.sh", include_str!("disk/customize.sh")),
    ("net.sh", include_str!("disk/net.sh")),
    ("run.sh", include_str!("disk/run.sh")),
];
/// Its size; the file is sparse.
const DISK_SIZE: &str = "1536M";

/// What has a guest run a script, for its kernel command line. Encoded, because the kernel and systemd
/// read the words of a plain `lab.run=` too (`single` in it would be theirs).
pub fn run_argument(script: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("lab.run64=");
    for part in script.as_bytes().chunks(3) {
        // RFC 4648 §4: three bytes are four digits; what is missing at the end is `=`.
        let bits = part.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - part.len()));
        for digit in 0..4 {
            let used = digit <= part.len();
            text.push(if used { DIGITS[bits >> (18 - 6 * digit) & 63].into() } else { '=' });
        }
    }
    text
}

/// The small guest's initramfs for a kernel of [`store::kernel`].
pub fn busybox(kind: Kernel) -> Result<PathBuf> {
    let kernel = store::kernel(kind)?;
    let name = format!("images/busybox-{}-{}", kind.name(), key((INIT, MODULES, &kernel.release)));
    let dir = store::once(&name, |dir| {
        let mut archive = Archive::default();
        archive.console()?;
        archive.copy("bin/busybox", &store::busybox()?, true)?;
        archive.file("init", INIT.as_bytes(), true)?;
        archive.link("etc/mtab", "/proc/mounts")?;
        archive.directory("tmp")?;
        Modules::of(&kernel)?.pack(&MODULES, &mut archive)?;
        fs::write(dir.join("initramfs"), archive.finish()?)?;
        Ok(kernel.release.clone())
    })?;
    Ok(dir.join("initramfs"))
}

/// [`busybox`] with `colo-load`. The kernel unpacks one archive after the other.
pub fn loaded(kind: Kernel) -> Result<PathBuf> {
    let small = busybox(kind)?;
    let name = format!("images/loaded-{}-{}", kind.name(), key((&small, loads::version()?)));
    let dir = store::once(&name, |dir| {
        let mut archive = Archive::default();
        archive.copy("bin/colo-load", &loads::colo_load()?, true)?;
        let mut both = fs::read(&small)?;
        both.extend(archive.finish()?);
        fs::write(dir.join("initramfs"), both)?;
        Ok("colo-load".to_owned())
    })?;
    Ok(dir.join("initramfs"))
}

/// The Debian guest. The files are shared: boot a copy, or an overlay ([`Disk::overlay`]).
#[derive(Clone, Debug)]
pub struct Disk {
    /// A file system without a partition table: `root=/dev/vda`.
    pub raw: PathBuf,
    /// The same.
    pub qcow2: PathBuf,
    /// The cloud kernel that is installed in it.
    pub kernel: PathBuf,
    /// Debian's own initrd for that kernel.
    pub initrd: PathBuf,
}

impl Disk {
    /// A new qcow2 file whose writes stay out of the image.
    pub fn overlay(&self, at: &Path) -> Result<()> {
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]).arg(&self.qcow2).arg(at);
        run(&mut create).map(drop)
    }
}

/// Builds the Debian guest, unless it is there. Needs root, `mmdebstrap`, `qemu-utils` and the archive
/// that apt is set up for.
pub fn disk() -> Result<Disk> {
    let name = format!("images/disk-{}", key((RECIPE, PACKAGES, LEFT_OUT, DISK_SIZE, loads::version()?)));
    let dir = store::once(&name, |dir| {
        let begin = Instant::now();
        build(dir)?;
        Ok(format!("built in {} s", begin.elapsed().as_secs()))
    })?;
    let disk = Disk {
        raw: dir.join("disk.raw"),
        qcow2: dir.join("disk.qcow2"),
        kernel: dir.join("vmlinuz"),
        initrd: dir.join("initrd.img"),
    };
    Ok(disk)
}

fn build(dir: &Path) -> Result<()> {
    let (root, recipe) = (dir.join("root"), dir.join("recipe"));
    fs::create_dir(&recipe)?;
    for (name, text) in RECIPE {
        fs::write(recipe.join(name), text)?;
    }
    fs::copy(loads::colo_load()?, recipe.join("colo-load")).context("cannot copy the guest's loads")?;
    let mut debian = Command::new("mmdebstrap");
    debian.env("LAB_RECIPE", &recipe).args(["--mode=root", "--variant=minbase", "--quiet"]);
    debian.arg("--aptopt=APT::Install-Recommends \"false\"");
    // Power cuts do not matter here; synced writes would take most of the time.
    debian.arg("--dpkgopt=force-unsafe-io");
    for path in LEFT_OUT {
        debian.arg(format!("--dpkgopt=path-exclude=/usr/{path}"));
    }
    debian.arg(format!("--include={}", PACKAGES.join(",")));
    debian.arg("--customize-hook=sh \"$LAB_RECIPE/customize.sh\" \"$1\"");
    debian.arg(release()?).arg(&root);
    run(&mut debian)
        .context("cannot install a Debian for guests (packages mmdebstrap, qemu-utils; as root)")?;

    for (from, to) in [("vmlinuz-", "vmlinuz"), ("initrd.img-", "initrd.img")] {
        let boot = fs::read_dir(root.join("boot"))?.flatten();
        let mut files = boot.filter(|entry| entry.file_name().to_string_lossy().starts_with(from));
        let file = files.next().with_context(|| format!("the guest has no /boot/{from}*"))?;
        fs::copy(file.path(), dir.join(to))?;
    }
    let raw = dir.join("disk.raw");
    let mut format = Command::new("mkfs.ext4");
    format.args([
        "-q",
        "-F",
        "-L",
        "colo",
        "-E",
        "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0",
        "-d",
    ]);
    run(format.arg(&root).arg(&raw).arg(DISK_SIZE))?;
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-q", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(dir.join("disk.qcow2"));
    run(&mut convert)?;
    fs::remove_dir_all(&root)?;
    Ok(())
}

/// The release that this machine runs: its apt knows where to find it.
fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release names no release of Debian")?.trim_matches('"').to_owned())
}

/// Boots the Debian guest in software, with nothing of ours, until it is at its login; how long that
/// took. What it says goes to `logs/disk-boot.log`.
pub fn boot_to_login(disk: &Disk, patience: Duration, mut hear: impl FnMut(&str)) -> Result<Duration> {
    let overlay = store::dir("images")?.join(format!("boot-{}.qcow2", std::process::id()));
    disk.overlay(&overlay)?;
    let log = store::dir("logs")?.join("disk-boot.log");
    let mut written = File::create(&log)?;
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "512"]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(&disk.kernel).arg("-initrd").arg(&disk.initrd);
    qemu.args(["-append", "console=ttyS0 root=/dev/vda rw net.ifnames=0"]);
    qemu.arg("-drive").arg(format!("if=virtio,format=qcow2,file={}", overlay.display()));
    qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let begin = Instant::now();
    let mut child = die_with_parent(&mut qemu).spawn().context("cannot start qemu-system-x86_64")?;
    let (sender, lines) = mpsc::channel();
    if let Some(output) = child.stdout.take() {
        thread::spawn(move || {
            // The prompt has no end of line: it is read to its sign.
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
                line.clear();
            }
        });
    }
    let (mut is_ready, mut is_in) = (false, false);
    while !(is_ready && is_in) {
        let left = patience.saturating_sub(begin.elapsed());
        let Ok(line) = lines.recv_timeout(left) else { break };
        written.write_all(line.as_bytes())?;
        hear(line.trim_end());
        is_ready |= line.contains("colo-guest: ready");
        is_in |= line.contains("automatic login");
    }
    let _ = child.kill();
    let _ = child.wait();
    let _ = fs::remove_file(&overlay);
    ensure!(is_ready && is_in, "the guest did not come to its login; see {}", log.display());
    Ok(begin.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of RFC 4648 §10.
    #[test]
    fn a_script_is_encoded_as_base64_is() {
        for (script, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(run_argument(script), format!("lab.run64={text}"));
        }
    }
}
