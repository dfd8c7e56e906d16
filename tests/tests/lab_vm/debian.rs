//! A whole Debian with systemd: to its login, as a server, and its end.

use super::guest::{Boot, Content, Guest, after, powered_off, went_well};
use colo_tests::lab::{Host, Job, images};
use std::time::Duration;

/// What a shell on the serial console says when somebody has logged in there.
const PROMPT: &str = "root@colo:~#";

/// A line for a guest's host that has minutes; what it printed.
fn shell(host: &Host, line: &str) -> String {
    let output = host.run(Job::shell(&format!("set -e -o pipefail; {line}")).timeout(Duration::from_mins(5)));
    let output = output.unwrap();
    assert_eq!(output.status, 0, "`{line}`: {output:#?}");
    output.stdout
}

/// fio writes 4 MiB of each data disk at random and reads what it wrote, trims elsewhere, and reads again.
const FIO: &str = r#"
check() {
    fio --name=lab --direct=1 --ioengine=libaio --iodepth=16 --output-format=terse --filename=/dev/$disk "$@" \
        > /tmp/fio 2>&1 || { cat /tmp/fio; bad="$bad $disk"; }
}
crc="--rw=randwrite --bs=4k --size=4M --verify=crc32c --verify_fatal=1"
for disk in vdb vdc; do
    check --rw=trimwrite --bs=64k --size=4M
    check $crc --fsync=64
    check --rw=randtrim --bs=64k --offset=32M --size=4M
    check $crc --verify_only
    check --rw=randread --bs=4k --size=4M
    set -- $(cat /sys/block/$disk/stat)
    [ ${12} -gt 0 ] && [ ${16} -gt 0 ] || bad="$bad no trim or flush of $disk: $*"
done
"#;

#[test]
fn a_cloud_kernel_serves_checks_its_disks_and_powers_off_at_the_button() {
    let disk = images::disk().unwrap();
    let disks = [Content::Copy(&disk), Content::Empty("raw"), Content::Empty("qcow2")];
    let guest = Guest::new("debian", Boot::debian(&disk), 1, &disks);
    let running = guest.start(&format!(
        "bad=
         {FIO}
         head -c 20000000 /dev/urandom > /var/www/html/big
         iperf3 -s -D -p 5201; iperf3 -s -D -p 5202
         until ss -ltn | grep -q :5201 && ss -ltn | grep -q :5202; do sleep 0.5; done
         until systemctl -q is-active systemd-logind; do sleep 0.5; done
         systemctl is-active nginx || bad=\"$bad nginx\"
         echo sum=$(md5sum < /var/www/html/big)
         echo bad=$bad.
         echo serving.
         sleep infinity"
    ));
    running.until_said("serving.").unwrap();
    running.until_said(PROMPT).unwrap();
    let said = running.said();
    assert_eq!(after(&said, "bad="), ".", "{said}");

    let host = guest.host();
    // Three echoes come back, or it fails.
    shell(host, "ping -c 3 -i 0.3 -w 60 10.9.0.2");
    let got = shell(host, "curl -sS --fail --max-time 240 http://10.9.0.2/big | md5sum");
    assert_eq!(got.split_whitespace().next().unwrap(), after(&said, "sum="));
    // Thirty requests, one connection.
    let asked = shell(
        host,
        "curl -sS --fail --max-time 240 -o /dev/null -w '%{http_code} %{num_connects}\\n' 'http://10.9.0.2/?[1-30]'",
    );
    let answers: Vec<&str> = asked.lines().collect();
    assert_eq!((answers[0], &answers[1..]), ("200 1", &["200 0"; 29][..]), "{asked}");
    for direction in ["-p 5201", "-p 5202 -R"] {
        let report = shell(host, &format!("iperf3 -c 10.9.0.2 {direction} -t 2 -J"));
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert!(report["end"]["sum_received"]["bytes"].as_u64().unwrap() > 0, "{report}");
    }

    let pressed = guest.ask("system_powerdown");
    assert!(!pressed.contains("error"), "{pressed}");
    let output = running.wait().unwrap();
    powered_off(&output);
    assert!(output.stdout.contains("reboot: Power down"), "{}", output.stdout);
    guest.check();
    shell(host, &format!("e2fsck -f -n {}", guest.disk(0)));
}

#[test]
fn a_generic_kernel_with_four_cpus_reboots_and_powers_off_by_itself() {
    let disk = images::disk().unwrap();
    let boot = Boot::debian_with_the_generic_kernel();
    let guest = Guest::new("four", boot, 4, &[Content::Overlay(&disk)]);
    let running = guest.start(
        "until pgrep -t ttyS0 bash > /dev/null; do sleep 0.5; done
         echo on $(uname -r) cpus=$(nproc).
         ping -c 2 -w 60 10.9.0.1 || exit 1
         [ -e /var/again ] || { touch /var/again; reboot; sleep infinity; }
         echo after the reboot.",
    );
    running.until_said("after the reboot.").unwrap();
    let output = running.wait().unwrap();
    went_well(&output);
    let said = &output.stdout;
    assert_eq!(after(said, "cpus="), "4.", "{said}");
    assert!(said.matches("automatic login").count() >= 2 && said.contains("reboot: Power down"), "{said}");
    let generic = said.matches("-amd64 cpus=").count() == 2 && !said.contains("cloud-amd64 cpus=");
    assert!(generic, "{said}");
    guest.check();
}
