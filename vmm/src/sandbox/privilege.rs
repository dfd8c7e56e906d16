//! Giving up privileges, once everything is open.
//!
//! Capabilities and `no_new_privs` belong to a thread, and a new thread has those of the one that starts
//! it; so this comes before all other threads.

use crate::config::User;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{self, CapabilitySet, CapabilitySets};
use thiserror::Error;

/// Privileges that do not go.
#[derive(Debug, Error)]
pub enum PrivilegeError {
    /// The user cannot be changed.
    #[error("cannot become {user}: {error}; start it as root, or as that user without --user")]
    User {
        /// Whom.
        user: User,
        /// What the kernel said.
        error: Errno,
    },
    /// Everything else.
    #[error("cannot {what}: {error}; is a security module or a seccomp filter in the way?")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        error: Errno,
    },
}

fn kernel(what: &'static str) -> impl FnOnce(Errno) -> PrivilegeError {
    move |error| PrivilegeError::Kernel { what, error }
}

/// Becomes this user, if one is named, and gives up every capability, for the calling thread and what it
/// starts, for good.
///
/// Without `CAP_SETPCAP` the bounding set cannot be changed; it is out of reach all the same, because
/// with `no_new_privs` no program that is executed gains what it lacks.
pub fn give_up_privileges(user: Option<&User>) -> Result<(), PrivilegeError> {
    thread::set_no_new_privs(true).map_err(kernel("set no_new_privs"))?;
    thread::clear_ambient_capability_set().map_err(kernel("clear the ambient capabilities"))?;
    let sets = thread::capabilities(None).map_err(kernel("read the capabilities"))?;
    if sets.effective.contains(CapabilitySet::SETPCAP) {
        empty_bounding_set()?;
    }
    if let Some(user) = user {
        become_user(user).map_err(|error| PrivilegeError::User { user: user.clone(), error })?;
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    thread::set_capabilities(None, sets).map_err(kernel("give up capabilities"))
}

/// Groups first: afterwards it may not.
fn become_user(user: &User) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    let own = (rustix::process::geteuid(), rustix::process::getegid()) == (uid, gid);
    if own && !uid.is_root() {
        return Ok(());
    }
    thread::set_thread_groups(&[])?;
    thread::set_thread_res_gid(gid, gid, gid)?;
    thread::set_thread_res_uid(uid, uid, uid)
}

/// Capabilities that are newer than this program included.
fn empty_bounding_set() -> Result<(), PrivilegeError> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match thread::capability_is_in_bounding_set(capability) {
            // The kernel knows none of this number, nor any above.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(kernel("read the bounding set")(error)),
            Ok(true) => thread::remove_capability_from_bounding_set(capability)
                .map_err(kernel("take a capability out of the bounding set"))?,
            Ok(false) => {}
        }
    }
    Ok(())
}
