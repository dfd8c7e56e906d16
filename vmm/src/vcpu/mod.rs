//! A vCPU: a thread that runs the guest, answers its exits, and obeys.
//!
//! ```text
//!                 resume                    triple fault, failure
//!   Standing ─────────────────► Running ─────────────────────────► Ended
//!    │  ▲ ▲                        │                                 │
//!    └──┘ └─────── pause ──────────┘                                 │
//!  save, load ▲             (what it was at is finished)             │
//!             └────────────────── load ──────────────────────────────┘
//! ```
//!
//! Whoever commands it kicks it out of the guest: `immediate_exit` for the moment before it enters, a
//! signal for the time inside. It ends when its handle is dropped.

mod counter;
mod cpuid;
mod exits;
mod msrs;
mod state;
mod sys;
#[cfg(test)]
mod tests;
mod thread;

pub use counter::HostTicks;
pub use exits::{Buses, Ending};
pub use msrs::Msr;
pub use state::{
    DebugRegisters, Events, ExtendedControl, Leaf, Registers, Segment, StateError, SystemRegisters, Table,
    VcpuState,
};

use crate::kvm::{Error as KvmError, Kvm, Vm};
use crate::sandbox::{Kind, Sandbox};
use kvm_ioctls::VcpuFd;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::{fmt, io};
use sys::RunPage;
use thiserror::Error;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

/// A vCPU that cannot be had.
#[derive(Debug, Error)]
pub enum VcpuError {
    /// KVM does not give it.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Its thread cannot start.
    #[error("cannot start the thread of vCPU {index}: {source}")]
    Thread {
        /// Which.
        index: u32,
        /// Why.
        source: io::Error,
    },
    /// Its thread has gone, which only a bug does.
    #[error("the thread of vCPU {0} has ended")]
    Gone(u32),
    /// Its state cannot be read or set.
    #[error("vCPU {index}: {source}")]
    State {
        /// Which.
        index: u32,
        /// Why.
        source: StateError,
    },
}

/// A vCPU before it has a thread: its registers can be set.
#[derive(Debug)]
pub struct Reset {
    index: u32,
    // Dropped before the VM, whose memory it maps.
    fd: VcpuFd,
    vm: Arc<Vm>,
    keeper: state::Keeper,
}

impl Reset {
    /// One of `count`, as after a reset: the first runs, the others wait for the first to start them.
    pub fn new(kvm: &Kvm, vm: &Arc<Vm>, index: u32, count: u32) -> Result<Self, KvmError> {
        let fd = vm.create_vcpu(index)?;
        let cpuid = cpuid::of_vcpu(&kvm.supported_cpuid()?, index, count)?;
        fd.set_cpuid2(&cpuid).map_err(KvmError::call("a vCPU's CPUID"))?;
        msrs::set_start_values(&fd)?;
        let keeper = state::Keeper::new(&fd, vm.ram().clone(), &kvm.msr_indices()?, kvm.counters()?)?;
        Ok(Self { index, fd, vm: vm.clone(), keeper })
    }

    /// KVM's own handle: for the registers that a boot protocol wants.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// How many ticks its counter has in a millisecond, which are the host's.
    pub fn counter_khz(&self) -> u32 {
        self.keeper.counter_khz()
    }

    /// Gives it a thread in this sandbox, in which it stands. `ended` is told, in that thread, when it cannot go on.
    pub fn start(
        self,
        buses: Arc<Buses>,
        sandbox: Sandbox,
        ended: impl Fn(u32, Ending) + Send + 'static,
    ) -> Result<Vcpu, VcpuError> {
        listen_for_kicks();
        let (index, offered) = (self.index, self.keeper.offered());
        let own_counter = self.keeper.counter_is_its_own();
        let (commands, receiver) = channel();
        let (mut runner, page) = thread::Runner::new(self, buses, receiver, Box::new(ended));
        let (tell, told) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("vcpu{index}"))
            .spawn(move || {
                if let Err(error) = sandbox.enter(Kind::Vcpu) {
                    tracing::error!("{error}");
                    return;
                }
                let _ = tell.send(rustix::thread::gettid().as_raw_nonzero().get() as u32);
                runner.obey();
            })
            .map_err(|source| VcpuError::Thread { index, source })?;
        let id = told.recv().map_err(|_| VcpuError::Gone(index))?;
        Ok(Vcpu { index, id, commands: Some(commands), page, thread: Some(thread), offered, own_counter })
    }
}

/// A state, or why there is none.
type Saved = Result<Box<VcpuState>, StateError>;

/// What a vCPU's thread is told.
#[derive(Debug)]
enum Command {
    Resume(SyncSender<()>),
    Pause(SyncSender<()>),
    Save(HostTicks, SyncSender<Saved>),
    Load(Box<VcpuState>, HostTicks, SyncSender<Saved>),
    Shift(u64, SyncSender<Result<(), StateError>>),
}

/// A vCPU with a thread. Dropping it ends both.
pub struct Vcpu {
    index: u32,
    id: u32,
    commands: Option<Sender<Command>>,
    page: Arc<RunPage>,
    thread: Option<JoinHandle<()>>,
    offered: Arc<[Leaf]>,
    own_counter: bool,
}

/// The answer to a command, when it comes: commands to several vCPUs are carried out at the same time.
#[derive(Debug)]
#[must_use = "the command may not have been carried out yet"]
pub struct Answer<T> {
    index: u32,
    receiver: Receiver<T>,
}

impl<T> Answer<T> {
    /// Waits for it.
    pub fn wait(self) -> Result<T, VcpuError> {
        self.receiver.recv().map_err(|_| VcpuError::Gone(self.index))
    }
}

impl<T> Answer<Result<T, StateError>> {
    /// Waits for it, and says whose it is if it is an error.
    pub fn done(self) -> Result<T, VcpuError> {
        let index = self.index;
        self.wait()?.map_err(|source| VcpuError::State { index, source })
    }
}

impl Vcpu {
    /// Its number.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its thread, as the kernel numbers it.
    pub fn thread(&self) -> u32 {
        self.id
    }

    /// Lets it run.
    pub fn resume(&self) -> Answer<()> {
        self.command(Command::Resume)
    }

    /// Stands it still, with no access of its half done.
    pub fn pause(&self) -> Answer<()> {
        self.command(Command::Pause)
    }

    /// Reads its state, with the counter as it is at an instant. It must stand.
    pub fn save(&self, at: HostTicks) -> Answer<Saved> {
        self.command(|answer| Command::Save(at, answer))
    }

    /// Whether it can take a state, as far as can be told without trying.
    pub fn check(&self, state: &VcpuState) -> Result<(), StateError> {
        state.check(&self.offered)
    }

    /// Sets its state, with the counter as it is to be at an instant. It must stand. Gives the state that it
    /// had; after an error it has that again.
    pub fn load(&self, state: VcpuState, at: HostTicks) -> Answer<Saved> {
        self.command(|answer| Command::Load(Box::new(state), at, answer))
    }

    /// Whether its counter can be set: KVM without help of the CPU has the host's.
    pub fn counter_is_its_own(&self) -> bool {
        self.own_counter
    }

    /// Turns its counter back by so many ticks of the host's. It must stand.
    pub fn shift(&self, ticks: u64) -> Answer<Result<(), StateError>> {
        self.command(|answer| Command::Shift(ticks, answer))
    }

    fn command<T>(&self, command: impl FnOnce(SyncSender<T>) -> Command) -> Answer<T> {
        let (sender, receiver) = sync_channel(1);
        if let Some(commands) = &self.commands {
            // If the thread has gone the command's answer goes too, and who waits for it hears of that.
            let _ = commands.send(command(sender));
        }
        self.kick();
        Answer { index: self.index, receiver }
    }

    fn kick(&self) {
        self.page.set_immediate_exit(true);
        if let Some(thread) = &self.thread {
            // A thread that has ended needs no kick.
            let _ = thread.kill(SIGRTMIN());
        }
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.commands = None;
        self.kick();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(vcpu = self.index, "a vCPU's thread panicked");
        }
    }
}

impl fmt::Debug for Vcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vcpu").field("index", &self.index).field("thread", &self.id).finish_non_exhaustive()
    }
}

extern "C" fn kicked(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// The signal has nothing to do but to arrive; without a handler it would end the process.
fn listen_for_kicks() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        if let Err(error) = register_signal_handler(SIGRTMIN(), kicked) {
            tracing::error!(%error, "vCPUs cannot be interrupted");
        }
    });
}
