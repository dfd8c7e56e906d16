//! What of a vCPU `kvm-ioctls` does not show: the page that it shares with KVM, the host's
//! counter, `KVM_SET_XSAVE`.
#![expect(unsafe_code, reason = "the page is shared memory, with a union in it; the others take pointers")]

use kvm_bindings::{kvm_run, kvm_xsave};
use kvm_ioctls::VcpuFd;
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
