//! Having the privileges that are needed, and none that are not.
//!
//! ```text
//!   require ─► set up (root, or capabilities of the file) ─► keep ─► look at what strangers send
//!                                                            │ effective, permitted  only those named
//!                                                            │ inheritable, ambient  none
//!                                                            │ bounding              only those named
//!                                                            └ no_new_privs          nothing gives any back
//! ```
//!
//! Capabilities belong to a thread, and a new thread has those of the one that starts it: [`keep`]
//! comes before all others. What has to do more later, such as a checkpoint command, is started
//! before as a process of its own ([`live::hook`](crate::live::hook)).
//!
//! A process of root still owns root's files; what it can read and write of them is not a matter of
//! capabilities.

mod capability;

pub use capability::Capability;

use capability::{list, union};
use rustix::io::Errno;
use rustix::thread::{self, CapabilitySet, CapabilitySets};
use thiserror::Error;

/// Privileges that are missing or do not go.
#[derive(Debug, Error)]
pub enum PrivilegeError {
    /// Something needed is not there.
    #[error(
        "this needs {}, and {} {} missing; run it as root, or: setcap {}+ep {program}",
        list(needed),
        list(missing),
        if missing.len() == 1 { "is" } else { "are" },
        needed.iter().map(|capability| capability.name()).collect::<Vec<_>>().join(",")
    )]
    Missing {
        /// All that is needed.
        needed: Vec<Capability>,
        /// What of it is not there.
        missing: Vec<Capability>,
        /// This program's file.
        program: String,
    },
    /// The kernel did not do it.
    #[error("cannot {what}: {error}; is a security module or a seccomp filter in the way?")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// What it said.
        error: Errno,
    },
}

fn kernel(what: &'static str) -> impl FnOnce(Errno) -> PrivilegeError {
    move |error| PrivilegeError::Kernel { what, error }
}

/// Checks that the calling thread has all of these, and may use them.
pub fn require(needed: &[Capability]) -> Result<(), PrivilegeError> {
    let sets = thread::capabilities(None).map_err(kernel("read the capabilities"))?;
    let missing: Vec<Capability> = needed
        .iter()
        .copied()
        .filter(|capability| !(sets.permitted & sets.effective).contains(capability.bit()))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let program = std::env::current_exe()
        .map_or_else(|_| "the program's file".to_owned(), |path| path.display().to_string());
    Err(PrivilegeError::Missing { needed: needed.to_vec(), missing, program })
}

/// Gives up everything but these, for the calling thread and what it starts, for good.
///
/// Without `CAP_SETPCAP` the bounding set cannot be changed; it is out of reach all the same,
/// because with `no_new_privs` no program that is executed gains what it lacks.
pub fn keep(capabilities: &[Capability]) -> Result<(), PrivilegeError> {
    require(capabilities)?;
    let kept = union(capabilities);
    thread::set_no_new_privs(true).map_err(kernel("set no_new_privs"))?;
    thread::clear_ambient_capability_set().map_err(kernel("clear the ambient capabilities"))?;
    let sets = thread::capabilities(None).map_err(kernel("read the capabilities"))?;
    if sets.effective.contains(CapabilitySet::SETPCAP) {
        bound(kept)?;
    } else {
        tracing::debug!("without CAP_SETPCAP the bounding set stays as it is");
    }
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    thread::set_capabilities(None, sets).map_err(kernel("give up capabilities"))
}

/// Takes everything else out of the bounding set, capabilities that are newer than this program
/// included.
fn bound(kept: CapabilitySet) -> Result<(), PrivilegeError> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match thread::capability_is_in_bounding_set(capability) {
            // The kernel knows none of this number, nor any above.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(kernel("read the bounding set")(error)),
            Ok(true) if !kept.contains(capability) => {
                thread::remove_capability_from_bounding_set(capability)
                    .map_err(kernel("take a capability out of the bounding set"))?;
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Capability::{Bpf, NetAdmin};
    use super::*;
    use std::fs;
    use std::process::Command;

    /// Set in a process that this test starts to run itself in.
    const CHILD: &str = "COLO_TEST_PRIVILEGE_CHILD";

    /// A line of the calling thread's status, as a number.
    fn status(field: &str) -> u64 {
        let text = fs::read_to_string("/proc/thread-self/status").unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":")).unwrap();
        u64::from_str_radix(value.trim(), 16).unwrap()
    }

    /// Runs this test in a process of its own, because nothing gives privileges back.
    fn in_a_child(test: &str) {
        let this = std::env::current_exe().unwrap();
        let arguments = ["--exact", test, "--nocapture", "--test-threads=1"];
        let output = Command::new(this).args(arguments).env(CHILD, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    #[test]
    fn what_is_kept_is_all_there_is() {
        if std::env::var_os(CHILD).is_none() {
            return in_a_child("privilege::tests::what_is_kept_is_all_there_is");
        }
        let (before, bounding) = (status("CapEff"), status("CapBnd"));
        // Who may do nothing can keep nothing, and has to be content with that.
        let kept: &[Capability] = if CapabilitySet::from_bits_retain(before).contains(union(&[NetAdmin, Bpf]))
        {
            &[NetAdmin, Bpf]
        } else {
            &[]
        };
        keep(kept).unwrap();
        let bits = union(kept).bits();
        assert_eq!((status("CapEff"), status("CapPrm")), (bits, bits));
        assert_eq!((status("CapInh"), status("CapAmb"), status("NoNewPrivs")), (0, 0, 1));
        let can_bound = CapabilitySet::from_bits_retain(before).contains(CapabilitySet::SETPCAP);
        assert_eq!(status("CapBnd"), if can_bound { bounding & bits } else { bounding });

        // Threads and programs that are started now have no more than that.
        assert_eq!(std::thread::spawn(|| status("CapPrm")).join().unwrap(), bits);
        let cat = Command::new("cat").arg("/proc/self/status").output().unwrap().stdout;
        let cat = String::from_utf8(cat).unwrap();
        let permitted = cat.lines().find_map(|line| line.strip_prefix("CapPrm:")).unwrap();
        assert_eq!(u64::from_str_radix(permitted.trim(), 16).unwrap() & !bits, 0);

        // What is gone cannot be kept, and what is there can be given up.
        let error = keep(&[Capability::SysAdmin]).unwrap_err().to_string();
        assert!(error.contains("CAP_SYS_ADMIN is missing"), "{error}");
        keep(&[]).unwrap();
        assert_eq!(status("CapPrm"), 0);
        let error = require(&[NetAdmin, Bpf]).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "this needs CAP_NET_ADMIN and CAP_BPF, and CAP_NET_ADMIN and CAP_BPF are missing"
            ),
            "{error}"
        );
        assert!(error.contains("run it as root, or: setcap cap_net_admin,cap_bpf+ep /"), "{error}");
    }
}
