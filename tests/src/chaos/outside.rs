//! The same trial in lab machines: each has a share of it, and all that it needs.

use super::boot::BootArgs;
use crate::binary;
use crate::lab::store::{self, Kernel};
use crate::lab::{Job, Lab, Options, images};
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use std::io::Write as _;
use std::time::Duration;

/// Which guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Guest {
    /// Debian's cloud kernel with busybox and the loads
    Small,
    /// A whole Debian, with a database among its loads
    Debian,
}

impl Guest {
    /// What it boots, with `cpus` vCPUs.
    pub fn boot(self, cpus: u8, dirty: u32) -> Result<BootArgs> {
        let disk = (self == Self::Debian).then(images::disk).transpose()?;
        let memory = if disk.is_some() { "320M" } else { "160M" };
        Ok(BootArgs {
            colo_vm: binary::colo_vm()?,
            kernel: store::kernel(Kernel::Cloud)?.image,
            initrd: images::loaded(Kernel::Cloud)?,
            disk: disk.map(|disk| disk.raw),
            cpus,
            memory: memory.to_owned(),
            dirty,
        })
    }
}

/// What each lab machine does.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What the machine is called.
    pub name: String,
    /// The words of this program for it, but the guest's.
    pub words: Vec<String>,
    /// Its kernel takes its own time stamp counter for one that cannot be relied on.
    pub unstable: bool,
}

/// Runs this program in a lab machine for each of `trials`, all at once.
pub fn in_labs(trials: &[Trial], boot: &BootArgs, lifetime: Duration) -> Result<()> {
    std::thread::scope(|scope| {
        let running: Vec<_> =
            trials.iter().map(|trial| scope.spawn(move || in_lab(trial, boot, lifetime))).collect();
        let ended = running.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the thread of a trial panicked")))
        });
        // All are waited for.
        ended.collect::<Vec<_>>().into_iter().collect()
    })
}

fn in_lab(trial: &Trial, boot: &BootArgs, lifetime: Duration) -> Result<()> {
    let Trial { name, words, unstable } = trial;
    let memory_mib = if boot.disk.is_some() { 3072 } else { 1536 };
    let kernel = if *unstable { "tsc=unstable" } else { "" };
    let name = format!("chaos-{name}");
    let options = Options { memory_mib, lifetime, name, words: kernel.to_owned(), ..Options::default() };
    let lab = Lab::start(&options).context("cannot start a lab machine")?;
    let program = std::env::current_exe()?.display().to_string();
    let argv = [program, "here".to_owned()].into_iter().chain(guest_words(boot)).chain(words.iter().cloned());
    let told = trial.name.clone();
    let mut unfinished = Vec::new();
    let job = Job::new(argv).timeout(lifetime).live(move |_, bytes| {
        unfinished.extend_from_slice(bytes);
        while let Some(end) = unfinished.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unfinished.drain(..=end).collect();
            // Nobody may listen.
            let _ = write!(std::io::stderr(), "{told}: {}", String::from_utf8_lossy(&line));
        }
    });
    let output = lab.a().run(job)?;
    ensure!(output.status == 0, "{} failed", trial.name);
    Ok(())
}

fn guest_words(boot: &BootArgs) -> Vec<String> {
    let BootArgs { colo_vm, kernel, initrd, disk, cpus, memory, dirty } = boot;
    let path = |path: &std::path::PathBuf| path.display().to_string();
    let mut words = vec!["--colo-vm".to_owned(), path(colo_vm), "--kernel".to_owned(), path(kernel)];
    words.extend(["--initrd".to_owned(), path(initrd)]);
    words.extend(disk.iter().flat_map(|disk| ["--disk".to_owned(), path(disk)]));
    words.extend(["--cpus".to_owned(), cpus.to_string(), "--memory".to_owned(), memory.clone()]);
    words.extend(["--dirty".to_owned(), dirty.to_string()]);
    words
}
