//! `disks`: the primary dies at a random instant, the secondary takes over, and what is on its disks is judged.
//!
//! ```text
//!   primary ═══ secondary      the guest: files, each step fsynced; PostgreSQL under pgbench; fio that verifies
//!      │ told outside: each step, each COMMIT; the epoch at that time (Notes)
//!      │ killed, or frozen and then killed
//!      ▼
//!   the secondary takes over: its guest's loads go on and find nothing wrong
//!      │ stopped, unmounted: e2fsck; mounted again: every step and every COMMIT that is due is there, the database's
//!      │ checksums are right, its books balance
//!      └ powered off: e2fsck of the image from outside
//! ```
//!
//! Each round has new disks, copies of those that were made ready once. With `--alone` there is no secondary: the
//! guest's VMM is killed, the guest boots again from its disk, and all that was told must be there.

mod notes;
mod outside;
mod postgres;

use super::boot::{Boot, BootArgs};
use super::node::Node;
use super::say;
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use colo_vmm::config::Mode;
use fastrand::Rng;
use notes::{Notes, Rule, Told};
use outside::{Network, Steps, TAPS};
use postgres::Client;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What the guest does; lab machines see it where it is.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/chaos/disks/guest.sh");
/// What the guest's lines begin with that say whether all is well.
const JUDGES: [&str; 3] = ["files", "fio", "pgbench"];
/// The disks, by their serial numbers, and their sizes in MiB.
const DISKS: [(&str, u64); 2] = [("data", 288), ("raw", 16)];
/// Between two looks at the epoch.
const LOOK: Duration = Duration::from_millis(20);

/// How often, and how it is judged.
#[derive(Args, Clone, Debug)]
pub struct Disks {
    /// How often the primary is killed
    #[arg(long, default_value_t = 200)]
    pub rounds: u32,
    /// What the secondary's guest does between two checkpoints
    #[arg(long, default_value = "periodic")]
    pub mode: Mode,
    /// Milliseconds between checkpoints
    #[arg(long, default_value_t = 250)]
    pub delay: u32,
    /// A kill comes within so many milliseconds, once the secondary is level and the loads are at work
    #[arg(long, default_value_t = 4000)]
    pub within: u64,
    /// What the instants follow from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// All that a client saw must be there, not only what it saw before the last checkpoint began: for output that
    /// is held until its checkpoint is complete
    #[arg(long)]
    pub strict: bool,
    /// No secondary: the guest boots again from its disks
    #[arg(long)]
    pub alone: bool,
    /// How disks that are new are made equal, which they are; without it as colo-vm does by itself
    #[arg(long, value_name = "full|verify|none")]
    pub sync: Option<String>,
}

impl Disks {
    /// This as words, but for how many rounds and from which seed.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec!["--mode".to_owned(), self.mode.to_string()];
        words.extend(["--delay".to_owned(), self.delay.to_string()]);
        words.extend(["--within".to_owned(), self.within.to_string()]);
        words.extend(self.sync.iter().flat_map(|sync| ["--sync".to_owned(), sync.clone()]));
        words.extend(self.strict.then(|| "--strict".to_owned()));
        words.extend(self.alone.then(|| "--alone".to_owned()));
        words
    }

    fn rule(&self) -> Rule {
        if self.strict || self.alone { Rule::Strict } else { Rule::Checkpointed }
    }
}

struct Trial<'a> {
    plan: &'a Disks,
    dir: &'a Path,
    boot: Boot,
    network: Network,
    steps: Steps,
}

/// What a round came to.
#[derive(Debug)]
struct Verdict {
    told: Told,
    due: Told,
    /// Transactions of the client that were there.
    found: usize,
    words: String,
}

/// Kills so often; an error says what was wrong in which round.
pub fn disks(plan: &Disks, args: BootArgs, dir: &Path) -> Result<()> {
    ensure!(args.disk.is_some(), "this trial needs the Debian guest's disk");
    let begun = Instant::now();
    let script = dir.join("script");
    // A disk has whole sectors.
    let mut text = fs::read(SCRIPT).with_context(|| format!("cannot read {SCRIPT}"))?;
    text.resize(text.len().next_multiple_of(4096), 0);
    fs::write(&script, text).with_context(|| format!("cannot write {}", script.display()))?;
    let sync = plan.sync.iter().flat_map(|sync| ["--sync".to_owned(), sync.clone()]).collect();
    let boot = Boot::scripted(args, script, &JUDGES).in_pair(sync);
    let trial = Trial { plan, dir, boot, network: Network::new()?, steps: Steps::listen()? };
    trial.prepare().context("the disks could not be made ready")?;
    say(begun, "the disks are ready");
    let mut random = Rng::with_seed(plan.seed);
    for round in 1..=plan.rounds {
        let after = Duration::from_millis(random.u64(0..=plan.within));
        let silently = random.bool();
        let words = || format!("round {round}: killed after {after:?}, silently: {silently}");
        let verdict = if plan.alone {
            trial.alone(after, random.u64(..))
        } else {
            trial.pair(after, silently, random.u64(..))
        };
        let Verdict { told, due, found, words } = verdict.with_context(words)?;
        say(
            begun,
            &format!(
                "{round} of {}: killed after {after:.1?}; due of the told: {} of {} steps, {} of {} commits ({found} found); \
                 {words}",
                plan.rounds, due.step, told.step, due.commits, told.commits
            ),
        );
    }
    Ok(())
}

impl Trial<'_> {
    fn image(&self, of: &str, disk: &str) -> PathBuf {
        self.dir.join(format!("{of}-{disk}.raw"))
    }

    fn boot_of(&self, of: &str, tap: &str) -> Boot {
        let disks = DISKS.map(|(disk, _)| (self.image(of, disk), disk));
        self.boot.clone().with(disks.into(), tap)
    }

    /// The disks that all rounds begin with.
    fn prepare(&self) -> Result<()> {
        for (disk, mib) in DISKS {
            let path = self.image("ready", disk);
            let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
            file.set_len(mib << 20)?;
        }
        self.network.serve(TAPS[0])?;
        let mut node = Node::alone(self.dir, "prepare", &self.boot_of("ready", TAPS[0]), None)?;
        node.says("disks: ready")?;
        node.has("prepare", "disks: prepared")?;
        node.has("end", "disks: ended")?;
        node.ends()
    }

    /// New disks.
    fn renew(&self, of: &str) -> Result<()> {
        for (disk, _) in DISKS {
            let mut copy = Command::new("cp");
            copy.arg("--sparse=always").args([self.image("ready", disk), self.image(of, disk)]);
            ensure!(copy.status().context("cannot start cp")?.success(), "cannot copy {disk}");
        }
        Ok(())
    }

    /// Until then the guest works, and it is noted what is told. What was told in the end, and the last epoch seen.
    fn watch(&self, node: &mut Node, client: &Client, after: Duration, notes: &mut Notes) -> Result<Told> {
        let begun = Instant::now();
        loop {
            let told = self.told(client);
            if !self.plan.alone {
                let status = node.status()?;
                ensure!(status.sessions == 1, "the pair came apart: {status:?}");
                notes.saw(status.epoch, told);
            }
            if begun.elapsed() >= after {
                return Ok(told);
            }
            std::thread::sleep(LOOK.min(after.saturating_sub(begun.elapsed())));
        }
    }

    fn told(&self, client: &Client) -> Told {
        Told { step: self.steps.heard().last, commits: client.commits() }
    }

    fn pair(&self, after: Duration, silently: bool, seed: u64) -> Result<Verdict> {
        ["primary", "secondary"].into_iter().try_for_each(|of| self.renew(of))?;
        self.network.serve(TAPS[0])?;
        self.steps.anew();
        let how = (self.plan.mode, self.plan.delay);
        let [serving, waiting] =
            [("primary", TAPS[0]), ("secondary", TAPS[1])].map(|(of, tap)| self.boot_of(of, tap));
        let mut secondary = Node::secondary(self.dir, "secondary", &waiting, how)?;
        let mut primary = Node::primary(self.dir, "primary", &serving, how, None)?;
        primary.says("disks: ready")?;
        primary.has("work", "disks: work")?;
        let client = Client::begin(seed);
        primary.well().context("the guest in its beginning")?;
        primary.level()?;

        let mut notes = Notes::default();
        self.watch(&mut primary, &client, after, &mut notes)?;
        if silently {
            primary.freeze()?;
            secondary.lost()?;
        }
        primary.kill()?;
        let epoch = secondary.lost()?.epoch;
        let told = self.told(&client);
        // Whoever strictly waits for what it was told may have heard it after the last look.
        notes.saw(u64::MAX, told);
        let committed = client.end()?;
        let due = notes.due(epoch, self.plan.rule());
        self.steps.anew();
        secondary.take_over()?;
        self.network.serve(TAPS[1])?;
        let words = secondary.well().context("the promoted guest")?.join("; ");
        let first = self.steps.heard().first.context("the promoted guest tells nothing of its files")?;
        ensure!(first > due.step, "step {} was told, and {first} is done again", due.step);
        secondary.has("stop", "disks: stopped")?;
        let found = judge(&mut secondary, due, &committed)?;
        secondary.has("end", "disks: ended")?;
        secondary.ends()?;
        self.check_image("secondary")?;
        Ok(Verdict { told, due, found, words: format!("from epoch {epoch}; {words}") })
    }

    fn alone(&self, after: Duration, seed: u64) -> Result<Verdict> {
        self.renew("alone")?;
        self.network.serve(TAPS[0])?;
        self.steps.anew();
        let boot = self.boot_of("alone", TAPS[0]);
        let mut node = Node::alone(self.dir, "alone", &boot, None)?;
        node.says("disks: ready")?;
        node.has("work", "disks: work")?;
        let client = Client::begin(seed);
        let words = node.well()?.join("; ");
        self.watch(&mut node, &client, after, &mut Notes::default())?;
        node.kill()?;
        let (due, committed) = (self.told(&client), client.end()?);
        let mut node = Node::alone(self.dir, "again", &boot, None)?;
        node.says("disks: ready")?;
        let found = judge(&mut node, due, &committed)?;
        node.has("end", "disks: ended")?;
        node.ends()?;
        self.check_image("alone")?;
        Ok(Verdict { told: due, due, found, words })
    }

    /// What is left of a guest that powered off is a whole image.
    fn check_image(&self, of: &str) -> Result<()> {
        let output = Command::new("e2fsck").arg("-fn").arg(self.image(of, "data")).output()?;
        ensure!(
            output.status.success(),
            "the image of the data: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(())
    }
}

/// Has the guest say what is on its disks: nothing is wrong, and all that is due is there. How many of the
/// client's transactions there are.
fn judge(node: &mut Node, due: Told, committed: &[u64]) -> Result<usize> {
    let lines = node.has("judge", "disks: judged")?;
    for word in ["e2fsck: 0 errors", "checksums: 0 errors", "books: 0 errors"] {
        ensure!(lines.iter().any(|line| line == word), "the guest does not say {word:?}: {lines:#?}");
    }
    let steps = lines.iter().find_map(|line| found_steps(line));
    let steps = steps.with_context(|| format!("no word of the files: {lines:#?}"))?;
    ensure!(steps >= due.step, "step {} was told, and the disk has {steps} of them", due.step);
    let there = postgres::connect()?.transactions()?;
    let lost: Vec<&u64> =
        committed.iter().take(due.commits).filter(|number| !there.contains(number)).collect();
    ensure!(lost.is_empty(), "transactions that were committed are not there: {lost:?}");
    Ok(there.len())
}

/// How many steps the files' load found, and nothing wrong with them.
fn found_steps(line: &str) -> Option<u64> {
    line.strip_prefix("files: found ")?.strip_suffix(" steps, 0 errors")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_verdict_is_read_only_where_nothing_is_wrong() {
        assert_eq!(found_steps("files: found 120 steps, 0 errors"), Some(120));
        for other in
            ["files: found 120 steps, 1 errors", "files: 120 steps, 3 checks, 0 errors", "files: begins"]
        {
            assert_eq!(found_steps(other), None);
        }
    }

    #[test]
    fn what_a_lab_machine_is_told_is_what_was_asked_for() {
        let plan = Disks {
            rounds: 3,
            mode: Mode::Colo,
            delay: 50,
            within: 9,
            seed: 4,
            strict: true,
            alone: false,
            sync: Some("none".to_owned()),
        };
        assert_eq!(plan.words().join(" "), "--mode colo --delay 50 --within 9 --sync none --strict");
        assert_eq!(plan.rule(), Rule::Strict);
    }
}
