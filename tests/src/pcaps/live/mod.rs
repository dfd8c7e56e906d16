//! Recording on the live path: what the comparator reads while it protects a guest.
//!
//! ```text
//!   client ─ lan ─ vif00 ─ pg0          guests of the lab, two real kernels running real programs
//!                    │
//!                    └──► capture tap ◄── forward link ◄── programs that translate ◄── sg0
//!                             │
//!                          tcpdump ──► tag off ──► NAME.primary.pcap, NAME.secondary.pcap
//! ```
//!
//! The secondary is in a sequence space of its own, as any second kernel is (`numbers`); its frames are
//! in the primary's by the time they are recorded, except those that nobody could translate yet. Frames are
//! the guests' alone, in the order and at the times in which the comparator got them. A super-frame is
//! one frame, its checksum partial.
//!
//! Needs root and the Debian packages [`PACKAGES`]; no module beyond those that protection needs.

mod numbers;
pub mod scenes;
mod vlan;

use super::io::{self, Format};
use super::oracle::{self, Finding, Flow};
use super::{Capture, Packet};
use crate::netns::wait::until_true;
use crate::netns::{Conduct, Desk, Flaw, Lab, Live, Options, Program, Proxy, Space, until};
use anyhow::{Context, Result, bail, ensure};
use colo_ebpf_shared::tag::{TPID, Tag};
use rustix::process::Signal;
pub use scenes::{SCENES, Scene};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What has to be installed: `apt-get install --no-install-recommends <these>`.
pub const PACKAGES: &str = "iproute2 nftables ethtool tcpdump nginx-light curl dnsmasq-base bind9-dnsutils redis-server \
     netcat-openbsd iputils-ping python3-minimal";

/// The interface that the comparator reads: the first that `colo-proxy` makes.
const CAPTURE: &str = "colo0";

/// The guests of a lab.
const GUESTS: [&str; 2] = ["pri", "sec"];

/// Records one scene into `out`, and says what its row must say.
pub fn record(scene: &Scene, out: &Path) -> Result<()> {
    let options = Options { neighbours: true, offload: scene.offload, ..Options::default() };
    let lab = Lab::new(options)?;
    play(scene, &lab, out).with_context(|| format!("recording `{}`", scene.name))
}

fn play(scene: &Scene, lab: &Lab, out: &Path) -> Result<()> {
    let stage = Stage::set(scene, lab)?;
    // Nothing may be let go by a checkpoint: what is recorded is one epoch.
    let patient = Proxy::of(lab, 0, "primary").patient();
    let live = Live::of(lab, patient, Proxy::of(lab, 0, "secondary"), Conduct::Wait)?;
    let file = lab.dir().join("capture.pcap");
    let mut sniffer = sniff(lab, &file)?;
    for (who, line) in scene.script {
        stage.perform(who, line)?;
    }
    // What the guests still have to say: the ends of connections, and what was lost.
    std::thread::sleep(std::time::Duration::from_millis(500));
    sniffer.signal(Signal::INT)?;
    let said = sniffer.succeed()?;
    ensure!(said.contains("\n0 packets dropped by kernel"), "tcpdump lost frames: {said}");
    let asked = live.toolstack.requests()? > 0;
    ensure!(asked == scene.differs, "a checkpoint was {}asked for", if asked { "" } else { "not " });
    let sides = apart(io::read(&file)?.0)?;
    for (side, capture) in sides.iter().enumerate() {
        let to = out.join(scene.file(side));
        io::write(&to, capture, Format::of(&to, scene.nano))?;
    }
    println!("{}", row(scene, &sides)?);
    Ok(())
}

/// Where the programs of a scene run, with their files.
struct Stage<'a> {
    scene: &'a Scene,
    lab: &'a Lab,
    dir: PathBuf,
    servers: Vec<Program>,
    desks: Vec<Desk>,
    vlans: Vec<vlan::Vlan>,
}

impl<'a> Stage<'a> {
    fn set(scene: &'a Scene, lab: &'a Lab) -> Result<Self> {
        let dir = lab.dir().join("stage");
        let mut stage = Self { scene, lab, dir, servers: vec![], desks: vec![], vlans: vec![] };
        std::fs::create_dir_all(stage.dir.join("cli"))?;
        if scene.vlan {
            stage.vlans.extend(vlan::lay(lab)?);
        }
        numbers::estrange(&lab.sg[0], scene.vlan)?;
        for who in GUESTS {
            std::fs::create_dir_all(stage.dir.join(who))?;
            for line in scene.setup {
                stage.sh(who, line)?;
            }
        }
        for line in scene.apart {
            stage.sh("sec", line)?;
        }
        if let Some(place) = scene.flaw {
            let flaws = [Flaw::None, Flaw::Byte(place)];
            for (guest, flaw) in lab.twins(0).into_iter().zip(flaws) {
                stage.desks.push(Desk::open(guest, flaw)?);
            }
        }
        for (who, lines) in [("pri", scene.servers), ("sec", scene.servers), ("cli", scene.client_servers)] {
            for (number, line) in lines.iter().enumerate() {
                let log = stage.dir.join(format!("{who}-{number}.log"));
                let mut command = stage.command(who, &format!("exec {line}"));
                stage.servers.push(Program::start(stage.space(who), &mut command, &log)?);
            }
        }
        for (who, ports) in [("pri", scene.ready), ("sec", scene.ready), ("cli", scene.client_ready)] {
            for port in ports {
                until_true(&format!("somebody listens on port {port} in {who}"), || {
                    let sockets = stage.space(who).run(&format!("ss -Hlnt sport = :{port}"))?;
                    Ok(!sockets.trim().is_empty())
                })?;
            }
        }
        Ok(stage)
    }

    fn space(&self, who: &str) -> &Space {
        match who {
            "pri" => &self.lab.pg[0],
            "sec" => &self.lab.sg[0],
            _ => &self.lab.client,
        }
    }

    /// A shell line, written for the addresses of the other recordings.
    fn command(&self, who: &str, line: &str) -> Command {
        let dir = self.dir.join(who).display().to_string();
        let guest = if self.scene.vlan { vlan::GUEST } else { "10.77.0.10" };
        let line = line.replace("10.77.0.2", guest).replace("fd77::2", "fd77::a");
        let line = if who == "sec" { numbers::inside(&line) } else { line };
        let line = line.replace("{dir}", &dir);
        let mut command = Command::new("sh");
        command.args(["-c", &line]).stdin(Stdio::null());
        command
    }

    fn sh(&self, who: &str, line: &str) -> Result<()> {
        let mut command = self.command(who, line);
        let output = self.space(who).enter(|| command.output())?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "in {who}, `{line}`: {} {}", output.status, said.trim());
        Ok(())
    }

    /// A line of the script; the guest's are performed by both at the same time.
    fn perform(&self, who: &str, line: &str) -> Result<()> {
        if who != "guest" {
            return self.sh(who, line);
        }
        std::thread::scope(|scope| {
            let both = GUESTS.map(|guest| scope.spawn(move || self.sh(guest, line)));
            for one in both {
                one.join().map_err(|_| anyhow::anyhow!("a guest's program panicked"))??;
            }
            Ok(())
        })
    }
}

/// Writes down what is redirected to the capture tap, and not what is released through it.
fn sniff(lab: &Lab, file: &Path) -> Result<Program> {
    let mut command = Command::new("tcpdump");
    command.args(["-i", CAPTURE, "-Q", "out", "-n", "-s", "0", "-U", "-B", "16384", "-Z", "root"]);
    command.args(["--immediate-mode", "--time-stamp-precision=nano", "-w"]).arg(file);
    let mut sniffer = Program::start(&lab.p, &mut command, &lab.dir().join("tcpdump.log"))?;
    until("tcpdump listens", || {
        sniffer.must_run()?;
        Ok(sniffer.said().contains("listening on").then_some(()))
    })?;
    Ok(sniffer)
}

/// Takes the tags off and parts the primary's frames from the secondary's.
fn apart(capture: Capture) -> Result<[Capture; 2]> {
    let mut sides = [Capture::new(), Capture::new()];
    let mut epoch = None;
    for (number, packet) in (1..).zip(capture) {
        let mut data = packet.data;
        let word = |at: usize| data.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
        let tag = word(14).filter(|_| word(12) == Some(TPID)).and_then(Tag::parse);
        let tag = tag.with_context(|| format!("frame {number} has no tag"))?;
        if *epoch.get_or_insert(tag.epoch) != tag.epoch {
            bail!("frame {number} is of another epoch");
        }
        data.drain(12..16);
        sides[usize::from(!tag.captured)].push(Packet { time: packet.time, data });
    }
    ensure!(sides.iter().all(|side| !side.is_empty()), "one guest said nothing");
    Ok(sides)
}

/// The row of the table, by the plain comparison; what it shows is for a person to say.
fn row(scene: &Scene, [primary, secondary]: &[Capture; 2]) -> Result<String> {
    let findings = oracle::compare(primary, secondary, None)?;
    let count = |is: fn(&Flow) -> bool| findings.keys().filter(|flow| is(flow)).count();
    let (tcp, udp) = (count(|f| matches!(f, Flow::Tcp(..))), count(|f| matches!(f, Flow::Udp(..))));
    let odd: Vec<String> = findings
        .iter()
        .filter_map(|(flow, finding)| match finding {
            Finding::Same => None,
            Finding::Missing => Some(format!("{flow} incomplete")),
            Finding::Differs(cause, None) => Some(format!("{flow} {cause}")),
            Finding::Differs(cause, Some(at)) => Some(format!("{flow} {cause}@{at}")),
        })
        .collect();
    ensure!(odd.is_empty() != scene.differs, "found {odd:?}");
    let (verdict, exit) = if scene.differs { ("diverged", 1) } else { ("match", 0) };
    let but = if odd.is_empty() { "-".to_owned() } else { odd.join("; ") };
    Ok(format!(
        "| `{}` | `{}` | `{}` | - | - | live | {} | {verdict} | {exit} | {tcp} | {udp} | {but} |",
        scene.name,
        scene.file(0),
        scene.file(1),
        scene.shows
    ))
}
