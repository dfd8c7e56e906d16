//! A guest that is saved while it works goes on, and goes on once more from the file.

use super::hosts::Hosts;
use super::side::{Boot, READY, Side, is_right};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// No clock of the guest may step by more at once.
const LIMIT: Duration = Duration::from_secs(6);

#[test]
fn a_guest_goes_on_before_and_after_it_is_restored() {
    let boot = Boot::busybox(1);
    let hosts = Hosts::one();
    let host = hosts.b();
    let (name, state) = ("saved", "/tmp/saved.state");
    let first = Side::start(host, name, &["run"], &boot);
    first.converse(READY, &Side::loads(LIMIT), "check: checked [1-9]");
    let told = first.order("save", &[state]);
    let saved = Instant::now();
    eprintln!("{}", told.trim_end());
    first.end_of_loads();
    first.powers_off();

    // Later than the clocks could go ahead by without being noticed.
    sleep((2 * LIMIT).saturating_sub(saved.elapsed()));
    let again = Side::start(host, "saved-again", &["run", "--restore", state], &boot);
    let stood = saved.elapsed();
    again.works_on();
    let said = again.end_of_loads();
    eprintln!("restored after {:.1} s: {}", stood.as_secs_f64(), is_right(&said, "clock"));
    again.powers_off();
    host.shell(&format!("rm {state}")).unwrap();
}
