//! A guest that follows: the kernel does the work, and this waits to be told of checkpoints and of
//! the primary's end.

use super::LiveError;
use super::clock::{Clock, until};
use super::mailbox::{Mailbox, Want};
use super::performers::{Performers, Said};
use super::presence;
use super::report;
use super::spec::Guest;
use crate::engine::Nanos;
use crate::setup::{Installed, promote};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

const SCAN: Nanos = Nanos::from_millis(1000);

/// The guest and all that is done for it.
#[derive(Debug)]
pub(super) struct Secondary {
    pub(super) guest: Guest,
    pub(super) nics: Vec<Installed>,
    pub(super) performers: Performers,
    pub(super) clock: Clock,
    /// Checkpoints that were applied.
    pub(super) checkpoints: u64,
    mailbox: Mailbox,
}

impl Secondary {
    pub(super) fn new(guest: Guest, nics: Vec<Installed>, performers: Performers, mailbox: Mailbox) -> Self {
        Self { guest, nics, performers, clock: Clock::start(), checkpoints: 0, mailbox }
    }

    /// Follows until it is told to stop.
    pub(super) fn run(&mut self) -> Result<(), LiveError> {
        loop {
            let now = self.clock.now();
            let deadline = self.performers.deadline(now).into_iter().fold(now.plus(SCAN), Nanos::min);
            let timeout = until(deadline, now);
            let mut fds = Vec::with_capacity(3);
            fds.push(PollFd::new(&self.mailbox, PollFlags::IN));
            let watched = self.performers.interests(now, &mut fds);
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(LiveError::Poll(error.into())),
            }
            let (wanted, ready) = (!fds[0].revents().is_empty(), watched.readiness(&fds));
            drop(fds);
            let now = self.clock.now();
            self.nics.iter().try_for_each(|nic| presence::check(&nic.journal))?;
            for said in self.performers.turn(ready, now) {
                match said {
                    Said::Done => self.equal()?,
                    Said::Failed => {}
                    Said::Failover => {
                        let outcome = self.promote();
                        tracing::info!("{}: {}", self.guest.name, outcome.unwrap_or_else(|why| why));
                    }
                }
            }
            if wanted && !self.take(now)? {
                return Ok(());
            }
        }
    }

    /// Gives the set-up back.
    pub(super) fn into_installed(self) -> Vec<Installed> {
        self.nics
    }

    /// Whether to go on.
    fn take(&mut self, now: Nanos) -> Result<bool, LiveError> {
        for want in self.mailbox.take() {
            match want {
                Want::Status(answer) => {
                    let _ = answer.try_send(report::secondary(self, now));
                }
                Want::Done => self.equal()?,
                Want::Promote(answer) => {
                    let _ = answer.try_send(self.promote());
                }
                // The primary asks, begins and gives up; nothing of that is to be seen here.
                Want::Checkpoint(_) | Want::Failed | Want::Mode(_) => {}
                Want::Begin(answer) => {
                    let _ = answer.try_send(());
                }
                Want::Stop => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The guest was made equal to the primary: connections that are known need no offset any more.
    fn equal(&mut self) -> Result<(), LiveError> {
        self.checkpoints += 1;
        for nic in &mut self.nics {
            nic.update(|slot| {
                slot.epoch = slot.epoch.wrapping_add(1);
                slot.oldest = slot.epoch;
                slot.generation = slot.generation.wrapping_add(1);
            })?;
        }
        Ok(())
    }

    /// Lets all NICs serve first, and announces them then.
    fn promote(&self) -> Result<String, String> {
        let mut served = Vec::with_capacity(self.nics.len());
        for nic in &self.nics {
            served.push((nic, promote::serve(&nic.journal).map_err(|error| error.to_string())?));
        }
        let mut said = Vec::new();
        for (nic, announcements) in served {
            promote::announce(&nic.journal, &announcements).map_err(|error| error.to_string())?;
            said.push(promote::describe(nic.vif(), &announcements));
        }
        Ok(said.join("; "))
    }
}
