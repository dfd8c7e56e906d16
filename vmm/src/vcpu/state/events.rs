//! What is under way between two instructions: exceptions, interrupts, a start.

use crate::kvm::mirror::mirror;
use kvm_bindings::kvm_vcpu_events;

mirror! {
    /// Exceptions and interrupts that are under way.
    Events of kvm_vcpu_events {
        exception_injected: bool = exception.injected,
        exception_number: u8 = exception.nr,
        exception_has_error_code: bool = exception.has_error_code,
        exception_pending: bool = exception.pending,
        exception_error_code: u32 = exception.error_code,
        exception_has_payload: bool = exception_has_payload,
        exception_payload: u64 = exception_payload,
        interrupt_injected: bool = interrupt.injected,
        interrupt_number: u8 = interrupt.nr,
        interrupt_soft: bool = interrupt.soft,
        interrupt_shadow: u8 = interrupt.shadow,
        nmi_injected: bool = nmi.injected,
        nmi_pending: u8 = nmi.pending,
        nmi_masked: bool = nmi.masked,
        sipi_vector: u32,
        flags: u32,
        smm: bool = smi.smm,
        smi_pending: bool = smi.pending,
        smm_inside_nmi: bool = smi.smm_inside_nmi,
        latched_init: bool = smi.latched_init,
        triple_fault_pending: bool = triple_fault.pending,
    }
}
