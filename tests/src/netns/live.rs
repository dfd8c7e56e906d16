//! The real program on both hosts.

use super::lab::{Lab, vif};
use super::program::Program;
use super::space::Space;
use super::toolstack::{Conduct, Toolstack};
use super::wait::until;
use crate::binary;
use anyhow::{Context, Result, ensure};
use colo_proxy::control::status::{GuestStatus, NodeStatus};
use colo_proxy::engine::{Config, Nanos};
use colo_proxy::live::spec::{Attach, Checkpoints, Guest, Mode, Nic, OnCrash, Places, Queues, Spec, Start};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// How one `colo-proxy` is started.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// The name of the guest, and of files.
    pub name: String,
    /// `primary` or `secondary`.
    pub mode: &'static str,
    /// The guest's interfaces, with their index on the forward device.
    pub vifs: Vec<(String, u8)>,
    /// More arguments.
    pub more: Vec<String>,
}

impl Proxy {
    /// All NICs of one guest.
    pub fn of(lab: &Lab, vm: u8, mode: &'static str) -> Self {
        let nics = lab.options.nics;
        let vifs = (0..nics).map(|nic| (vif(vm, nic), vm * nics + nic)).collect();
        Self { name: format!("vm{vm}"), mode, vifs, more: Vec::new() }
    }

    /// With more arguments.
    #[must_use]
    pub fn with(mut self, more: &str) -> Self {
        self.more.extend(more.split_whitespace().map(str::to_owned));
        self
    }

    /// For whom nothing is late within a minute: a busy machine is slow, and that is no divergence.
    #[must_use]
    pub fn patient(self) -> Self {
        self.with("--compare-timeout 60000 --age-floor 60000")
    }

    /// Where its notify socket is.
    pub fn notify(&self, lab: &Lab) -> PathBuf {
        lab.dir().join(format!("{}-{}.notify", self.name, self.mode))
    }

    /// The host that it runs on.
    pub fn host<'a>(&self, lab: &'a Lab) -> &'a Space {
        if self.mode == "primary" { &lab.p } else { &lab.s }
    }

    /// Arguments of `run` and `setup`.
    pub fn arguments(&self, lab: &Lab) -> Vec<String> {
        let mut all = vec!["--name".to_owned(), self.name.clone(), "--mode".into(), self.mode.into()];
        for (vif, index) in &self.vifs {
            all.extend(["--vif".into(), vif.clone(), "--forward".into(), "fwd".into()]);
            all.extend(["--index".into(), index.to_string(), "--bridge".into(), "br0".into()]);
        }
        all.extend(["--notify".into(), format!("unix:{}", self.notify(lab).display())]);
        all.extend(places(lab));
        all.extend(self.more.iter().cloned());
        all
    }

    /// Starts `run`, and waits until it protects or follows.
    pub fn run(&self, lab: &Lab) -> Result<Program> {
        let mut command = Command::new(binary::colo_proxy()?);
        command.arg("run").args(self.arguments(lab)).env("RUST_BACKTRACE", "1");
        let log = lab.dir().join(format!("{}-{}.log", self.name, self.mode));
        let mut program = Program::start(self.host(lab), &mut command, &log)?;
        let what = format!("{} {} is set up", self.mode, self.name);
        until(&what, || {
            program.must_run()?;
            let said = program.said();
            let ready = |index: &u8| said.contains(&format!("index {index} on fwd"));
            Ok(self.vifs.iter().all(|(_, index)| ready(index)).then_some(()))
        })
        .with_context(|| program.said())?;
        Ok(program)
    }

    /// What it says of its guest.
    pub fn status(&self, lab: &Lab) -> Result<GuestStatus> {
        let [run_dir, run, ..] = places(lab);
        let mut status = Command::new(binary::colo_proxy()?);
        status.args(["status", "--name", &self.name, "--json"]).args([run_dir, run]).stdin(Stdio::null());
        let output = self.host(lab).enter(|| status.output())?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let nodes: Vec<NodeStatus> = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stdout).into_owned())?;
        let guest = nodes.into_iter().flat_map(|node| node.guests).find(|guest| guest.name == self.name);
        guest.with_context(|| format!("no guest {}", self.name))
    }

    /// A counter of the kernel's programs, by label, over all its NICs.
    pub fn kernel(&self, lab: &Lab, label: &str) -> Result<u64> {
        let status = self.status(lab)?;
        status
            .nics
            .iter()
            .map(|nic| nic.kernel.get(label).copied().with_context(|| format!("no counter {label}")))
            .sum()
    }
}

/// Arguments that keep this lab's files apart.
pub fn places(lab: &Lab) -> [String; 4] {
    let run = lab.dir().join("run").display().to_string();
    ["--run-dir".into(), run, "--bpffs".into(), lab.bpffs().display().to_string()]
}

/// The first guest with its first NIC, as the library takes it; on the forward link it has this index.
/// What waits for its twin is not late for a minute: a busy machine is slow.
pub fn embedded(mode: Mode, index: &str) -> Result<Guest> {
    let patient = Nanos::from_millis(60_000);
    let nic = Nic { vif: vif(0, 0).parse()?, forward: "fwd".parse()?, index: index.parse()?, bridge: None };
    Ok(Guest {
        name: "vm0".into(),
        mode,
        nics: vec![nic],
        checkpoints: Checkpoints::default(),
        start: Start::Protected,
        on_crash: OnCrash::Closed,
        attach: Attach::Auto,
        queues: Queues::ONE,
        queue_frames: 1024,
        flows: 1024,
        busy_poll: Duration::ZERO,
        engine: Config { age_ceiling: patient, age_floor: patient, ..Config::default() },
    })
}

/// A node with this guest, whose files are the lab's.
pub fn node_of(lab: &Lab, guest: Guest) -> Spec {
    let places = Places { run: lab.dir().join("run"), bpffs: lab.bpffs() };
    Spec { guests: vec![guest], places, metrics: None }
}

/// Runs one `colo-proxy` command on a host to its end.
pub fn command(lab: &Lab, host: &Space, words: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary::colo_proxy()?);
    command.args(words).args(places(lab)).stdin(Stdio::null());
    Ok(host.enter(|| command.output())?)
}

/// Runs one that must succeed.
pub fn must(lab: &Lab, host: &Space, words: &[&str]) -> Result<String> {
    let output = command(lab, host, words)?;
    ensure!(
        output.status.success(),
        "colo-proxy {}: {}: {}",
        words.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One protected guest: a proxy on each host and a toolstack.
#[derive(Debug)]
pub struct Live {
    /// How the primary's was started.
    pub primary: Proxy,
    /// How the secondary's was started.
    pub secondary: Proxy,
    /// The primary's.
    pub p: Program,
    /// The secondary's.
    pub s: Program,
    /// Who performs checkpoints.
    pub toolstack: Toolstack,
}

impl Live {
    /// Protects the first guest.
    pub fn start(lab: &Lab, conduct: Conduct) -> Result<Self> {
        Self::of(lab, Proxy::of(lab, 0, "primary"), Proxy::of(lab, 0, "secondary"), conduct)
    }

    /// Protects a guest, the secondary first: from the primary's first copied frame on somebody
    /// listens.
    pub fn of(lab: &Lab, primary: Proxy, secondary: Proxy, conduct: Conduct) -> Result<Self> {
        let s = secondary.run(lab)?;
        let p = primary.run(lab)?;
        let toolstack = Toolstack::start(&primary.notify(lab), Some(&secondary.notify(lab)), conduct)?;
        Ok(Self { primary, secondary, p, s, toolstack })
    }

    /// The primary's host dies, and the secondary is told to serve.
    pub fn take_over(&mut self, lab: &Lab) -> Result<()> {
        lab.cut_primary()?;
        self.p.kill()?;
        must(lab, &lab.s, &["promote", "--name", &self.secondary.name])?;
        Ok(())
    }
}
