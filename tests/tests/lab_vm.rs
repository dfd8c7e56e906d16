//! `colo-vm` with stock Debian kernels, in a lab machine: what a user does with it.
//!
//! Each guest runs a script and says what comes of it on its console; disks are judged by `qemu-img`, the
//! network by the kernel's own ping, control by a QMP client of a few lines.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use colo_tests::binary;
use colo_tests::lab::store::Kernel;
use colo_tests::lab::{Host, Job, Lab, Output, Running, images, store};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const QMP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab_vm/qmp.py");

/// One guest at a time: the lab machine has one CPU, and a guest that waits for it long complains.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A guest to be run: its tap, disk and sockets are in the lab and called after it.
struct Guest {
    name: &'static str,
    kernel: Kernel,
    cpus: u8,
    disk: &'static str,
    _alone: MutexGuard<'static, ()>,
}

impl Guest {
    /// With a tap whose end is 10.9.0.1, and an empty disk of 64 MiB of this format.
    fn new(name: &'static str, kernel: Kernel, cpus: u8, disk: &'static str) -> Self {
        let guest = Self { name, kernel, cpus, disk, _alone: alone() };
        let disk = guest.disk();
        host()
            .shell(&format!(
                "set -e; ip link del {name} 2> /dev/null || true
                 ip tuntap add {name} mode tap vnet_hdr; ip addr add 10.9.0.1/24 dev {name}; ip link set {name} up
                 qemu-img create -q -f {} {disk} 64M",
                guest.disk
            ))
            .unwrap();
        guest
    }

    fn disk(&self) -> String {
        format!("/tmp/{}.{}", self.name, self.disk)
    }

    fn qmp(&self) -> String {
        format!("/tmp/{}.qmp", self.name)
    }

    /// Starts it; what it says on its console is the job's standard output.
    fn start(&self, script: &str) -> Running<'static> {
        let image = store::kernel(self.kernel).unwrap().image;
        let initrd = images::busybox(self.kernel).unwrap();
        let cmdline = format!("console=ttyS0 lab.ip=10.9.0.2/24 {}", images::run_argument(script));
        let words = [
            &colo_vm().display().to_string(),
            "run",
            "--name",
            self.name,
            "--kernel",
            &image.display().to_string(),
            "--initrd",
            &initrd.display().to_string(),
            "--cmdline",
            &cmdline,
            "--memory",
            "256M",
            "--cpus",
            &self.cpus.to_string(),
            "--disk",
            &format!("path={},format={},serial=LAB-1", self.disk(), self.disk),
            "--net",
            &format!("tap={}", self.name),
            "--qmp",
            &format!("unix:{}", self.qmp()),
        ]
        .map(str::to_owned);
        host().start(Job::new(words).timeout(Duration::from_mins(4))).unwrap()
    }

    /// Says QMP commands to it; the answers.
    fn ask(&self, words: &str) -> String {
        host().shell(&format!("/usr/bin/python3 {QMP} {} {words}", self.qmp())).unwrap()
    }

    /// The MD5 sum of the disk's first bytes, as QEMU reads them.
    fn sum(&self, bytes: usize) -> String {
        let disk = self.disk();
        let read = format!("qemu-img convert -f {} -O raw {disk} /tmp/read.raw", self.disk);
        let check = if self.disk == "qcow2" { format!("qemu-img check -q {disk}") } else { "true".into() };
        let line =
            format!("set -e; {check}; {read}; head -c {bytes} /tmp/read.raw | md5sum; rm /tmp/read.raw");
        host().shell(&line).unwrap().split_whitespace().next().unwrap().to_owned()
    }
}

impl Drop for Guest {
    /// The next has the same addresses.
    fn drop(&mut self) {
        let _ = host().shell(&format!("ip link del {}; rm -f {}", self.name, self.disk()));
    }
}

fn host() -> &'static Host {
    // Built before the machine first looks at it.
    colo_vm();
    Lab::shared().unwrap().a()
}

fn colo_vm() -> PathBuf {
    binary::colo_vm().unwrap()
}

/// It powered off, and its script went well.
fn went_well(output: &Output) {
    assert!(output.stdout.contains("colo-guest: status 0"), "{}\n{}", output.stdout, output.stderr);
    assert_eq!(output.status, 0, "a power-off is an exit with 0: {}", output.stderr);
}

/// What comes after a word on its line.
fn after<'a>(text: &'a str, word: &str) -> &'a str {
    let (_, rest) = text.split_once(word).unwrap_or_else(|| panic!("no {word:?} in {text}"));
    rest.split_whitespace().next().unwrap_or_default()
}

/// Disk, network card and source of randomness, from the inside; then from the outside.
fn devices_work(name: &'static str, kernel: Kernel, cpus: u8, disk: &'static str) {
    const BYTES: usize = 8 << 20;
    let guest = Guest::new(name, kernel, cpus, disk);
    let running = guest.start(
        "set -e
         echo cpus=$(nproc) serial=$(cat /sys/block/vda/serial) rng=$(cat /sys/class/misc/hw_random/rng_current)
         test $(head -c 1000 /dev/hwrng | wc -c) = 1000
         dd if=/dev/urandom of=/tmp/data bs=1M count=8 2> /dev/null
         dd if=/tmp/data of=/dev/vda bs=1M conv=fsync 2> /dev/null
         echo 3 > /proc/sys/vm/drop_caches
         cmp -n 8388608 /tmp/data /dev/vda
         echo sum=$(md5sum < /tmp/data)
         ping -c 3 -w 30 10.9.0.1",
    );
    let output = running.wait().unwrap();
    went_well(&output);
    let said = &output.stdout;
    assert_eq!(after(said, "\ncpus="), cpus.to_string(), "{said}");
    assert_eq!((after(said, "serial="), after(said, "rng=")), ("LAB-1", "virtio_rng.0"), "{said}");
    assert!(said.contains("3 packets received"), "{said}");
    assert_eq!(after(said, "sum="), guest.sum(BYTES));
}

#[test]
fn a_cloud_kernel_has_a_raw_disk_a_card_and_randomness() {
    devices_work("cloud", Kernel::Cloud, 1, "raw");
}

#[test]
fn a_generic_kernel_with_two_cpus_has_a_qcow2_disk_a_card_and_randomness() {
    devices_work("generic", Kernel::Generic, 2, "qcow2");
}

#[test]
fn a_reboot_is_in_place_and_the_devices_work_after_it() {
    let guest = Guest::new("reboot", Kernel::Cloud, 2, "qcow2");
    let running = guest.start(
        "set -e
         ping -c 1 -w 30 10.9.0.1
         nproc | grep -q 2
         boots=$(head -c 5 /dev/vda | grep -c again || true)
         echo boots=$boots.
         if [ $boots = 0 ]; then echo again | dd of=/dev/vda conv=fsync 2> /dev/null; reboot -f; sleep 60; fi",
    );
    running.until_said("boots=1.").unwrap();
    let output = running.wait().unwrap();
    went_well(&output);
    assert_eq!(output.stdout.matches("colo-guest: ready at").count(), 2, "{}", output.stdout);
    assert_eq!(output.stdout.matches("1 packets received").count(), 2, "{}", output.stdout);
}

#[test]
fn a_guest_that_stood_for_ten_seconds_goes_on_and_notices_nothing() {
    let guest = Guest::new("pause", Kernel::Cloud, 1, "raw");
    let running = guest.start(
        "for tick in $(seq 1 30); do echo tick=$tick.; sleep 0.5; done
         if dmesg | grep -i -e 'soft lockup' -e 'stall' -e 'unstable' -e 'hung task'; then false; fi",
    );
    running.until_said("tick=4.").unwrap();
    let stood = guest.ask("stop query-status sleep=1");
    assert!(stood.contains(r#""status": "paused""#) || stood.contains(r#""status":"paused""#), "{stood}");
    let said = running.said();
    guest.ask("sleep=10 query-status");
    assert_eq!(running.said(), said, "it stands");
    let went_on = guest.ask("cont query-status query-block query-cpus-fast");
    assert!(went_on.contains("running") && went_on.contains("pause.raw"), "{went_on}");
    went_well(&running.wait().unwrap());
}

#[test]
fn twenty_pauses_under_load_lose_nothing() {
    let guest = Guest::new("cycles", Kernel::Cloud, 2, "qcow2");
    // Until an address appears on the host, it writes and reads its disk, and talks to the host.
    let running = guest.start(
        "bad=0; rounds=0
         ping -i 0.2 -c 60 10.9.0.1 > /tmp/pings & ping=$!
         until ping -c 1 -W 1 10.9.0.99 > /dev/null; do
             head -c 2097152 /dev/urandom > /tmp/data
             dd if=/tmp/data of=/dev/vda bs=64k seek=$((rounds % 16 * 32)) conv=fsync 2> /dev/null || bad=1
             echo 1 > /proc/sys/vm/drop_caches
             dd if=/dev/vda bs=64k skip=$((rounds % 16 * 32)) count=32 2> /dev/null | cmp - /tmp/data || bad=1
             head -c 100 /dev/hwrng > /dev/null || bad=1
             rounds=$((rounds + 1)); echo round=$rounds.
         done
         wait $ping; tail -n 2 /tmp/pings
         if dmesg | grep -i -e 'soft lockup' -e 'stall' -e 'I/O error' -e 'hung task'; then bad=1; fi
         echo bad=$bad.; test $bad = 0",
    );
    running.until_said("round=1.").unwrap();
    let cycles = "stop sleep=0.2 cont sleep=0.2 ".repeat(20);
    let answers = guest.ask(&format!("{cycles} sleep=1 query-status"));
    assert_eq!(answers.matches(r#""STOP""#).count(), 20, "{answers}");
    assert_eq!(answers.matches(r#""RESUME""#).count(), 20, "{answers}");
    host().shell("ping -c 3 -w 60 10.9.0.2").unwrap();
    host().shell(&format!("ip addr add 10.9.0.99/24 dev {}", guest.name)).unwrap();
    let output = running.wait().unwrap();
    went_well(&output);
    assert!(output.stdout.contains(" 0% packet loss"), "{}", output.stdout);
    // The image is whole, too.
    guest.sum(1);
}
