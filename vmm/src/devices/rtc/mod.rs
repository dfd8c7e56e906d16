//! The real-time clock of a PC: a time to read, and 114 bytes of memory.
//!
//! ```text
//!   0x70 index ──► 0x71 data
//!                    0–9    the time, in decimal digits
//!                    10–13  status: no update under way, 24 hours, no interrupts, the battery is good
//!                    50     the century
//!                    rest   memory
//! ```
//!
//! The time is the host's plus an offset, which the guest changes when it sets the clock. A state has the time
//! itself, as another host's clock may be off. Alarms and
//! periodic interrupts are not there (the FADT says so): guests have better timers.

mod time;

use super::lock;
use crate::bus::BusDevice;
use serde::{Deserialize, Serialize};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};
use time::Date;

/// How many ports it has.
pub const PORTS: u64 = 2;
/// The century's register (FADT).
pub const CENTURY: u8 = 50;

const SIZE: usize = 128;
const STATUS_A: u8 = 10;
const STATUS_B: u8 = 11;
const STATUS_C: u8 = 12;
const STATUS_D: u8 = 13;
/// 32.768 kHz, and the rate that PCs start with.
const DEFAULT_A: u8 = 0x26;
/// Digits are decimal (not binary), the day has 24 hours.
const HOURS_24: u8 = 1 << 1;
/// "Set": the guest writes a time.
const SET: u8 = 1 << 7;
const BATTERY_GOOD: u8 = 1 << 7;

/// What it knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcState {
    /// The register that the data port shows.
    pub index: u8,
    /// The memory; where the time is, what the guest wrote last.
    pub memory: Vec<u8>,
    /// The guest's time, in milliseconds since 1970: whoever loads it goes on from there, whatever time that
    /// host has.
    pub milliseconds: i64,
}

#[derive(Clone, Debug)]
struct Registers {
    index: u8,
    memory: Vec<u8>,
    /// How many milliseconds the guest's clock is before (or, negative, behind) the host's.
    offset: i64,
}

impl Default for Registers {
    fn default() -> Self {
        let mut memory = vec![0; SIZE];
        memory[usize::from(STATUS_A)] = DEFAULT_A;
        memory[usize::from(STATUS_B)] = HOURS_24;
        Self { index: 0, memory, offset: 0 }
    }
}

/// The clock.
#[derive(Debug, Default)]
pub struct Rtc(Mutex<Registers>);

impl Rtc {
    /// What it knows.
    pub fn state(&self) -> RtcState {
        lock(&self.0).save(host_milliseconds())
    }

    /// Becomes what a state says; memory that is too short is filled with zeros.
    pub fn load(&self, state: &RtcState) {
        *lock(&self.0) = Registers::load(state, host_milliseconds());
    }
}

fn host_milliseconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

impl Registers {
    fn save(&self, now: i64) -> RtcState {
        let Self { index, memory, offset } = self.clone();
        RtcState { index, memory, milliseconds: now.saturating_add(offset) }
    }

    fn load(state: &RtcState, now: i64) -> Self {
        let mut memory = state.memory.clone();
        memory.resize(SIZE, 0);
        let offset = state.milliseconds.saturating_sub(now);
        Self { index: state.index % SIZE as u8, memory, offset }
    }

    fn seconds(&self, now: i64) -> i64 {
        now.saturating_add(self.offset).div_euclid(1000)
    }

    fn get(&self, index: u8, now: i64) -> u8 {
        let setting = self.memory[usize::from(STATUS_B)] & SET != 0;
        match index {
            STATUS_A => self.memory[usize::from(index)] & !0x80,
            STATUS_C => 0,
            STATUS_D => BATTERY_GOOD,
            _ => match Date::of_seconds(self.seconds(now)).register(index) {
                Some(value) if !setting => to_decimal(value),
                _ => self.memory[usize::from(index)],
            },
        }
    }

    fn put(&mut self, index: u8, value: u8, now: i64) {
        match index {
            STATUS_C | STATUS_D => {}
            STATUS_B => {
                let was_setting = self.memory[usize::from(STATUS_B)] & SET != 0;
                let setting = value & SET != 0;
                if setting && !was_setting {
                    // What the guest does not write stays as it was.
                    for index in Date::REGISTERS {
                        self.memory[usize::from(index)] = self.get(index, now);
                    }
                }
                self.memory[usize::from(STATUS_B)] = value & SET | HOURS_24;
                if was_setting && !setting {
                    self.take_time(now);
                }
            }
            _ => {
                self.memory[usize::from(index)] = value;
                let setting = self.memory[usize::from(STATUS_B)] & SET != 0;
                if !setting && Date::REGISTERS.contains(&index) {
                    // Without "set" it counts on from this one change.
                    for other in Date::REGISTERS.into_iter().filter(|other| *other != index) {
                        self.memory[usize::from(other)] = self.get(other, now);
                    }
                    self.take_time(now);
                }
            }
        }
    }

    /// The time in the memory becomes the clock's.
    fn take_time(&mut self, now: i64) {
        let date = Date::of_registers(|index| of_decimal(self.memory[usize::from(index)]));
        self.offset = date.seconds().saturating_mul(1000).saturating_sub(now);
    }
}

fn to_decimal(value: u8) -> u8 {
    ((value / 10 % 10) << 4) | (value % 10)
}

fn of_decimal(value: u8) -> u8 {
    // A guest can write what is no decimal digit; nothing overflows: 15 × 10 + 15.
    (value >> 4) * 10 + (value & 15)
}

impl BusDevice for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let ([byte], 1) = (data, offset) {
            let state = lock(&self.0);
            *byte = state.get(state.index, host_milliseconds());
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let [byte] = data {
            let mut state = lock(&self.0);
            if offset == 0 {
                // The highest bit is the switch for non-maskable interrupts, of which there are none.
                state.index = byte & 0x7f;
            } else {
                let index = state.index;
                state.put(index, *byte, host_milliseconds());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::encode_bare;
    use proptest::prelude::*;

    /// 2024-02-29 12:34:56, a Thursday (`date -u -d @1709210096`).
    const LEAP: i64 = 1_709_210_096;

    fn time(state: &Registers, seconds: i64) -> [u8; 8] {
        Date::REGISTERS.map(|index| state.get(index, seconds * 1000))
    }

    #[test]
    fn it_shows_the_hosts_time() {
        let state = Registers::default();
        assert_eq!(time(&state, LEAP), [0x56, 0x34, 0x12, 5, 0x29, 0x02, 0x24, 0x20]);
        assert_eq!(time(&state, 0), [0, 0, 0, 5, 1, 1, 0x70, 0x19]);
        assert_eq!(state.get(STATUS_A, 0) & 0x80, 0, "no update is ever under way");
    }

    #[test]
    fn a_guest_sets_it_and_it_counts_on() {
        let mut state = Registers::default();
        state.put(STATUS_B, SET | HOURS_24, 1_000_000);
        for (index, value) in Date::REGISTERS.into_iter().zip([0x56, 0x34, 0x12, 5, 0x29, 0x02, 0x24, 0x20]) {
            state.put(index, value, 1_000_000);
        }
        state.put(STATUS_B, HOURS_24, 1_001_000);
        assert_eq!(time(&state, 1001)[0], 0x56);
        assert_eq!(time(&state, 1005)[..2], [0x00, 0x35]);
        assert_eq!(state.offset, (LEAP - 1001) * 1000);
    }

    #[test]
    fn memory_is_memory() {
        let rtc = Rtc::default();
        rtc.write(0, &[0x80 | 0x60]);
        rtc.write(1, &[0xa5]);
        rtc.write(0, &[0x61]);
        rtc.write(0, &[0x60]);
        let mut data = [0];
        rtc.read(1, &mut data);
        assert_eq!(data, [0xa5]);
    }

    proptest! {
        #[test]
        fn what_is_loaded_is_saved(
            index in 0..SIZE as u8,
            memory in proptest::collection::vec(any::<u8>(), SIZE),
            // Until the year 10000, on a host at any time of that.
            milliseconds in 0..253_402_300_800_000_i64,
            now in 0..253_402_300_800_000_i64,
        ) {
            let state = RtcState { index, memory, milliseconds };
            prop_assert_eq!(encode_bare(&Registers::load(&state, now).save(now)), encode_bare(&state));
        }

        #[test]
        fn nothing_written_can_break_it(writes in proptest::collection::vec((0_u64..2, any::<u8>()), 0..200)) {
            let rtc = Rtc::default();
            for (offset, value) in writes {
                rtc.write(offset, &[value]);
                rtc.read(1, &mut [0]);
            }
            // At a host whose clock is a day off the guest's time is what it was.
            let state = lock(&rtc.0).save(LEAP * 1000);
            let text = serde_json::to_string(&state).unwrap();
            let other = Registers::load(&serde_json::from_str(&text).unwrap(), (LEAP - 86_400) * 1000);
            prop_assert_eq!(other.save((LEAP - 86_400) * 1000), state.clone());
            prop_assert_eq!(other.save((LEAP - 86_400) * 1000 + 5).milliseconds, state.milliseconds + 5);
        }
    }
}
