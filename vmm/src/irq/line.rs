//! A pin of KVM's interrupt controllers.

use super::Line;
use crate::kvm::Vm;
use std::sync::Arc;

/// A pin: GSI 0–23 of the PIC and the I/O APIC.
#[derive(Clone, Debug)]
pub struct Pin {
    vm: Arc<Vm>,
    gsi: u32,
}

impl Pin {
    /// The pin that has a number.
    pub fn new(vm: Arc<Vm>, gsi: u32) -> Self {
        Self { vm, gsi }
    }
}

impl Line for Pin {
    fn set(&self, high: bool) {
        // KVM refuses numbers that it has no route for, and nothing else.
        if let Err(error) = self.vm.set_line(self.gsi, high) {
            tracing::warn!(gsi = self.gsi, %error, "an interrupt is lost");
        }
    }
}
