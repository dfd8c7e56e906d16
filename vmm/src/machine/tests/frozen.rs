//! Machines that are frozen, saved, and go on elsewhere.

use super::*;
use std::thread::JoinHandle;
use vm_memory::{Bytes, GuestAddress};

/// Where the guests count.
const COUNTER: GuestAddress = GuestAddress(0x30_0000);

/// `xor ebx, ebx; loop: inc ebx; mov [0x300000], ebx; jmp loop`: counts in a register and in memory.
const COUNT_IN_BOTH: &[u8] = &[0x31, 0xdb, 0x43, 0x89, 0x1d, 0, 0, 0x30, 0, 0xeb, 0xf7];

type Running = JoinHandle<Result<ExitReason, MachineError>>;

fn begun(begin: Begin, cpus: u32) -> (Freezer, Arc<dyn Control>, Running) {
    let setup = Setup {
        begin,
        memory: 16 << 20,
        cpus,
        console: Box::new(io::sink()),
        devices: Vec::new(),
        blocks: Vec::new(),
        on_reset: OnReset::Reboot,
        confine: Box::new(|| Ok(crate::sandbox::Sandbox::default())),
    };
    let machine = Machine::new(setup).unwrap();
    (machine.freezer(), machine.control(), std::thread::spawn(|| machine.run()))
}

fn booted(code: &[u8], cpus: u32) -> (Freezer, Arc<dyn Control>, Running) {
    begun(boot(kernel(code).path()), cpus)
}

fn end(control: &dyn Control, thread: Running) {
    control.quit();
    assert_eq!(thread.join().unwrap().unwrap(), ExitReason::Quit);
}

/// Waits until the guest has counted.
fn counts(freezer: &Freezer) -> u32 {
    let count = || {
        let work = |frozen: &mut Frozen<'_>| (frozen.ram().read_obj(COUNTER).unwrap(), After::AsBefore);
        freezer.freeze(Time::GoesOn, work).unwrap().0
    };
    let first: u32 = count();
    loop {
        let now = count();
        if now != first {
            return now;
        }
    }
}

/// Its state, and its memory.
fn copied(frozen: &mut Frozen<'_>) -> (MachineState, Vec<u8>) {
    let mut ram = vec![0; 16 << 20];
    frozen.ram().read_slice(&mut ram, GuestAddress(0)).unwrap();
    (frozen.save().unwrap(), ram)
}

#[test]
fn a_guest_goes_on_in_a_machine_that_waited_for_it() {
    let (freezer, control, thread) = booted(COUNT_IN_BOTH, 2);
    counts(&freezer);
    let ((state, ram), times) =
        freezer.freeze(Time::Stands, |frozen| (copied(frozen), After::Pause)).unwrap();
    assert!(times.total >= times.work);
    assert_eq!(control.state(), RunState::Paused);
    let counted: u32 = state.vcpus[0].regs.rbx as u32;

    let (other, waiting, other_thread) = begun(Begin::Wait(None), 2);
    assert_eq!(waiting.state(), RunState::InMigrate);
    let refused = waiting.cont().unwrap_err().to_string();
    assert!(refused.contains("waits for its first"), "{refused}");
    let text = serde_json::to_string(&state).unwrap();
    let state: MachineState = serde_json::from_str(&text).unwrap();
    let load = move |frozen: &mut Frozen<'_>| {
        assert!(matches!(frozen.save(), Err(StateError::None)));
        frozen.load(&state).unwrap();
        frozen.ram().write_slice(&ram, GuestAddress(0)).unwrap();
        (frozen.save().unwrap(), After::Hold)
    };
    let (saved, _) = other.freeze(Time::Stands, load).unwrap();
    assert_eq!(serde_json::to_string(&saved).unwrap(), text, "it is that machine");
    assert_eq!(waiting.state(), RunState::Colo);
    assert!(waiting.cont().is_err());
    other.freeze(Time::GoesOn, |_| ((), After::Run)).unwrap();
    assert_eq!(waiting.state(), RunState::Running);
    assert!(counts(&other) > counted);
    end(&*control, thread);
    end(&*waiting, other_thread);
}
