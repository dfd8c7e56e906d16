//! One lab machine: a QEMU process that ends when it is told to, at its deadline, or with this one.
//!
//! Its parent is a thread of its own, the keeper, which lives as long as it does: the kernel kills
//! QEMU when that thread ends, and it ends at the latest with this process, however that comes.

use super::store::{KernelFiles, tail};
use super::sys::die_with_parent;
use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// How a machine is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// By hardware, which must have nested virtualisation.
    Kvm,
    /// In software, with an emulated SVM.
    Tcg,
}

impl Accel {
    /// The fastest that can work here.
    pub fn probe() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flag = |name: &str| {
            cpu.lines()
                .any(|line| line.starts_with("flags") && line.split_whitespace().any(|word| word == name))
        };
        let nested = |module: &str| {
            let path = format!("/sys/module/{module}/parameters/nested");
            fs::read_to_string(path).is_ok_and(|text| matches!(text.trim(), "Y" | "1"))
        };
        let hardware = (flag("svm") && nested("kvm_amd")) || (flag("vmx") && nested("kvm_intel"));
        let allowed = File::options().read(true).write(true).open("/dev/kvm").is_ok();
        if hardware && allowed { Self::Kvm } else { Self::Tcg }
    }

    fn args(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // With more than one virtual CPU a machine of this kind sometimes locks up for good.
            Self::Tcg => ["-accel", "tcg", "-cpu", "max,+svm,+npt"],
        }
    }
}

/// A card of a machine, and the socket to which it is plugged.
#[derive(Debug)]
pub(super) struct Card {
    pub(super) network: u8,
    pub(super) mtu: u32,
    pub(super) socket: PathBuf,
}

/// What a machine is made of.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) host: char,
    pub(super) number: u8,
    pub(super) accel: Accel,
    pub(super) memory_mib: u32,
    pub(super) kernel: &'a KernelFiles,
    pub(super) initramfs: &'a Path,
    pub(super) agent: &'a Path,
    /// More words for its kernel.
    pub(super) words: &'a str,
    pub(super) results: &'a Path,
    pub(super) port: &'a Path,
    pub(super) cards: &'a [Card],
    pub(super) serial: &'a Path,
    pub(super) deadline: Instant,
}

impl Plan<'_> {
    fn command(&self) -> Result<Command> {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-name", &format!("colo-lab-{}", self.host), "-machine", "q35", "-smp", "1"]);
        command.args(self.accel.args());
        command.args(["-m", &self.memory_mib.to_string(), "-nodefaults", "-no-user-config"]);
        command.args(["-display", "none", "-no-reboot", "-device", "virtio-rng-pci"]);
        command.arg("-serial").arg(option("file:", self.serial, ""));
        command.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(self.initramfs);
        command.arg("-append").arg(self.kernel_command_line()?);
        let export = ",security_model=none,multidevs=remap,mount_tag=";
        command.arg("-virtfs").arg(option(
            "local,path=",
            Path::new("/"),
            &format!("{export}host,readonly=on"),
        ));
        command.arg("-virtfs").arg(option("local,path=", self.results, &format!("{export}results")));
        command.arg("-chardev").arg(option("socket,id=agent,path=", self.port, ""));
        command.args(["-device", "virtio-serial-pci"]);
        command.args(["-device", "virtserialport,chardev=agent,name=colo.agent"]);
        for Card { network, mtu, socket } in self.cards {
            let netdev = format!("stream,id=net{network},server=off,addr.type=unix,addr.path=");
            command.arg("-netdev").arg(option(&netdev, socket, ""));
            let mac = format!("52:54:00:c0:{network:02x}:{:02x}", self.number);
            let card = format!("virtio-net-pci,netdev=net{network},mac={mac},host_mtu={mtu}");
            command.args(["-device", &card]);
        }
        Ok(command)
    }

    fn kernel_command_line(&self) -> Result<String> {
        let word = |path: &Path| {
            let text = path.to_str().filter(|text| !text.contains([' ', '"', ',']));
            text.map(str::to_owned)
                .with_context(|| format!("the lab needs a path without blanks: {}", path.display()))
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        Ok(format!(
            "console=ttyS0 quiet panic=-1 lab.host={} lab.number={} lab.modules={} lab.agent={} lab.time={now} {}",
            self.host,
            self.number,
            word(&self.kernel.modules)?,
            word(self.agent)?,
            self.words,
        ))
    }
}

/// A value with a path in it, as QEMU reads options: a comma in it is doubled.
fn option(before: &str, path: &Path, after: &str) -> OsString {
    format!("{before}{}{after}", path.to_string_lossy().replace(',', ",,")).into()
}

#[derive(Debug, Default)]
struct End {
    how: Mutex<Option<String>>,
    told: Condvar,
}

/// A running machine; killed when this is dropped.
#[derive(Debug)]
pub(super) struct Machine {
    pid: u32,
    handle: OwnedFd,
    end: Arc<End>,
    serial: PathBuf,
    complaints: PathBuf,
}

impl Machine {
    /// Starts it, with what it will be connected to already listening.
    pub(super) fn start(plan: &Plan<'_>) -> Result<Self> {
        let complaints = plan.serial.with_extension("qemu.log");
        let mut command = plan.command()?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&complaints)?);
        let (sender, started) = mpsc::channel();
        let end = Arc::new(End::default());
        let (their_end, deadline) = (end.clone(), plan.deadline);
        thread::Builder::new().name(format!("keeper-{}", plan.host)).spawn(move || {
            let child = die_with_parent(&mut command).spawn();
            match child.and_then(|child| Ok((handle(&child)?, handle(&child)?, child))) {
                Ok((ours, theirs, child)) => {
                    let _ = sender.send(Ok((child.id(), theirs)));
                    keep(child, &ours, deadline, &their_end);
                }
                Err(error) => {
                    let _ = sender.send(Err(error));
                }
            }
        })?;
        let (pid, handle) =
            started.recv()?.context("cannot start qemu-system-x86_64 (package qemu-system-x86)")?;
        Ok(Self { pid, handle, end, serial: plan.serial.to_owned(), complaints })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        pidfd_send_signal(&self.handle, signal).context("the machine is gone")
    }

    /// How it ended, if it has.
    pub(super) fn ended(&self) -> Option<String> {
        self.end.how.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Kills it without a word, as the death of a host would; it is gone afterwards.
    pub(super) fn kill(&self) {
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
        let mut how = self.end.how.lock().unwrap_or_else(PoisonError::into_inner);
        while how.is_none() {
            how = self.end.told.wait(how).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the machine to connect to `listener`.
    pub(super) fn connection(&self, listener: &UnixListener, deadline: Instant) -> Result<UnixStream> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left)?;
        let mut files = [PollFd::new(listener, PollFlags::IN), PollFd::new(&self.handle, PollFlags::IN)];
        poll(&mut files, Some(&timeout))?;
        if files[0].revents().contains(PollFlags::IN) {
            return Ok(listener.accept()?.0);
        }
        bail!("{}", self.last_words("did not start"))
    }

    /// What went wrong, for people: how it ended and what it said last.
    pub(super) fn last_words(&self, what: &str) -> String {
        let how = self.ended().map_or_else(String::new, |how| format!(": {how}"));
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let complaints = read(&self.complaints);
        let serial = tail(&read(&self.serial), 25);
        format!(
            "the lab machine {what}{how}\n{}--- the end of {}\n{serial}\n---",
            tail(&complaints, 5),
            self.serial.display()
        )
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

fn handle(child: &Child) -> std::io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| std::io::Error::other("no process id"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Waits for the end of a machine, and ends it at its deadline.
fn keep(mut child: Child, handle: &OwnedFd, deadline: Instant, end: &End) {
    let mut late = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left.min(Duration::from_hours(1))).ok();
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], timeout.as_ref()) {
            Ok(0) if Instant::now() >= deadline => late = true,
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) | Err(_) => {}
        }
        break;
    }
    if late {
        let _ = child.kill();
    }
    let status = child.wait();
    let how = match (late, status) {
        (true, _) => "its time was up".to_owned(),
        (false, Ok(status)) => format!("QEMU ended ({status})"),
        (false, Err(error)) => format!("QEMU cannot be waited for ({error})"),
    };
    *end.how.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
    end.told.notify_all();
}
