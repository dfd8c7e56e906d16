//! What KVM's interrupt controllers and timer know.
//!
//! ```text
//!   PIC (two)   I/O APIC   PIT
//! ```
//!
//! The PIT also says when its channels began, by the host's clock: that is nobody else's, and KVM begins each
//! count anew when it is set, whatever it is told.

use super::mirror::mirror;
use super::sys::{self, Controller};
use super::{Error, Vm};
use kvm_bindings::{kvm_pic_state, kvm_pit_channel_state, kvm_pit_state2};
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
    }
}

/// The timer (8254).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PitState {
    /// Its channels.
    pub channels: [ChannelState; 3],
    /// KVM's flags.
    pub flags: u32,
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
        if chips.pit != before.pit {
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
                // A hardware strobe: KVM has no timer for that, and so no interrupt.
                mode: 5,
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
                prop_assert_eq!(vm.chips().unwrap(), chips);
            }
        }
    }
}
