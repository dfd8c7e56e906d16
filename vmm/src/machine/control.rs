//! The machine as others see it: requests to its lifecycle, and what it tells them.

use super::frozen::Freezer;
use super::lifecycle::{Answer, Request};
use crate::control::{BlockInfo, Control, ControlError, CpuInfo, Event, RunState};
use crate::vcpu::Vcpu;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many events wait for a receiver that does not read.
const EVENTS: usize = 64;

/// What others hold of a machine. It outlives the machine; then everything is refused.
#[derive(Debug)]
pub(super) struct Handle {
    cpus: Vec<CpuInfo>,
    blocks: Vec<BlockInfo>,
    requests: Sender<Request>,
    state: Mutex<RunState>,
    listeners: Mutex<Vec<SyncSender<Event>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    pub(super) fn new(
        vcpus: &[Vcpu],
        blocks: Vec<BlockInfo>,
        requests: Sender<Request>,
        state: RunState,
    ) -> Self {
        let cpus = vcpus.iter().map(|vcpu| CpuInfo { index: vcpu.index(), thread: vcpu.thread() }).collect();
        Self { cpus, blocks, requests, state: Mutex::new(state), listeners: Mutex::default() }
    }

    pub(super) fn freezer(&self) -> Freezer {
        Freezer::new(self.requests.clone())
    }

    pub(super) fn current(&self) -> RunState {
        *lock(&self.state)
    }

    pub(super) fn enter(&self, state: RunState) {
        *lock(&self.state) = state;
        if state == RunState::Shutdown {
            // Nothing happens any more: who listens hears that after the last event.
            lock(&self.listeners).clear();
        }
    }

    pub(super) fn tell(&self, event: Event) {
        // Who does not read loses the event, who has gone is forgotten.
        lock(&self.listeners)
            .retain(|listener| !matches!(listener.try_send(event), Err(TrySendError::Disconnected(_))));
    }

    fn ask(&self, what: &'static str, request: impl FnOnce(Answer) -> Request) -> Result<(), ControlError> {
        let ended = || ControlError { what, reason: "the guest has ended".to_owned() };
        let (answer, receiver) = sync_channel(1);
        self.requests.send(request(answer)).map_err(|_| ended())?;
        // A request that the lifecycle did not come to is dropped with its channel, and its answer too.
        receiver.recv().map_err(|_| ended())?
    }
}

impl Control for Handle {
    fn state(&self) -> RunState {
        self.current()
    }

    fn stop(&self) -> Result<(), ControlError> {
        self.ask("stop", Request::Stop)
    }

    fn cont(&self) -> Result<(), ControlError> {
        self.ask("continue", Request::Cont)
    }

    fn powerdown(&self) -> Result<(), ControlError> {
        self.ask("power down", Request::Powerdown)
    }

    fn reset(&self) -> Result<(), ControlError> {
        let ended = |_| ControlError { what: "reset", reason: "the guest has ended".to_owned() };
        self.requests.send(Request::Reset { guest: false }).map_err(ended)
    }

    fn quit(&self) {
        // One that has ended has quit.
        let _ = self.requests.send(Request::Quit);
    }

    fn cpus(&self) -> Vec<CpuInfo> {
        self.cpus.clone()
    }

    fn blocks(&self) -> Vec<BlockInfo> {
        self.blocks.clone()
    }

    fn events(&self) -> Receiver<Event> {
        let (sender, receiver) = sync_channel(EVENTS);
        let mut listeners = lock(&self.listeners);
        if self.current() != RunState::Shutdown {
            listeners.push(sender);
        }
        receiver
    }
}
