//! The namespaces: a client, a wire, a guest, and for a twin run a second guest with the same addresses.
//!
//! ```text
//!   client ns          wire ns                      guest ns
//!   eth0 ───────── vc ─────────► vp ───────────── eth0   primary
//!                   │  redirect                     (tcpdump on vp)
//!                   │  mirror
//!                   └──────────► vs ───────────── eth0   secondary: the same MAC and addresses
//!                                ▲ nothing leads out       (tcpdump on vs)
//! ```
//!
//! `tc` actions carry the frames. What a client sends reaches both guests; what the secondary sends ends in the wire namespace.
//! In a twin run the primary's output reaches the client late, so that the secondary has said the same before the client answers:
//! holding output back does just that.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The guest's MAC address.
pub const GUEST_MAC: &str = "52:54:00:c0:10:01";
/// The client's MAC address.
const CLIENT_MAC: &str = "52:54:00:c0:10:99";

/// What the wire is like.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, each named where it is set")]
pub struct Wire {
    /// Two guests instead of one.
    pub twin: bool,
    /// IPv6 addresses beside the IPv4 ones.
    pub ipv6: bool,
    /// Addresses on an 802.1Q subinterface, VLAN 7.
    pub vlan: bool,
    /// Leave segmentation and checksum offload on.
    pub offload: bool,
    /// `netem` parameters for the guest's own output, before it is captured.
    pub guest_netem: &'static str,
    /// `netem` parameters towards the client, after the capture.
    pub client_netem: &'static str,
}

/// Namespaces and everything in them; all of it goes when this is dropped.
#[derive(Debug)]
pub struct Net {
    prefix: String,
    wire: Wire,
    dir: PathBuf,
    children: Vec<Child>,
    keeper: Child,
}

/// What the keeper runs: it waits for the end of this program, however that comes, and takes away what is left.
const KEEPER: &str = "trap '' INT TERM HUP; cat; for who in cli pri sec wire; do ns=$0-$who; \
     ip netns pids $ns 2>/dev/null | xargs -r kill -9; ip netns del $ns 2>/dev/null; done; true";

/// Runs one program to its end and hands out what it said.
fn run(program: &str, args: &[&str]) -> Result<Output> {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))
}

/// Runs one program that must succeed.
fn must(line: &str) -> Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (program, args) = words.split_first().context("an empty command")?;
    let output = run(program, args)?;
    ensure!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

impl Net {
    /// Makes the namespaces; `dir` is where a guest's files may go.
    pub fn new(wire: Wire, dir: &Path) -> Result<Self> {
        let prefix = format!("colo-pcap-{}", std::process::id());
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, &prefix]).stdin(Stdio::piped()).stdout(Stdio::null());
        let keeper = keeper.spawn().context("cannot run sh")?;
        let net = Self { prefix, wire, dir: dir.to_owned(), children: Vec::new(), keeper };
        net.build()?;
        Ok(net)
    }

    fn ns(&self, who: &str) -> String {
        format!("{}-{who}", self.prefix)
    }

    /// The guests there are: `pri`, and in a twin run `sec`.
    pub fn guests(&self) -> &'static [&'static str] {
        if self.wire.twin { &["pri", "sec"] } else { &["pri"] }
    }

    /// A guest's own directory.
    pub fn guest_dir(&self, guest: &str) -> PathBuf {
        self.dir.join(guest)
    }

    fn build(&self) -> Result<()> {
        let wire = self.ns("wire");
        self.add_ns("wire", false)?;
        self.add_ns("cli", self.wire.ipv6)?;
        self.link("cli", "vc", CLIENT_MAC)?;
        self.address("cli", 1)?;
        std::fs::create_dir_all(self.guest_dir("cli"))?;
        for (guest, port) in self.guests().iter().zip(["vp", "vs"]) {
            std::fs::create_dir_all(self.guest_dir(guest))?;
            self.add_ns(guest, self.wire.ipv6)?;
            self.link(guest, port, GUEST_MAC)?;
            self.address(guest, 2)?;
            // The cookie is a function of the client's SYN and of secrets which all namespaces of a kernel share, so both guests
            // choose the same initial sequence number and a real client can talk to both.
            let cookies = if self.wire.twin { 2 } else { 1 };
            must(&format!("ip netns exec {} sysctl -qw net.ipv4.tcp_syncookies={cookies}", self.ns(guest)))?;
            if !self.wire.guest_netem.is_empty() {
                must(&format!(
                    "tc -n {} qdisc add dev eth0 root netem {}",
                    self.ns(guest),
                    self.wire.guest_netem
                ))?;
            }
        }
        if !self.wire.client_netem.is_empty() {
            must(&format!("tc -n {wire} qdisc add dev vc root netem {}", self.wire.client_netem))?;
        }
        must(&format!("tc -n {wire} qdisc add dev vc clsact"))?;
        must(&format!("tc -n {wire} qdisc add dev vp clsact"))?;
        let mirror = if self.wire.twin { "action mirred egress mirror dev vs" } else { "" };
        must(&format!(
            "tc -n {wire} filter add dev vc ingress matchall {mirror} action mirred egress redirect dev vp"
        ))?;
        must(&format!("tc -n {wire} filter add dev vp ingress matchall action mirred egress redirect dev vc"))
    }

    fn add_ns(&self, who: &str, ipv6: bool) -> Result<()> {
        let ns = self.ns(who);
        must(&format!("ip netns add {ns}"))?;
        must(&format!("ip -n {ns} link set lo up"))?;
        let exec = format!("ip netns exec {ns} sysctl -qw");
        for scope in ["all", "default"] {
            let v6 = format!("{exec} net.ipv6.conf.{scope}");
            if ipv6 {
                must(&format!("{v6}.accept_dad=0"))?;
                must(&format!("{v6}.accept_ra=0"))?;
                must(&format!("{v6}.router_solicitations=0"))?;
            } else {
                must(&format!("{v6}.disable_ipv6=1"))?;
            }
        }
        Ok(())
    }

    /// A cable from `who`'s eth0 to a port of the wire.
    fn link(&self, who: &str, port: &str, mac: &str) -> Result<()> {
        let (ns, wire) = (self.ns(who), self.ns("wire"));
        must(&format!("ip link add eth0 address {mac} netns {ns} type veth peer name {port} netns {wire}"))?;
        let mut features = "rxvlan off txvlan off gro off".to_owned();
        if !self.wire.offload {
            features.push_str(" tx off rx off tso off gso off");
        }
        must(&format!("ip netns exec {ns} ethtool -K eth0 {features}"))?;
        must(&format!("ip netns exec {wire} ethtool -K {port} {features}"))?;
        must(&format!("ip -n {wire} link set {port} up"))?;
        must(&format!("ip -n {ns} link set eth0 up"))
    }

    fn address(&self, who: &str, host: u8) -> Result<()> {
        let ns = self.ns(who);
        let dev = if self.wire.vlan { "eth0.7" } else { "eth0" };
        if self.wire.vlan {
            must(&format!("ip -n {ns} link add link eth0 name eth0.7 type vlan id 7"))?;
            must(&format!("ip -n {ns} link set eth0.7 up"))?;
        }
        must(&format!("ip -n {ns} address add 10.77.0.{host}/24 dev {dev}"))?;
        if self.wire.ipv6 {
            must(&format!("ip -n {ns} address add fd77::{host}/64 dev {dev} nodad"))?;
        }
        Ok(())
    }

    fn command(&self, who: &str, line: &str) -> Command {
        let mut command = Command::new("ip");
        let line = line.replace("{dir}", &self.guest_dir(who).display().to_string());
        command.args(["netns", "exec", &self.ns(who), "sh", "-c", &line]).stdin(Stdio::null());
        command
    }

    /// Starts a program that goes on running.
    pub fn start(&mut self, who: &str, line: &str) -> Result<()> {
        let log = std::fs::File::create(self.dir.join(format!("{who}-{}.log", self.children.len())))?;
        let line = format!("exec {line}");
        let child = self.command(who, &line).stdout(log.try_clone()?).stderr(log).spawn()?;
        self.children.push(child);
        Ok(())
    }

    /// Runs a shell line that must succeed.
    pub fn sh(&self, who: &str, line: &str) -> Result<()> {
        let output = self.command(who, line).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "in {who}, `{line}`: {} {}", output.status, said.trim());
        Ok(())
    }

    /// Waits until a shell line succeeds.
    pub fn wait(&self, who: &str, line: &str) -> Result<()> {
        let end = Instant::now() + Duration::from_mins(1);
        while !self.command(who, line).output()?.status.success() {
            ensure!(Instant::now() < end, "in {who}, `{line}` did not come true");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Starts capturing at each guest's port of the wire, both directions; the files are `<stem>.<guest>.pcap`.
    pub fn capture(&self, stem: &Path, nano: bool) -> Result<Vec<Sniffer>> {
        let unit = if nano { "nano" } else { "micro" };
        let mut sniffers = Vec::new();
        for (guest, port) in self.guests().iter().zip(["vp", "vs"]) {
            let file = PathBuf::from(format!("{}.{guest}.pcap", stem.display()));
            let log = file.with_extension("log");
            let line = format!(
                "exec tcpdump -i {port} -n -s 0 -U -B 16384 --time-stamp-precision={unit} -Z root -w {}",
                file.display()
            );
            let child = self.command("wire", &line).stderr(std::fs::File::create(&log)?).spawn()?;
            let sniffer = Sniffer { child, file, log };
            sniffer.wait("listening on")?;
            sniffers.push(sniffer);
        }
        Ok(sniffers)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // The end of its input is the keeper's sign; it kills only what runs in namespaces of this instance.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

/// One running `tcpdump`.
#[derive(Debug)]
pub struct Sniffer {
    child: Child,
    file: PathBuf,
    log: PathBuf,
}

impl Sniffer {
    fn wait(&self, text: &str) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(20);
        while !std::fs::read_to_string(&self.log)?.contains(text) {
            ensure!(Instant::now() < end, "tcpdump never said `{text}`");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Ends the capture and says where it is; an incomplete one is an error.
    pub fn stop(mut self) -> Result<PathBuf> {
        must(&format!("kill -INT {}", self.child.id()))?;
        self.child.wait()?;
        let said = std::fs::read_to_string(&self.log)?;
        ensure!(said.contains("\n0 packets dropped by kernel"), "tcpdump lost frames: {said}");
        Ok(self.file)
    }
}
