//! The data path in the kernel, seen from outside: programs are loaded and attached here, and the
//! maps that they share with us are read and written.
//!
//! ```text
//!   <bpffs>/colo-proxy/v1/<network namespace>/
//!     forward-<number>/  nics  counters  ingress            one for each forward device, shared
//!     nic-<number>-<process>/  flows  addresses  ingress  egress    one for each protected NIC
//! ```
//!
//! Pins are named by numbers: a BPF file system refuses dots, which vifs have in their names. The
//! namespace's number is in the path because interface numbers repeat in each, and the layouts'
//! version, because maps of another one must not be taken for ours.

mod attach;
mod load;
mod maps;
mod pins;
mod programs;
mod sys;

pub use attach::{Attached, Hook, Hooks, Place};
pub use load::load;
pub use maps::{Known, NicMaps, Slots};
pub(crate) use pins::remove;
pub use pins::{Pins, netns};
pub use programs::{Programs, attach_pinned};

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Something of the kernel's part that does not work.
#[derive(Debug, Error)]
pub enum DatapathError {
    /// The place for pins cannot be used.
    #[error("cannot {what} {}: {error}", path.display())]
    Place {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// The programs cannot be loaded.
    #[error("cannot load the eBPF programs: {0}{hint}", hint = hint(.0))]
    Load(String),
    /// A program cannot be attached.
    #[error("cannot attach {program} to {device}: {why}")]
    Attach {
        /// Which program.
        program: &'static str,
        /// Where to.
        device: String,
        /// What the kernel said.
        why: String,
    },
    /// A map cannot be read or written.
    #[error("cannot {what} the map {map}: {why}")]
    Map {
        /// What was tried.
        what: &'static str,
        /// Which one.
        map: &'static str,
        /// What the kernel said.
        why: String,
    },
}

fn hint(why: &str) -> &'static str {
    let denied = why.contains("ermission") || why.contains("not permitted") || why.contains("os error 1)");
    if denied {
        "; this needs CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN before Linux 5.8)"
    } else {
        "; Linux 5.17 with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF is the oldest that will do"
    }
}

/// Joins an error and what caused it, as aya's messages leave the cause to the chain.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    // A verifier's log is for `COLO_LOG=debug`, not for a line.
    let line = text.trim_start().lines().next().unwrap_or_default();
    line.chars().take(300).collect()
}
