//! ACPI's fixed hardware (ACPI 6.5 §4.8): power button, sleep, and a timer.
//!
//! ```text
//!   +0  status  (timer carry, power button, …)   write 1 to clear ┐ both set ──► SCI (a level)
//!   +2  enable                                                    ┘
//!   +4  control (SCI enabled; sleep type and "sleep now")           S5 ──► Power::off
//!   +8  timer: 24 bits at 3.579545 MHz, which stand while the guest does
//! ```

mod clock;

pub use clock::{Clock, Stopwatch};

use super::lock;
use crate::bus::BusDevice;
use crate::irq::Line;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::{Arc, Mutex};

/// How many ports it has.
pub const PORTS: u64 = 12;
/// Where the status and enable registers are, from its first port.
pub const EVENT: u64 = 0;
/// Where the control register is.
pub const CONTROL: u64 = 4;
/// Where the timer is.
pub const TIMER: u64 = 8;
/// The sleep type that means "off" (`_S5`).
pub const SLEEP_TYPE_OFF: u8 = 5;

/// The timer's frequency in hertz.
const FREQUENCY: u128 = 3_579_545;
const TIMER_MASK: u32 = 0xff_ffff;

const TIMER_CARRY: u16 = 1 << 0;
const POWER_BUTTON: u16 = 1 << 8;
/// Those that we ever set. The global lock, the sleep button and the RTC alarm are not there.
const STATUS: u16 = TIMER_CARRY | POWER_BUTTON;
const ENABLE: u16 = TIMER_CARRY | 1 << 5 | POWER_BUTTON | 1 << 10;

const SCI_ENABLE: u16 = 1;
const SLEEP_TYPE_SHIFT: u16 = 10;
const SLEEP_ENABLE: u16 = 1 << 13;

/// The machine, as far as a device can ask something of it. Both return at once.
pub trait Power: Send + Sync + fmt::Debug {
    /// The guest is to be begun anew.
    fn reset(&self);
    /// The guest has powered off.
    fn off(&self);
}

/// What it knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PmState {
    /// PM1 status.
    pub status: u16,
    /// PM1 enable.
    pub enable: u16,
    /// PM1 control, without "sleep now".
    pub control: u16,
    /// What the timer's clock says, in nanoseconds.
    pub nanoseconds: u64,
}

/// The fixed registers.
#[derive(Debug)]
pub struct Pm {
    sci: Arc<dyn Line>,
    power: Arc<dyn Power>,
    clock: Arc<dyn Clock>,
    registers: Mutex<Registers>,
}

#[derive(Debug, Default)]
struct Registers {
    status: u16,
    enable: u16,
    control: u16,
}

impl Registers {
    fn asserted(&self) -> bool {
        self.status & self.enable & ENABLE != 0
    }
}

impl Pm {
    /// Registers as after a reset: ACPI mode is on, as the tables name no way to switch it.
    pub fn new(sci: Arc<dyn Line>, power: Arc<dyn Power>, clock: Arc<dyn Clock>) -> Self {
        let registers = Mutex::new(Registers { control: SCI_ENABLE, ..Registers::default() });
        Self { sci, power, clock, registers }
    }

    /// Presses the power button.
    pub fn press(&self) {
        self.update(|registers| registers.status |= POWER_BUTTON);
    }

    /// What it knows.
    pub fn state(&self) -> PmState {
        let nanoseconds = self.clock.nanoseconds();
        let Registers { status, enable, control } = *lock(&self.registers);
        PmState { status, enable, control, nanoseconds }
    }

    /// Becomes what a state says.
    pub fn load(&self, state: &PmState) {
        self.clock.set(state.nanoseconds);
        self.update(|registers| {
            *registers = Registers { status: state.status, enable: state.enable, control: state.control };
        });
    }

    /// Changes registers, and the interrupt with them. The line is set under the lock, so that two vCPUs
    /// cannot set it in the wrong order.
    fn update(&self, change: impl FnOnce(&mut Registers)) {
        let mut registers = lock(&self.registers);
        let before = registers.asserted();
        change(&mut registers);
        let after = registers.asserted();
        if before != after {
            self.sci.set(after);
        }
    }

    fn timer(&self) -> u32 {
        let ticks = u128::from(self.clock.nanoseconds()) * FREQUENCY / 1_000_000_000;
        ticks as u32 & TIMER_MASK
    }

    /// The register file, as bytes.
    fn image(&self) -> [u8; PORTS as usize] {
        let timer = self.timer().to_le_bytes();
        let registers = lock(&self.registers);
        let [status, enable, control] =
            [registers.status, registers.enable, registers.control].map(u16::to_le_bytes);
        let mut image = [0; PORTS as usize];
        image[0..2].copy_from_slice(&status);
        image[2..4].copy_from_slice(&enable);
        image[4..6].copy_from_slice(&control);
        image[8..12].copy_from_slice(&timer);
        image
    }
}

impl BusDevice for Pm {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let offset = offset as usize;
        if let Some(bytes) = self.image().get(offset..offset.saturating_add(data.len())) {
            data.copy_from_slice(bytes);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset >= PORTS {
            return;
        }
        let mut off = false;
        self.update(|registers| {
            for (offset, &byte) in (offset..).zip(data) {
                let shift = 8 * (offset as u16 & 1);
                let (value, kept) = (u16::from(byte) << shift, !(0xff << shift));
                match offset & !1 {
                    0 => registers.status &= !(value & STATUS),
                    2 => registers.enable = (registers.enable & kept | value) & ENABLE,
                    4 => {
                        let written = registers.control & kept | value;
                        off |= written & SLEEP_ENABLE != 0
                            && written >> SLEEP_TYPE_SHIFT & 7 == u16::from(SLEEP_TYPE_OFF);
                        // "Sleep now" always reads as zero, and ACPI mode cannot be left.
                        registers.control = written & !SLEEP_ENABLE | SCI_ENABLE;
                    }
                    _ => {}
                }
            }
        });
        if off {
            self.power.off();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::state::dice::dice;
    use crate::state::encode_bare;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

    #[derive(Debug, Default)]
    pub(in crate::devices) struct Pressed {
        resets: AtomicUsize,
        offs: AtomicUsize,
    }

    impl Pressed {
        pub(in crate::devices) fn resets(&self) -> usize {
            self.resets.load(Ordering::Relaxed)
        }
    }

    impl Power for Pressed {
        fn reset(&self) {
            self.resets.fetch_add(1, Ordering::Relaxed);
        }
        fn off(&self) {
            self.offs.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[derive(Debug, Default)]
    struct Level(AtomicBool);

    impl Line for Level {
        fn set(&self, high: bool) {
            self.0.store(high, Ordering::Relaxed);
        }
    }

    #[derive(Debug, Default)]
    struct Set(AtomicU64);

    impl Clock for Set {
        fn nanoseconds(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
        fn set(&self, nanoseconds: u64) {
            self.0.store(nanoseconds, Ordering::Relaxed);
        }
    }

    fn pm() -> (Pm, Arc<Level>, Arc<Pressed>, Arc<Set>) {
        let (level, pressed, clock) =
            (Arc::new(Level::default()), Arc::new(Pressed::default()), Arc::new(Set::default()));
        (Pm::new(level.clone(), pressed.clone(), clock.clone()), level, pressed, clock)
    }

    fn word(pm: &Pm, offset: u64) -> u16 {
        let mut data = [0xff; 2];
        pm.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    #[test]
    fn the_button_interrupts_until_it_is_answered() {
        let (pm, level, _, _) = pm();
        pm.press();
        assert!(!level.0.load(Ordering::Relaxed), "nobody has enabled it");
        pm.write(EVENT + 2, &POWER_BUTTON.to_le_bytes());
        assert!(level.0.load(Ordering::Relaxed));
        pm.write(EVENT, &TIMER_CARRY.to_le_bytes());
        assert!(level.0.load(Ordering::Relaxed), "that was not the answer");
        assert_eq!(word(&pm, EVENT), POWER_BUTTON);
        pm.write(EVENT, &POWER_BUTTON.to_le_bytes());
        assert_eq!((word(&pm, EVENT), level.0.load(Ordering::Relaxed)), (0, false));
    }

    #[test]
    fn only_s5_and_now_is_off() {
        let (pm, _, pressed, _) = pm();
        let off = u16::from(SLEEP_TYPE_OFF) << SLEEP_TYPE_SHIFT;
        for value in [0, off, SLEEP_ENABLE, 3 << SLEEP_TYPE_SHIFT | SLEEP_ENABLE] {
            pm.write(CONTROL, &value.to_le_bytes());
        }
        assert_eq!(pressed.offs.load(Ordering::Relaxed), 0);
        assert_eq!(word(&pm, CONTROL), 3 << SLEEP_TYPE_SHIFT | SCI_ENABLE);
        // Linux writes the type first, and then both.
        pm.write(CONTROL, &off.to_le_bytes());
        pm.write(CONTROL, &(off | SLEEP_ENABLE).to_le_bytes());
        assert_eq!(pressed.offs.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_timer_counts_24_bits_of_its_frequency() {
        let (pm, _, _, clock) = pm();
        let mut data = [0; 4];
        for (nanoseconds, ticks) in
            [(0, 0), (1_000_000_000, 3_579_545), (5_000_000_000, 17_897_725 - (1 << 24))]
        {
            clock.set(nanoseconds);
            pm.read(TIMER, &mut data);
            assert_eq!(u32::from_le_bytes(data), ticks);
        }
        clock.set(u64::MAX);
        pm.read(TIMER, &mut data);
        assert_eq!(data[3], 0);
    }

    #[test]
    fn a_loaded_state_raises_its_interrupt() {
        let (one, _, _, clock) = pm();
        clock.set(12345);
        one.write(EVENT + 2, &POWER_BUTTON.to_le_bytes());
        one.press();
        let (two, level, _, _) = pm();
        two.load(&one.state());
        assert_eq!(two.state(), one.state());
        assert!(level.0.load(Ordering::Relaxed));
    }

    #[test]
    fn no_access_crosses_its_end() {
        let (pm, _, _, _) = pm();
        let mut data = [0xaa; 8];
        pm.read(8, &mut data);
        assert_eq!(data, [0xaa; 8]);
        pm.write(11, &[0xff; 8]);
        pm.write(u64::MAX - 1, &[0xff; 2]);
    }

    proptest! {
        #[test]
        fn what_is_loaded_is_saved(seed: u64, before: u64) {
            let (pm, level, _, _) = pm();
            pm.load(&dice(before));
            let state: PmState = dice(seed);
            pm.load(&state);
            prop_assert_eq!(encode_bare(&pm.state()), encode_bare(&state));
            prop_assert_eq!(level.0.load(Ordering::Relaxed), state.status & state.enable & ENABLE != 0);
        }
    }
}
