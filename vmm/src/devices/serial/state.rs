//! What COM1 knows.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// A 16550's registers, its FIFO, and what waits to get into it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the registers have their names from the 16550's data sheet")]
pub struct SerialState {
    pub baud_divisor_low: u8,
    pub baud_divisor_high: u8,
    pub interrupt_enable: u8,
    pub interrupt_identification: u8,
    pub line_control: u8,
    pub line_status: u8,
    pub modem_control: u8,
    pub modem_status: u8,
    pub scratch: u8,
    pub fifo: Vec<u8>,
    pub waiting: Vec<u8>,
}

/// What `vm-superio` holds at most.
const FIFO: usize = 64;

impl SerialState {
    pub(super) fn new(state: &vm_superio::SerialState, waiting: &VecDeque<u8>) -> Self {
        Self {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            fifo: state.in_buffer.clone(),
            waiting: waiting.iter().copied().collect(),
        }
    }

    pub(super) fn registers(&self) -> vm_superio::SerialState {
        vm_superio::SerialState {
            baud_divisor_low: self.baud_divisor_low,
            baud_divisor_high: self.baud_divisor_high,
            interrupt_enable: self.interrupt_enable,
            interrupt_identification: self.interrupt_identification,
            line_control: self.line_control,
            line_status: self.line_status,
            modem_control: self.modem_control,
            modem_status: self.modem_status,
            scratch: self.scratch,
            in_buffer: self.fifo.iter().copied().take(FIFO).collect(),
        }
    }
}
