//! What a machine does, one request after the other.

use super::MachineError;
use super::beginning::Beginning;
use super::clock::Clocks;
use super::control::Handle;
use super::devices::Devices;
use crate::control::{ControlError, Event, RunState};
use crate::kvm::{Kvm, Vm};
use crate::vcpu::{Ending, Vcpu, VcpuError};
use crate::virtio::throttle::Gate;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

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
}

/// Runs in the thread that called `Machine::run`.
#[derive(Debug)]
pub(super) struct Lifecycle {
    kvm: Kvm,
    /// What may be behind a failure, once somebody asked: to find out takes a second on such a host.
    hint: Option<String>,
    vcpus: Vec<Vcpu>,
    devices: Devices,
    /// What a reset makes it again; without it a reset is the end.
    beginning: Option<Beginning>,
    clocks: Clocks,
    inbox: Receiver<Request>,
    /// Requests that came while it was reset.
    waiting: VecDeque<Request>,
    control: Arc<Handle>,
}

impl Lifecycle {
    pub(super) fn new(
        kvm: Kvm,
        vcpus: Vec<Vcpu>,
        devices: Devices,
        beginning: Option<Beginning>,
        vm: Arc<Vm>,
        inbox: Receiver<Request>,
        control: Arc<Handle>,
    ) -> Self {
        let clocks = Clocks::new(vm, devices.timer());
        Self { kvm, hint: None, vcpus, devices, beginning, clocks, inbox, waiting: VecDeque::new(), control }
    }

    /// Lets it run, and obeys until it ends.
    pub(super) fn run(mut self) -> Result<ExitReason, MachineError> {
        let result = self.resume().map_err(MachineError::from).and_then(|()| self.obey());
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
                Request::Stop(answer) => {
                    if self.control.current() == RunState::Running {
                        self.pause()?;
                        self.control.enter(RunState::Paused);
                        self.control.tell(Event::Stop);
                    }
                    let _ = answer.send(Ok(()));
                }
                Request::Cont(answer) => {
                    if self.control.current() == RunState::Paused {
                        self.resume()?;
                        self.control.tell(Event::Resume);
                    }
                    let _ = answer.send(Ok(()));
                }
                Request::Powerdown(answer) => {
                    self.devices.pm().press();
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
        self.hint.get_or_insert_with(|| super::hint(&self.kvm))
    }

    fn next(&mut self) -> Option<Request> {
        self.waiting.pop_front().or_else(|| self.inbox.recv().ok())
    }

    /// Begins anew, in place; it stands if it stood. False if a reset is the end.
    fn reset(&mut self, guest: bool) -> Result<bool, MachineError> {
        /// A guest may do nothing but begin anew.
        static GATE: Gate = Gate::new();
        if self.beginning.is_none() {
            return Ok(false);
        }
        let ran = self.control.current() == RunState::Running;
        if ran {
            self.pause()?;
        }
        // Guests ask in several ways, one after the other, and several vCPUs at once: that was for this reset.
        self.waiting.extend(self.inbox.try_iter().filter(|request| {
            !matches!(request, Request::Reset { .. } | Request::Ended(_, Ending::TripleFault | Ending::Reset))
        }));
        if let Some(beginning) = &mut self.beginning {
            beginning.again(&self.vcpus, &self.devices)?;
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

    /// vCPUs first, as they give devices work; then the devices; then time.
    fn pause(&mut self) -> Result<(), VcpuError> {
        let answers: Vec<_> = self.vcpus.iter().map(Vcpu::pause).collect();
        answers.into_iter().try_for_each(crate::vcpu::Answer::wait)?;
        self.devices.pause();
        self.clocks.stop();
        Ok(())
    }

    /// The other way round.
    fn resume(&mut self) -> Result<(), VcpuError> {
        self.clocks.start();
        self.devices.resume();
        let answers: Vec<_> = self.vcpus.iter().map(Vcpu::resume).collect();
        answers.into_iter().try_for_each(crate::vcpu::Answer::wait)?;
        self.control.enter(RunState::Running);
        Ok(())
    }
}
