//! What of a vCPU `kvm-ioctls` does not show: the page that it shares with KVM, its counter, `KVM_SET_XSAVE`.
#![expect(unsafe_code, reason = "the page is shared memory, with a union in it; the others take pointers")]

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_device_attr, kvm_run, kvm_xsave};
use kvm_ioctls::VcpuFd;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use vmm_sys_util::errno;

/// A vCPU's shared page, for its own thread and for those who kick it. It is closed before it is unmapped.
#[derive(Debug)]
pub(super) struct RunPage(Mutex<Option<NonNull<kvm_run>>>);

// SAFETY: the pointer is only followed under the lock and while the page is mapped; the fields read
// through it are written by the kernel alone, in KVM_RUN, and read by the thread that called it.
unsafe impl Send for RunPage {}
// SAFETY: as above; the one field that other threads write is accessed as an atomic.
unsafe impl Sync for RunPage {}

/// What KVM says of a failure of its own.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct InternalError {
    pub(super) suberror: u32,
    pub(super) data: Vec<u64>,
}

impl RunPage {
    pub(super) fn new(fd: &mut VcpuFd) -> Self {
        Self(Mutex::new(Some(NonNull::from(fd.get_kvm_run()))))
    }

    /// To be called before the vCPU is dropped.
    pub(super) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn with<T>(&self, what: impl FnOnce(NonNull<kvm_run>) -> T) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(what)
    }

    /// Makes the next entry into the guest return at once, after it has finished what the last exit began.
    pub(super) fn set_immediate_exit(&self, value: bool) {
        self.with(|page| {
            // SAFETY: the page is mapped (it is not closed), the field is one byte, and everyone here
            // accesses it as an atomic. The kernel reads it once per entry.
            let flag = unsafe { AtomicU8::from_ptr(&raw mut (*page.as_ptr()).immediate_exit) };
            flag.store(u8::from(value), Ordering::SeqCst);
        });
    }

    /// How wide each of the accesses is that a port exit of `len` bytes brings.
    pub(super) fn port_width(&self, len: usize) -> usize {
        if len <= 1 {
            return 1;
        }
        // SAFETY: the page is mapped, and only plain bytes are read: whatever member of the union the
        // kernel wrote, they are initialised. The caller has a port exit, so they are its width.
        let width = self.with(|page| unsafe { (*page.as_ptr()).__bindgen_anon_1.io.size });
        usize::from(width.unwrap_or(1)).max(1)
    }

    /// What the exit "internal error" brings.
    pub(super) fn internal_error(&self) -> InternalError {
        self.with(|page| {
            // SAFETY: as in `port_width`; the member is plain numbers.
            let internal = unsafe { (*page.as_ptr()).__bindgen_anon_1.internal };
            let len = internal.data.len().min(internal.ndata as usize);
            InternalError { suberror: internal.suberror, data: internal.data[..len].to_vec() }
        })
        .unwrap_or_default()
    }
}

/// Sets the extended registers.
pub(super) fn set_xsave(fd: &VcpuFd, xsave: &kvm_xsave) -> Result<(), errno::Error> {
    // SAFETY: KVM reads more than this struct only for features that a process must ask for
    // (ARCH_REQ_XCOMP_GUEST_PERM), which this one never does.
    unsafe { fd.set_xsave(xsave) }
}

/// The host's time stamp counter.
pub(super) fn host_counter() -> u64 {
    // SAFETY: it reads a register that every x86-64 has, and nothing else.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// `KVM_SET_DEVICE_ATTR`, `KVM_GET_DEVICE_ATTR` and `KVM_HAS_DEVICE_ATTR` (linux/kvm.h): `kvm-ioctls` has
/// them for vCPUs of other architectures.
const SET_ATTRIBUTE: libc::c_ulong = 0x4018_aee1;
const GET_ATTRIBUTE: libc::c_ulong = 0x4018_aee2;
const HAS_ATTRIBUTE: libc::c_ulong = 0x4018_aee3;

/// Calls with the attribute "offset of the time stamp counter", which is at `place`.
fn offset_attribute(fd: &VcpuFd, call: libc::c_ulong, place: &mut u64) -> Result<(), errno::Error> {
    let attribute = kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: std::ptr::from_mut(place).expose_provenance() as u64,
    };
    // SAFETY: the three calls read this struct, whose size is in their numbers; of what it points to they
    // read or write eight bytes, which are `place`'s.
    match unsafe { libc::ioctl(fd.as_raw_fd(), call, &raw const attribute) } {
        0 => Ok(()),
        _ => Err(errno::Error::last()),
    }
}

/// Whether KVM knows offsets of the time stamp counter (Linux 5.16).
pub(super) fn has_counter_offset(fd: &VcpuFd) -> bool {
    offset_attribute(fd, HAS_ATTRIBUTE, &mut 0).is_ok()
}

/// How much is added to the host's counter.
pub(super) fn counter_offset(fd: &VcpuFd) -> Result<u64, errno::Error> {
    let mut offset = 0;
    offset_attribute(fd, GET_ATTRIBUTE, &mut offset)?;
    Ok(offset)
}

/// Sets that.
pub(super) fn set_counter_offset(fd: &VcpuFd, mut offset: u64) -> Result<(), errno::Error> {
    offset_attribute(fd, SET_ATTRIBUTE, &mut offset)
}
