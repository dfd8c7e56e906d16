//! Machines that are frozen, saved, and go on elsewhere.

use super::*;
use std::thread::JoinHandle;
use vm_memory::{Bytes, GuestAddress};

/// Where the guests count.
pub(crate) const COUNTER: GuestAddress = GuestAddress(0x30_0000);

/// `xor ebx, ebx; loop: inc ebx; mov [0x300000], ebx; jmp loop`: counts in a register and in memory.
pub(crate) const COUNT_IN_BOTH: &[u8] = &[0x31, 0xdb, 0x43, 0x89, 0x1d, 0, 0, 0x30, 0, 0xeb, 0xf7];

pub(crate) type Running = JoinHandle<Result<ExitReason, MachineError>>;

pub(crate) fn begun(begin: Begin, cpus: u32) -> (Freezer, Arc<dyn Control>, Running) {
    let setup = Setup {
        begin,
        memory: 16 << 20,
        cpus,
        console: Box::new(io::sink()),
        devices: Vec::new(),
        blocks: Vec::new(),
        on_reset: OnReset::Reboot,
        tracking: Tracking::Auto,
        confine: Box::new(|| Ok(crate::sandbox::Sandbox::default())),
    };
    let machine = Machine::new(setup).unwrap();
    (machine.freezer(), machine.control(), std::thread::spawn(|| machine.run()))
}

pub(crate) fn booted(code: &[u8], cpus: u32) -> (Freezer, Arc<dyn Control>, Running) {
    begun(boot(kernel(code).path()), cpus)
}

pub(crate) fn end(control: &dyn Control, thread: Running) {
    control.quit();
    assert_eq!(thread.join().unwrap().unwrap(), ExitReason::Quit);
}

/// Waits until the guest has counted.
pub(crate) fn counts(freezer: &Freezer) -> u32 {
    let count = || {
        let work = |frozen: &mut Frozen<'_>| {
            HAS_COUNTERS.get_or_init(|| frozen.has_counters());
            (frozen.ram().read_obj(COUNTER).unwrap(), After::AsBefore)
        };
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

/// Whether this host's KVM can set counters.
static HAS_COUNTERS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();

/// Without what goes on while it stands: the time of day, and counters that cannot be set.
pub(crate) fn settled(state: &MachineState) -> MachineState {
    let mut state = state.clone();
    if !HAS_COUNTERS.get().unwrap() {
        state.vcpus.iter_mut().for_each(|vcpu| vcpu.tsc = 0);
    }
    state.rtc.milliseconds = 0;
    state
}

/// Says which parts differ: the whole is a page of numbers.
pub(crate) fn assert_same(one: &MachineState, other: &MachineState) {
    let parts = |state: &MachineState| match serde_json::to_value(settled(state)).unwrap() {
        serde_json::Value::Object(parts) => parts,
        other => panic!("a state is an object, not {other}"),
    };
    let mut differ = Vec::new();
    for ((name, one), other) in parts(one).into_iter().zip(parts(other).into_values()) {
        if one == other {
            continue;
        }
        if let (Some(one), Some(other)) = (one.get(0), other.get(0)) {
            for (field, value) in one.as_object().unwrap() {
                if *value != other[field] {
                    differ.push(format!("{name}.{field}: {value} and {}", other[field]));
                }
            }
        } else {
            differ.push(format!("{name}: {one} and {other}"));
        }
    }
    assert_eq!(differ, Vec::<String>::new());
    assert_eq!(settled(one), settled(other));
}

/// Its state, and its memory.
pub(crate) fn copied(frozen: &mut Frozen<'_>) -> (MachineState, Vec<u8>) {
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
    assert_same(&saved, &serde_json::from_str(&text).unwrap());
    assert_eq!(waiting.state(), RunState::Colo);
    assert!(waiting.cont().is_err());
    other.freeze(Time::GoesOn, |_| ((), After::Run)).unwrap();
    assert_eq!(waiting.state(), RunState::Running);
    assert!(counts(&other) >= counted, "it goes on from there");
    end(&*control, thread);
    end(&*waiting, other_thread);
}

#[test]
fn a_guest_that_runs_becomes_what_it_was_and_goes_on_from_there() {
    let (freezer, control, thread) = booted(COUNT_IN_BOTH, 4);
    counts(&freezer);
    let (early, _) =
        freezer.freeze(Time::GoesOn, |frozen| (frozen.save().unwrap(), After::AsBefore)).unwrap();
    counts(&freezer);
    let load = move |frozen: &mut Frozen<'_>| {
        let late = frozen.save().unwrap();
        frozen.load(&early).unwrap();
        ((early, late, frozen.save().unwrap()), After::AsBefore)
    };
    let ((early, late, loaded), _) = freezer.freeze(Time::Stands, load).unwrap();
    assert!(late.vcpus[0].regs.rbx > early.vcpus[0].regs.rbx);
    assert!(late.vcpus[0].tsc > early.vcpus[0].tsc && late.clock.nanoseconds > early.clock.nanoseconds);
    assert_same(&loaded, &early);
    assert_eq!(control.state(), RunState::Running);
    counts(&freezer);
    end(&*control, thread);
}

#[test]
fn a_state_that_is_refused_changes_nothing() {
    let (freezer, control, thread) = booted(COUNT_IN_BOTH, 2);
    counts(&freezer);
    let spoils: [fn(&mut MachineState); 7] = [
        |state| drop(state.vcpus.pop()),
        |state| state.shape.cpus = 3,
        |state| state.shape.memory += 4096,
        |state| state.vcpus[1].xsave.truncate(4095),
        |state| state.vcpus[1].mp_state = 77,
        |state| state.vcpus[0].cpuid[1].ecx = u32::MAX,
        // Only KVM finds these, after vCPU 0 was changed.
        |state| {
            state.vcpus[0].regs.rbx = 1 << 40;
            state.vcpus[1].sregs.cr4 = u64::MAX;
        },
    ];
    for (number, spoil) in spoils.into_iter().enumerate() {
        let try_it = move |frozen: &mut Frozen<'_>| {
            let before = frozen.save().unwrap();
            let mut state = before.clone();
            spoil(&mut state);
            let error = frozen.load(&state).unwrap_err();
            ((before, error, frozen.save().unwrap()), After::AsBefore)
        };
        let ((before, error, after), _) = freezer.freeze(Time::Stands, try_it).unwrap();
        assert_eq!(matches!(error, LoadError::Refused(_)), number == 6, "{number}: {error}");
        assert_same(&before, &after);
    }
    counts(&freezer);
    end(&*control, thread);
}

/// Prints what freezes cost here; what it asserts is that nothing is lost on the way.
#[test]
fn freezes_many_times_a_second_leave_a_guest_whole() {
    for cpus in [1, 4] {
        let (freezer, control, thread) = booted(COUNT_IN_BOTH, cpus);
        counts(&freezer);
        let freeze = |what: fn(&mut Frozen<'_>)| {
            let mut all: Vec<_> = (0..200)
                .map(|_| {
                    freezer
                        .freeze(Time::GoesOn, move |frozen| {
                            what(frozen);
                            ((), After::AsBefore)
                        })
                        .unwrap()
                        .1
                })
                .collect();
            all.sort_by_key(|times| times.total);
            all[100]
        };
        let empty = freeze(|_| ());
        let saved = freeze(|frozen| drop(frozen.save().unwrap()));
        let loaded = freeze(|frozen| {
            let state = frozen.save().unwrap();
            frozen.load(&state).unwrap();
        });
        println!("{cpus} vCPUs: empty {empty:?}\n save {saved:?}\n save and load {loaded:?}");
        counts(&freezer);
        end(&*control, thread);
    }
}
