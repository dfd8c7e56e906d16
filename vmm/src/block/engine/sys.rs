//! Guest memory as the kernel wants it.
#![expect(unsafe_code, reason = "the kernel is given pointers into guest memory")]

use super::{Act, MAX_SPANS, Operation};
use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};
use std::io;
use std::os::fd::AsRawFd;
use vm_memory::GuestMemoryBackend;

/// An operation, and the vectors that the kernel reads. They stay where they are until it is done.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) operation: Operation,
    vectors: Vec<libc::iovec>,
}

// SAFETY: the pointers are into the guest's memory, which `operation` keeps mapped and which any thread
// may access.
unsafe impl Send for Pinned {}

impl Pinned {
    pub(super) fn new(operation: Operation) -> io::Result<Self> {
        if operation.spans.len() > MAX_SPANS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many buffers in one request"));
        }
        let vector = |span: &super::Span| {
            let slice = operation.ram.get_slice(span.address, span.len).map_err(io::Error::other)?;
            let base = slice.ptr_guard_mut().as_ptr().cast();
            Ok(libc::iovec { iov_base: base, iov_len: span.len })
        };
        let vectors = operation.spans.iter().map(vector).collect::<io::Result<_>>()?;
        Ok(Self { operation, vectors })
    }

    /// Does it on this thread.
    pub(super) fn perform(&self) -> io::Result<usize> {
        let fd = self.operation.file.as_raw_fd();
        let (vectors, count) = (self.vectors.as_ptr(), self.vectors.len() as i32);
        let offset = i64::try_from(self.operation.offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        loop {
            // SAFETY: each vector is a slice of guest memory, which stays mapped while `operation` lives; it
            // may be read and written at any time, as the guest does.
            let returned = unsafe {
                match self.operation.act {
                    Act::Read => libc::preadv(fd, vectors, count, offset),
                    Act::Write => libc::pwritev(fd, vectors, count, offset),
                    Act::Sync => libc::fdatasync(fd) as isize,
                }
            };
            match usize::try_from(returned).map_err(|_| io::Error::last_os_error()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// As an entry of a ring; `fixed` is the number of a registered file.
    fn entry(&self, fixed: Option<u32>, user_data: u64) -> Entry {
        let Operation { act, offset, file, .. } = &self.operation;
        let (vectors, count) = (self.vectors.as_ptr(), self.vectors.len() as u32);
        macro_rules! on {
            ($fd:expr) => {
                match (act, self.vectors.as_slice()) {
                    // One buffer needs no vector, which the kernel would have to copy.
                    (Act::Read, [one]) if u32::try_from(one.iov_len).is_ok() => {
                        opcode::Read::new($fd, one.iov_base.cast(), one.iov_len as u32)
                            .offset(*offset)
                            .build()
                    }
                    (Act::Write, [one]) if u32::try_from(one.iov_len).is_ok() => {
                        opcode::Write::new($fd, one.iov_base.cast(), one.iov_len as u32)
                            .offset(*offset)
                            .build()
                    }
                    (Act::Read, _) => opcode::Readv::new($fd, vectors, count).offset(*offset).build(),
                    (Act::Write, _) => opcode::Writev::new($fd, vectors, count).offset(*offset).build(),
                    (Act::Sync, _) => opcode::Fsync::new($fd).flags(types::FsyncFlags::DATASYNC).build(),
                }
            };
        }
        let entry = match fixed {
            Some(index) => on!(types::Fixed(index)),
            None => on!(types::Fd(file.as_raw_fd())),
        };
        entry.user_data(user_data)
    }

    /// Puts it into a ring. Whoever calls keeps it, unmoved in the heap, until the ring says that it is
    /// done; [`super::uring::Uring`] does, and waits for that even when it is dropped.
    pub(super) fn enqueue(&self, ring: &mut IoUring, fixed: Option<u32>, user_data: u64) -> io::Result<()> {
        let entry = self.entry(fixed, user_data);
        // SAFETY: the vectors and the memory they point to outlive the operation, as said above.
        unsafe { ring.submission().push(&entry) }.map_err(|_| io::ErrorKind::WouldBlock.into())
    }
}
