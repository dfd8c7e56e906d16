//! Guests of a few instructions, in real mode, on this host's KVM.

mod states;

use super::*;
use crate::bus::BusDevice;
use crate::irq::Routes;
use crate::memory;
use std::sync::Mutex;
use std::sync::mpsc;
use vm_memory::{Bytes, GuestAddress};

/// Where the guests begin.
const CODE: u64 = 0x1000;

/// A port of the listener that panics.
const BUG: u64 = 0xf;

/// Hears what is written, and answers reads with 1, 2, 3 ….
#[derive(Debug)]
struct Listener {
    heard: mpsc::Sender<(u64, Vec<u8>)>,
    answer: Mutex<u8>,
}

impl BusDevice for Listener {
    fn read(&self, _: u64, data: &mut [u8]) {
        let mut answer = self.answer.lock().unwrap();
        *answer = answer.wrapping_add(1);
        data.fill(*answer);
    }
    fn write(&self, offset: u64, data: &[u8]) {
        assert_ne!(offset, BUG, "a device with a bug");
        let _ = self.heard.send((offset, data.to_vec()));
    }
}

struct Guest {
    vcpu: Vcpu,
    vm: Arc<Vm>,
    heard: Receiver<(u64, Vec<u8>)>,
    endings: Receiver<Ending>,
}

/// A machine with ports 0x10–0x1f and memory 0x400000–0x40ffff that listen.
fn guest(code: &[u8]) -> Guest {
    guest_in(Mode::Real, code)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Real,
    Protected,
}

fn guest_in(mode: Mode, code: &[u8]) -> Guest {
    let kvm = Kvm::open().unwrap();
    let vm = Arc::new(Vm::new(&kvm, Arc::new(memory::new(2 << 20).unwrap())).unwrap());
    Routes::new(vm.clone()).unwrap();
    vm.ram().write_slice(code, GuestAddress(CODE)).unwrap();
    let reset = Reset::new(&kvm, &vm, 0, 1).unwrap();
    let mut sregs = reset.fd().get_sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    // "Unreal" mode: data segments reach all 4 GiB, so that a few bytes of code reach a device.
    for segment in [&mut sregs.ds, &mut sregs.es] {
        (segment.limit, segment.g) = (u32::MAX, 1);
    }
    if mode == Mode::Protected {
        sregs.cr0 |= 1;
        (sregs.cs.db, sregs.cs.g, sregs.cs.limit, sregs.cs.selector) = (1, 1, u32::MAX, 8);
        (sregs.idt.base, sregs.idt.limit) = (0, 0);
    }
    reset.fd().set_sregs(&sregs).unwrap();
    let regs = kvm_bindings::kvm_regs { rip: CODE, rsp: 0x8000, rflags: 2, ..Default::default() };
    reset.fd().set_regs(&regs).unwrap();
    let (heard, hears) = mpsc::channel();
    let listener = Arc::new(Listener { heard, answer: Mutex::default() });
    let mut buses = Buses::default();
    buses.ports.insert("listener", 0x10, 0x10, listener.clone()).unwrap();
    buses.memory.insert("listener", 0x40_0000, 0x1_0000, listener).unwrap();
    let (ended, endings) = mpsc::channel();
    let told = move |_, ending| {
        eprintln!("the vCPU ends: {ending:?}");
        let _ = ended.send(ending);
    };
    let vcpu = reset.start(Arc::new(buses), crate::sandbox::Sandbox::default(), told).unwrap();
    Guest { vcpu, vm, heard: hears, endings }
}

/// `inc ecx; out 0x10, al`, and again.
const COUNT: &[u8] = &[0x66, 0x41, 0xe6, 0x10, 0xeb, 0xfa];
/// `inc al; out 0x10, al`, and again.
const COUNT_ALOUD: &[u8] = &[0xfe, 0xc0, 0xe6, 0x10, 0xeb, 0xfa];

fn save(vcpu: &Vcpu) -> VcpuState {
    *vcpu.save(HostTicks::now()).done().unwrap()
}

fn load(vcpu: &Vcpu, state: &VcpuState) {
    vcpu.load(state.clone(), HostTicks::now()).done().unwrap();
}

/// Runs until it has been heard a few times.
fn run_a_while(guest: &Guest) -> VcpuState {
    guest.vcpu.resume().wait().unwrap();
    assert_eq!(guest.heard.iter().take(5).count(), 5);
    guest.vcpu.pause().wait().unwrap();
    save(&guest.vcpu)
}

#[test]
fn a_bug_in_a_device_ends_the_machine_and_not_one_vcpu_alone() {
    // `out 0x1f, al`
    let guest = guest(&[0xe6, 0x1f]);
    guest.vcpu.resume().wait().unwrap();
    let Ending::Failed(reason) = guest.endings.recv().unwrap() else { panic!("another ending") };
    assert!(reason.contains("a bug of this program"), "{reason}");
}

#[test]
fn it_stands_until_resumed_and_again_when_paused() {
    let guest = guest(COUNT);
    let first = save(&guest.vcpu);
    assert_eq!((first.regs.rcx, first.regs.rip), (0, CODE));
    let later = run_a_while(&guest);
    assert!((CODE..CODE + 6).contains(&later.regs.rip));
    assert!(later.regs.rcx >= 5);
    assert_eq!(save(&guest.vcpu).regs, later.regs, "it stands");
    guest.vcpu.pause().wait().unwrap();
    assert_eq!(save(&guest.vcpu).regs, later.regs, "pausing twice is pausing");
}

#[test]
fn what_it_writes_to_ports_arrives_in_order() {
    let guest = guest(COUNT_ALOUD);
    guest.vcpu.resume().wait().unwrap();
    let heard: Vec<_> = guest.heard.iter().take(300).collect();
    for (index, (offset, data)) in heard.into_iter().enumerate() {
        assert_eq!((offset, data), (0, vec![(index + 1) as u8]));
    }
}

#[test]
fn each_pause_finishes_the_access_that_it_meets() {
    let guest = guest(COUNT_ALOUD);
    let mut total = 0_usize;
    for _ in 0..200 {
        guest.vcpu.resume().wait().unwrap();
        total += guest.heard.iter().take(1).count();
        guest.vcpu.pause().wait().unwrap();
        total += guest.heard.try_iter().count();
        let regs = save(&guest.vcpu).regs;
        // After `inc` the count is one ahead of what was heard; after `out`, or before `inc`, it is not.
        let ahead = usize::from(regs.rip == CODE + 2);
        assert_eq!(regs.rax as u8, (total + ahead) as u8);
    }
}

#[test]
fn a_string_of_port_writes_is_several_accesses() {
    // mov si, 0x1100; mov cx, 3; mov dx, 0x10; rep outsw; hlt
    let guest = guest(&[0xbe, 0x00, 0x11, 0xb9, 3, 0, 0xba, 0x10, 0, 0xf3, 0x6f, 0xf4]);
    guest.vm.ram().write_slice(&[1, 2, 3, 4, 5, 6], GuestAddress(0x1100)).unwrap();
    guest.vcpu.resume().wait().unwrap();
    let heard: Vec<_> = guest.heard.iter().take(3).collect();
    assert_eq!(heard, [(0, vec![1, 2]), (0, vec![3, 4]), (0, vec![5, 6])]);
}

#[test]
fn it_reads_and_writes_memory_that_is_a_device() {
    // mov eax, [0x400004]; mov [0x400008], eax; in al, 0x11; out 0x12, al; hlt
    let guest = guest(&[
        0x67, 0x66, 0xa1, 4, 0, 0x40, 0, 0x67, 0x66, 0xa3, 8, 0, 0x40, 0, 0xe4, 0x11, 0xe6, 0x12, 0xf4,
    ]);
    guest.vcpu.resume().wait().unwrap();
    let heard: Vec<_> = guest.heard.iter().take(2).collect();
    assert_eq!(heard, [(8, vec![1; 4]), (2, vec![2])]);
}

#[test]
fn a_triple_fault_ends_it() {
    // Protected mode without an interrupt table: ud2.
    let guest = guest_in(Mode::Protected, &[0x0f, 0x0b]);
    guest.vcpu.resume().wait().unwrap();
    assert_eq!(guest.endings.recv().unwrap(), Ending::TripleFault);
    // What has ended can still be commanded.
    guest.vcpu.resume().wait().unwrap();
    guest.vcpu.pause().wait().unwrap();
}

#[test]
fn one_that_halts_hears_commands() {
    // hlt, with interrupts off
    let guest = guest(&[0xf4]);
    guest.vcpu.resume().wait().unwrap();
    guest.vcpu.pause().wait().unwrap();
    guest.vcpu.resume().wait().unwrap();
}

#[test]
fn one_vm_goes_on_where_another_stood() {
    let one = guest(COUNT);
    let state = run_a_while(&one);
    let text = serde_json::to_string(&state).unwrap();
    drop(one);
    let two = guest(COUNT);
    load(&two.vcpu, &serde_json::from_str(&text).unwrap());
    let loaded = save(&two.vcpu);
    assert_eq!((loaded.regs, loaded.sregs), (state.regs, state.sregs));
    assert_eq!(loaded.xsave, state.xsave);
    let later = run_a_while(&two);
    assert!(later.regs.rcx > state.regs.rcx);
    // And into one that has run already, as a secondary does at each checkpoint.
    load(&two.vcpu, &state);
    assert_eq!(save(&two.vcpu).regs, state.regs);
}

#[test]
fn one_that_runs_has_no_state() {
    let guest = guest(COUNT);
    guest.vcpu.resume().wait().unwrap();
    let error = guest.vcpu.save(HostTicks::now()).done().unwrap_err();
    assert!(matches!(error, VcpuError::State { index: 0, source: StateError::Running }), "{error}");
}

#[test]
fn a_vcpu_that_waits_for_its_start_can_be_paused_and_dropped() {
    let kvm = Kvm::open().unwrap();
    let vm = Arc::new(Vm::new(&kvm, Arc::new(memory::new(2 << 20).unwrap())).unwrap());
    let _first = Reset::new(&kvm, &vm, 0, 2).unwrap();
    let second = Reset::new(&kvm, &vm, 1, 2)
        .unwrap()
        .start(Arc::default(), crate::sandbox::Sandbox::default(), |_, _| {})
        .unwrap();
    second.resume().wait().unwrap();
    second.pause().wait().unwrap();
    assert_eq!(save(&second).mp_state, kvm_bindings::KVM_MP_STATE_UNINITIALIZED);
    second.resume().wait().unwrap();
}
