//! A guest of 18 bytes on a real vCPU, with a console and a power button.
//!
//! ```text
//!   again: in al, BUTTON   pressed? ── out OFF
//!          in al, TYPED    a key?  ─── out SAID
//!          jmp again
//! ```

mod pair;
mod sys;

use colo_vmm::cli::{Assembled, Ended, Failure, Launch};
use colo_vmm::config::OnReset;
use colo_vmm::console::Output;
use colo_vmm::control::{BlockInfo, Control, ControlError, Controls, CpuInfo, Event, RunState, Save, Saved};
use colo_vmm::outlet::Outlet;
use colo_vmm::sandbox::{Kind, Sandbox};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

const BUTTON: u16 = 0x80;
const OFF: u16 = 0x81;
const TYPED: u16 = 0x90;
const SAID: u16 = 0x91;
const START: u64 = 0x1000;

const PROGRAM: [u8; 18] = [
    0xe4, 0x80, // in al, BUTTON
    0xa8, 0x01, // test al, 1
    0x74, 0x02, // jz to the next but one
    0xe6, 0x81, // out OFF, al
    0xe4, 0x90, // in al, TYPED
    0x84, 0xc0, // test al, al
    0x74, 0xf2, // jz to the start
    0xe6, 0x91, // out SAID, al
    0xeb, 0xee, // jmp to the start
];

#[derive(Debug)]
struct Tiny {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    run: RunState,
    /// Whether the vCPU has noticed.
    stands: bool,
    button: bool,
    reset: bool,
    thread: u32,
    typed: VecDeque<u8>,
    listeners: Vec<SyncSender<Event>>,
}

impl State {
    fn tell(&mut self, event: Event) {
        for listener in &self.listeners {
            let _ = listener.try_send(event);
        }
    }
}

impl Tiny {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Between two instructions: stands still if it is to, and says whether it goes on.
    fn obey(&self, vcpu: &VcpuFd) -> bool {
        let mut state = self.lock();
        while state.run == RunState::Paused {
            state.stands = true;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap();
        }
        state.stands = false;
        if std::mem::take(&mut state.reset) {
            begin(vcpu);
        }
        state.run == RunState::Running
    }

    fn run(&self, mut vcpu: VcpuFd, mut console: Output) {
        self.lock().thread = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        while self.obey(&vcpu) {
            match vcpu.run().unwrap() {
                VcpuExit::IoIn(BUTTON, data) => {
                    data[0] = u8::from(self.lock().button);
                    // It has nothing to do but wait, and the machine may have.
                    thread::sleep(Duration::from_millis(1));
                }
                VcpuExit::IoIn(TYPED, data) => data[0] = self.lock().typed.pop_front().unwrap_or_default(),
                VcpuExit::IoOut(SAID, data) => console.write_all(data).unwrap(),
                VcpuExit::IoOut(OFF, _) => self.end(true),
                other => panic!("{other:?}"),
            }
        }
    }

    fn end(&self, guest: bool) {
        let mut state = self.lock();
        if state.run != RunState::Shutdown {
            state.run = RunState::Shutdown;
            state.tell(Event::Shutdown { guest });
            state.listeners.clear();
            self.changed.notify_all();
        }
    }
}

impl Control for Tiny {
    fn state(&self) -> RunState {
        self.lock().run
    }
    fn stop(&self) -> Result<(), ControlError> {
        let mut state = self.lock();
        if state.run == RunState::Running {
            state.run = RunState::Paused;
            while !state.stands {
                state = self.changed.wait(state).unwrap();
            }
            state.tell(Event::Stop);
        }
        Ok(())
    }
    fn cont(&self) -> Result<(), ControlError> {
        let mut state = self.lock();
        match state.run {
            RunState::Running => {}
            RunState::Paused => {
                state.run = RunState::Running;
                state.tell(Event::Resume);
                self.changed.notify_all();
            }
            RunState::InMigrate | RunState::Colo | RunState::Shutdown => {
                return Err(ControlError { what: "go on", reason: "the guest has powered off".into() });
            }
        }
        Ok(())
    }
    fn powerdown(&self) -> Result<(), ControlError> {
        let mut state = self.lock();
        state.button = true;
        state.tell(Event::Powerdown);
        Ok(())
    }
    fn reset(&self) -> Result<(), ControlError> {
        let mut state = self.lock();
        state.reset = true;
        state.tell(Event::Reset { guest: false });
        Ok(())
    }
    fn quit(&self) {
        self.end(false);
    }
    fn cpus(&self) -> Vec<CpuInfo> {
        vec![CpuInfo { index: 0, thread: self.lock().thread }]
    }
    fn blocks(&self) -> Vec<BlockInfo> {
        Vec::new()
    }
    fn events(&self) -> Receiver<Event> {
        let (sender, receiver) = sync_channel(64);
        self.lock().listeners.push(sender);
        receiver
    }
}

/// Its page: all the memory that it has, without a form round it.
impl Save for Tiny {
    fn save(&self, mut out: Outlet) -> Result<Saved, ControlError> {
        let ran = self.state() == RunState::Running;
        self.stop()?;
        let begun = Instant::now();
        let mut page = [0; 4096];
        page[..PROGRAM.len()].copy_from_slice(&PROGRAM);
        let written = out.write_all(&page);
        let stood = begun.elapsed();
        if ran {
            self.cont()?;
        }
        written.map_err(|error| ControlError { what: "save", reason: error.to_string() })?;
        Ok(Saved { bytes: 4096, pages: 1, zero_pages: 0, stood })
    }
}

/// Real mode, at the start of the program.
fn begin(vcpu: &VcpuFd) {
    let mut sregs = vcpu.get_sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).unwrap();
    let mut regs = vcpu.get_regs().unwrap();
    (regs.rip, regs.rflags) = (START, 2);
    vcpu.set_regs(&regs).unwrap();
}

/// As the machine does: everything is opened, then the process is confined, then threads start.
pub(crate) fn assemble(launch: Launch<'_>) -> Result<Assembled, Failure> {
    std::fs::File::open(&launch.config.kernel)
        .map_err(|error| format!("cannot read the kernel {}: {error}", launch.config.kernel.display()))?;
    let vm = Kvm::new()?.create_vm()?;
    sys::give_page(&vm, START, &PROGRAM);
    let vcpu = vm.create_vcpu(0)?;
    begin(&vcpu);
    let state = State {
        run: RunState::Paused,
        stands: false,
        button: false,
        reset: false,
        thread: 0,
        typed: VecDeque::new(),
        listeners: Vec::new(),
    };
    let tiny = Arc::new(Tiny { state: Mutex::new(state), changed: Condvar::new() });
    let sandbox: Sandbox = launch.confinement.begin()?;
    let (runs, filter, console) = (Arc::clone(&tiny), sandbox.clone(), launch.console);
    thread::Builder::new().name("vcpu0".into()).spawn(move || {
        filter.enter(Kind::Vcpu).unwrap();
        runs.run(vcpu, console);
        drop(vm);
    })?;
    let keys = Arc::clone(&tiny);
    let input = move |typed: &[u8]| {
        let mut state = keys.lock();
        let room = 16_usize.saturating_sub(state.typed.len()).min(typed.len());
        state.typed.extend(&typed[..room]);
        room
    };
    let save = Some(tiny.clone() as Arc<dyn Save>);
    let controls = Controls { guest: tiny.clone(), save, colo: pair::of(launch.colo) };
    let on_reset = launch.config.on_reset;
    let run = move || {
        let events = tiny.events();
        tiny.cont()?;
        let mut ended = Ended::Done;
        for event in events {
            match event {
                Event::Shutdown { .. } => break,
                Event::Reset { .. } if on_reset == OnReset::Exit => {
                    ended = Ended::Reset;
                    tiny.quit();
                }
                _ => {}
            }
        }
        Ok(ended)
    };
    Ok(Assembled { control: controls, input: Box::new(input), sandbox, run: Box::new(run) })
}
