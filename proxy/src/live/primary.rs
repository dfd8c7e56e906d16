//! A guest that serves: its NICs' comparators, and the checkpoints that are one for all of them.
//!
//! ```text
//!   turn:  poll ─► wants, notify, crew ─► taps ─► engines ─► released frames to the taps
//!           ▲                                       └─► triggers ─► one request for the guest
//!           └── waits until the next deadline, if nothing was read
//! ```
//!
//! What was asked for comes before the taps: a checkpoint that is done covers what was captured
//! before, and frames say themselves which epoch they are of.
//!
//! This thread compares what is in the first queue of each NIC, and a [`Crew`] the rest. It alone writes
//! the kernel's maps: more protection after all threads give it, less before any gives it up.

use super::LiveError;
use super::clock::Clock;
use super::crew::{Crew, Order};
use super::lane::Queue;
use super::mailbox::{Mailbox, Want};
use super::performers::{Performers, Readiness, Said};
use super::presence;
use super::report::{self, LaneView};
use super::shard::Shard;
use super::spec::{Guest, Start};
use crate::control::status::GuestStatus;
use crate::engine::{Cause, Epoch, Mode, Nanos, Trigger};
use crate::quiet::{Quiet, quietly};
use crate::setup::Installed;
use colo_ebpf_shared::layout::{self, Role};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

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
    pub(super) nics: Vec<Installed>,
    /// The first queue of each NIC.
    pub(super) shard: Shard,
    /// Who looks after the others, if there are any.
    crew: Option<Crew>,
    pub(super) performers: Performers,
    pub(super) asked: Option<Asked>,
    /// Whether a checkpoint is under way: its state is captured.
    begun: bool,
    /// How long the last checkpoint took, from the request on.
    pub(super) last: Option<Nanos>,
    mailbox: Mailbox,
    unanswered: Quiet,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Turn,
    End,
}

/// Takes the next queue of each NIC; none if there is none left.
fn next_queues(nics: &mut [Installed]) -> Option<Vec<Queue>> {
    let queue = |nic: &mut Installed| {
        let tap = (!nic.capture.is_empty()).then(|| nic.capture.remove(0))?;
        let slot = nic.slots.get(nic.journal.index.get()).unwrap_or_default();
        Some(Queue { tap, vif: nic.vif().clone(), epoch: slot.oldest })
    };
    // All NICs of a guest have the same number of queues.
    nics.iter_mut().map(queue).collect()
}

impl Primary {
    pub(super) fn new(
        guest: Guest,
        mut nics: Vec<Installed>,
        performers: Performers,
        mailbox: Mailbox,
    ) -> Self {
        let first = next_queues(&mut nics).unwrap_or_default();
        Self {
            shard: Shard::new(first, &guest, Clock::start()),
            guest,
            nics,
            crew: None,
            performers,
            asked: None,
            begun: false,
            last: None,
            mailbox,
            unanswered: Quiet::default(),
        }
    }

    /// Compares until it is told to stop. What is held then is never released.
    pub(super) fn run(&mut self) -> Result<(), LiveError> {
        let queues: Vec<Vec<Queue>> = std::iter::from_fn(|| next_queues(&mut self.nics)).collect();
        if !queues.is_empty() {
            let crew = Crew::start(queues, &self.guest, self.shard.clock)
                .map_err(|error| LiveError::System { what: "start a thread for each queue", error })?;
            self.crew = Some(crew);
        }
        while self.turn()? == Next::Turn {}
        Ok(())
    }

    /// Ends the other threads, and gives the set-up back, taps included.
    pub(super) fn into_installed(self) -> Vec<Installed> {
        let Self { mut nics, shard, crew, .. } = self;
        let taps = crew.map(Crew::stop).into_iter().flatten().chain(shard.into_taps());
        // They only have to stay until all NICs are taken down.
        if let Some(first) = nics.first_mut() {
            first.capture.extend(taps);
        }
        nics
    }

    fn turn(&mut self) -> Result<Next, LiveError> {
        let more = self.shard.has_more();
        if self.shard.is_to_poll(more) {
            let ready = self.poll(more)?;
            let now = self.shard.clock.now();
            if let Some(crew) = self.crew.as_mut().filter(|_| ready.crew) {
                crew.look()?;
            }
            for said in self.performers.turn(ready.performers, now) {
                self.heed(said, now)?;
            }
            if ready.mailbox && self.take(now)? == Next::End {
                return Ok(Next::End);
            }
        }
        if self.shard.turn()? {
            self.nics.iter().try_for_each(|nic| presence::check(&nic.journal))?;
        }
        self.pass_triggers_on();
        Ok(Next::Turn)
    }

    /// The current epoch, as the comparators count.
    pub(super) fn epoch(&self) -> Epoch {
        self.shard.lanes.first().map_or(Epoch::FIRST, |lane| lane.engine.epoch())
    }

    /// All engines' requests become one.
    fn pass_triggers_on(&mut self) {
        let epoch = self.epoch();
        let others = self.crew.iter_mut().flat_map(Crew::triggers);
        // Another thread may have sent one before it heard of the checkpoint that covers it.
        let all = self.shard.triggers().chain(others).filter(|trigger| trigger.epoch >= epoch);
        // The rest merges into the first.
        let Some(trigger) = all.fold(None, |first: Option<Trigger>, trigger| first.or(Some(trigger))) else {
            return;
        };
        if self.asked.is_some() {
            return;
        }
        let now = self.shard.clock.now();
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

    /// Lets every thread do something, this one included, and waits until all have.
    fn all(
        &mut self,
        order: Order,
        own: impl FnOnce(&mut Shard) -> Result<(), LiveError>,
    ) -> Result<Vec<Vec<LaneView>>, LiveError> {
        if let Some(crew) = &mut self.crew {
            crew.order(order)?;
        }
        own(&mut self.shard)?;
        self.crew.as_mut().map_or(Ok(Vec::new()), Crew::wait)
    }

    /// Changes the slot of each NIC.
    fn update(&mut self, change: impl Fn(&mut layout::Nic)) -> Result<(), LiveError> {
        self.nics.iter_mut().try_for_each(|nic| Ok(nic.update(&change)?))
    }

    fn done(&mut self, now: Nanos) -> Result<(), LiveError> {
        // Who says "done" and nothing before it has stopped both guests meanwhile.
        self.begin()?;
        self.last = self.asked.take().map(|asked| now.since(asked.at));
        self.begun = false;
        self.performers.settled();
        let protect = self.guest.start != Start::Protected && self.mode() == Mode::Unprotected;
        self.update(|nic| {
            nic.epoch = nic.oldest.wrapping_add(1);
            nic.oldest = nic.epoch;
        })?;
        self.all(Order::Done { protect }, |shard| {
            shard.done(protect, now);
            Ok(())
        })?;
        if protect {
            self.update(|nic| nic.role = Role::Primary as u32)?;
            for nic in &self.nics {
                tracing::info!("{}: protected from now on", nic.vif());
            }
        }
        Ok(())
    }

    /// Once for each checkpoint: what is asked for afterwards is about what comes afterwards. What is
    /// captured from here on belongs to the next epoch.
    fn begin(&mut self) -> Result<(), LiveError> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        self.all(Order::Begin, |shard| {
            shard.begin();
            Ok(())
        })?;
        self.update(|nic| nic.epoch = nic.oldest.wrapping_add(1))
    }

    fn failed(&mut self, now: Nanos) -> Result<(), LiveError> {
        self.begun = false;
        self.asked = None;
        self.performers.settled();
        self.update(|nic| nic.epoch = nic.oldest)?;
        self.all(Order::Failed, |shard| shard.failed(now)).map(drop)
    }

    pub(super) fn mode(&self) -> Mode {
        self.shard.lanes.first().map(|lane| lane.engine.mode()).unwrap_or_default()
    }

    fn set_mode(&mut self, mode: Mode, now: Nanos) -> Result<(), LiveError> {
        let role = if mode == Mode::Unprotected { Role::Unprotected } else { Role::Primary };
        let write = |primary: &mut Self| primary.update(|nic| nic.role = role as u32);
        if role == Role::Unprotected {
            write(self)?;
        }
        self.all(Order::Mode(mode), |shard| {
            shard.set_mode(mode, now);
            Ok(())
        })?;
        if role == Role::Primary { write(self) } else { Ok(()) }
    }

    fn status(&mut self, now: Nanos) -> Result<GuestStatus, LiveError> {
        let others = self.all(Order::Status, |_| Ok(()))?;
        let mut views = vec![report::views(&self.shard, now)];
        views.extend(others);
        Ok(report::primary(self, &views, now))
    }

    fn take(&mut self, now: Nanos) -> Result<Next, LiveError> {
        for want in self.mailbox.take() {
            match want {
                Want::Status(answer) => {
                    // Who asked may have given up.
                    let _ = answer.try_send(self.status(now)?);
                }
                Want::Checkpoint(cause) => self.request(cause, now),
                Want::Begin(answer) => {
                    self.begin()?;
                    let _ = answer.try_send(());
                }
                Want::Done => self.done(now)?,
                Want::Failed => self.failed(now)?,
                Want::Mode(mode) => self.set_mode(mode, now)?,
                Want::Promote(answer) => {
                    let _ = answer.try_send(Err("it is a primary here, and serves already".into()));
                }
                Want::Stop => return Ok(Next::End),
            }
        }
        self.pass_triggers_on();
        Ok(Next::Turn)
    }

    fn request(&mut self, cause: Cause, now: Nanos) {
        if let Some(lane) = self.shard.lanes.first_mut() {
            lane.exit.now = now;
            lane.engine.request(cause, now, &mut lane.exit);
        }
    }

    fn poll(&mut self, more: bool) -> Result<Ready, LiveError> {
        let now = self.shard.clock.now();
        let timeout = self.shard.patience(more, self.performers.deadline(now));
        let mut fds = Vec::with_capacity(self.nics.len() + 4);
        fds.push(PollFd::new(&self.mailbox, PollFlags::IN));
        fds.extend(self.shard.lanes.iter().map(|lane| PollFd::new(lane.exit.tap(), PollFlags::IN)));
        let crew = self.crew.as_ref().map(|crew| {
            fds.push(PollFd::new(crew, PollFlags::IN));
            fds.len() - 1
        });
        let watched = self.performers.interests(now, &mut fds);
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(LiveError::Poll(error.into())),
        }
        Ok(Ready {
            mailbox: !fds[0].revents().is_empty(),
            crew: crew.is_some_and(|at| !fds[at].revents().is_empty()),
            performers: watched.readiness(&fds),
        })
    }
}

/// What `poll` said.
#[derive(Clone, Copy, Debug)]
struct Ready {
    mailbox: bool,
    crew: bool,
    performers: Readiness,
}
