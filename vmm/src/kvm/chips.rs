//! What KVM's interrupt controllers and timer know.
//!
//! ```text
//!   PIC (two)   I/O APIC   PIT
//! ```
//!
//! The PIT says when its channels began by the host's clock, which is nobody else's: here it is how long ago
//! that was.

use super::mirror::{Same, mirror};
use super::sys::{self, Controller};
use super::{Error, Vm};
use kvm_bindings::{kvm_pic_state, kvm_pit_channel_state, kvm_pit_state2};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Pins of the I/O APIC.
const PINS: usize = 24;

mirror! {
    /// A PIC (8259).
    PicState of kvm_pic_state {
        last_irr: u8, irr: u8, imr: u8, isr: u8, priority_add: u8, irq_base: u8, read_reg_select: u8, poll: u8,
        special_mask: u8, init_state: u8, auto_eoi: u8, rotate_on_auto_eoi: u8, special_fully_nested_mode: u8,
        init4: u8, elcr: u8, elcr_mask: u8,
    }
}

/// The I/O APIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApicState {
    /// Where its registers are.
    pub base_address: u64,
    /// Which register is selected.
    pub register_select: u32,
    /// Its number.
    pub id: u32,
    /// Interrupts that it has not delivered.
    pub requests: u32,
    /// What becomes of each pin's interrupts, as the redirection registers have it.
    pub redirections: [u64; PINS],
}

mirror! {
    /// A channel of the timer.
    ChannelState of kvm_pit_channel_state {
        count: u32, latched_count: u16, count_latched: u8, status_latched: u8, status: u8, read_state: u8,
        write_state: u8, write_latch: u8, rw_mode: u8, mode: u8, bcd: u8, gate: u8,
        /// How many nanoseconds ago its count was loaded.
        age: Age = count_load_time,
    }
}

/// Nanoseconds; KVM's are the host's clock's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Age(pub u64);

impl Same<i64> for Age {
    fn of(theirs: &i64) -> Self {
        Self(host_clock().saturating_sub(u64::try_from(*theirs).unwrap_or(0)))
    }
    fn back(&self) -> i64 {
        // A channel that is older than the host began when the host did.
        i64::try_from(host_clock().saturating_sub(self.0)).unwrap_or(i64::MAX)
    }
}

fn host_clock() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The timer (8254).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PitState {
    /// Its channels.
    pub channels: [ChannelState; 3],
    /// KVM's flags.
    pub flags: u32,
}

impl PitState {
    /// Without what changes by itself.
    fn settled(mut self) -> Self {
        for channel in &mut self.channels {
            channel.age = Age(0);
        }
        self
    }
}

/// All of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chips {
    /// The first PIC and the second.
    pub pics: [PicState; 2],
    /// The I/O APIC.
    pub io_apic: IoApicState,
    /// The timer.
    pub pit: PitState,
}

impl Vm {
    /// What its controllers and its timer know. No vCPU runs.
    pub fn chips(&self) -> Result<Chips, Error> {
        let mut chips = Chips::default();
        for (pic, which) in chips.pics.iter_mut().zip([Controller::FirstPic, Controller::SecondPic]) {
            *pic = (&sys::pic(self.fd(), which).map_err(Error::call("a PIC's state"))?).into();
        }
        chips.io_apic = sys::io_apic(self.fd()).map_err(Error::call("the I/O APIC's state"))?;
        let pit = self.fd().get_pit2().map_err(Error::call("the timer's state"))?;
        chips.pit = PitState { channels: pit.channels.each_ref().map(Into::into), flags: pit.flags };
        Ok(chips)
    }

    /// Makes them know that. No vCPU runs. What is the same already is left alone: a timer that is set begins
    /// its count anew.
    pub fn set_chips(&self, chips: &Chips) -> Result<(), Error> {
        let before = self.chips()?;
        let pics = chips.pics.iter().zip(&before.pics).zip([Controller::FirstPic, Controller::SecondPic]);
        for ((pic, before), which) in pics {
            if pic != before {
                sys::set_pic(self.fd(), which, &pic.into()).map_err(Error::call("a PIC's new state"))?;
            }
        }
        if chips.io_apic != before.io_apic {
            sys::set_io_apic(self.fd(), &chips.io_apic).map_err(Error::call("the I/O APIC's new state"))?;
        }
        if chips.pit.settled() != before.pit.settled() {
            let channels = chips.pit.channels.each_ref().map(Into::into);
            let pit = kvm_pit_state2 { channels, flags: chips.pit.flags, ..Default::default() };
            self.fd().set_pit2(&pit).map_err(Error::call("the timer's new state"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::Kvm;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn vm() -> Vm {
        Vm::new(&Kvm::open().unwrap(), Arc::new(crate::memory::new(2 << 20).unwrap())).unwrap()
    }

    /// What a guest can program, with no interrupt under way: those KVM delivers, with or without a vCPU.
    fn chips() -> impl Strategy<Value = Chips> {
        let pic = (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(imr, base, elcr)| PicState {
            imr,
            irq_base: base & 0xf8,
            elcr: elcr & 0xf8,
            elcr_mask: 0xf8,
            ..PicState::default()
        });
        let entry = (any::<u8>(), any::<u8>(), 0_u64..8).prop_map(|(vector, destination, mode)| {
            const MASKED: u64 = 1 << 16;
            u64::from(vector) | mode << 8 | MASKED | u64::from(destination) << 56
        });
        let io_apic = (any::<u8>(), 0_u32..16, proptest::array::uniform24(entry));
        let channel = (1_u32..65536, 1_u8..4, any::<bool>());
        let pit = proptest::array::uniform3(channel);
        (proptest::array::uniform2(pic), io_apic, pit).prop_map(|(pics, (select, id, redirections), pit)| {
            let channels = pit.map(|(count, rw_mode, gate)| ChannelState {
                count,
                rw_mode,
                gate: u8::from(gate),
                // One shot: the count is not begun anew by itself.
                mode: 4,
                ..ChannelState::default()
            });
            Chips {
                pics,
                io_apic: IoApicState {
                    base_address: 0xfec0_0000,
                    register_select: select.into(),
                    id,
                    requests: 0,
                    redirections,
                },
                pit: PitState { channels, flags: 0 },
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_loaded_is_saved_again(one in chips(), other in chips()) {
            let vm = vm();
            for chips in [one, other, one] {
                vm.set_chips(&chips).unwrap();
                let saved = vm.chips().unwrap();
                let settled = |chips: Chips| Chips { pit: chips.pit.settled(), ..chips };
                prop_assert_eq!(settled(saved), settled(chips));
            }
        }
    }

    #[test]
    fn a_timer_says_how_long_ago_it_began_and_not_when() {
        let vm = vm();
        let mut chips = vm.chips().unwrap();
        chips.pit.channels[2] =
            ChannelState { count: 1000, rw_mode: 3, age: Age(5_000_000), ..ChannelState::default() };
        vm.set_chips(&chips).unwrap();
        let age = vm.chips().unwrap().pit.channels[2].age.0;
        assert!((5_000_000..3_600_000_000_000).contains(&age), "{age}");
    }
}
