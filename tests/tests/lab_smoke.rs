//! The lab's machines by themselves: what later proofs with real guests stand on.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use colo_tests::binary;
use colo_tests::lab::{Job, Kernel, Lab, images, store};
use rustix::process::Signal;
use std::fs;
use std::time::Duration;

#[test]
fn kvm_there_is_of_the_true_kind() {
    let lab = Lab::shared().unwrap();
    let flags = lab.a().shell("grep -m1 ^flags /proc/cpuinfo").unwrap();
    assert!(flags.split_whitespace().any(|flag| flag == "svm" || flag == "vmx"), "{flags}");
    let modules = lab.a().shell("cat /proc/modules").unwrap();
    assert!(modules.lines().any(|line| line.starts_with("kvm_amd ") || line.starts_with("kvm_intel ")));
    assert_eq!(lab.a().shell("cat /sys/module/kvm/parameters/enable_vmware_backdoor").unwrap(), "Y\n");
}

#[test]
fn stock_kernels_boot_as_guests_of_debians_qemu() {
    let lab = Lab::shared().unwrap();
    for (kernel, machine, end) in [
        // A microvm has no ACPI button to power off with; its guest ends by a reboot that QEMU takes as the end.
        (Kernel::Cloud, "microvm,rtc=on", "reboot -f"),
        (Kernel::Generic, "q35", "poweroff -f"),
    ] {
        let (image, initramfs) = (store::kernel(kernel).unwrap(), images::busybox(kernel).unwrap());
        let script = format!("echo the marker of $(uname -r); {end}");
        let append = format!("console=ttyS0 quiet reboot=t panic=-1 {}", images::run_argument(&script));
        let qemu = "qemu-system-x86_64 -accel kvm -cpu host -m 256 -smp 1 -nodefaults -no-user-config -display none \
                    -no-reboot -serial stdio";
        let mut argv: Vec<String> = qemu.split_whitespace().map(str::to_owned).collect();
        argv.extend(["-M".to_owned(), machine.to_owned(), "-append".to_owned(), append]);
        argv.extend(["-kernel".to_owned(), image.image.display().to_string()]);
        argv.extend(["-initrd".to_owned(), initramfs.display().to_string()]);
        let output = lab.a().run(Job::new(argv).timeout(Duration::from_mins(4))).unwrap();
        assert!(
            output.stdout.contains(&format!("the marker of {}", image.release)),
            "{machine}: {output:#?}"
        );
        assert!(output.stdout.contains("colo-guest: ready at"), "{machine}: {output:#?}");
        assert_eq!(output.status, 0, "{machine}: {output:#?}");
    }
}

#[test]
fn taps_bridges_namespaces_and_filters_are_there() {
    let lab = Lab::shared().unwrap();
    lab.a()
        .shell(
            "set -e; ip netns add smoke; trap 'ip netns del smoke' EXIT; in='ip netns exec smoke'
             $in ip link add br0 type bridge; $in ip link add v0 type veth peer name v1
             $in ip tuntap add tap0 mode tap; $in ip link set tap0 master br0; $in ip link set v0 master br0 up
             $in tc qdisc add dev tap0 clsact; $in tc qdisc add dev v0 root netem delay 1ms
             $in tc filter add dev tap0 ingress matchall action drop
             $in nft add table bridge smoke
             test \"$($in ip -o link show master br0 | wc -l)\" = 2",
        )
        .unwrap();
}

/// The eBPF of the live path where the kernel has no TCX (it came with Linux 6.6): tests of the lab of
/// namespaces, run there as they were built here.
#[test]
fn the_live_path_works_on_clsact_where_there_is_no_tcx() {
    let lab = Lab::shared().unwrap();
    assert!(lab.a().shell("uname -r").unwrap().starts_with("6.1."), "a kernel without TCX");
    let proxy = binary::colo_proxy().unwrap();
    for (program, test) in [
        ("live_divergence", "in_a_short_answer"),
        ("live_clsact", "filters_protect_a_guest_outlive_a_crash_and_go_alone"),
    ] {
        let argv = [&*binary::test(program).unwrap().display().to_string(), "--exact", test];
        let job = Job::new(argv).env(binary::COLO_PROXY, &proxy.display().to_string());
        let output = lab.a().run(job.timeout(Duration::from_mins(4))).unwrap();
        let passed = output.status == 0 && output.stdout.contains("1 passed");
        assert!(passed, "{program}: {}{}", output.stdout, output.stderr);
    }
}

#[test]
fn exit_statuses_and_output_come_through_and_results_are_kept() {
    let lab = Lab::shared().unwrap();
    let host = lab.a();
    let output = host.run(Job::shell("echo out; echo err >&2; exit 7")).unwrap();
    assert_eq!((output.status, output.stdout.as_str(), output.stderr.as_str()), (7, "out\n", "err\n"));
    assert_eq!(host.run(Job::shell("kill -9 $$")).unwrap().status, 137);
    let big = host.run(Job::shell("seq 1 200000; exit 3")).unwrap();
    assert_eq!(
        (big.status, big.stdout.lines().last(), big.stdout.lines().count()),
        (3, Some("200000"), 200_000)
    );
    let output = host.run(Job::shell("echo $LAB_HOST $X; pwd").env("X", "y").dir("/usr")).unwrap();
    assert_eq!(output.stdout, "a y\n/usr\n");
    host.shell("echo kept > /results/file").unwrap();
    assert_eq!(fs::read_to_string(lab.results(host).join("file")).unwrap(), "kept\n");
    let error = host.run(Job::new(["no-such-program"])).unwrap_err().to_string();
    assert!(error.contains("cannot start no-such-program"), "{error}");
}

#[test]
fn what_is_written_there_stays_there() {
    let lab = Lab::shared().unwrap();
    let file = lab.scratch().join("from-inside");
    let name = file.display();
    assert_eq!(lab.a().shell(&format!("echo x > {name}; cat {name}")).unwrap(), "x\n");
    assert!(!file.exists());
    lab.a().shell("echo 1 >> /etc/hostname").unwrap();
    assert_ne!(lab.a().shell("cat /etc/hostname").unwrap(), fs::read_to_string("/etc/hostname").unwrap());
}

#[test]
fn a_command_that_hangs_is_ended_with_its_children() {
    let lab = Lab::shared().unwrap();
    let hangs = Job::shell("echo begun; (trap '' TERM; sleep 98765) & wait").timeout(Duration::from_secs(5));
    let error = lab.a().run(hangs).unwrap_err().to_string();
    assert!(error.contains("did not end in its time") && error.contains("begun"), "{error}");
    assert_eq!(lab.a().run(Job::shell("pgrep -f 'sleep 9876[5]'")).unwrap().stdout, "");
}

#[test]
fn commands_run_side_by_side_and_can_be_signalled() {
    let lab = Lab::shared().unwrap();
    let waits = lab
        .a()
        .start(Job::shell("trap 'echo told; exit 5' TERM; echo here; while :; do sleep 0.1; done"))
        .unwrap();
    waits.until_said("here").unwrap();
    assert_eq!(lab.a().shell("echo meanwhile").unwrap(), "meanwhile\n");
    waits.signal(Signal::TERM).unwrap();
    let output = waits.wait().unwrap();
    assert_eq!((output.status, output.stdout.as_str()), (5, "here\ntold\n"));
}
