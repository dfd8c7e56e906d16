//! The facts without which a figure means nothing.

use std::fs;
use std::process::Command;

use super::contender::QEMU;

/// Where and when something was measured.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The CPU's name.
    pub cpu: String,
    /// How many CPUs there are.
    pub cpus: usize,
    /// Whether it is itself a virtual machine.
    pub guest: bool,
    /// The kernel's release.
    pub kernel: String,
    /// The first line QEMU says of its version.
    pub qemu: Option<String>,
    /// The day.
    pub date: String,
}

impl Machine {
    /// Looks at the machine this runs on.
    pub fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line =
                cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
            line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
        };
        Self {
            cpu: field("model name").to_owned(),
            // Not what this thread may use: feeders are pinned to one.
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count().max(1),
            guest: field("flags").split(' ').any(|flag| flag == "hypervisor"),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            qemu: qemu_version(),
            date: first_line(Command::new("date").args(["-u", "+%F"])).unwrap_or_default(),
        }
    }
}

/// The first line QEMU says of its version, if it is there at all.
pub fn qemu_version() -> Option<String> {
    first_line(Command::new(QEMU).arg("--version"))
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
}

/// How many processes of this machine wanted to run, over the last five minutes.
pub fn load_average() -> f64 {
    let averages = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    averages.split(' ').nth(1).and_then(|load| load.parse().ok()).unwrap_or_default()
}
