//! Positioned vectored I/O from and into guest memory, and locks.
#![expect(
    unsafe_code,
    reason = "preadv(2), pwritev(2) and fcntl(2) take pointers; each block says why they are right"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;
use vmm_sys_util::eventfd::EventFd;

/// An event's descriptor, which is open as long as it is.
pub(super) fn event(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open while the event lives, which the lifetime says.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// The most buffers in one call (`IOV_MAX`).
pub(super) const MAX_BUFFERS: usize = 1024;

/// A slice of guest memory without its bitmap.
pub(super) fn plain<'a, B: BitmapSlice>(slice: &VolatileSlice<'a, B>) -> VolatileSlice<'a> {
    // SAFETY: the same memory, for the same lifetime; a volatile slice may alias others.
    unsafe { VolatileSlice::new(slice.ptr_guard_mut().as_ptr(), slice.len()) }
}

/// Fills buffers with zeros.
pub(super) fn zero(buffers: &[VolatileSlice<'_>]) {
    for buffer in buffers {
        // SAFETY: the slice says that so many bytes are there and may be written; the guest may write
        // them at the same time, which is its own matter.
        unsafe { std::ptr::write_bytes(buffer.ptr_guard_mut().as_ptr(), 0, buffer.len()) }
    }
}

/// The kernel's form of buffers, less the first `skip` bytes.
fn vectors(buffers: &[VolatileSlice<'_>], mut skip: usize) -> Vec<libc::iovec> {
    let mut out = Vec::with_capacity(buffers.len().min(MAX_BUFFERS));
    for buffer in buffers {
        let cut = skip.min(buffer.len());
        skip -= cut;
        if cut < buffer.len() && out.len() < MAX_BUFFERS {
            let base = buffer.ptr_guard_mut().as_ptr().wrapping_add(cut).cast();
            out.push(libc::iovec { iov_base: base, iov_len: buffer.len() - cut });
        }
    }
    out
}

fn len(buffers: &[VolatileSlice<'_>]) -> usize {
    buffers.iter().map(VolatileSlice::len).sum()
}

fn result(returned: isize) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

fn position(offset: u64, done: usize) -> io::Result<i64> {
    let end = offset.checked_add(done as u64).and_then(|end| i64::try_from(end).ok());
    end.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{offset} is no offset in a file")))
}

/// Reads all of the buffers, zeros beyond the file's end.
pub(super) fn read(file: &File, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
    let (mut done, all) = (0, len(buffers));
    while done < all {
        let vectors = vectors(buffers, done);
        let at = position(offset, done)?;
        // SAFETY: each vector is a part of a slice, which is memory that may be written while it lives.
        match result(unsafe { libc::preadv(file.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32, at) }) {
            Ok(0) => {
                for vector in &vectors {
                    // SAFETY: as above.
                    unsafe { std::ptr::write_bytes(vector.iov_base.cast::<u8>(), 0, vector.iov_len) }
                    done += vector.iov_len;
                }
            }
            Ok(len) => done += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of the buffers.
pub(super) fn write(file: &File, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
    let (mut done, all) = (0, len(buffers));
    while done < all {
        let vectors = vectors(buffers, done);
        let at = position(offset, done)?;
        // SAFETY: each vector is a part of a slice, which is memory that may be read while it lives.
        match result(unsafe { libc::pwritev(file.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32, at) }) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => done += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn byte_lock(kind: i32, byte: i64) -> libc::flock {
    // SAFETY: a flock is numbers alone, for which zero is a value; l_pid has to be zero here.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    lock.l_start = byte;
    lock.l_len = 1;
    lock
}

/// Takes a shared lock on one byte, for as long as the file is open.
pub(super) fn share_byte(file: &File, byte: i64) -> io::Result<()> {
    let lock = byte_lock(libc::F_RDLCK, byte);
    // SAFETY: the kernel reads one flock.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether another open file holds any lock on a byte.
pub(super) fn byte_is_held(file: &File, byte: i64) -> io::Result<bool> {
    let mut lock = byte_lock(libc::F_WRLCK, byte);
    // SAFETY: the kernel reads and writes one flock.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) } {
        0 => Ok(i32::from(lock.l_type) != libc::F_UNLCK),
        _ => Err(io::Error::last_os_error()),
    }
}
