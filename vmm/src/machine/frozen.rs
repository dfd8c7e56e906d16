//! A machine that stands: who holds a [`Frozen`] knows that no vCPU runs and nothing is in flight.
//!
//! ```text
//!   any thread                         the machine's own thread
//!   Freezer::freeze(time, work) ──────► vCPUs stand ─► devices are drained ─► (clocks stand)
//!                                        │
//!                                        work(&mut Frozen):  save, load, ram, vm
//!                                        │ After: as before, run, pause, hold
//!   (value, PauseTimes) ◄────────────── (clocks) ─► devices ─► vCPUs go on
//! ```

use super::clocks::Clocks;
use super::devices::Devices;
use super::lifecycle::Request;
use super::load;
use super::state::{LoadError, MachineState, StateError};
use crate::control::ControlError;
use crate::kvm::Vm;
use crate::memory::GuestRam;
use crate::vcpu::Vcpu;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use std::time::Duration;

/// What is done with the guest's clocks while it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// They go on: for pauses of milliseconds, which come many times a second.
    GoesOn,
    /// They stand: the guest does not see that it stood.
    Stands,
}

/// What a machine does after a freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// What it did before.
    AsBefore,
    /// It runs.
    Run,
    /// It is paused: `cont` lets it go on.
    Pause,
    /// It stands until another freeze lets it go on.
    Hold,
}

/// How long each part of a freeze took. What did not have to be done took no time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PauseTimes {
    /// Until all vCPUs stood.
    pub vcpus: Duration,
    /// Until all devices were drained, and the clocks stood if they were to.
    pub devices: Duration,
    /// What was done with the frozen machine.
    pub work: Duration,
    /// Until all went on.
    pub resume: Duration,
    /// From the first vCPU that was told to stand to the last that goes on.
    pub total: Duration,
}

/// What is done with a frozen machine.
pub(super) struct Work(Box<dyn FnOnce(&mut Frozen<'_>) -> After + Send>);

impl Work {
    pub(super) fn call(self, frozen: &mut Frozen<'_>) -> After {
        (self.0)(frozen)
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Work")
    }
}

/// A freeze that is asked for.
#[derive(Debug)]
pub(super) struct Freeze {
    pub(super) time: Time,
    pub(super) work: Work,
    pub(super) answer: SyncSender<Result<PauseTimes, ControlError>>,
}

/// Freezes a machine, from any thread but its own.
#[derive(Clone, Debug)]
pub struct Freezer(Sender<Request>);

impl Freezer {
    pub(super) fn new(requests: Sender<Request>) -> Self {
        Self(requests)
    }

    /// Stands the machine still, calls `work`, and does with the machine what that says. Gives what `work`
    /// gave. A freeze is no event; that a guest which ran is paused, or one that was paused runs, is.
    pub fn freeze<T: Send + 'static>(
        &self,
        time: Time,
        work: impl FnOnce(&mut Frozen<'_>) -> (T, After) + Send + 'static,
    ) -> Result<(T, PauseTimes), ControlError> {
        let ended = || ControlError { what: "freeze the guest", reason: "it has ended".to_owned() };
        let (give, take) = sync_channel(1);
        let (answer, receiver) = sync_channel(1);
        let work = Work(Box::new(move |frozen| {
            let (value, after) = work(frozen);
            // There is room for one, and this is it.
            let _ = give.send(value);
            after
        }));
        self.0.send(Request::Freeze(Freeze { time, work, answer })).map_err(|_| ended())?;
        // A machine that ends before drops what it was asked, and the channel with it.
        let times = receiver.recv().map_err(|_| ended())??;
        Ok((take.recv().map_err(|_| ended())?, times))
    }
}

/// A machine that stands.
#[derive(Debug)]
pub struct Frozen<'a> {
    pub(super) vm: &'a Arc<Vm>,
    pub(super) vcpus: &'a [Vcpu],
    pub(super) devices: &'a Devices,
    pub(super) clocks: &'a mut Clocks,
    /// Whether it has something to go on with.
    pub(super) stateful: bool,
    /// Why it must not go on.
    pub(super) lost: Option<String>,
}

impl Frozen<'_> {
    /// All that it is, but its memory.
    pub fn save(&mut self) -> Result<MachineState, StateError> {
        if !self.stateful {
            return Err(StateError::None);
        }
        load::save(self)
    }

    /// Makes it what a state says, its memory excepted. What can be wrong with the state is found before
    /// anything is changed; if KVM refuses something after that, the machine becomes what it was before.
    pub fn load(&mut self, state: &MachineState) -> Result<(), LoadError> {
        load::load(self, state)
    }

    /// Its memory.
    pub fn ram(&self) -> &Arc<GuestRam> {
        self.vm.ram()
    }

    /// Its VM: for KVM's log of pages, and its memory.
    pub fn vm(&self) -> &Arc<Vm> {
        self.vm
    }

    /// Whether its vCPUs have time stamp counters of their own, which go on with its state; KVM without help of
    /// the CPU gives them the host's.
    pub fn has_counters(&self) -> bool {
        self.vcpus.iter().all(Vcpu::counter_is_its_own)
    }

    /// Whether it has a state: a machine that waits for its first one has none.
    pub fn has_state(&self) -> bool {
        self.stateful
    }
}
