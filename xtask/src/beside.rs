//! A program beside another one: what it says is kept in a file, and shown when it is waited for.
//!
//! ```text
//!   start ──► runs, output ──► target/beside/NAME.log
//!                                    │
//!   wait  ◄── exit status ───────────┴──► shown, in one piece
//! ```

use crate::command::{root, say, show};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// One that runs.
pub(crate) struct Beside {
    child: Child,
    shown: String,
    log: PathBuf,
}

/// As the last of all: it gets what the others leave of the processors.
pub(crate) fn idle(command: &Command) -> Command {
    let mut idle = Command::new("chrt");
    idle.args(["--idle", "0"]).arg(command.get_program()).args(command.get_args()).current_dir(root());
    idle
}

impl Beside {
    /// Starts it; the name is that of its log.
    pub(crate) fn start(name: &str, mut command: Command) -> Result<Self> {
        let shown = show(&command);
        say(&format!("beside what follows: {shown}"));
        let folder = root().join("target/beside");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let second = file.try_clone().with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file).stderr(second);
        let child = command.spawn().with_context(|| format!("cannot start: {shown}"))?;
        Ok(Self { child, shown, log })
    }

    /// Waits for its end, and shows what it said.
    pub(crate) fn wait(mut self) -> Result<()> {
        let status = self.child.wait().with_context(|| format!("cannot wait for: {}", self.shown))?;
        let said = fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        say(&format!("what ran beside the tests: {}", self.shown));
        eprintln!("{}", String::from_utf8_lossy(&said));
        if !status.success() {
            bail!("{}: {status}", self.shown);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::program;

    #[test]
    fn its_status_is_its_own_and_its_words_are_kept() {
        let mut command = program("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let beside = Beside::start("test-of-beside", command).unwrap();
        let log = beside.log.clone();
        let error = beside.wait().unwrap_err().to_string();
        assert!(error.starts_with("sh -c") && error.ends_with("exit status: 3"), "{error}");
        assert_eq!(fs::read_to_string(&log).unwrap(), "out\nerr\n");
        fs::remove_file(log).unwrap();
    }

    #[test]
    fn the_last_of_all_is_scheduled_as_such() {
        let mut ask = program("chrt");
        ask.args(["--pid", "0"]);
        let said = idle(&ask).output().unwrap();
        assert!(String::from_utf8_lossy(&said.stdout).contains("SCHED_IDLE"), "{said:?}");
    }
}
