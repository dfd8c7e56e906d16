//! A journal, backwards.

use super::SetupError;
use super::journal::{ForwardJournal, Journal, Step, Store};
use crate::datapath::{self, Hooks, Slots};
use crate::link::{Link, LinkError, Netlink};
use colo_ebpf_shared::layout::{Nic, Role};
use std::fs;
use std::io;
use std::path::Path;

/// Undoes what a journal says was done, or was about to be, and removes it. Goes on where a step
/// fails, and reports the first failure; the journal then stays, so that it can be tried again.
pub(super) fn undo(store: &Store, journal: &Journal, netlink: &mut Netlink) -> Result<(), SetupError> {
    undo_steps(journal, netlink)?;
    let mut of = Some(journal);
    while let Some(one) = of {
        release_forward(store, one, netlink)?;
        of = one.replaces.as_deref();
    }
    store.remove(&journal.vif.name)
}

/// Undoes the steps of a journal, and of what it took over.
pub(super) fn undo_steps(journal: &Journal, netlink: &mut Netlink) -> Result<(), SetupError> {
    let mut first = Ok(());
    for step in journal.steps.iter().rev() {
        let outcome = undo_step(step, journal, netlink);
        if let Err(error) = &outcome {
            tracing::warn!("{}: cannot undo {step:?}: {error}", journal.vif.name);
        }
        first = first.and(outcome);
    }
    match &journal.replaces {
        Some(before) => first.and(undo_steps(before, netlink)),
        None => first,
    }
}

fn undo_step(step: &Step, journal: &Journal, netlink: &mut Netlink) -> Result<(), SetupError> {
    match step {
        Step::Folder(path) => Ok(datapath::remove(path)?),
        Step::Slot => free_slot(journal),
        Step::Pinned(path) => unpin(path),
        Step::Filter { place, priority, handle, .. } => {
            // By its number: a device of the same name may be another by now, with another's filters.
            let Some(vif) = present(netlink, journal.vif.number)? else { return Ok(()) };
            delete_filter(&vif.name, *place, *priority, *handle)
        }
        Step::Qdisc => {
            let Some(vif) = present(netlink, journal.vif.number)? else { return Ok(()) };
            Ok(netlink.remove_bare_clsact(&vif).map(drop)?)
        }
        Step::Port { before } => give_back(journal, *before, netlink),
    }
}

fn delete_filter(device: &str, place: datapath::Place, priority: u16, handle: u32) -> Result<(), SetupError> {
    Hooks::delete_filter(device, place, priority, handle).map_err(|error| {
        SetupError::Link(LinkError::Refused { what: format!("delete a filter of {device}"), error })
    })
}

fn free_slot(journal: &Journal) -> Result<(), SetupError> {
    // Maps that are gone hold no slot.
    if !journal.forward_folder.join("nics").exists() {
        return Ok(());
    }
    let mut slots = Slots::open(&journal.forward_folder)?;
    let index = journal.index.get();
    if slots.get(index)?.vif == journal.vif.number {
        slots.set(index, &Nic { role: Role::None as u32, ..Nic::default() })?;
    }
    Ok(())
}

fn unpin(path: &Path) -> Result<(), SetupError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SetupError::File { what: "remove", path: path.to_owned(), error })
        }
        _ => Ok(()),
    }
}

/// Makes the vif a port of what it was a port of, if it is still the same interface.
fn give_back(journal: &Journal, before: Option<u32>, netlink: &mut Netlink) -> Result<(), SetupError> {
    let Some(vif) = present(netlink, journal.vif.number)? else { return Ok(()) };
    if vif.master == before {
        return Ok(());
    }
    let master = match before {
        None => None,
        // A bridge that is gone has no ports.
        Some(number) => present(netlink, number)?,
    };
    Ok(netlink.set_master(&vif, master.as_ref())?)
}

fn present(netlink: &mut Netlink, number: u32) -> Result<Option<Link>, SetupError> {
    match netlink.get_by_index(number) {
        Err(LinkError::Missing(_)) => Ok(None),
        link => Ok(Some(link?)),
    }
}

/// The last NIC of a forward device leaves it as it was.
pub(super) fn release_forward(
    store: &Store,
    journal: &Journal,
    netlink: &mut Netlink,
) -> Result<(), SetupError> {
    let number = journal.forward.number;
    if store.is_shared(number, &journal.vif) {
        return Ok(());
    }
    let Some(forward) = store.forward(number)? else {
        return Ok(datapath::remove(&journal.forward_folder)?);
    };
    restore_forward(&forward, netlink)?;
    store.remove_forward(number)
}

/// Leaves a forward device as it was before its first NIC.
pub(super) fn restore_forward(forward: &ForwardJournal, netlink: &mut Netlink) -> Result<(), SetupError> {
    match &forward.program {
        Some(Step::Pinned(path)) => unpin(path)?,
        Some(Step::Filter { place, priority, handle, .. }) => {
            if let Some(link) = present(netlink, forward.device.number)? {
                delete_filter(&link.name, *place, *priority, *handle)?;
            }
        }
        _ => {}
    }
    datapath::remove(&forward.folder)?;
    let Some(link) = present(netlink, forward.device.number)? else { return Ok(()) };
    if forward.qdisc {
        netlink.remove_bare_clsact(&link)?;
    }
    if link.promiscuous && !forward.was_promiscuous {
        netlink.set_promiscuous(&link, false)?;
    }
    if link.up && !forward.was_up {
        netlink.set_up(&link, false)?;
    }
    Ok(())
}
