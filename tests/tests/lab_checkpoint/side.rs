//! One `colo-vm` on a host of the lab: its guest's boot, its console, its QMP.

use colo_tests::binary;
use colo_tests::lab::store::{self, Kernel};
use colo_tests::lab::{Host, Job, Running, images};
use rustix::process::Signal;
use std::path::PathBuf;
use std::time::Duration;

const UNTIL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab_checkpoint/until.py");
const TYPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab_checkpoint/type.py");
/// How long one has from its start to its end. A tenth of it will do where nothing else runs.
const PATIENCE: Duration = Duration::from_mins(15);
/// What the small guest says when it does what is typed.
pub(super) const READY: &str = "colo-guest: ready";
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
        }
    }

    /// Its words on a command line of `colo-vm`.
    fn words(&self) -> Vec<String> {
        let Self { kernel, initrd, cmdline, cpus, .. } = self;
        let mut words = Vec::new();
        let mut word = |name: &str, value: String| words.extend([format!("--{name}"), value]);
        word("kernel", kernel.display().to_string());
        word("initrd", initrd.display().to_string());
        word("cmdline", format!("console=ttyS0 quiet {cmdline}"));
        word("cpus", cpus.to_string());
        word("memory", "160M".to_owned());
        words
    }
}

/// A running `colo-vm`. What it says itself is the job's output; its console and its QMP are sockets.
pub(super) struct Side<'a> {
    host: &'a Host,
    name: String,
    colo_vm: String,
    running: Running<'a>,
}

impl<'a> Side<'a> {
    /// Starts it as `verb` says, such as `["run"]`, `["primary", "--peer", "10.77.2.2:9998"]` or
    /// `["secondary", "--listen", "0.0.0.0:9998"]`. Names are unique on a host.
    pub(super) fn start(host: &'a Host, name: &str, verb: &[&str], boot: &Boot) -> Self {
        let colo_vm = boot.colo_vm.display().to_string();
        let mut argv = vec![colo_vm.clone()];
        argv.extend(verb.iter().map(|word| (*word).to_owned()));
        argv.extend(boot.words());
        argv.extend(["--name".to_owned(), name.to_owned()]);
        argv.extend(["--console".to_owned(), format!("unix:/tmp/{name}.console")]);
        argv.extend(["--qmp".to_owned(), format!("unix:/tmp/{name}.qmp")]);
        let running = host.start(Job::new(argv).timeout(PATIENCE)).unwrap();
        Self { host, name: name.to_owned(), colo_vm, running }
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

    /// Starts what its guest is to do, from now on: no clock may step by more than `limit`.
    pub(super) fn loads(limit: Duration) -> String {
        let loads = format!("'check 8' 'clock {}' 'dirty 2 4'", limit.as_millis());
        format!("for load in {loads}; do colo-load --every 1 --until /tmp/end $load & done")
    }

    /// Its guest works on for some seconds.
    pub(super) fn works_on(&self) {
        self.converse("", "sleep 3; echo; echo it works on", "it works on");
    }

    /// Ends the loads, which are to have found nothing wrong: what they said.
    pub(super) fn end_of_loads(&self) -> String {
        let said = self.converse("", "touch /tmp/end; wait; echo; echo all ended", "all ended");
        is_right(&said, "check");
        is_right(&said, "clock");
        said
    }

    /// Says a verb of `colo-vm` to it, such as `status`: the answer.
    pub(super) fn order(&self, verb: &str, words: &[&str]) -> String {
        let qmp = format!("unix:/tmp/{}.qmp", self.name);
        let words = [&[self.colo_vm.as_str(), verb], words, &["--qmp", &qmp]].concat();
        let output = self.host.run(Job::new(words).timeout(PATIENCE)).unwrap();
        assert_eq!(output.status, 0, "{verb}: {output:#?}");
        output.stdout
    }

    /// Looks at its status until `condition` is so (Python, of the status `s`).
    pub(super) fn until(&self, condition: &str) {
        let qmp = format!("/tmp/{}.qmp", self.name);
        let words = ["/usr/bin/python3", UNTIL, &qmp, condition];
        let output = self.host.run(Job::new(words).timeout(PATIENCE)).unwrap();
        assert_eq!(output.status, 0, "{condition}: {output:#?}\ncolo-vm: {:?}", self.running);
    }

    /// Sends its process a signal.
    pub(super) fn signal(&self, signal: Signal) {
        self.running.signal(signal).unwrap();
    }

    /// Powers the guest off, which is to be a good end.
    pub(super) fn powers_off(self) {
        self.converse("", "sync; echo; echo bye; poweroff -f", "bye");
        let output = self.running.wait().unwrap();
        assert_eq!(output.status, 0, "{output:#?}");
        eprintln!("{} said: {}", self.name, output.stderr);
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
