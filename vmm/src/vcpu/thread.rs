//! The thread of a vCPU.

use super::exits::{Buses, Ending, Step, step};
use super::state::{Keeper, StateError};
use super::sys::RunPage;
use super::{Command, Reset};
use crate::kvm::Vm;
use kvm_ioctls::VcpuFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

/// A pause after which the guest's watchdogs are told that it was not its fault.
const LONG: Duration = Duration::from_millis(500);

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Standing { since: Instant },
    Running,
    Ended,
}

/// Closes the shared page when the thread ends, however it does.
#[derive(Debug)]
struct Closing(Arc<RunPage>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

pub(super) struct Runner {
    index: u32,
    // The order matters: fields are dropped from the top.
    page: Closing,
    fd: VcpuFd,
    vm: Arc<Vm>,
    keeper: Keeper,
    buses: Arc<Buses>,
    commands: Receiver<Command>,
    ended: Box<dyn Fn(u32, Ending) + Send>,
    phase: Phase,
}

impl Drop for Runner {
    /// A bug that ends the thread ends the machine: it must not go on with a vCPU less.
    fn drop(&mut self) {
        if std::thread::panicking() && self.phase != Phase::Ended {
            self.end(Ending::Failed("its thread met a bug of this program".to_owned()));
        }
    }
}

impl Runner {
    pub(super) fn new(
        reset: Reset,
        buses: Arc<Buses>,
        commands: Receiver<Command>,
        ended: Box<dyn Fn(u32, Ending) + Send>,
    ) -> (Self, Arc<RunPage>) {
        let Reset { index, mut fd, vm, keeper } = reset;
        let page = Arc::new(RunPage::new(&mut fd));
        let phase = Phase::Standing { since: Instant::now() };
        (Self { index, page: Closing(page.clone()), fd, vm, keeper, buses, commands, ended, phase }, page)
    }

    /// Runs until nobody can command it any more.
    pub(super) fn obey(&mut self) {
        loop {
            if self.phase != Phase::Running {
                match self.commands.recv() {
                    Ok(command) => self.carry_out(command),
                    Err(_) => return,
                }
                continue;
            }
            match step(&mut self.fd, &self.page.0, &self.vm, &self.buses) {
                Step::Continue => {}
                Step::Ended(ending) => self.end(ending),
                Step::Kicked => {
                    // First this, then the look: who commands after the look sets it again.
                    self.page.0.set_immediate_exit(false);
                    match self.commands.try_recv() {
                        Ok(command) => self.carry_out(command),
                        Err(TryRecvError::Empty) => {}
                        Err(TryRecvError::Disconnected) => return,
                    }
                }
            }
        }
    }

    fn carry_out(&mut self, command: Command) {
        // Who asked may have gone meanwhile; then nobody needs the answer.
        match command {
            Command::Pause(answer) => {
                if self.phase == Phase::Running {
                    self.finish();
                }
                let _ = answer.send(());
            }
            Command::Resume(answer) => {
                if let Phase::Standing { since } = self.phase {
                    if since.elapsed() >= LONG {
                        // A guest without kvmclock cannot be told, and KVM says so.
                        let _ = self.fd.kvmclock_ctrl();
                    }
                    self.phase = Phase::Running;
                }
                let _ = answer.send(());
            }
            Command::Save(at, answer) => {
                let state = match self.phase {
                    Phase::Running => Err(StateError::Running),
                    _ => self.keeper.save(&self.fd, at).map(Box::new),
                };
                let _ = answer.send(state);
            }
            Command::Shift(ticks, answer) => {
                let done = match self.phase {
                    Phase::Running => Err(StateError::Running),
                    _ => self.keeper.turn_back(&self.fd, ticks),
                };
                let _ = answer.send(done);
            }
            Command::Load(state, at, answer) => {
                let done = match self.phase {
                    Phase::Running => Err(StateError::Running),
                    _ => self.keeper.load(&self.fd, &state, at).map(Box::new),
                };
                if done.is_ok() {
                    self.phase = Phase::Standing { since: Instant::now() };
                }
                let _ = answer.send(done);
            }
        }
    }

    /// KVM finishes an access to a port or to memory when the guest is entered the next time. Until it has,
    /// the registers are those of half an instruction.
    fn finish(&mut self) {
        loop {
            self.page.0.set_immediate_exit(true);
            match step(&mut self.fd, &self.page.0, &self.vm, &self.buses) {
                Step::Continue => {}
                Step::Kicked => break self.phase = Phase::Standing { since: Instant::now() },
                Step::Ended(ending) => break self.end(ending),
            }
        }
        self.page.0.set_immediate_exit(false);
    }

    fn end(&mut self, ending: Ending) {
        self.phase = Phase::Ended;
        (self.ended)(self.index, ending);
    }
}
