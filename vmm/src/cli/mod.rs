//! The command line, from its words to the exit code.
//!
//! ```text
//!   words, file ─► Config ─► console, sockets open ─► assemble ── Launch ──► the machine's parts are open
//!                                                        │                   Confinement::begin, threads
//!                                                        ▼
//!   exit code ◄── Ended ◄── run ◄── QMP, console, signals ◄────────── Assembled (a guest that stands)
//! ```
//!
//! What assembles is given as a function, so that this knows a guest by its [`Controls`] alone. The commands
//! that ask a guest which runs (`save`, `status`, `checkpoint`, `takeover`) know it by its QMP socket alone.

mod disk;
mod disks;
mod exit;
mod inspect;
mod level;
mod machine;
mod orders;
mod pair;
mod run;
mod save;
mod status;

pub use exit::Exit;
pub use machine::assemble;

use crate::config::{Colo, Config};
use crate::console;
use crate::control::Controls;
use crate::sandbox::{Confinement, Sandbox};
use clap::{Parser, Subcommand};
use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;

/// What a machine is assembled from.
#[derive(Debug)]
pub struct Launch<'a> {
    /// What is to be run.
    pub config: &'a Config,
    /// Which side of a pair it is, if it is one.
    pub colo: Option<&'a Colo>,
    /// A file whose state it goes on from, instead of booting.
    pub restore: Option<&'a Path>,
    /// Where the first serial port writes.
    pub console: console::Output,
    /// To be begun when everything is open, before the first thread starts.
    pub confinement: Confinement,
}

/// A machine that stands (paused) and can be let go.
pub struct Assembled {
    /// How it is controlled.
    pub control: Controls,
    /// What is typed goes to the first serial port, as far as that has room: how much it took.
    pub input: console::Input,
    /// What [`Confinement::begin`] gave.
    pub sandbox: Sandbox,
    /// Lets the guest go, in the main thread, until it ends.
    pub run: Run,
}

/// Runs a guest until it ends, or says why it cannot go on.
pub type Run = Box<dyn FnOnce() -> Result<Ended, Failure>>;

/// Anything that goes wrong.
pub type Failure = Box<dyn Error + Send + Sync>;

/// How a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// It powered off, or was ended by command.
    Done,
    /// It was reset, and [`Config::on_reset`] says that this is the end.
    Reset,
}

impl fmt::Debug for Assembled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assembled").field("control", &self.control).finish_non_exhaustive()
    }
}

/// Assembles a machine, or says why that cannot be done.
pub type Assemble = fn(Launch<'_>) -> Result<Assembled, Failure>;

/// Runs guests on KVM that can live on two hosts.
#[derive(Debug, Parser)]
#[command(name = "colo-vm", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a guest until it powers off
    Run(Box<run::Args>),
    /// Run a guest that another host keeps a copy of
    Primary(Box<pair::Primary>),
    /// Keep a copy of a guest that another host runs, and take over when that is lost
    Secondary(Box<pair::Secondary>),
    /// Write the state of a running guest into a file
    Save(save::Args),
    /// Say how a guest on two hosts is getting on
    Status(status::Args),
    /// Say how its disks are getting on
    Disk(disk::Disk),
    /// Make a checkpoint now
    Checkpoint(orders::Checkpoint),
    /// Say that the other host is gone for good: this guest serves
    Takeover(orders::Takeover),
    /// Show what is in a saved machine
    Inspect(inspect::Args),
}

/// Does what the words ask for.
pub fn main(words: impl IntoIterator<Item = OsString>, assemble: Assemble) -> Exit {
    match Cli::try_parse_from(words) {
        Ok(Cli { command }) => match command {
            Command::Run(args) => args.run(assemble),
            Command::Primary(args) => args.run(assemble),
            Command::Secondary(args) => args.run(assemble),
            Command::Inspect(args) => args.run(),
            Command::Save(args) => outcome(args.run()),
            Command::Status(args) => outcome(args.run()),
            Command::Disk(args) => outcome(args.run()),
            Command::Checkpoint(args) => outcome(args.run()),
            Command::Takeover(args) => outcome(args.run()),
        },
        Err(error) => {
            // Help and version are no errors, and go to standard output.
            let wrong = error.use_stderr();
            let _ = error.print();
            if wrong { Exit::Usage } else { Exit::Done }
        }
    }
}

fn outcome(outcome: Result<(), Failure>) -> Exit {
    match outcome {
        Ok(()) => Exit::Done,
        Err(error) => {
            complain(&*error);
            Exit::Failed
        }
    }
}

/// Says why something cannot be done, with all causes that its text does not name. A stderr that is gone
/// is no reason to stop.
fn complain(error: &(dyn Error + 'static)) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let deeper = error.to_string();
        if !text.contains(&deeper) {
            text = format!("{text}: {deeper}");
        }
        cause = error.source();
    }
    let _ = writeln!(io::stderr(), "error: {text}");
}

#[cfg(test)]
mod tests;
