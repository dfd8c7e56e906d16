//! One network namespace.
//!
//! It has a name under `/run/netns`, so that a person can look into it while a test runs, and so
//! that what a killed test leaves is found. Threads and programs are put into it by `setns`:
//! `ip netns exec` would mount `/sys` anew and hide what is pinned in the BPF file system.

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where names of namespaces are.
const NAMES: &str = "/run/netns";

/// What all names of this lab begin with; the process id and more follow.
pub(crate) const PREFIX: &str = "colo-lab-";

/// A network namespace; it goes, with what runs in it, when this is dropped.
#[derive(Debug)]
pub struct Space {
    name: String,
    file: File,
}

impl Space {
    /// Makes one in which IPv6 is as quiet as can be: no detection of duplicates, no solicitations;
    /// and none at all if this is not `ipv6`.
    pub(crate) fn new(name: String, ipv6: bool) -> Result<Self> {
        host(&["ip", "netns", "add", &name])?;
        let file = File::open(Path::new(NAMES).join(&name)).with_context(|| format!("cannot open {name}"))?;
        let space = Self { name, file };
        for scope in ["all", "default"] {
            let conf = format!("net/ipv6/conf/{scope}");
            if ipv6 {
                space.sysctl(&format!("{conf}/accept_dad"), "0")?;
                space.sysctl(&format!("{conf}/accept_ra"), "0")?;
                space.sysctl(&format!("{conf}/router_solicitations"), "0")?;
            } else {
                space.sysctl(&format!("{conf}/disable_ipv6"), "1")?;
            }
        }
        space.run("ip link set dev lo up")?;
        Ok(space)
    }

    /// One that belongs to no lab.
    pub fn alone() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::new(format!("{PREFIX}{}-alone-{number}", std::process::id()), false)
    }

    /// Its name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does something inside, on a thread of its own. Sockets that it makes belong to this
    /// namespace wherever they are used afterwards, and so do programs.
    ///
    /// # Panics
    ///
    /// Where it cannot be entered, as somebody who is not root cannot; and with what panics inside.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let work = || {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                .unwrap_or_else(|error| panic!("cannot enter {}: {error} (are you root?)", self.name));
            inside()
        };
        match std::thread::scope(|scope| scope.spawn(work).join()) {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// A thread inside that goes on by itself.
    ///
    /// # Panics
    ///
    /// The thread does, where it cannot enter.
    pub fn spawn<T: Send + 'static>(
        &self,
        inside: impl FnOnce() -> T + Send + 'static,
    ) -> Result<std::thread::JoinHandle<T>> {
        let file = self.file.try_clone()?;
        let name = self.name.clone();
        Ok(std::thread::spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .unwrap_or_else(|error| panic!("cannot enter {name}: {error}"));
            drop(file);
            inside()
        }))
    }

    /// Runs a program to its end, whatever that is. The words are split at white space.
    pub fn output(&self, line: &str) -> Result<Output> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command")?;
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null());
        self.enter(|| command.output()).with_context(|| format!("cannot run {program} in {}", self.name))
    }

    /// Runs a program that must succeed, and hands out what it printed.
    pub fn run(&self, line: &str) -> Result<String> {
        let output = self.output(line)?;
        let (said, complained) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(
            output.status.success(),
            "in {}, `{line}`: {} {} {}",
            self.name,
            output.status,
            complained.trim(),
            said.trim()
        );
        Ok(said.into_owned())
    }

    /// Feeds nftables' language to `nft`.
    pub fn nft(&self, rules: &str) -> Result<()> {
        let mut command = Command::new("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.enter(|| command.spawn()).context("cannot run nft")?;
        let mut input = child.stdin.take().context("nft without an input")?;
        io::Write::write_all(&mut input, rules.as_bytes())?;
        drop(input);
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    /// Writes a kernel parameter of this namespace, by its path below `/proc/sys`.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        self.enter(|| std::fs::write(Path::new("/proc/sys").join(path), value))
            .with_context(|| format!("cannot set {path} to {value} in {}", self.name))
    }

    /// The number of an interface.
    pub fn index_of(&self, interface: &str) -> Result<u32> {
        let text = self.run(&format!("ip -o link show dev {interface}"))?;
        let number = text.split(':').next().and_then(|number| number.trim().parse().ok());
        number.with_context(|| format!("no number of {interface} in {text:?}"))
    }

    /// A counter of an interface as the kernel keeps it: `rx` or `tx`, `packets`, `bytes`, `dropped`….
    pub fn counter(&self, interface: &str, direction: &str, what: &str) -> Result<u64> {
        let text = self.run(&format!("ip -s -j link show dev {interface}"))?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        let value = &links[0]["stats64"][direction][what];
        value.as_u64().with_context(|| format!("no {direction} {what} of {interface}"))
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Runs a program in the namespace that this program is in.
pub(super) fn host(words: &[&str]) -> Result<String> {
    let [program, args @ ..] = words else { anyhow::bail!("an empty command") };
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    let complained = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{}`: {}", words.join(" "), complained.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Ends what runs in a namespace and takes its name away. What cannot be done is left: this runs
/// while another failure is on its way up.
fn remove(name: &str) {
    end(name);
    let _ = host(&["ip", "netns", "del", name]);
}

/// Ends what runs in a namespace.
pub(super) fn end(name: &str) {
    let Ok(pids) = host(&["ip", "netns", "pids", name]) else { return };
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Whether something of that name, `PREFIX<pid>-…`, was made by a process that is gone.
pub(super) fn is_stale(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    pid.and_then(|pid| pid.parse::<u32>().ok())
        .is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists())
}

/// Takes away the namespaces of labs whose process is gone.
pub(super) fn sweep() {
    let Ok(names) = std::fs::read_dir(NAMES) else { return };
    for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if is_stale(&name) {
            remove(&name);
        }
    }
}
