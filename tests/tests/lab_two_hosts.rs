//! Two hosts, their links, and the death of one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use colo_tests::lab::{CLIENT_ADDRESS, Faults, Job, Lab, Options};
use std::time::Duration;

/// How many of `count` echoes come back.
fn echoes(from: &colo_tests::lab::Host, to: &str, count: u32) -> u32 {
    let line = format!("ping -n -c {count} -i 0.05 -W 2 {to}");
    let said = from.run(Job::shell(&line)).unwrap().stdout;
    let received =
        said.lines().find_map(|line| line.split(", ").find_map(|part| part.strip_suffix(" received")));
    received.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("what ping says: {said}"))
}

#[test]
fn two_hosts_and_a_client_talk_until_a_link_is_cut_and_a_host_dies() {
    let lab =
        Lab::start(&Options { hosts: 2, memory_mib: 1024, name: "two-hosts".into(), ..Options::default() })
            .unwrap();
    let (a, b) = (lab.a(), lab.b());
    assert_eq!(
        (a.shell("echo $LAB_HOST").unwrap(), b.shell("echo $LAB_HOST").unwrap()),
        ("a\n".into(), "b\n".into())
    );

    // Each link carries, and is the one that its name says.
    for (link, net) in [(&lab.client, 0), (&lab.forward, 1), (&lab.replication, 2)] {
        assert_eq!(echoes(a, &format!("10.77.{net}.2"), 3), 3);
        let before = link.counts().forwarded;
        assert_eq!(echoes(b, &format!("10.77.{net}.1"), 3), 3);
        assert!(link.counts().forwarded >= before + 6);
    }
    // Tagged frames of full size go over the forward link.
    a.shell("ping -n -c 1 -W 5 -M do -s 8972 10.77.1.2").unwrap();

    // A client outside both.
    let client = lab.outside().unwrap();
    client.run("ping -n -c 2 -W 5 10.77.0.1").unwrap();
    client.run("ping -n -c 2 -W 5 10.77.0.2").unwrap();
    a.shell(&format!("ping -n -c 1 -W 5 {CLIENT_ADDRESS}")).unwrap();

    // Faults of one link are no other's.
    lab.forward.cut();
    assert_eq!(echoes(a, "10.77.1.2", 3), 0);
    assert_eq!(echoes(a, "10.77.2.2", 3), 3);
    lab.forward.mend();
    assert_eq!(echoes(a, "10.77.1.2", 3), 3);
    lab.replication.delay(Duration::from_millis(300));
    let said = a.shell("ping -n -c 1 -W 5 10.77.2.2").unwrap();
    let time: f64 = said.split("time=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(time >= 600.0, "there and back: {said}");
    lab.replication.set(Faults { loss_per_mille: 500, ..Faults::default() });
    let back = echoes(a, "10.77.2.2", 40);
    assert!((1..40).contains(&back), "{back} of 40");
    lab.replication.mend();

    // A host dies under a command; the other and the client go on.
    let running = a.start(Job::shell("echo alive; sleep 1000")).unwrap();
    running.until_said("alive").unwrap();
    a.kill();
    assert!(!a.is_alive() && b.is_alive());
    let error = running.wait().unwrap_err().to_string();
    assert!(error.contains("the machine died"), "{error}");
    assert!(a.run(Job::shell("true")).is_err());
    client.run("ping -n -c 2 -W 5 10.77.0.2").unwrap();
    assert!(client.run("ping -n -c 1 -W 1 10.77.0.1").is_err());
}
