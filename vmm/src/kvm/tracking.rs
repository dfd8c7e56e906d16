//! How KVM tells which pages a guest wrote: chosen when a VM is made, as KVM wants it.
//!
//! ```text
//!   Log    a bitmap per memory slot: read whole, cleared by ranges; cleared pages are protected again
//!   Ring   a ring per vCPU: entries are taken, then all taken pages are protected again at once
//! ```

use super::Error;
use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
    KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, kvm_dirty_gfn, kvm_enable_cap,
};
use kvm_ioctls::VmFd;
use std::ffi::c_ulong;

/// What is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tracking {
    /// What is best of what the host has.
    #[default]
    Auto,
    /// The log.
    Log,
    /// The rings, of so many entries, or as many as KVM has if that is less; a power of two.
    Ring(u32),
}

/// What a VM has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracked {
    /// The log. A page stays in it until it is cleared, which protects it again.
    Log,
    /// Rings of so many entries.
    Ring(u32),
    /// The host's KVM has neither; guests run, but have no checkpoints.
    Not,
}

/// The fewest entries of a ring: KVM keeps some 600 for itself, and stops the vCPU when only those are left.
const LEAST: u32 = 1024;

impl Tracking {
    /// Rings of the most entries that KVM has: a vCPU need seldom empty its own.
    pub const RING: Self = Self::Ring(1 << 16);

    /// Asks KVM for it. The VM has no vCPU yet.
    pub(super) fn set_up(self, fd: &VmFd) -> Result<Tracked, Error> {
        match self {
            Self::Auto | Self::Log if log_flags(fd) != 0 => set_up_log(fd),
            Self::Auto if ring(fd).is_some() => Self::RING.set_up(fd),
            Self::Auto => Ok(Tracked::Not),
            Self::Log => Err(Error::Missing(
                "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 (a log of written pages, since Linux 5.2)",
            )),
            Self::Ring(entries) => set_up_ring(fd, entries),
        }
    }
}

/// What the log can do. Where pages begin as dirty KVM need not protect all of them when logging starts.
fn log_flags(fd: &VmFd) -> u64 {
    const WANTED: u32 = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
    let flags = fd.check_extension_raw(c_ulong::from(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2));
    u64::try_from(flags).unwrap_or(0) & u64::from(WANTED)
}

fn set_up_log(fd: &VmFd) -> Result<Tracked, Error> {
    let mut cap = kvm_enable_cap { cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, ..Default::default() };
    cap.args[0] = log_flags(fd);
    fd.enable_cap(&cap).map_err(Error::call("a log of written pages"))?;
    Ok(Tracked::Log)
}

/// Under which capability it has rings, and of how many entries at most. The newer one is the same on x86.
fn ring(fd: &VmFd) -> Option<(u32, u32)> {
    [KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING].into_iter().find_map(|cap| {
        let bytes = u32::try_from(fd.check_extension_raw(c_ulong::from(cap))).ok()?;
        let entries = bytes / size_of::<kvm_dirty_gfn>() as u32;
        (entries >= LEAST).then_some((cap, entries))
    })
}

/// Never with a log whose pages begin as dirty: KVM would not protect them, and writes would not be seen.
fn set_up_ring(fd: &VmFd, entries: u32) -> Result<Tracked, Error> {
    let (capability, most) = ring(fd)
        .ok_or(Error::Missing("KVM_CAP_DIRTY_LOG_RING (rings of written pages, since Linux 5.11)"))?;
    let entries = entries.clamp(LEAST, most);
    let mut cap = kvm_enable_cap { cap: capability, ..Default::default() };
    cap.args[0] = u64::from(entries) * size_of::<kvm_dirty_gfn>() as u64;
    fd.enable_cap(&cap).map_err(Error::call("rings of written pages"))?;
    Ok(Tracked::Ring(entries))
}
