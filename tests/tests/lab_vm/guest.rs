//! A guest of `colo-vm` in the lab machine: what it boots, its tap, its disks, its end.

use colo_tests::binary;
use colo_tests::lab::store::{self, Kernel};
use colo_tests::lab::{Disk, Host, Job, Lease, Output, Running, images, vmlinux};
use std::path::PathBuf;
use std::time::Duration;

const QMP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab_vm/qmp.py");
/// How long one has from its start to its end. A tenth of it will do where nothing else runs.
const PATIENCE: Duration = Duration::from_mins(15);

/// A kernel, its initial RAM file system, and what the one is to say to the other.
pub(super) struct Boot {
    kernel: PathBuf,
    initrd: PathBuf,
    words: &'static str,
}

impl Boot {
    /// A stock kernel with the small guest.
    pub(super) fn busybox(kernel: Kernel) -> Self {
        let initrd = images::busybox(kernel).unwrap();
        Self { kernel: store::kernel(kernel).unwrap().image, initrd, words: "" }
    }

    /// The cloud kernel as an ELF file, with the small guest.
    pub(super) fn vmlinux() -> Self {
        Self { kernel: vmlinux::cloud().unwrap(), ..Self::busybox(Kernel::Cloud) }
    }

    /// The Debian on the first disk with the kernel that is installed there, and that one's own initrd.
    pub(super) fn debian(disk: &Disk) -> Self {
        let (kernel, initrd) = (disk.kernel.clone(), disk.initrd.clone());
        Self { kernel, initrd, words: "root=/dev/vda rw net.ifnames=0" }
    }

    /// The same Debian with the generic kernel, whose drivers the small guest loads.
    pub(super) fn debian_with_the_generic_kernel() -> Self {
        Self { words: "lab.root=/dev/vda", ..Self::busybox(Kernel::Generic) }
    }
}

/// What an image holds at first.
pub(super) enum Content<'a> {
    /// 64 MiB of nothing, raw or qcow2.
    Empty(&'static str),
    /// A copy of the Debian disk, raw.
    Copy(&'a Disk),
    /// A qcow2 overlay of the Debian disk.
    Overlay(&'a Disk),
}

/// A guest to be run: its tap, disks and sockets are in the lab and called after it.
pub(super) struct Guest {
    name: &'static str,
    boot: Boot,
    cpus: u8,
    disks: Vec<(String, &'static str)>,
    /// One guest at a time: a machine has one CPU, and a guest that waits for it long complains.
    machine: Lease,
}

impl Guest {
    /// With these disks, and a tap whose end is 10.9.0.1: with a queue for each of several vCPUs.
    pub(super) fn new(name: &'static str, boot: Boot, cpus: u8, disks: &[Content<'_>]) -> Self {
        // Built before a machine first looks at it.
        colo_vm();
        let mut guest = Self { name, boot, cpus, disks: Vec::new(), machine: Lease::take().unwrap() };
        let host = guest.host();
        for (number, content) in disks.iter().enumerate() {
            let format = match content {
                Content::Empty(format) => format,
                Content::Copy(_) => "raw",
                Content::Overlay(_) => "qcow2",
            };
            let path = format!("/tmp/{name}-{number}.{format}");
            let make = match content {
                Content::Empty(_) => format!("qemu-img create -q -f {format} {path} 64M"),
                Content::Copy(disk) => format!("cp --sparse=always {} {path}", disk.raw.display()),
                Content::Overlay(disk) => {
                    format!("qemu-img create -q -f qcow2 -F qcow2 -b {} {path}", disk.qcow2.display())
                }
            };
            guest.disks.push((path, format));
            host.run(Job::shell(&make).timeout(PATIENCE)).map(|output| assert_eq!(output.status, 0)).unwrap();
        }
        host.shell(&format!(
                "set -e; ip link del {name} 2> /dev/null || true
                 ip tuntap add {name} mode tap vnet_hdr {}; ip addr add 10.9.0.1/24 dev {name}; ip link set {name} up",
                if cpus > 1 { "multi_queue" } else { "" }
            ))
            .unwrap();
        guest
    }

    /// The machine that it is on.
    pub(super) fn host(&self) -> &'static Host {
        self.machine.lab().a()
    }

    fn qmp(&self) -> String {
        format!("/tmp/{}.qmp", self.name)
    }

    /// Starts it; what it says on its console is the job's standard output.
    pub(super) fn start(&self, script: &str) -> Running<'static> {
        let Boot { kernel, initrd, words } = &self.boot;
        let mut argv = vec![
            colo_vm().display().to_string(),
            "run".into(),
            "--kernel".into(),
            kernel.display().to_string(),
        ];
        let mut word = |name: &str, value: &dyn std::fmt::Display| {
            argv.extend([format!("--{name}"), value.to_string()]);
        };
        word("name", &self.name);
        word("initrd", &initrd.display());
        let script = images::run_argument(script);
        word("cmdline", &format_args!("console=ttyS0 quiet lab.ip=10.9.0.2/24 {words} {script}"));
        word("memory", &"256M");
        word("cpus", &self.cpus);
        for (number, (path, format)) in self.disks.iter().enumerate() {
            word("disk", &format_args!("path={path},format={format},serial=LAB-{number}"));
        }
        word("net", &format_args!("tap={},queues={}", self.name, self.cpus));
        word("qmp", &format_args!("unix:{}", self.qmp()));
        self.host().start(Job::new(argv).timeout(PATIENCE)).unwrap()
    }

    /// Says QMP commands to it; the answers.
    pub(super) fn ask(&self, words: &str) -> String {
        let job = Job::shell(&format!("/usr/bin/python3 {QMP} {} {words}", self.qmp())).timeout(PATIENCE);
        let output = self.host().run(job).unwrap();
        assert_eq!(output.status, 0, "{words}: {output:#?}");
        output.stdout
    }

    /// The MD5 sum of a disk's first bytes, as QEMU reads them.
    pub(super) fn sum(&self, disk: usize, bytes: usize) -> String {
        let (path, format) = &self.disks[disk];
        self.check();
        let line = format!(
            "set -e; qemu-img convert -f {format} -O raw {path} /tmp/read.raw
             head -c {bytes} /tmp/read.raw | md5sum; rm /tmp/read.raw"
        );
        self.host().shell(&line).unwrap().split_whitespace().next().unwrap().to_owned()
    }

    /// Its images are whole, QEMU says.
    pub(super) fn check(&self) {
        for (path, _) in self.disks.iter().filter(|(_, format)| *format == "qcow2") {
            self.host().shell(&format!("qemu-img check -q {path}")).unwrap();
        }
    }

    /// The file of a disk.
    pub(super) fn disk(&self, number: usize) -> &str {
        &self.disks[number].0
    }

    /// Its tap.
    pub(super) fn tap(&self) -> &str {
        self.name
    }
}

impl Drop for Guest {
    /// The next has the same addresses, and the lab machine holds what is written in its memory.
    fn drop(&mut self) {
        let files: Vec<&str> = self.disks.iter().map(|(path, _)| path.as_str()).collect();
        let _ = self.host().shell(&format!("ip link del {}; rm -f {}", self.name, files.join(" ")));
    }
}

fn colo_vm() -> PathBuf {
    binary::colo_vm().unwrap()
}

/// Its script went well, and it powered off.
pub(super) fn went_well(output: &Output) {
    assert!(output.stdout.contains("colo-guest: status 0"), "{}\n{}", output.stdout, output.stderr);
    powered_off(output);
}

/// It powered off, and nothing complained.
pub(super) fn powered_off(output: &Output) {
    let Output { status, stdout, stderr } = output;
    assert_eq!(*status, 0, "a power-off is an exit with 0: {stdout}\n{stderr}");
    let complaint =
        |line: &&str| line.contains(" WARN ") || line.contains("ERROR") || line.contains("error:");
    assert_eq!(stderr.lines().find(complaint), None, "{stderr}");
}

/// What comes after a word on its line, the last time that it is said.
pub(super) fn after<'a>(text: &'a str, word: &str) -> &'a str {
    let (_, rest) = text.rsplit_once(word).unwrap_or_else(|| panic!("no {word:?} in {text}"));
    rest.split_whitespace().next().unwrap_or_default()
}
