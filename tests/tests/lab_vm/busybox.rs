//! Small guests: every device, control, and pauses.

use super::guest::{Boot, Content, Guest, after, went_well};
use colo_tests::lab::Job;
use colo_tests::lab::store::Kernel;
use std::time::Duration;

/// What a kernel complains with that has missed time, an interrupt or an answer.
const COMPLAINTS: &str = "-e 'soft lockup' -e 'stall' -e 'I/O error' -e 'hung task' -e 'blocked for more'";

/// Disk, network card and source of randomness, from the inside; then from the outside.
fn devices_work(name: &'static str, boot: Boot, disk: &'static str) {
    const BYTES: usize = 8 << 20;
    let guest = Guest::new(name, boot, 1, &[Content::Empty(disk)]);
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
    assert_eq!(after(said, "\ncpus="), "1", "{said}");
    assert_eq!((after(said, "serial="), after(said, "rng=")), ("LAB-0", "virtio_rng.0"), "{said}");
    assert!(said.contains("3 packets received"), "{said}");
    assert_eq!(after(said, "sum="), guest.sum(0, BYTES));
}

#[test]
fn a_cloud_kernel_has_a_qcow2_disk_a_card_and_randomness() {
    devices_work("cloud", Boot::busybox(Kernel::Cloud), "qcow2");
}

#[test]
fn a_generic_kernel_has_a_raw_disk_a_card_and_randomness() {
    devices_work("generic", Boot::busybox(Kernel::Generic), "raw");
}

#[test]
fn an_uncompressed_kernel_boots_by_its_pvh_note() {
    let guest = Guest::new("pvh", Boot::vmlinux(), 2, &[]);
    let output =
        guest.start("dmesg | grep Hypervisor; echo cpus=$(nproc); ping -c 1 -w 30 10.9.0.1").wait().unwrap();
    went_well(&output);
    assert_eq!(after(&output.stdout, "\ncpus="), "2", "{}", output.stdout);
}

#[test]
fn a_reboot_is_in_place_and_the_devices_of_four_cpus_work_after_it() {
    let guest = Guest::new("reboot", Boot::busybox(Kernel::Cloud), 4, &[Content::Empty("raw")]);
    let running = guest.start(
        "set -e
         ping -c 1 -w 30 10.9.0.1
         nproc | grep -q 4
         test $(ls -d /sys/class/net/eth0/queues/tx-* | wc -l) = 4
         boots=$(head -c 5 /dev/vda | grep -c again || true)
         echo boots=$boots.
         if [ $boots = 0 ]; then echo again | dd of=/dev/vda conv=fsync 2> /dev/null; reboot -f; sleep 600; fi",
    );
    running.until_said("boots=1.").unwrap();
    let output = running.wait().unwrap();
    went_well(&output);
    assert_eq!(output.stdout.matches("colo-guest: ready at").count(), 2, "{}", output.stdout);
    assert_eq!(output.stdout.matches("1 packets received").count(), 2, "{}", output.stdout);
}

#[test]
fn a_guest_that_stood_for_ten_seconds_goes_on_and_notices_nothing() {
    let guest = Guest::new("pause", Boot::busybox(Kernel::Cloud), 1, &[Content::Empty("raw")]);
    let running = guest.start(&format!(
        "for tick in $(seq 1 30); do echo tick=$tick.; sleep 0.5; done
         if dmesg | grep -i {COMPLAINTS} -e 'unstable'; then false; fi"
    ));
    running.until_said("tick=4.").unwrap();
    let stood = guest.ask("stop query-status sleep=1");
    assert!(stood.contains(r#""status": "paused""#) || stood.contains(r#""status":"paused""#), "{stood}");
    let said = running.said();
    guest.ask("sleep=10 query-status");
    assert_eq!(running.said(), said, "it stands");
    let went_on = guest.ask("cont query-status query-block query-cpus-fast");
    assert!(went_on.contains("running") && went_on.contains(guest.disk(0)), "{went_on}");
    went_well(&running.wait().unwrap());
}

#[test]
fn a_hundred_pauses_under_load_lose_nothing() {
    const CYCLES: usize = 20;
    let guest = Guest::new("cycles", Boot::busybox(Kernel::Cloud), 2, &[Content::Empty("qcow2")]);
    let sum = guest.host()
        .shell("mkdir -p /tmp/cycles; head -c 1000000 /dev/urandom > /tmp/cycles/file; md5sum < /tmp/cycles/file")
        .unwrap();
    let serve = "cd /tmp/cycles; exec /usr/bin/python3 -u -m http.server --bind 10.9.0.1 8000";
    let server = guest.host().start(Job::shell(serve).timeout(Duration::from_mins(15))).unwrap();
    server.until_said("Serving HTTP").unwrap();
    // Until an address appears on the host, it writes and reads its disk, computes, and talks to the host.
    let running = guest.start(&format!(
        "bad=0; rounds=0
         while :; do md5sum /bin/busybox > /tmp/sum; done & busy=$!
         ping -i 0.2 -c 60 10.9.0.1 > /tmp/pings & ping=$!
         until ping -c 1 -W 1 10.9.0.99 > /dev/null; do
             head -c 1048576 /dev/urandom > /tmp/data
             dd if=/tmp/data of=/dev/vda bs=64k seek=$((rounds % 16 * 32)) conv=fsync 2> /dev/null || bad=disk
             echo 1 > /proc/sys/vm/drop_caches
             dd if=/dev/vda bs=64k skip=$((rounds % 16 * 32)) count=16 2> /dev/null | cmp - /tmp/data || bad=data
             wget -q -O - http://10.9.0.1:8000/file | md5sum | grep -q {} || bad=net
             head -c 100 /dev/hwrng > /dev/null || bad=rng
             rounds=$((rounds + 1)); echo round=$rounds.
         done
         kill $busy
         wait $ping; tail -n 2 /tmp/pings
         if dmesg | grep -i {COMPLAINTS}; then bad=log; fi
         echo bad=$bad.; test $bad = 0",
        sum.split_whitespace().next().unwrap()
    ));
    // Some pauses, then a whole round without, and again.
    running.until_said("round=1.").unwrap();
    for _ in 0..100 / CYCLES {
        let answers = guest.ask(&"stop+STOP sleep=0.05 cont+RESUME sleep=0.05 ".repeat(CYCLES));
        assert_eq!(answers.matches(r#""STOP""#).count(), CYCLES, "{answers}");
        assert_eq!(answers.matches(r#""RESUME""#).count(), CYCLES, "{answers}");
        let said = running.said();
        let round: u32 = after(&said, "round=").trim_end_matches('.').parse().unwrap();
        running.until_said(&format!("round={}.", round + 2)).unwrap();
    }
    guest
        .host()
        .run(Job::shell("ping -c 3 -w 60 10.9.0.2"))
        .map(|output| assert_eq!(output.status, 0))
        .unwrap();
    guest.host().shell(&format!("ip addr add 10.9.0.99/24 dev {}", guest.tap())).unwrap();
    let output = running.wait().unwrap();
    went_well(&output);
    assert!(output.stdout.contains(" 0% packet loss"), "{}", output.stdout);
    guest.check();
}
