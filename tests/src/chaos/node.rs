//! One `colo-vm`: a process, the console of its guest, its QMP.

use super::PATIENCE;
use super::boot::Boot;
use super::console::Console;
use anyhow::{Context, Result, bail, ensure};
use colo_vmm::checkpoint::status::{Phase, Status};
use colo_vmm::config::Mode;
use colo_vmm::qmp::client::Client;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where a secondary waits for its primary.
const PLACE: &str = "127.0.0.1:9998";
/// Between two looks at a status.
const LOOK: Duration = Duration::from_millis(10);

/// One `colo-vm`, which is killed when this is dropped.
#[derive(Debug)]
pub struct Node {
    name: String,
    files: PathBuf,
    process: Child,
    boot: Boot,
    console: Console,
    qmp: Client,
}

impl Node {
    /// A guest alone; `restore` is what it goes on from.
    pub(super) fn alone(dir: &Path, name: &str, boot: &Boot, restore: Option<&Path>) -> Result<Self> {
        Self::start(dir, name, boot, &["run".to_owned()], restore)
    }

    /// The side that waits, and has `delay` milliseconds between checkpoints.
    pub(super) fn secondary(dir: &Path, name: &str, boot: &Boot, pair: (Mode, u32)) -> Result<Self> {
        Self::start(dir, name, boot, &with(["secondary", "--listen", PLACE], pair, boot), None)
    }

    /// The side that serves.
    pub(super) fn primary(
        dir: &Path,
        name: &str,
        boot: &Boot,
        pair: (Mode, u32),
        restore: Option<&Path>,
    ) -> Result<Self> {
        Self::start(dir, name, boot, &with(["primary", "--peer", PLACE], pair, boot), restore)
    }

    fn start(dir: &Path, name: &str, boot: &Boot, verb: &[String], restore: Option<&Path>) -> Result<Self> {
        let files = dir.join(name);
        fs::create_dir_all(&files).with_context(|| format!("cannot make {}", files.display()))?;
        let [console, qmp] = ["console", "qmp"].map(|socket| files.join(socket));
        for socket in [&console, &qmp] {
            // What a killed one left; there may be none.
            let _ = fs::remove_file(socket);
        }
        let said = File::create(files.join("said"))?;
        let mut command = Command::new(boot.colo_vm());
        command.args(verb).args(boot.words()).args(["--name", name]);
        command.arg("--console").arg(format!("unix:{}", console.display()));
        command.arg("--qmp").arg(format!("unix:{}", qmp.display()));
        if let Some(file) = restore {
            command.arg("--restore").arg(file);
        }
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        let mut process = command.spawn().context("cannot start colo-vm")?;
        let meet = || Ok::<_, anyhow::Error>((Console::connect(&console)?, Client::connect(&qmp)?));
        match meet() {
            Ok((console, qmp)) => {
                Ok(Self { name: name.to_owned(), files, process, boot: boot.clone(), console, qmp })
            }
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                let said = fs::read_to_string(files.join("said")).unwrap_or_default();
                Err(error.context(format!("{name} said: {said}")))
            }
        }
    }

    /// What its checkpoints are.
    pub(super) fn status(&mut self) -> Result<Status> {
        let answer = self.qmp.ask("query-colo-status", None)?;
        Ok(serde_json::from_value(answer["x-checkpoints"].clone())?)
    }

    /// Waits until its status is as `is` wants it.
    pub(super) fn until(&mut self, what: &str, is: impl Fn(&Status) -> bool) -> Result<Status> {
        let begun = Instant::now();
        loop {
            let status = self.status().with_context(|| self.told(what))?;
            if is(&status) {
                return Ok(status);
            }
            if begun.elapsed() > PATIENCE {
                bail!("{}: {status:?}", self.told(what));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until the secondary could take over.
    pub(super) fn level(&mut self) -> Result<Status> {
        let is = |status: &Status| matches!(status.phase, Phase::Level | Phase::Checkpoint);
        self.until("is level", |status| is(status) && status.epoch > 0)
    }

    fn told(&self, what: &str) -> String {
        let said = fs::read_to_string(self.files.join("said")).unwrap_or_default();
        format!("waiting until {} {what}; it said: {said}", self.name)
    }

    /// Waits until it knows that its peer is dead.
    pub(super) fn lost(&mut self) -> Result<Status> {
        self.until("knows that its peer is lost", |status| status.phase == Phase::Lost)
    }

    /// Its peer is dead: it goes on alone.
    pub(super) fn take_over(&mut self) -> Result<()> {
        self.lost()?;
        self.qmp.ask("x-colo-lost-heartbeat", None)?;
        Ok(())
    }

    /// Its guest works, and says that all is well: its words.
    pub(super) fn well(&mut self) -> Result<Vec<String>> {
        self.console.skip().and_then(|()| self.console.well(self.boot.judges())).with_context(|| {
            let said = fs::read_to_string(self.files.join("said")).unwrap_or_default();
            format!("{}, which said: {said}", self.name)
        })
    }

    /// Types a line on its guest's console, and gives what is said until a line begins with `mark`, with that line.
    pub(super) fn has(&mut self, line: &str, mark: &str) -> Result<Vec<String>> {
        let done = self.console.type_line(line).and_then(|()| self.console.until(mark));
        done.with_context(|| self.told(&format!("does {line:?}, and says {mark:?}")))
    }

    /// Waits until its guest says a line that begins with `mark`.
    pub(super) fn says(&mut self, mark: &str) -> Result<()> {
        self.console.until(mark).map(drop).with_context(|| self.told(&format!("says {mark:?}")))
    }

    /// It stands still, and says nothing any more, as a host that hangs.
    pub(super) fn freeze(&self) -> Result<()> {
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        Ok(kill_process(pid, Signal::STOP)?)
    }

    /// Waits for its end, which is to be a good one.
    pub(super) fn ends(mut self) -> Result<()> {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait()? {
                break status;
            }
            ensure!(begun.elapsed() < PATIENCE, "{}", self.told("ends"));
            std::thread::sleep(LOOK);
        };
        ensure!(status.success(), "{status}: {}", self.told("ends well"));
        Ok(())
    }

    /// Writes its state to a file.
    pub(super) fn save(&self, file: &Path) -> Result<()> {
        let qmp = format!("unix:{}", self.files.join("qmp").display());
        let mut command = Command::new(self.boot.colo_vm());
        let output = command.arg("save").arg(file).args(["--force", "--qmp", &qmp]).output()?;
        ensure!(output.status.success(), "save: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// `kill -9`.
    pub(super) fn kill(mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn with(words: [&str; 3], (mode, delay): (Mode, u32), boot: &Boot) -> Vec<String> {
    let pair = ["--vm-id", "chaos", "--peer-timeout", "10000", "--phase-timeout", "60000"];
    let mut words: Vec<String> = words.into_iter().chain(pair).map(str::to_owned).collect();
    words.extend(["--mode".to_owned(), mode.to_string(), "--checkpoint-delay".to_owned(), delay.to_string()]);
    words.extend_from_slice(boot.of_pair());
    words
}
