//! KVM: what the host must have, a VM, and its interrupt controllers.
//!
//! ```text
//!   /dev/kvm ──open──► Kvm ──create──► Vm ──┬─ memory slots, and who tells which pages are written
//!             (checks)  │                   ├─ PIC, I/O APIC, PIT
//!                       └─ probe: is it     ├─ ioeventfds (a notification without an exit to us)
//!                          fast enough?     └─ vCPUs ──► vcpu
//! ```

mod chips;
mod counters;
pub(crate) mod mirror;
mod open;
mod probe;
mod rings;
mod sys;
mod tracking;
mod vm;

pub use chips::{ChannelState, Chips, IoApicState, PicState, PitState};
pub use counters::Counters;
pub use open::Kvm;
pub use probe::Speed;
pub(crate) use sys::{counter_offset, set_counter_offset};
pub use tracking::{Tracked, Tracking};
pub use vm::{PortWidth, Vm};

use thiserror::Error;
use vmm_sys_util::errno;

/// KVM does not do what is needed.
#[derive(Debug, Error)]
pub enum Error {
    /// The device cannot be opened.
    #[error("cannot open /dev/kvm: {source}; {hint}")]
    Open {
        /// Why.
        source: errno::Error,
        /// What can be done.
        hint: &'static str,
    },
    /// It is not the KVM that everyone has since 2007.
    #[error("/dev/kvm speaks version {0} of its interface, and 12 is needed: is it KVM?")]
    Version(i32),
    /// Something is not there.
    #[error("this host's KVM has no {0}, which every guest needs; a newer kernel has it")]
    Missing(&'static str),
    /// A call failed.
    #[error("KVM refuses {what}: {source}")]
    Call {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        source: errno::Error,
    },
    /// It says that a page was written which the guest has not.
    #[error("KVM says that page {page:#x} of memory slot {slot} was written, which the guest does not have")]
    Written {
        /// The slot.
        slot: u32,
        /// The page's number in it.
        page: u64,
    },
    /// It wrote over what it noted.
    #[error(
        "KVM noted more written pages than its ring has room for, and lost some, which a KVM that emulates guests \
         does (see dmesg): use its log instead"
    )]
    Overrun,
    /// It does not reset its rings.
    #[error("KVM resets no entry of its rings of written pages, though {0} were taken")]
    NotReset(u64),
    /// All interrupt routes are taken.
    #[error("no interrupt route is left: KVM has {0}, and devices have all of them")]
    Routes(usize),
}

impl Error {
    /// For `map_err`: says what was asked for.
    pub(crate) fn call(what: &'static str) -> impl Fn(errno::Error) -> Self {
        move |source| Self::Call { what, source }
    }
}
