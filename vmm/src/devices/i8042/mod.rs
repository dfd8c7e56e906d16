//! What is left of a PC's keyboard controller, and the chipset's reset register: ways to ask for a reset.
//!
//! ```text
//!   0x64 := 0xfe ──┐
//!                  ├──► Power::reset
//!   0xcf9 := 6 ────┘
//! ```
//!
//! No keyboard is there, and the status says so; Linux tries both of these before it gives up.

use super::lock;
use super::pm::Power;
use crate::bus::BusDevice;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};

/// From the data port to the command port. The ports between are not ours.
pub const PORTS: u64 = 5;
/// Where the command port is, from the data port.
const COMMAND: u64 = 4;
/// Pulses the CPU's reset line.
const PULSE_RESET: u8 = 0xfe;

/// The keyboard controller's two ports.
#[derive(Debug)]
pub struct I8042(Arc<dyn Power>);

impl I8042 {
    /// One that resets this.
    pub fn new(power: Arc<dyn Power>) -> Self {
        Self(power)
    }
}

impl BusDevice for I8042 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let ([byte], COMMAND) = (data, offset) {
            // All ones would be "input buffer full" for ever, and Linux waits for that before it resets.
            *byte = 0;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if (offset, data) == (COMMAND, &[PULSE_RESET]) {
            self.0.reset();
        }
    }
}

/// What the reset register knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetState {
    /// What was written last.
    pub value: u8,
}

/// The chipset's reset register (0xcf9).
#[derive(Debug)]
pub struct ResetRegister {
    power: Arc<dyn Power>,
    state: Mutex<ResetState>,
}

impl ResetRegister {
    /// One that resets this.
    pub fn new(power: Arc<dyn Power>) -> Self {
        Self { power, state: Mutex::default() }
    }

    /// What was written last.
    pub fn state(&self) -> ResetState {
        *lock(&self.state)
    }

    /// Becomes what a state says.
    pub fn load(&self, state: ResetState) {
        *lock(&self.state) = state;
    }
}

impl BusDevice for ResetRegister {
    fn read(&self, _: u64, data: &mut [u8]) {
        if let [byte] = data {
            *byte = lock(&self.state).value;
        }
    }

    fn write(&self, _: u64, data: &[u8]) {
        const RESET_CPU: u8 = 1 << 2;
        if let [byte] = data {
            // Bit 1 says how thorough it shall be, which is all one here; it and the rest can be read back.
            lock(&self.state).value = byte & !RESET_CPU;
            if byte & RESET_CPU != 0 {
                self.power.reset();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::pm::tests::Pressed;
    use crate::state::encode_bare;

    #[test]
    fn the_reset_pulse_resets_and_nothing_else_does() {
        let pressed = Arc::new(Pressed::default());
        let i8042 = I8042::new(pressed.clone());
        for value in 0..=0xfd {
            i8042.write(COMMAND, &[value]);
            i8042.write(0, &[value]);
        }
        i8042.write(0, &[PULSE_RESET]);
        i8042.write(COMMAND, &[PULSE_RESET, 0]);
        assert_eq!(pressed.resets(), 0);
        let mut status = [0xff];
        i8042.read(COMMAND, &mut status);
        assert_eq!(status[0] & 3, 0, "nothing to read, and ready for a command");
        i8042.write(COMMAND, &[PULSE_RESET]);
        assert_eq!(pressed.resets(), 1);
    }

    #[test]
    fn the_reset_register_resets_on_its_bit() {
        let pressed = Arc::new(Pressed::default());
        let register = ResetRegister::new(pressed.clone());
        register.write(0, &[2]);
        let mut value = [0xff];
        register.read(0, &mut value);
        assert_eq!((value, pressed.resets()), ([2], 0));
        register.write(0, &[6]);
        assert_eq!(pressed.resets(), 1);
    }

    #[test]
    fn what_is_loaded_is_saved_and_resets_nothing() {
        let pressed = Arc::new(Pressed::default());
        let register = ResetRegister::new(pressed.clone());
        for value in 0..=u8::MAX {
            let state = ResetState { value };
            register.load(state);
            assert_eq!(encode_bare(&register.state()), encode_bare(&state));
        }
        assert_eq!(pressed.resets(), 0);
    }
}
