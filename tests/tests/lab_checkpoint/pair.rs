//! A guest on two hosts: what its secondary notices, and how it goes on there.

use super::hosts::Hosts;
use super::side::{Boot, READY, Side, is_right};
use colo_tests::lab::Host;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// A guest may miss the time from its last checkpoint to its takeover, and the time for which it was stopped.
const LIMIT: Duration = Duration::from_mins(5);
/// How long a peer may say nothing. A busy machine of one CPU in software is slow, not dead.
const SILENCE: &str = "5000";

/// A primary on host a, its loads at work, and its secondary on host b, which is level with it.
fn level<'a>(hosts: &'a Hosts, name: &str, boot: &Boot, more: &[&str]) -> [Side<'a>; 2] {
    let options = ["--vm-id", "pair", "--peer-timeout", SILENCE, "--phase-timeout", "60000"];
    let side =
        |host: &'a Host, verb: &[&str]| Side::start(host, name, &[verb, &options, more].concat(), boot);
    let secondary = side(hosts.b(), &["secondary", "--listen", "0.0.0.0:9998"]);
    let primary = side(hosts.a(), &["primary", "--peer", "10.77.2.2:9998"]);
    primary.converse(READY, &Side::loads(LIMIT), "check: checked [1-9]");
    [primary, secondary]
}

/// The host of the primary dies; the guest goes on at the secondary.
fn goes_on(name: &str, hosts: &Hosts, primary: Side<'_>, secondary: Side<'_>) {
    eprintln!("{name}: {}", primary.order("status", &[]));
    let died = Instant::now();
    hosts.a().kill();
    drop(primary);
    secondary.until("s['phase'] == 'lost'");
    eprintln!("{name}: the death of host a was noticed after {:.1} s", died.elapsed().as_secs_f64());
    let told = secondary.order("takeover", &[]);
    eprintln!("{name}, after {:.1} s: {}", died.elapsed().as_secs_f64(), told.trim_end());
    secondary.works_on();
    let said = secondary.end_of_loads();
    eprintln!("{name}: {}, {}", is_right(&said, "check"), is_right(&said, "clock"));
    secondary.powers_off();
}

#[test]
fn a_stopped_peer_a_cut_link_and_a_dead_host_are_noticed_and_the_guest_goes_on() {
    let boot = Boot::busybox(1);
    let hosts = Hosts::start();
    let [primary, secondary] =
        level(&hosts, "periodic", &boot, &["--mode", "periodic", "--checkpoint-delay", "50"]);
    secondary.until("s['phase'] == 'level' and s['checkpoints'] >= 5");

    let begun = Instant::now();
    primary.signal(Signal::STOP);
    secondary.until("s['phase'] == 'lost'");
    eprintln!("a stopped primary was noticed after {:.1} s", begun.elapsed().as_secs_f64());
    primary.signal(Signal::CONT);
    secondary.until("s['phase'] == 'level' and s['sessions'] == 2 and s['epoch'] >= 5");

    let begun = Instant::now();
    hosts.replication().cut();
    secondary.until("s['phase'] == 'lost'");
    eprintln!("a cut link was noticed after {:.1} s", begun.elapsed().as_secs_f64());
    primary.until("s['phase'] == 'connecting'");
    hosts.replication().mend();
    secondary.until("s['phase'] == 'level' and s['sessions'] >= 3 and s['epoch'] >= 20");

    goes_on("periodic", &hosts, primary, secondary);
}
