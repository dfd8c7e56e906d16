//! Starting lab machines and taking them away.

use super::cpio::Archive;
use super::host::Host;
use super::link::Link;
use super::machine::{Accel, Card, Machine, Plan};
use super::modules::Modules;
use super::outside::Outside;
use super::store::{self, Kernel, KernelFiles};
use crate::binary;
use crate::netns::Space;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What a machine's init loads before it has the host's root; what comes later is found there.
const MODULES: [&str; 8] = [
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
    "virtio_net",
    "virtio_rng",
    "virtio_blk",
];
const INIT: &str = include_str!("machine-init.sh");

/// What lab machines are like.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many: 1 or 2.
    pub hosts: u8,
    /// Memory of each, in MiB.
    pub memory_mib: u32,
    /// They end after so long, whatever happens.
    pub lifetime: Duration,
    /// How long one has until it takes commands.
    pub boot: Duration,
    /// A folder that each host `h` sees as `/results`, being `h` in it; without one it goes with the lab.
    pub results: Option<PathBuf>,
    /// More words for their kernel, such as `tsc=unstable`.
    pub words: String,
    /// What their serial logs are named after.
    pub name: String,
    /// Whether stderr is told what happens.
    pub talk: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hosts: 1,
            memory_mib: 2048,
            lifetime: Duration::from_mins(15),
            boot: Duration::from_mins(4),
            results: None,
            words: String::new(),
            name: "lab".to_owned(),
            talk: false,
        }
    }
}

/// One or two lab machines and the links between them; all of it goes when this is dropped.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    /// Hosts, their guests, and clients outside.
    pub client: Link,
    /// Carries guests' frames between the hosts.
    pub forward: Link,
    /// Carries checkpoints between the hosts.
    pub replication: Link,
    /// How the machines are run.
    pub accel: Accel,
    outside: OnceLock<Outside>,
    results: PathBuf,
    scratch: Scratch,
}

impl Lab {
    /// Starts the machines and waits until they take commands.
    pub fn start(options: &Options) -> Result<Self> {
        ensure!(matches!(options.hosts, 1 | 2), "a lab has one or two hosts, not {}", options.hosts);
        let kernel = store::kernel(Kernel::Generic).context("no kernel for the lab")?;
        let agent = binary::colo_lab()?;
        let accel = Accel::probe();
        match Self::start_with(options, &kernel, &agent, accel) {
            Err(error) if accel == Accel::Kvm => {
                eprintln!("lab: nested virtualisation does not work here, going on in software: {error:#}");
                Self::start_with(options, &kernel, &agent, Accel::Tcg)
            }
            result => result,
        }
    }

    fn start_with(options: &Options, kernel: &KernelFiles, agent: &Path, accel: Accel) -> Result<Self> {
        let begin = Instant::now();
        let scratch = Scratch::new()?;
        let results = options.results.clone().unwrap_or_else(|| scratch.0.join("results"));
        let initramfs = scratch.0.join("initramfs");
        fs::write(&initramfs, self::initramfs(kernel)?)?;
        let links = [Link::default(), Link::default(), Link::default()];
        let mut booting = Vec::new();
        for (name, number) in [('a', 1), ('b', 2)].into_iter().take(options.hosts.into()) {
            let results = results.join(name.to_string());
            fs::create_dir_all(&results).with_context(|| format!("cannot make {}", results.display()))?;
            let listen = |what: &str| {
                let path = scratch.0.join(format!("{name}-{what}"));
                UnixListener::bind(&path)
                    .map(|listener| (path.clone(), listener))
                    .with_context(|| format!("cannot listen at {}", path.display()))
            };
            let (port, agents) = listen("agent")?;
            let (mut cards, mut sockets) = (Vec::new(), Vec::new());
            // A single host has nobody to forward or to replicate to.
            for network in 0..if options.hosts == 1 { 1 } else { links.len() as u8 } {
                let (socket, listener) = listen(&format!("net{network}"))?;
                cards.push(Card { network, mtu: if network == 0 { 1500 } else { 9000 }, socket });
                sockets.push(listener);
            }
            let serial = store::dir("logs")?.join(format!("{}-{name}.log", options.name));
            let plan = Plan {
                host: name,
                number,
                accel,
                memory_mib: options.memory_mib,
                kernel,
                initramfs: &initramfs,
                agent,
                words: &options.words,
                results: &results,
                port: &port,
                cards: &cards,
                serial: &serial,
                deadline: begin + options.lifetime,
            };
            booting.push((name, Machine::start(&plan)?, agents, sockets));
        }
        let deadline = begin + options.boot.min(options.lifetime);
        let mut hosts = Vec::new();
        for (name, machine, agents, sockets) in booting {
            // QEMU connects what its command line names, in its own order.
            let agent = machine.connection(&agents, deadline)?;
            for (listener, link) in sockets.iter().zip(&links) {
                link.add_stream(machine.connection(listener, deadline)?)?;
            }
            hosts.push(Host::meet(name, machine, agent, deadline)?);
            if options.talk {
                let how = if accel == Accel::Kvm { "nested KVM" } else { "TCG" };
                eprintln!("lab: host {name} is up after {:.1} s ({how})", begin.elapsed().as_secs_f64());
            }
        }
        let [client, forward, replication] = links;
        Ok(Self { hosts, client, forward, replication, accel, outside: OnceLock::new(), results, scratch })
    }

    /// The one of this program's tests that need no lab of their own: started by the first that asks,
    /// and gone with the program.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Lab, String>> = OnceLock::new();
        let start = || Self::start(&Options::of_program(""));
        let lab = SHARED.get_or_init(|| start().map_err(|error| format!("{error:#}")));
        lab.as_ref().map_err(|words| anyhow::Error::msg(words.clone()))
    }

    /// The first host.
    ///
    /// # Panics
    ///
    /// Never: a lab has one.
    pub fn a(&self) -> &Host {
        &self.hosts[0]
    }

    /// The second host.
    ///
    /// # Panics
    ///
    /// In a lab of one.
    pub fn b(&self) -> &Host {
        &self.hosts[1]
    }

    /// All hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// A namespace on the client network, outside both hosts, where clients run.
    pub fn outside(&self) -> Result<&Space> {
        if let Some(outside) = self.outside.get() {
            return Ok(&outside.space);
        }
        let outside = Outside::plug_into(&self.client)?;
        Ok(&self.outside.get_or_init(|| outside).space)
    }

    /// The folder that a host sees as `/results`.
    pub fn results(&self, host: &Host) -> PathBuf {
        self.results.join(host.name().to_string())
    }

    /// A folder of this machine that goes with the lab. The hosts see it under the same name, as it
    /// was when they first looked.
    pub fn scratch(&self) -> &Path {
        &self.scratch.0
    }
}

/// A machine's initramfs: busybox, what it needs to reach the host's root, and its init.
fn initramfs(kernel: &KernelFiles) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.console()?;
    archive.copy("bin/busybox", &store::busybox()?, true)?;
    archive.file("init", INIT.as_bytes(), true)?;
    Modules::of(kernel)?.pack(&MODULES, &mut archive)?;
    archive.finish()
}

/// A folder for sockets and files of one lab; what labs of dead processes left is swept.
#[derive(Debug)]
struct Scratch(PathBuf);

const PREFIX: &str = "colo-machines-";

impl Scratch {
    fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // Names of sockets must be short, so this is not under target/.
        let top = std::env::temp_dir();
        for name in fs::read_dir(&top)?.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            if is_stale(&name) {
                let _ = fs::remove_dir_all(top.join(name));
            }
        }
        let path = top.join(format!("{PREFIX}{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed)));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

/// Whether a folder of that name was made by a process that is gone.
fn is_stale(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    pid.and_then(|pid| pid.parse::<u32>().ok())
        .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dead_processes_left_is_swept() {
        assert!(!is_stale(&format!("{PREFIX}{}-0", std::process::id())));
        assert!(is_stale(&format!("{PREFIX}4194305-0")), "no process has this number");
        assert!(!is_stale("colo-machines") && !is_stale("something-4194305-0"));
    }
}
