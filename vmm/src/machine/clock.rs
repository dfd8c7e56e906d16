//! The guest's clocks: they stand while it stands.

use crate::devices::pm::Stopwatch;
use crate::kvm::Vm;
use kvm_bindings::kvm_clock_data;
use std::sync::Arc;

/// kvmclock, and the ACPI timer's clock.
#[derive(Debug)]
pub(super) struct Clocks {
    vm: Arc<Vm>,
    timer: Arc<Stopwatch>,
    stood_at: Option<u64>,
}

impl Clocks {
    /// They stand at first.
    pub(super) fn new(vm: Arc<Vm>, timer: Arc<Stopwatch>) -> Self {
        Self { vm, timer, stood_at: None }
    }

    /// To be called when no vCPU runs.
    pub(super) fn stop(&mut self) {
        self.timer.stop();
        match self.vm.fd().get_clock() {
            Ok(clock) => self.stood_at = Some(clock.clock),
            Err(error) => tracing::warn!(%error, "the guest's clock goes on while it stands"),
        }
    }

    /// To be called before a vCPU runs.
    pub(super) fn start(&mut self) {
        if let Some(clock) = self.stood_at.take() {
            // Without flags: from where it stood, not from where the host's clock is now.
            if let Err(error) = self.vm.fd().set_clock(&kvm_clock_data { clock, ..Default::default() }) {
                tracing::warn!(%error, "the guest's clock jumps over its pause");
            }
        }
        self.timer.start();
    }
}
