//! The map values of `colo-ebpf-shared` as plain old data.
#![allow(unsafe_code, reason = "aya takes a type's word for it that any bytes are a value of it")]

use colo_ebpf_shared::{layout, translate};

macro_rules! pod {
    ($($name:ident = $inner:ty;)*) => {
        $(
            #[derive(Clone, Copy, Debug)]
            #[repr(transparent)]
            pub(super) struct $name(pub(super) $inner);

            // SAFETY: plain integers and arrays of them without padding, which a test in the shared
            // crate checks; every bit pattern is a value.
            unsafe impl aya::Pod for $name {}
        )*
    };
}

pod! {
    Nic = layout::Nic;
    Counters = layout::Counters;
    FlowKey = layout::FlowKey;
    Flow = translate::Flow;
    AddressKey = layout::AddressKey;
    Address = layout::Address;
}

/// The object, aligned as its reader needs it.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/object/colo.bpf.o"));

/// A thread, as something to send signals to.
pub(super) struct ThisThread(libc::pthread_t);

impl ThisThread {
    /// Runs `work` on this thread, with a handle of it that can be given to others for so long.
    pub(super) fn lend<T>(work: impl for<'a> FnOnce(&'a Self) -> T) -> T {
        // SAFETY: takes nothing and cannot fail.
        work(&Self(unsafe { libc::pthread_self() }))
    }

    /// Sends SIGUSR1.
    pub(super) fn poke(&self) {
        // SAFETY: it was made by that thread, and [`ThisThread::lend`] does not outlive its caller.
        unsafe { libc::pthread_kill(self.0, libc::SIGUSR1) };
    }
}

/// From now on SIGUSR1 interrupts, and that is all it does.
pub(super) fn interrupt_only() {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler = nothing as *const () as libc::sighandler_t;
    // SAFETY: the handler touches nothing, and nobody else here uses this signal.
    unsafe { libc::signal(libc::SIGUSR1, handler) };
}
