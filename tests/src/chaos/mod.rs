//! Long trials of checkpoints: a guest that checks itself is killed, saved, kept level and taken over, over and
//! over. Everything happens on one machine with a true KVM: a lab machine, or a host that has one.
//!
//! ```text
//!   outside   starts lab machines, each with a share of the work ── runs itself in them ──┐
//!   Boot      what the guest is: a kernel, an initramfs or a Debian, its loads            │
//!   Node      one colo-vm: its console, its QMP, its process        ◄────────────────────┘
//!   kills     at random instants one of two is killed; the other goes on, and is one of two again
//!   disks     the primary dies; what is on the secondary's disks is judged, from inside and from outside
//!   level     many checkpoints, then the primary is killed
//!   Wire      a tap to the guest, and a stream that it has to give back as it was
//!   restore   saved under load, and again from the file in a new process
//! ```

mod boot;
mod console;
mod disks;
mod kills;
mod level;
mod node;
mod outside;
mod restore;
mod wire;

pub use boot::{Boot, BootArgs};
pub use disks::{Disks, disks};
pub use kills::{Kills, kills};
pub use level::{Level, level};
pub use node::Node;
pub use outside::{Guest, Trial, in_labs};
pub use restore::{Restores, restores};

use std::time::{Duration, Instant};

/// Says how far a trial is, with the time that it has taken.
fn say(begun: Instant, words: &str) {
    eprintln!("{:7.1} s  {words}", begun.elapsed().as_secs_f64());
}

/// How long anything may take that is not a load's own work. A lab machine on a busy host is slow, not dead.
const PATIENCE: Duration = Duration::from_mins(15);
