//! What each command does.

use super::answers;
use super::command::{Capability, Command, Plain};
use super::descriptors::Descriptors;
use super::migration::{Migration, Stage};
use super::request::Refusal;
use crate::checkpoint::status::{Phase, Role};
use crate::control::{Colo, Controls};
use serde_json::{Value, json};
use std::sync::Arc;

/// What commands work on.
#[derive(Debug)]
pub(super) struct Desk {
    controls: Controls,
    name: String,
    migration: Arc<Migration>,
}

impl Desk {
    /// `tell` is told of each stage of a migration.
    pub(super) fn new(controls: Controls, name: &str, tell: impl Fn(Stage) + Send + Sync + 'static) -> Self {
        Self { controls, name: name.to_owned(), migration: Arc::new(Migration::new(tell)) }
    }

    /// Performs a command. `quit` is merely agreed to: the caller ends the guest once the reply has gone out.
    pub(super) fn run(&self, command: Command, descriptors: &mut Descriptors) -> Result<Value, Refusal> {
        if let Some(what) = of_the_primary(&command) {
            self.serves(what)?;
        }
        match command {
            Command::Plain(plain) => self.plain(plain),
            Command::GetFd(name) => descriptors.name(name).map(done),
            Command::CloseFd(name) => descriptors.take(&name).map(drop).map(done),
            Command::Migrate(name) => {
                let Some(save) = &self.controls.save else {
                    return Err(Refusal::generic(
                        "the state of this guest cannot be written: nobody here does that",
                    ));
                };
                self.migration.begin(Arc::clone(save), descriptors.take(&name)?).map(done)
            }
            Command::SetParameters { checkpoint_delay } => {
                let Some(delay) = checkpoint_delay else { return Ok(done(())) };
                Ok(done(self.colo("migrate-set-parameters")?.set_delay(delay.duration())?))
            }
            Command::SetCapabilities(wanted) => self.agree(&wanted).map(done),
        }
    }

    /// Refuses what is the primary's business, if this is a secondary that has not taken over.
    fn serves(&self, what: &str) -> Result<(), Refusal> {
        let Some(status) = self.controls.colo.as_ref().map(|colo| colo.status()) else { return Ok(()) };
        if status.role == Role::Primary || status.phase == Phase::Alone {
            return Ok(());
        }
        Err(Refusal::generic(format!(
            "{what} is the primary's business, and this is the secondary: it is what its primary is; ask the primary, or \
             if that is gone take over first (colo-vm takeover, x-colo-lost-heartbeat)"
        )))
    }

    /// Ends the guest.
    pub(super) fn quit(&self) {
        self.controls.guest.quit();
    }

    fn plain(&self, plain: Plain) -> Result<Value, Refusal> {
        let guest = &*self.controls.guest;
        Ok(match plain {
            Plain::Stop => done(guest.stop()?),
            Plain::Cont => done(guest.cont()?),
            Plain::Powerdown => done(guest.powerdown()?),
            Plain::Reset => done(guest.reset()?),
            Plain::Quit => done(()),
            Plain::QueryVersion => answers::version(),
            Plain::QueryCommands => answers::names(),
            Plain::QueryStatus => answers::status(guest.state()),
            Plain::QueryCpusFast => answers::cpus(guest),
            Plain::QueryBlock => answers::blocks(guest),
            Plain::QueryName => json!({"name": self.name}),
            Plain::QueryKvm => json!({"enabled": true, "present": true}),
            Plain::QueryMigrate => self.migration.describe(),
            Plain::MigrateCancel => {
                self.migration.cancel();
                done(())
            }
            Plain::QueryMigrateParameters => match &self.controls.colo {
                Some(colo) => json!({"x-checkpoint-delay": colo.status().delay.as_millis() as u64}),
                None => json!({}),
            },
            Plain::QueryMigrateCapabilities => {
                let one = |(name, state)| json!({"capability": name, "state": state});
                self.capabilities().map(one).into_iter().collect()
            }
            Plain::QueryColoStatus => {
                answers::colo_status(self.controls.colo.as_ref().map(|colo| colo.status()).as_ref())
            }
            Plain::LostHeartbeat => done(self.colo(plain.name())?.lost_heartbeat()?),
            Plain::Checkpoint => done(self.colo(plain.name())?.checkpoint()?),
        })
    }

    fn colo(&self, command: &str) -> Result<&dyn Colo, Refusal> {
        let without = || {
            Refusal::generic(format!(
                "{command} needs a guest on two hosts; start this one with colo-vm primary or colo-vm secondary"
            ))
        };
        self.controls.colo.as_deref().ok_or_else(without)
    }

    fn capabilities(&self) -> [(&'static str, bool); 2] {
        [("x-colo", self.controls.colo.is_some()), ("events", true)]
    }

    /// Who wants what is so gets it; nothing of this changes while a guest runs.
    fn agree(&self, wanted: &[Capability]) -> Result<(), Refusal> {
        for Capability { capability, state } in wanted {
            match self.capabilities().into_iter().find(|(name, _)| name == capability) {
                Some((_, is)) if is == *state => {}
                Some((name, is)) => {
                    let now = if is { "on" } else { "off" };
                    return Err(Refusal::generic(format!(
                        "{name} is {now} and stays so while the guest runs; x-colo is on for colo-vm primary and \
                         colo-vm secondary, off for colo-vm run"
                    )));
                }
                None if !state => {}
                None => {
                    let name: String = capability.chars().take(64).collect();
                    return Err(Refusal::generic(format!(
                        "there is no capability {name:?}; query-migrate-capabilities lists those that are"
                    )));
                }
            }
        }
        Ok(())
    }
}

fn done((): ()) -> Value {
    json!({})
}

/// What changes the guest, or holds it up, and so is not done to a copy of it.
fn of_the_primary(command: &Command) -> Option<&'static str> {
    match command {
        Command::Migrate(_) => Some("migrate"),
        Command::Plain(plain @ (Plain::Stop | Plain::Cont | Plain::Powerdown | Plain::Reset)) => {
            Some(plain.name())
        }
        _ => None,
    }
}
