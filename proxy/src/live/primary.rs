//! A guest that serves: its NICs' comparators, and the checkpoints that are one for all of them.
//!
//! ```text
//!   turn:  poll ─► wants, notify ─► taps ─► engines ─► released frames to the taps
//!           ▲                                  └─► triggers ─► one request for the guest
//!           └── waits until the next deadline, if nothing was read
//! ```
//!
//! What was asked for comes before the taps: a checkpoint that is done covers what was captured
//! before, and frames say themselves which epoch they are of.

use super::LiveError;
use super::clock::{Clock, until};
use super::exit::Exit;
use super::frame::LiveFrame;
use super::intake::Intake;
use super::mailbox::{Mailbox, Want};
use super::performers::{Performers, Readiness, Said};
use super::presence;
use super::report;
use super::spec::{Guest, Start};
use crate::engine::{Cause, Engine, Epoch, Mode, Nanos, Trigger};
use crate::quiet::{Quiet, quietly};
use crate::setup::{Installed, SetupError};
use colo_ebpf_shared::layout::Role;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// The longest time between two looks at things that nobody announces.
const SCAN: Nanos = Nanos::from_millis(1000);

/// Turns without a `poll` while taps have more to read: the rest must not wait for ever.
const POLL_EVERY: u32 = 8;

/// One NIC and its comparator.
#[derive(Debug)]
pub(super) struct Nic {
    pub(super) installed: Installed,
    pub(super) engine: Engine<LiveFrame>,
    pub(super) intake: Intake,
    pub(super) exit: Exit,
    /// The epoch on the wire minus the engine's: what was taken over goes on where it was.
    base: u64,
    /// Whether its tap may have more to read.
    more: bool,
}

impl Nic {
    fn new(mut installed: Installed, guest: &Guest) -> Option<Self> {
        let mut exit = Exit::new(installed.capture.take()?, installed.vif().to_string());
        let mut engine = Engine::new(guest.engine.clone());
        if guest.start != Start::Protected {
            engine.set_mode(Mode::Unprotected, Nanos::default(), &mut exit);
        }
        let slot = installed.slots.get(installed.journal.index.get()).unwrap_or_default();
        let base = u64::from(slot.oldest).saturating_sub(engine.epoch().0);
        Some(Self { installed, engine, intake: Intake::new(), exit, base, more: false })
    }

    /// Reads a turn's frames and compares them. Whether there were any.
    fn turn(&mut self, now: Nanos) -> Result<bool, LiveError> {
        let Self { engine, intake, exit, installed, base, more } = self;
        let wire = Epoch(engine.epoch().0 + *base);
        *more = intake
            .fill(exit.tap())
            .map_err(|error| LiveError::Tap { vif: installed.vif().clone(), error: error.into() })?;
        exit.now = now;
        let frames = intake.hand_out(wire, now, |mut input| {
            input.epoch = Epoch(input.epoch.0.saturating_sub(*base));
            engine.frame(input, exit);
        });
        if intake.is_crowded() {
            self.compact(Nanos(u64::MAX));
        }
        Ok(frames > 0)
    }

    /// Copies frames that came before `before` out of the blocks they share.
    fn compact(&mut self, before: Nanos) {
        self.engine.compact(before, LiveFrame::shrink);
        self.intake.sweep();
    }

    /// The next epoch begins: what is captured from here on belongs to it.
    fn begin(&mut self) -> Result<(), SetupError> {
        self.engine.checkpoint_begin();
        self.installed.update(|nic| nic.epoch = nic.oldest.wrapping_add(1))?;
        Ok(())
    }

    /// The epoch that began counts, and what is older is stale.
    fn done(&mut self, now: Nanos) -> Result<(), SetupError> {
        self.installed.update(|nic| {
            nic.epoch = nic.oldest.wrapping_add(1);
            nic.oldest = nic.epoch;
        })?;
        self.exit.now = now;
        self.engine.checkpoint_done(now, &mut self.exit);
        Ok(())
    }

    /// The epoch that began never was.
    fn failed(&mut self, now: Nanos) -> Result<(), LiveError> {
        self.installed.update(|nic| nic.epoch = nic.oldest)?;
        // What was captured meanwhile says that it is of that epoch: it is to be set aside before
        // the engine hears that there is none.
        while self.turn(now)? || self.more {}
        self.engine.checkpoint_failed(now, &mut self.exit);
        Ok(())
    }

    fn set_mode(&mut self, mode: Mode, now: Nanos) -> Result<(), SetupError> {
        let role = if mode == Mode::Unprotected { Role::Unprotected } else { Role::Primary };
        self.exit.now = now;
        self.installed.update(|nic| nic.role = role as u32)?;
        self.engine.set_mode(mode, now, &mut self.exit);
        Ok(())
    }
}

/// A checkpoint that was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// Why.
    pub(super) trigger: Trigger,
    /// When.
    pub(super) at: Nanos,
}

/// The guest and all that is done for it.
#[derive(Debug)]
pub(super) struct Primary {
    pub(super) guest: Guest,
    pub(super) nics: Vec<Nic>,
    pub(super) performers: Performers,
    pub(super) clock: Clock,
    pub(super) asked: Option<Asked>,
    /// Whether a checkpoint is under way: its state is captured.
    begun: bool,
    /// How long the last checkpoint took, from the request on.
    pub(super) last: Option<Nanos>,
    mailbox: Mailbox,
    moved: Nanos,
    turns: u32,
    scan_at: Nanos,
    unanswered: Quiet,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Turn,
    End,
}

impl Primary {
    pub(super) fn new(
        guest: Guest,
        installed: Vec<Installed>,
        performers: Performers,
        mailbox: Mailbox,
    ) -> Self {
        Self {
            nics: installed.into_iter().filter_map(|installed| Nic::new(installed, &guest)).collect(),
            guest,
            performers,
            clock: Clock::start(),
            asked: None,
            begun: false,
            last: None,
            mailbox,
            moved: Nanos::default(),
            turns: 0,
            scan_at: SCAN,
            unanswered: Quiet::default(),
        }
    }

    /// Compares until it is told to stop. What is held then is never released.
    pub(super) fn run(&mut self) -> Result<(), LiveError> {
        while self.turn()? == Next::Turn {}
        Ok(())
    }

    /// Gives the set-up back, taps included.
    pub(super) fn into_installed(self) -> Vec<Installed> {
        let give_back = |nic: Nic| {
            let mut installed = nic.installed;
            installed.capture = Some(nic.exit.into_tap());
            installed
        };
        self.nics.into_iter().map(give_back).collect()
    }

    fn turn(&mut self) -> Result<Next, LiveError> {
        let more = self.nics.iter().any(|nic| nic.more);
        if !more || self.turns >= POLL_EVERY {
            self.turns = 0;
            let ready = self.poll(more)?;
            let now = self.clock.now();
            for said in self.performers.turn(ready.performers, now) {
                self.heed(said, now)?;
            }
            if ready.mailbox && self.take(now)? == Next::End {
                return Ok(Next::End);
            }
        }
        self.turns += 1;
        let now = self.clock.now();
        for nic in &mut self.nics {
            if nic.turn(now)? {
                self.moved = now;
            }
        }
        self.tick(now)?;
        self.pass_triggers_on(now);
        Ok(Next::Turn)
    }

    fn tick(&mut self, now: Nanos) -> Result<(), LiveError> {
        let scan = self.scan_at <= now;
        for nic in &mut self.nics {
            if scan || nic.engine.next_deadline().is_some_and(|at| at <= now) {
                nic.exit.now = now;
                nic.engine.tick(now, &mut nic.exit);
            }
            if scan {
                nic.compact(now.since(SCAN));
            }
        }
        if scan {
            self.scan_at = now.plus(SCAN);
            self.nics.iter().try_for_each(|nic| presence::check(&nic.installed.journal))?;
        }
        Ok(())
    }

    /// All engines' requests become one.
    fn pass_triggers_on(&mut self, now: Nanos) {
        for nic in &mut self.nics {
            let Some(trigger) = nic.exit.trigger.take() else { continue };
            if self.asked.is_some() {
                continue;
            }
            self.asked = Some(Asked { trigger, at: now });
            self.performers.ask(&self.guest.name, trigger);
            let flow = trigger.flow.map(|flow| format!(", {flow}")).unwrap_or_default();
            let nobody = if self.performers.is_nobody() { "; but there is nobody to perform it" } else { "" };
            quietly!(
                self.unanswered,
                now,
                info,
                "{}: a checkpoint is asked for ({}{flow}){nobody}",
                self.guest.name,
                trigger.cause
            );
        }
    }

    fn heed(&mut self, said: Said, now: Nanos) -> Result<(), LiveError> {
        match said {
            Said::Done => self.done(now),
            Said::Failed => self.failed(now),
            Said::Failover => {
                tracing::warn!("{}: told to take over, but it serves already", self.guest.name);
                Ok(())
            }
        }
    }

    fn done(&mut self, now: Nanos) -> Result<(), LiveError> {
        // Who says "done" and nothing before it has stopped both guests meanwhile.
        self.begin()?;
        let Self { nics, asked, performers, guest, last, begun, .. } = self;
        *last = asked.take().map(|asked| now.since(asked.at));
        *begun = false;
        performers.settled();
        for nic in nics {
            nic.done(now)?;
            if guest.start != Start::Protected && nic.engine.mode() == Mode::Unprotected {
                nic.set_mode(Mode::Compare, now)?;
                tracing::info!("{}: protected from now on", nic.installed.vif());
            }
        }
        Ok(())
    }

    /// Once for each checkpoint: what is asked for afterwards is about what comes afterwards.
    fn begin(&mut self) -> Result<(), LiveError> {
        if !std::mem::replace(&mut self.begun, true) {
            self.nics.iter_mut().try_for_each(Nic::begin)?;
        }
        Ok(())
    }

    fn failed(&mut self, now: Nanos) -> Result<(), LiveError> {
        self.begun = false;
        self.asked = None;
        self.performers.settled();
        self.nics.iter_mut().try_for_each(|nic| nic.failed(now))
    }

    fn take(&mut self, now: Nanos) -> Result<Next, LiveError> {
        for want in self.mailbox.take() {
            match want {
                Want::Status(answer) => {
                    // Who asked may have given up.
                    let _ = answer.try_send(report::primary(self, now));
                }
                Want::Checkpoint(cause) => self.request(cause, now),
                Want::Begin => self.begin()?,
                Want::Done => self.done(now)?,
                Want::Failed => self.failed(now)?,
                Want::Mode(mode) => {
                    for nic in &mut self.nics {
                        nic.set_mode(mode, now)?;
                    }
                }
                Want::Promote(answer) => {
                    let _ = answer.try_send(Err("it is a primary here, and serves already".into()));
                }
                Want::Stop => return Ok(Next::End),
            }
        }
        self.pass_triggers_on(now);
        Ok(Next::Turn)
    }

    fn request(&mut self, cause: Cause, now: Nanos) {
        if let Some(nic) = self.nics.first_mut() {
            nic.exit.now = now;
            nic.engine.request(cause, now, &mut nic.exit);
        }
    }

    /// When something is to be done even if nothing happens.
    fn deadline(&self, now: Nanos) -> Nanos {
        let engines = self.nics.iter().filter_map(|nic| nic.engine.next_deadline());
        engines.chain(self.performers.deadline(now)).fold(self.scan_at, Nanos::min)
    }

    fn poll(&mut self, more: bool) -> Result<Ready, LiveError> {
        let now = self.clock.now();
        let busy = Nanos(u64::try_from(self.guest.busy_poll.as_nanos()).unwrap_or(u64::MAX));
        let look_again = more || now.since(self.moved) < busy;
        let timeout = if look_again { Timespec::default() } else { until(self.deadline(now), now) };
        let mut fds = Vec::with_capacity(self.nics.len() + 3);
        fds.push(PollFd::new(&self.mailbox, PollFlags::IN));
        fds.extend(self.nics.iter().map(|nic| PollFd::new(nic.exit.tap(), PollFlags::IN)));
        let watched = self.performers.interests(now, &mut fds);
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(LiveError::Poll(error.into())),
        }
        Ok(Ready { mailbox: !fds[0].revents().is_empty(), performers: watched.readiness(&fds) })
    }
}

/// What `poll` said.
#[derive(Clone, Copy, Debug)]
struct Ready {
    mailbox: bool,
    performers: Readiness,
}
