//! The signal of a system call that a filter stopped (seccomp(2), sigaction(2)), and what keeps the C library
//! from making one.
#![expect(
    unsafe_code,
    reason = "a signal handler is installed, and reads what the kernel hands it; an allocator has no other settings"
)]

use super::VIOLATION;
use super::names;
use std::io;
use std::sync::OnceLock;

/// Called before the process ends.
static BEFORE_END: OnceLock<fn()> = OnceLock::new();

/// Where `si_syscall` is in `siginfo_t` on x86-64: after three ints and their padding, and an address.
const SI_SYSCALL: usize = 24;
/// `SYS_SECCOMP` of asm-generic/siginfo.h: the signal comes from a filter.
const SYS_SECCOMP: i32 = 1;

/// From now on the process ends with a message that names the call which a filter stopped.
pub(super) fn name_violations(before_end: fn()) -> io::Result<()> {
    let _ = BEFORE_END.set(before_end);
    // SAFETY: a sigaction of zeros is a valid one: no flags, no mask, the default handler.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = stopped as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
    // SAFETY: `action` is whole, and the handler is of the kind that SA_SIGINFO asks for; the old
    // action is not asked for.
    let done = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How many arenas the allocator shares among all threads. What is allocated while a guest runs is little.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 1;

/// Says how many arenas there may be. Otherwise glibc asks when a ninth thread wants one, and opens a file of
/// `/sys` for that; it opens one of `/proc` when any but the first arena shrinks.
#[cfg(target_env = "gnu")]
pub(super) fn bound_arenas() {
    // SAFETY: it sets a number, under the allocator's own lock. A refusal leaves things as they are.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
}

/// Other C libraries have no arenas.
#[cfg(not(target_env = "gnu"))]
pub(super) fn bound_arenas() {}

/// The handler. It does what signal-safety(7) allows: no allocation, no lock, and system calls that every
/// filter lets pass.
extern "C" fn stopped(_: libc::c_int, info: *const libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel gives a siginfo_t, which has an int for a SIGSYS at that place.
    let (code, number) = unsafe { ((*info).si_code, info.byte_add(SI_SYSCALL).cast::<i32>().read()) };
    let mut thread = [0_u8; 16];
    // SAFETY: PR_GET_NAME writes up to 16 bytes, zero included (prctl(2)).
    unsafe { libc::prctl(libc::PR_GET_NAME, thread.as_mut_ptr()) };
    let len = thread.iter().position(|&byte| byte == 0).unwrap_or(thread.len());
    let thread = std::str::from_utf8(thread.get(..len).unwrap_or_default()).unwrap_or("?");
    if let Some(before_end) = BEFORE_END.get() {
        before_end();
    }
    let mut digits = [0; 12];
    let (name, number) = (names::name(i64::from(number)).unwrap_or("?"), decimal(number, &mut digits));
    let what =
        if code == SYS_SECCOMP { "made the system call " } else { "got a SIGSYS for the system call " };
    for part in [
        "error: the thread ",
        thread,
        " ",
        what,
        name,
        " (number ",
        number,
        "), which it has no business with, so this process ends. If the guest is trusted this is a bug: \
         please report it; --seccomp log lets it run and writes such calls to the audit log, --seccomp off \
         does not look.\n",
    ] {
        // SAFETY: the bytes are there for as long as the call lasts.
        unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: it ends the process at once and runs nothing of it.
    unsafe { libc::_exit(i32::from(VIOLATION)) }
}

/// A number in digits, without allocation.
fn decimal(number: i32, digits: &mut [u8; 12]) -> &str {
    let mut rest = number.unsigned_abs();
    let mut first = digits.len();
    for at in (1..digits.len()).rev() {
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        first = at;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        first -= 1;
        digits[first] = b'-';
    }
    std::str::from_utf8(&digits[first..]).unwrap_or("?")
}

/// Maps so much memory, to be executed or not, and gives it back.
#[cfg(test)]
pub(super) fn map(len: usize, execute: bool) {
    let prot = libc::PROT_READ | if execute { libc::PROT_EXEC } else { libc::PROT_WRITE };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new private mapping, at an address that the kernel chooses; nobody else knows it.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
    assert_ne!(mapped, libc::MAP_FAILED);
    // SAFETY: it was mapped above with this length.
    assert_eq!(unsafe { libc::munmap(mapped, len) }, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_rust_does() {
        for number in [0, 7, 41, 451, -1, i32::MAX, i32::MIN] {
            assert_eq!(decimal(number, &mut [0; 12]), number.to_string());
        }
    }
}
