//! What was set up and has no process: secondaries that were left to themselves, and what a process
//! that died left behind.

use super::SetupError;
use super::journal::{Journal, Step, Store};
use crate::control::status::{GuestStatus, NodeStatus};
use crate::datapath::{NicMaps, Place, Slots};
use crate::live::report;
use crate::live::spec::{Mode, Places};
use colo_ebpf_shared::layout::Role;
use std::fs;
use std::io;
use std::path::Path;

/// Looks at what journals below this run directory say.
pub fn unattended(run: &Path) -> Result<Vec<NodeStatus>, SetupError> {
    let places = Places { run: run.to_owned(), ..Places::default() };
    if !Store::exists(&places)? {
        return Ok(Vec::new());
    }
    let journals = Store::open(&places)?.all()?.with_warnings();
    Ok(journals.iter().filter(|journal| journal.keeper().is_none()).map(node).collect())
}

fn is_missing(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Whether a step keeps what a guest sends from leaving, even when nobody lives.
fn holds(step: &Step) -> bool {
    match step {
        Step::Pinned(path) => path.ends_with(Place::VifIngress.program()),
        Step::Filter { place, .. } => *place == Place::VifIngress,
        _ => false,
    }
}

fn node(journal: &Journal) -> NodeStatus {
    let slots = Slots::open(&journal.forward_folder).ok();
    let slot = slots.as_ref().and_then(|slots| slots.get(journal.index.get()).ok());
    let role = slot.map_or(Role::None, |slot| Role::from_u32(slot.role));
    let mut nic = report::kernel(journal, slots.as_ref());
    if let (Mode::Secondary, Ok(maps)) = (journal.mode, NicMaps::open(&journal.nic_folder)) {
        nic.flows = maps.flows();
        nic.addresses = maps.addresses().iter().map(|known| known.address.to_string()).collect();
    }
    // Programs that were to end with their process have.
    let open = journal.mode == Mode::Primary && !journal.steps.iter().any(holds);
    let (shown, state) = match (journal.mode, role) {
        (Mode::Primary, Role::Primary) if open => ("primary", "unprotected"),
        (Mode::Secondary, Role::Promoted) => ("promoted", "unprotected"),
        (Mode::Secondary, Role::Secondary) => ("secondary", "following"),
        (Mode::Primary, Role::Primary) => ("primary", "abandoned"),
        // Whoever may not look must not think that there is nothing.
        (mode, _) if slots.is_none() && !is_missing(&journal.forward_folder.join("nics")) => (
            if mode == Mode::Primary { "primary" } else { "secondary" },
            "unknown: permission denied, try as root",
        ),
        (mode, _) => (if mode == Mode::Primary { "primary" } else { "secondary" }, "gone"),
    };
    let waiting_for = journal.owner.map(|owner| {
        let so = match journal.mode {
            Mode::Primary if open => "the guest goes on unprotected",
            Mode::Primary => "nothing that the guest sends leaves",
            Mode::Secondary if role == Role::Promoted => "the guest serves on",
            Mode::Secondary => "the guest follows, but is told of no checkpoint",
        };
        let Journal { vif, abandoned, .. } = journal;
        let why = abandoned.as_ref().map_or_else(|| format!("process {} is gone", owner.pid), Clone::clone);
        format!("'colo-proxy run' or 'colo-proxy teardown --vif {}': {why}, and {so}", vif.name)
    });
    let guest = GuestStatus {
        name: journal.guest.clone(),
        role: shown.into(),
        state: state.into(),
        waiting_for,
        epoch: slot.map_or(0, |slot| u64::from(slot.epoch)),
        nics: vec![nic],
        ..GuestStatus::default()
    };
    NodeStatus { version: env!("CARGO_PKG_VERSION").to_owned(), guests: vec![guest], ..NodeStatus::default() }
}
