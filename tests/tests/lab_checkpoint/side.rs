//! One `colo-vm` on a host of the lab: its guest's boot, its console, its QMP.

use colo_tests::binary;
use colo_tests::lab::store::{self, Kernel};
use colo_tests::lab::{Disk, Host, Job, Running, images};
use std::path::PathBuf;
use std::time::Duration;

const QMP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab_vm/qmp.py");
const TYPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab_checkpoint/type.py");
/// How long one has from its start to its end. A tenth of it will do where nothing else runs.
const PATIENCE: Duration = Duration::from_mins(15);
/// What a small guest does: what is typed.
const OBEY: &str = "while read -r line; do eval \"$line\"; done";

/// What both sides of a pair must agree in: the guest.
#[derive(Clone)]
pub(super) struct Boot {
    colo_vm: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
    cmdline: String,
    cpus: u8,
    memory_mib: u32,
    disks: Vec<String>,
}

impl Boot {
    /// Debian's cloud kernel with the small guest, which does what is typed on its console.
    pub(super) fn busybox(cpus: u8) -> Self {
        Self {
            colo_vm: binary::colo_vm().unwrap(),
            kernel: store::kernel(Kernel::Cloud).unwrap().image,
            initrd: images::loaded(Kernel::Cloud).unwrap(),
            cmdline: images::run_argument(OBEY),
            cpus,
            memory_mib: 256,
            disks: Vec::new(),
        }
    }

    /// The Debian on an overlay at `overlay`, which a shell on its console does what is typed in.
    pub(super) fn debian(disk: &Disk, cpus: u8, overlay: &str) -> Self {
        Self {
            kernel: disk.kernel.clone(),
            initrd: disk.initrd.clone(),
            cmdline: "root=/dev/vda rw net.ifnames=0".to_owned(),
            memory_mib: 512,
            disks: vec![format!("path={overlay},format=qcow2")],
            ..Self::busybox(cpus)
        }
    }

    /// Its words on a command line of `colo-vm`.
    fn words(&self) -> Vec<String> {
        let Self { kernel, initrd, cmdline, cpus, memory_mib, disks, .. } = self;
        let mut words = Vec::new();
        let mut word = |name: &str, value: String| words.extend([format!("--{name}"), value]);
        word("kernel", kernel.display().to_string());
        word("initrd", initrd.display().to_string());
        word("cmdline", format!("console=ttyS0 quiet {cmdline}"));
        word("cpus", cpus.to_string());
        word("memory", format!("{memory_mib}M"));
        disks.iter().for_each(|disk| word("disk", disk.clone()));
        words
    }
}

/// A running `colo-vm`. What it says itself is the job's output; its console is a file and a socket.
pub(super) struct Side<'a> {
    host: &'a Host,
    name: String,
    running: Running<'a>,
}

impl<'a> Side<'a> {
    /// Starts it as `verb` says, such as `["run"]`, `["primary", "--peer", "10.77.2.2:9998"]` or
    /// `["secondary", "--listen", "0.0.0.0:9998"]`. Names are unique on a host.
    pub(super) fn start(host: &'a Host, name: &str, verb: &[&str], boot: &Boot) -> Self {
        let colo_vm = boot.colo_vm.display().to_string();
        let mut argv = vec![colo_vm];
        argv.extend(verb.iter().map(|word| (*word).to_owned()));
        argv.extend(boot.words());
        argv.extend(["--name".to_owned(), name.to_owned()]);
        argv.extend(["--console".to_owned(), format!("unix:/tmp/{name}.console")]);
        argv.extend(["--qmp".to_owned(), format!("unix:/tmp/{name}.qmp")]);
        let running = host.start(Job::new(argv).timeout(PATIENCE)).unwrap();
        Self { host, name: name.to_owned(), running }
    }

    /// Connects to its console, types `lines` when the guest is at `prompt`, and listens until a line
    /// begins with `mark` (a regular expression) after that: all it said.
    pub(super) fn converse(&self, prompt: &str, lines: &str, mark: &str) -> String {
        let socket = format!("/tmp/{}.console", self.name);
        let words = ["/usr/bin/python3", TYPE, &socket, prompt, lines, mark];
        let output = self.host.run(Job::new(words).timeout(PATIENCE)).unwrap();
        assert_eq!(output.status, 0, "{lines}: {output:#?}\ncolo-vm: {}", self.running.said());
        output.stdout
    }

    /// Says QMP commands to it; the answers.
    pub(super) fn ask(&self, words: &str) -> String {
        let line = format!("/usr/bin/python3 {QMP} /tmp/{}.qmp {words}", self.name);
        let output = self.host.run(Job::shell(&line).timeout(PATIENCE)).unwrap();
        assert_eq!(output.status, 0, "{words}: {output:#?}");
        output.stdout
    }

    /// Waits for its end, which is to be a good one.
    pub(super) fn ends_well(self) {
        let output = self.running.wait().unwrap();
        assert_eq!(output.status, 0, "{output:#?}");
    }
}

/// The last report of a load in what a console said, which is to be without errors.
pub(super) fn is_right<'a>(said: &'a str, load: &str) -> &'a str {
    assert!(!said.contains("WRONG"), "{said}");
    let report = said.lines().rfind(|line| line.starts_with(&format!("{load}: ")) && line.contains("errors"));
    let report = report.unwrap_or_else(|| panic!("no report of {load} in {said}"));
    assert!(report.trim_end().ends_with(" 0 errors"), "{report}");
    report
}
