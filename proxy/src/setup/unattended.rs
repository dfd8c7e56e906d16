//! What was set up and has no process: secondaries that were left to themselves, and what a process
//! that died left behind.

use super::SetupError;
use super::journal::{Journal, Store};
use crate::control::status::{GuestStatus, NodeStatus};
use crate::datapath::{NicMaps, Slots};
use crate::live::report;
use crate::live::spec::{Mode, Places};
use colo_ebpf_shared::layout::Role;
use std::path::Path;

/// Looks at what journals below this run directory say.
pub fn unattended(run: &Path) -> Result<Vec<NodeStatus>, SetupError> {
    let places = Places { run: run.to_owned(), ..Places::default() };
    if !Store::exists(&places)? {
        return Ok(Vec::new());
    }
    let alone = |journal: &Journal| journal.owner.is_none_or(|owner| !owner.is_alive());
    let journals = Store::open(&places)?.all()?;
    Ok(journals.iter().filter(|journal| alone(journal)).map(node).collect())
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
    let (shown, state) = match (journal.mode, role) {
        (Mode::Secondary, Role::Promoted) => ("promoted", "unprotected"),
        (Mode::Secondary, Role::Secondary) => ("secondary", "following"),
        (Mode::Primary, Role::Primary) => ("primary", "abandoned"),
        (mode, _) => (if mode == Mode::Primary { "primary" } else { "secondary" }, "gone"),
    };
    let waiting_for = journal.owner.map(|owner| {
        format!(
            "'colo-proxy run' or 'colo-proxy teardown --vif {}': process {} is gone, and nothing leaves \
             that it held",
            journal.vif.name, owner.pid
        )
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
