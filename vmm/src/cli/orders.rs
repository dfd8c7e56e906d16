//! `colo-vm checkpoint` and `colo-vm takeover`: a word to a guest that runs.

use super::{Failure, status};
use crate::checkpoint::status::{Mode, Phase, Role, Status};
use crate::config::Endpoint;
use crate::qmp::client::Client;
use std::io::{self, Write as _};

/// The words of `checkpoint`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  colo-vm checkpoint --qmp unix:/run/web.qmp

It is asked for, and not waited for: \"colo-vm status\" shows it once it is complete.

Exit codes: 0 it is asked for, 1 it cannot be, 2 wrong usage.")]
pub(super) struct Checkpoint {
    /// The guest's QMP socket: what its --qmp says
    #[arg(long, value_name = "unix:PATH")]
    qmp: Endpoint,
}

impl Checkpoint {
    pub(super) fn run(&self) -> Result<(), Failure> {
        Client::connect(self.qmp.path())?.ask("x-colo-checkpoint", None)?;
        say("a checkpoint is asked for")
    }
}

/// The words of `takeover`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  colo-vm takeover --qmp unix:/run/web.qmp      after the other host was switched off, or its process ended

On a secondary the guest goes on from the last complete checkpoint (in colo mode from where it stands now, which is
that and what it ran since), and serves. On a primary it goes on alone. If the other side serves, too, two guests
use one address and one disk: make sure that it does not. While the two are in touch it is refused without --force.

Exit codes: 0 this guest serves, 1 it cannot, 2 wrong usage.")]
pub(super) struct Takeover {
    /// The guest's QMP socket: what its --qmp says
    #[arg(long, value_name = "unix:PATH")]
    qmp: Endpoint,
    /// Also while the peer is there: the two part, and both guests run
    #[arg(long)]
    force: bool,
}

impl Takeover {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut client = Client::connect(self.qmp.path())?;
        let before = status::ask(&mut client)?;
        let in_touch =
            |status: &Status| matches!(status.phase, Phase::Syncing | Phase::Level | Phase::Checkpoint);
        if let Some(status) = before.as_ref().filter(|status| !self.force && in_touch(status)) {
            let (other, first) = match status.role {
                Role::Primary => ("secondary", "end it first"),
                Role::Secondary => {
                    ("primary", "switch its host off first (to end its guest in order ends this one, too)")
                }
            };
            return Err(format!("the {other} is there, and both would serve; {first}, or say --force").into());
        }
        // Who says it twice, as a fence may, has what it wants.
        if before.as_ref().is_some_and(|status| status.phase == Phase::Alone) {
            return say("the guest serves here already");
        }
        client.ask("x-colo-lost-heartbeat", None)?;
        let text = match before.map(|status| (status.role, status.mode, status.epoch)) {
            Some((Role::Secondary, mode, epoch)) => format!(
                "the guest is taken over: it goes on here from checkpoint {epoch}{}. The primary must not serve any more.",
                if mode == Mode::Colo { " and what it ran since" } else { "" }
            ),
            _ => "the guest goes on here alone, without a secondary. The secondary must not take over any more.".to_owned(),
        };
        say(&text)
    }
}

/// A line on standard output.
fn say(line: &str) -> Result<(), Failure> {
    Ok(writeln!(io::stdout(), "{line}")?)
}
