//! Recording: real programs in network namespaces, captured with `tcpdump`.
//!
//! Needs root, the Debian packages [`PACKAGES`], and a kernel with `sch_netem`, `8021q`, `act_mirred` and `cls_matchall` (every stock
//! Debian kernel). Nothing outside the namespaces is touched, no traffic leaves them, and they go away whatever happens.

pub mod net;
pub mod scenarios;

use super::io::{self, Format};
use anyhow::{Context, Result, bail};
use net::Net;
pub use scenarios::{SCENARIOS, Scenario};
use std::path::Path;
use std::time::Duration;

/// What has to be installed: `apt-get install --no-install-recommends <these>`.
pub const PACKAGES: &str = "iproute2 tcpdump ethtool procps nginx-light curl openssl openssh-server openssh-client dnsmasq-base \
     bind9-dnsutils postgresql redis-server iperf3 netcat-openbsd iputils-ping iputils-arping python3-minimal";

/// Files that a scenario makes, by the captured guest: `<name>.pcap`, or `<name>.primary.pcap` and `<name>.secondary.pcap`.
fn file_name(scenario: &Scenario, guest: usize) -> String {
    let ending = if scenario.ng { "pcapng" } else { "pcap" };
    match (scenario.wire.twin, guest) {
        (false, _) => format!("{}.{ending}", scenario.name),
        (true, 0) => format!("{}.primary.{ending}", scenario.name),
        (true, _) => format!("{}.secondary.{ending}", scenario.name),
    }
}

/// Records one scenario into `out`.
pub fn record(scenario: &Scenario, out: &Path) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("colo-pcap-").tempdir()?;
    // A database does not run as root, and has to get at its files.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut net = Net::new(scenario.wire, dir.path())?;
    play(scenario, &mut net, dir.path(), out).with_context(|| format!("recording `{}`", scenario.name))
}

fn play(scenario: &Scenario, net: &mut Net, dir: &Path, out: &Path) -> Result<()> {
    for line in scenario.setup {
        net.sh("pri", line)?;
    }
    for guest in net.guests().iter().skip(1) {
        let (from, to) = (net.guest_dir("pri"), net.guest_dir(guest));
        net.sh(guest, &format!("cp -a {}/. {}/", from.display(), to.display()))?;
    }
    for guest in net.guests() {
        for line in scenario.servers {
            net.start(guest, line)?;
        }
    }
    for line in scenario.client_servers {
        net.start("cli", line)?;
    }
    for guest in net.guests() {
        for port in scenario.ready {
            net.wait(guest, &format!("nc -z 127.0.0.1 {port} || nc -z 10.77.0.2 {port}"))?;
        }
    }
    if scenario.wire.ipv6 {
        // Listener reports go out at random times in the first seconds of a link.
        std::thread::sleep(Duration::from_secs(4));
    }
    let sniffers = net.capture(&dir.join(scenario.name), scenario.nano)?;
    for (who, line) in scenario.script {
        net.sh(who, line)?;
    }
    std::thread::sleep(Duration::from_millis(scenario.linger_ms));
    for (guest, sniffer) in sniffers.into_iter().enumerate() {
        let (capture, format) = io::read(&sniffer.stop()?)?;
        if capture.is_empty() {
            bail!(
                "an empty capture: {}",
                std::fs::read_to_string(dir.join(format!("{}.pri.log", scenario.name)))?
            );
        }
        let to = out.join(file_name(scenario, guest));
        io::write(&to, &capture, Format::of(&to, format.nano))?;
        println!("{}: {} frames", to.display(), capture.len());
    }
    Ok(())
}
