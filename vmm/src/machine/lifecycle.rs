//! What a machine does, one request after the other.

use super::MachineError;
use super::beginning::Beginning;
use super::clocks::Clocks;
use super::control::Handle;
use super::devices::Devices;
use super::frozen::{After, Freeze, Frozen, PauseTimes, Time};
use crate::control::{ControlError, Event, RunState};
use crate::kvm::{Kvm, Vm};
use crate::vcpu::{Ending, Vcpu, VcpuError};
use crate::virtio::throttle::Gate;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

/// Why a machine ended, if not for a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// The guest powered off.
    PowerOff,
    /// The guest, or its user, wants it to begin anew.
    Reset {
        /// Whether the guest itself asked.
        guest: bool,
    },
    /// Its user ended it.
    Quit,
}

/// The answer to a request.
pub(super) type Answer = SyncSender<Result<(), ControlError>>;

/// What is asked of a machine.
#[derive(Debug)]
pub(super) enum Request {
    Stop(Answer),
    Cont(Answer),
    Powerdown(Answer),
    Reset { guest: bool },
    Off,
    Quit,
    Ended(u32, Ending),
    Freeze(Freeze),
}

impl Request {
    /// Whether the guest asks: a state that is taken before that is done does not have it.
    fn is_guests(&self) -> bool {
        matches!(self, Self::Reset { guest: true } | Self::Off | Self::Ended(..))
    }
}

/// What a machine consists of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) kvm: Kvm,
    pub(super) vm: Arc<Vm>,
    pub(super) vcpus: Vec<Vcpu>,
    pub(super) devices: Devices,
    pub(super) clocks: Clocks,
    /// What a reset makes it again; without it a reset is the end.
    pub(super) beginning: Option<Beginning>,
}

/// Runs in the thread that called `Machine::run`.
#[derive(Debug)]
pub(super) struct Lifecycle {
    parts: Parts,
    /// What may be behind a failure, once somebody asked: to find out takes a second on such a host.
    hint: Option<String>,
    inbox: Receiver<Request>,
    /// Requests that came while another was carried out that had to know of them.
    waiting: VecDeque<Request>,
    control: Arc<Handle>,
}

impl Lifecycle {
    pub(super) fn new(parts: Parts, inbox: Receiver<Request>, control: Arc<Handle>) -> Self {
        Self { parts, hint: None, inbox, waiting: VecDeque::new(), control }
    }

    pub(super) fn vm(&self) -> Arc<Vm> {
        self.parts.vm.clone()
    }

    /// Lets it run if it has something to run, and obeys until it ends.
    pub(super) fn run(mut self) -> Result<ExitReason, MachineError> {
        let begun = match self.control.current() {
            RunState::InMigrate => Ok(()),
            _ => self.resume().map_err(MachineError::from),
        };
        let result = begun.and_then(|()| self.obey());
        // Whatever it was: nothing runs when this returns.
        let paused = self.pause();
        if let Ok(reason) = &result {
            let event = match *reason {
                ExitReason::PowerOff => Event::Shutdown { guest: true },
                ExitReason::Reset { guest } => Event::Reset { guest },
                ExitReason::Quit => Event::Shutdown { guest: false },
            };
            self.control.tell(event);
        }
        self.control.enter(RunState::Shutdown);
        paused?;
        result
    }

    fn obey(&mut self) -> Result<ExitReason, MachineError> {
        // The control handle keeps a sender, so this ends by a request alone.
        while let Some(request) = self.next() {
            match request {
                // A power button changes a register, which the state that comes has, too.
                Request::Powerdown(answer) if self.control.current() == RunState::InMigrate => {
                    let _ = answer.send(refuse("power down", RunState::InMigrate));
                }
                Request::Stop(answer) => {
                    let refused = refuse("stop the guest", self.control.current());
                    if refused.is_ok() && self.control.current() == RunState::Running {
                        self.pause()?;
                        self.control.enter(RunState::Paused);
                        self.control.tell(Event::Stop);
                    }
                    let _ = answer.send(refused);
                }
                Request::Cont(answer) => {
                    let refused = refuse("continue", self.control.current());
                    if refused.is_ok() && self.control.current() == RunState::Paused {
                        self.resume()?;
                        self.control.tell(Event::Resume);
                    }
                    let _ = answer.send(refused);
                }
                Request::Freeze(freeze) => self.freeze(freeze)?,
                Request::Powerdown(answer) => {
                    self.parts.devices.pm().press();
                    self.control.tell(Event::Powerdown);
                    let _ = answer.send(Ok(()));
                }
                Request::Off | Request::Ended(_, Ending::Off) => return Ok(ExitReason::PowerOff),
                Request::Reset { guest } => {
                    if !self.reset(guest)? {
                        return Ok(ExitReason::Reset { guest });
                    }
                }
                Request::Ended(index, ending @ (Ending::TripleFault | Ending::Reset)) => {
                    if ending == Ending::TripleFault {
                        static GATE: Gate = Gate::new();
                        if let Some(silenced) = GATE.admit() {
                            let hint = self.hint();
                            tracing::warn!(
                                silenced,
                                "vCPU {index} met a triple fault, which resets a PC{hint}"
                            );
                        }
                    }
                    if !self.reset(true)? {
                        return Ok(ExitReason::Reset { guest: true });
                    }
                }
                Request::Quit => return Ok(ExitReason::Quit),
                Request::Ended(index, Ending::Failed(reason)) => {
                    let hint = self.hint().to_owned();
                    return Err(MachineError::Failed { index, reason, hint });
                }
            }
        }
        Ok(ExitReason::Quit)
    }

    fn hint(&mut self) -> &str {
        self.hint.get_or_insert_with(|| super::hint(&self.parts.kvm))
    }

    fn next(&mut self) -> Option<Request> {
        self.waiting.pop_front().or_else(|| self.inbox.recv().ok())
    }

    /// Begins anew, in place; it stands if it stood. False if a reset is the end.
    fn reset(&mut self, guest: bool) -> Result<bool, MachineError> {
        /// A guest may do nothing but begin anew.
        static GATE: Gate = Gate::new();
        let state = self.control.current();
        if let Err(refused) = refuse("reset the guest", state) {
            tracing::warn!("{refused}");
            return Ok(true);
        }
        if self.parts.beginning.is_none() {
            return Ok(false);
        }
        let ran = state == RunState::Running;
        if ran {
            self.pause()?;
        }
        // Guests ask in several ways, one after the other, and several vCPUs at once: that was for this reset.
        self.waiting.extend(self.inbox.try_iter().filter(|request| {
            !matches!(request, Request::Reset { .. } | Request::Ended(_, Ending::TripleFault | Ending::Reset))
        }));
        if let Some(beginning) = &mut self.parts.beginning {
            beginning.again(&self.parts.vcpus, &self.parts.devices)?;
        }
        if let Some(silenced) = GATE.admit() {
            tracing::info!(guest, silenced, "the guest begins anew");
        }
        self.control.tell(Event::Reset { guest });
        if ran {
            self.resume()?;
        }
        Ok(true)
    }

    /// Lets somebody work on it while it stands.
    fn freeze(&mut self, freeze: Freeze) -> Result<(), MachineError> {
        let before = self.control.current();
        let ran = before == RunState::Running;
        let mut laps = Laps::begin();
        let mut times = PauseTimes::default();
        if ran {
            self.parts.stop_vcpus()?;
            times.vcpus = laps.lap();
            self.waiting.extend(self.inbox.try_iter());
            if self.waiting.iter().any(Request::is_guests) {
                // What the guest has asked for is done first: its state does not say that it has asked.
                self.waiting.push_back(Request::Freeze(freeze));
                return Ok(self.parts.start_vcpus()?);
            }
            self.parts.devices.pause();
            if freeze.time == Time::Stands {
                self.parts.clocks.stop().map_err(VcpuError::from)?;
            }
            self.control.enter(RunState::Colo);
            times.devices = laps.lap();
        }
        let mut frozen = Frozen {
            vm: &self.parts.vm,
            vcpus: &self.parts.vcpus,
            devices: &self.parts.devices,
            clocks: &mut self.parts.clocks,
            stateful: before != RunState::InMigrate,
            lost: None,
        };
        let after = freeze.work.call(&mut frozen);
        let (stateful, lost) = (frozen.stateful, frozen.lost);
        times.work = laps.lap();
        if let Some(lost) = lost {
            let reason = lost.clone();
            let _ = freeze.answer.send(Err(ControlError { what: "freeze the guest", reason }));
            return Err(MachineError::Lost(lost));
        }
        let wanted = match after {
            // Who waited for a state and has it waits for `cont`, or for another freeze.
            After::AsBefore if before == RunState::InMigrate && stateful => RunState::Paused,
            // Who waits for a state stands as it is.
            After::AsBefore => before,
            After::Hold if !stateful => before,
            After::Run => RunState::Running,
            After::Pause => RunState::Paused,
            After::Hold => RunState::Colo,
        };
        let refused = match wanted {
            RunState::InMigrate => Ok(()),
            _ if stateful => Ok(()),
            _ => refuse("let the guest go on", RunState::InMigrate),
        };
        let now = if refused.is_ok() { wanted } else { before };
        match now {
            RunState::Running => self.resume()?,
            // Who pauses a guest does not want that it sees that.
            RunState::Paused => self.parts.clocks.stop().map_err(VcpuError::from)?,
            RunState::InMigrate | RunState::Colo | RunState::Shutdown => {}
        }
        self.control.enter(now);
        times.resume = laps.lap();
        times.total = laps.total();
        match (ran, now) {
            (true, RunState::Paused) => self.control.tell(Event::Stop),
            // Who held it for a checkpoint lets it go on many times a second.
            (false, RunState::Running) if before != RunState::Colo => self.control.tell(Event::Resume),
            _ => {}
        }
        // Who asked may have gone.
        let _ = freeze.answer.send(refused.map(|()| times));
        Ok(())
    }

    /// vCPUs first, as they give devices work; then the devices; then time.
    fn pause(&mut self) -> Result<(), VcpuError> {
        self.parts.stop_vcpus()?;
        self.parts.devices.pause();
        Ok(self.parts.clocks.stop()?)
    }

    /// The other way round.
    fn resume(&mut self) -> Result<(), VcpuError> {
        self.parts.clocks.start(&self.parts.vcpus)?;
        self.parts.devices.resume();
        self.parts.start_vcpus()?;
        self.control.enter(RunState::Running);
        Ok(())
    }
}

impl Parts {
    fn stop_vcpus(&self) -> Result<(), VcpuError> {
        let answers: Vec<_> = self.vcpus.iter().map(Vcpu::pause).collect();
        answers.into_iter().try_for_each(crate::vcpu::Answer::wait)
    }

    fn start_vcpus(&self) -> Result<(), VcpuError> {
        let answers: Vec<_> = self.vcpus.iter().map(Vcpu::resume).collect();
        answers.into_iter().try_for_each(crate::vcpu::Answer::wait)
    }
}

/// What nobody but a freeze can do to a guest that stands for one.
fn refuse(what: &'static str, state: RunState) -> Result<(), ControlError> {
    let reason = match state {
        RunState::InMigrate => "it has no state yet: this machine waits for its first one",
        RunState::Colo => "it stands for a checkpoint, and goes on when that is done",
        RunState::Running | RunState::Paused | RunState::Shutdown => return Ok(()),
    };
    Err(ControlError { what, reason: reason.to_owned() })
}

/// Measures what comes one after the other.
struct Laps {
    begun: Instant,
    last: Instant,
}

impl Laps {
    fn begin() -> Self {
        let begun = Instant::now();
        Self { begun, last: begun }
    }

    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.last, now)
    }

    fn total(&self) -> Duration {
        self.last - self.begun
    }
}
