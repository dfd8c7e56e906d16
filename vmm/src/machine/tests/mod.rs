//! A whole machine, with a kernel of a few instructions: PVH's entry is 32-bit code, as this host's KVM may
//! be one that emulates.

use super::*;
use crate::control::{Event, RunState};
use std::io::Write;
use std::sync::mpsc::{Receiver, Sender};

/// An ELF file with a PVH note, whose entry is `code` at 2 MiB.
fn kernel(code: &[u8]) -> tempfile::NamedTempFile {
    const AT: u64 = 0x20_0000;
    let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut put = |value: u64, len: usize| image.extend(&value.to_le_bytes()[..len]);
    for (value, len) in
        [(2, 2), (62, 2), (1, 4), (AT, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (2, 2), (0, 6)]
    {
        put(value, len);
    }
    let len = code.len() as u64;
    for (kind, offset, len) in [(1, 256, len), (4, 200, 20)] {
        for (value, width) in [(kind, 4), (7, 4), (offset, 8), (AT, 8), (AT, 8), (len, 8), (len, 8), (4, 8)] {
            put(value, width);
        }
    }
    image.resize(200, 0);
    image.extend([4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0]);
    image.extend((AT as u32).to_le_bytes());
    image.resize(256, 0);
    image.extend(code);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&image).unwrap();
    file
}

fn boot(kernel: &std::path::Path) -> Begin {
    Begin::Boot(BootFiles { kernel: kernel.to_owned(), initrd: None, cmdline: String::new() })
}

struct Screen(Sender<u8>);

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            let _ = self.0.send(*byte);
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn machine(code: &[u8]) -> (Machine, Receiver<u8>) {
    machine_that(OnReset::Exit, code)
}

fn machine_that(on_reset: OnReset, code: &[u8]) -> (Machine, Receiver<u8>) {
    let file = kernel(code);
    let (screen, printed) = channel();
    let setup = Setup {
        begin: boot(file.path()),
        memory: 16 << 20,
        cpus: 2,
        console: Box::new(Screen(screen)),
        devices: Vec::new(),
        blocks: Vec::new(),
        on_reset,
        tracking: Tracking::Auto,
        confine: Box::new(|| Ok(crate::sandbox::Sandbox::default())),
    };
    (Machine::new(setup).unwrap(), printed)
}

/// `mov dx, 0x604; mov ax, 0x3400; out dx, ax; jmp .`: S5, and now.
const POWER_OFF: &[u8] = &[0x66, 0xba, 4, 6, 0x66, 0xb8, 0, 0x34, 0x66, 0xef, 0xeb, 0xfe];
/// `mov dx, 0xcf9; mov al, 6; out dx, al; jmp .`
const RESET: &[u8] = &[0x66, 0xba, 0xf9, 0x0c, 0xb0, 6, 0xee, 0xeb, 0xfe];
/// `mov dx, 0x3f8; loop: inc al; out dx, al; jmp loop`
const TALK: &[u8] = &[0x66, 0xba, 0xf8, 0x03, 0xfe, 0xc0, 0xee, 0xeb, 0xfb];

#[test]
fn a_guest_powers_off() {
    let (machine, _) = machine(POWER_OFF);
    let control = machine.control();
    let events = control.events();
    assert_eq!(machine.run().unwrap(), ExitReason::PowerOff);
    assert_eq!(events.recv().unwrap(), Event::Shutdown { guest: true });
    assert_eq!(control.state(), RunState::Shutdown);
    assert!(control.stop().is_err(), "nobody is there any more");
}

#[test]
fn a_guest_resets() {
    let (machine, _) = machine(RESET);
    assert_eq!(machine.run().unwrap(), ExitReason::Reset { guest: true });
}

/// `inc byte [0x300000]; mov al, [0x300000]; mov dx, 0x3f8; out dx, al`, then what follows.
const COUNT: &[u8] = &[0xfe, 0x05, 0, 0, 0x30, 0, 0xa0, 0, 0, 0x30, 0, 0x66, 0xba, 0xf8, 0x03, 0xee];

#[test]
fn a_reset_begins_anew_in_place_with_memory_as_it_was() {
    // It counts in memory how often it began; the third time it powers off.
    let again = [0x3c, 3, 0x74, RESET.len() as u8];
    let code = [COUNT, &again, RESET, POWER_OFF].concat();
    let (machine, printed) = machine_that(OnReset::Reboot, &code);
    let events = machine.control().events();
    assert_eq!(machine.run().unwrap(), ExitReason::PowerOff);
    assert_eq!(printed.try_iter().collect::<Vec<_>>(), [1, 2, 3]);
    let reset = Event::Reset { guest: true };
    assert_eq!(events.try_iter().collect::<Vec<_>>(), [reset, reset, Event::Shutdown { guest: true }]);
}

#[test]
fn the_reset_button_works_on_a_guest_that_stands() {
    let (machine, printed) = machine_that(OnReset::Reboot, TALK);
    let control = machine.control();
    let events = control.events();
    let thread = std::thread::spawn(|| machine.run());
    printed.recv().unwrap();
    control.stop().unwrap();
    control.reset().unwrap();
    assert_eq!(
        [events.recv().unwrap(), events.recv().unwrap()],
        [Event::Stop, Event::Reset { guest: false }]
    );
    assert_eq!(control.state(), RunState::Paused);
    let _ = printed.try_iter().count();
    control.cont().unwrap();
    assert_eq!(printed.recv().unwrap(), 1, "it begins at the kernel's entry");
    control.quit();
    assert_eq!(thread.join().unwrap().unwrap(), ExitReason::Quit);
}

#[test]
fn a_guest_stops_and_continues_and_loses_nothing() {
    let (machine, printed) = machine(TALK);
    let control = machine.control();
    let events = control.events();
    let thread = std::thread::spawn(|| machine.run());
    let mut expected = 0_u8;
    for _ in 0..20 {
        for byte in printed.iter().take(30) {
            expected = expected.wrapping_add(1);
            assert_eq!(byte, expected);
        }
        control.stop().unwrap();
        assert_eq!(control.state(), RunState::Paused);
        for byte in printed.try_iter() {
            expected = expected.wrapping_add(1);
            assert_eq!(byte, expected);
        }
        control.stop().unwrap();
        assert!(printed.try_recv().is_err(), "it stands");
        control.cont().unwrap();
        assert_eq!([events.recv().unwrap(), events.recv().unwrap()], [Event::Stop, Event::Resume]);
    }
    assert_eq!(control.cpus().len(), 2);
    control.quit();
    assert_eq!(thread.join().unwrap().unwrap(), ExitReason::Quit);
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    let setup = |memory, cpus| Setup {
        begin: boot("/nowhere/vmlinuz".as_ref()),
        memory,
        cpus,
        console: Box::new(io::sink()),
        devices: Vec::new(),
        blocks: Vec::new(),
        on_reset: OnReset::Exit,
        tracking: Tracking::Auto,
        confine: Box::new(|| Ok(crate::sandbox::Sandbox::default())),
    };
    assert!(matches!(Machine::new(setup(16 << 20, 17)).unwrap_err(), MachineError::Cpus(17)));
    let text = Machine::new(setup(16 << 20, 1)).unwrap_err().to_string();
    assert!(text.contains("the kernel /nowhere/vmlinuz"), "{text}");
}

pub(crate) mod frozen;
