//! How it stands with a guest.

use super::primary::{Nic, Primary};
use super::secondary::Secondary;
use crate::control::status::{CheckpointStatus, DelayStatus, FlowStatus, GuestStatus, HeldStatus, NicStatus};
use crate::datapath::Slots;
use crate::engine::{Cause, Mode, Nanos, Side};
use crate::link::Netlink;
use crate::live::spec::{Guest, Mode as NodeMode, OnCrash};
use crate::setup::{Installed, Journal};
use colo_ebpf_shared::layout::{Counter, Role};
use std::collections::BTreeMap;

/// Flows that are listed; those that have waited longest.
const HELD_FLOWS: usize = 1000;

fn millis(time: Nanos) -> u64 {
    time.0 / 1_000_000
}

/// A primary's.
pub(super) fn primary(guest: &Primary, now: Nanos) -> GuestStatus {
    let mode = guest.nics.first().map(|nic| nic.engine.mode()).unwrap_or_default();
    let state = match mode {
        Mode::Compare => "protected",
        Mode::Periodic => "periodic",
        Mode::Unprotected => "unprotected",
    };
    GuestStatus {
        name: guest.guest.name.clone(),
        role: "primary".into(),
        state: state.into(),
        waiting_for: waiting_for(guest, mode, now),
        epoch: guest.nics.first().map_or(0, |nic| nic.engine.epoch().0),
        checkpoints: checkpoints(guest, now),
        nics: guest.nics.iter().map(|one| nic(one, now)).collect(),
        failure: None,
    }
}

/// That of one whose thread cannot go on.
pub(super) fn failed(guest: &Guest, journals: &[Journal], why: String) -> GuestStatus {
    let slot = |journal: &Journal| Slots::open(&journal.forward_folder).ok();
    let first = journals.first().and_then(|journal| slot(journal)?.get(journal.index.get()).ok());
    let what_now = match super::node::leaves(guest) {
        OnCrash::Open => "'colo-proxy run' to be protected again: the guest goes on unprotected",
        OnCrash::Closed if guest.mode == NodeMode::Secondary => {
            "'colo-proxy run' or 'colo-proxy teardown': the guest follows, but is told of no checkpoint"
        }
        OnCrash::Closed => "'colo-proxy run' or 'colo-proxy teardown': nothing that the guest sends leaves",
    };
    GuestStatus {
        name: guest.name.clone(),
        role: guest.mode.to_string(),
        state: "failed".into(),
        waiting_for: Some(what_now.into()),
        epoch: first.map_or(0, |slot| u64::from(slot.epoch)),
        nics: journals.iter().map(|journal| kernel(journal, slot(journal).as_ref())).collect(),
        failure: Some(why),
        ..GuestStatus::default()
    }
}

fn waiting_for(guest: &Primary, mode: Mode, now: Nanos) -> Option<String> {
    if mode == Mode::Unprotected {
        return Some("the first complete checkpoint".into());
    }
    if let Some(asked) = guest.asked {
        let since = millis(now.since(asked.at));
        let whom = match guest.performers.present() {
            Some(_) => "",
            None => ", but nobody is there to perform it",
        };
        return Some(format!("a checkpoint, asked for {since} ms ago ({}){whom}", asked.trigger.cause));
    }
    let silent = guest.nics.iter().find(|nic| nic.engine.stats().secondary.frames == 0)?;
    let journal = &silent.installed.journal;
    let stale =
        silent.installed.slots.counters(journal.index.get()).unwrap_or_default()[Counter::Stale as usize];
    if stale > 0 {
        return Some(format!(
            "a secondary of this epoch: {stale} frames on {} are of another one; tell both nodes of checkpoints",
            journal.forward.name
        ));
    }
    Some(format!("the secondary's first frame on {} (index {})", journal.forward.name, journal.index))
}

fn checkpoints(guest: &Primary, now: Nanos) -> CheckpointStatus {
    let first = guest.nics.first().map(|nic| *nic.engine.stats()).unwrap_or_default();
    let mut triggers = BTreeMap::new();
    for (place, cause) in Cause::ALL.into_iter().enumerate() {
        let count: u64 = guest.nics.iter().map(|nic| nic.engine.stats().triggers.get(place)).sum();
        if count > 0 {
            triggers.insert(cause.label().to_owned(), count);
        }
    }
    CheckpointStatus {
        completed: first.checkpoints,
        failed: first.checkpoints_failed,
        triggers,
        outstanding: guest.asked.map(|asked| asked.trigger.cause.label().to_owned()),
        outstanding_ms: guest.asked.map_or(0, |asked| millis(now.since(asked.at))),
        last_ms: guest.last.map(millis),
        performer: guest.performers.present(),
    }
}

fn nic(nic: &Nic, now: Nanos) -> NicStatus {
    let delays = &nic.exit.delays;
    let held = |side| HeldStatus::from(nic.engine.held(side));
    let mut status = kernel(&nic.installed.journal, Some(&nic.installed.slots));
    status.held_flows =
        nic.engine.inspect(HELD_FLOWS).iter().map(|view| FlowStatus::new(view, now)).collect();
    status.flows = nic.engine.flows() as u64;
    status.engine = serde_json::to_value(nic.engine.stats()).ok();
    status.held = Some([held(Side::Primary), held(Side::Secondary)]);
    status.match_delay = Some(DelayStatus {
        count: delays.len(),
        p50_us: delays.value_at_quantile(0.5),
        p90_us: delays.value_at_quantile(0.9),
        p99_us: delays.value_at_quantile(0.99),
        max_us: delays.max(),
    });
    let exit = nic.exit.stats();
    let intake = nic.intake.stats();
    status.kernel.extend([
        ("written".to_owned(), exit.written),
        ("refused".to_owned(), exit.refused),
        ("untagged".to_owned(), intake.untagged),
        ("bad-header".to_owned(), intake.bad_header),
    ]);
    status.capture_dropped = Netlink::open()
        .and_then(|mut netlink| netlink.get(nic.exit.tap().name()))
        .map_or(0, |link| link.tx_dropped);
    status
}

/// A secondary's.
pub(super) fn secondary(guest: &Secondary, _now: Nanos) -> GuestStatus {
    let slot = guest.nics.first().and_then(|nic| nic.slots.get(nic.journal.index.get()).ok());
    let promoted = slot.is_some_and(|slot| Role::from_u32(slot.role) == Role::Promoted);
    let silent = guest.nics.iter().find(|nic| {
        let counted = nic.slots.counters(nic.journal.index.get());
        counted.is_ok_and(|counted| counted[Counter::Delivered as usize] == 0)
    });
    let waiting_for = silent.filter(|_| !promoted).map(|nic| {
        format!("the primary's first frame on {} (index {})", nic.journal.forward.name, nic.journal.index)
    });
    GuestStatus {
        name: guest.guest.name.clone(),
        role: if promoted { "promoted" } else { "secondary" }.into(),
        state: if promoted { "unprotected" } else { "following" }.into(),
        waiting_for,
        epoch: slot.map_or(0, |slot| u64::from(slot.epoch)),
        checkpoints: CheckpointStatus {
            completed: guest.checkpoints,
            performer: guest.performers.present(),
            ..CheckpointStatus::default()
        },
        nics: guest.nics.iter().map(follower).collect(),
        failure: None,
    }
}

fn follower(installed: &Installed) -> NicStatus {
    let mut status = kernel(&installed.journal, Some(&installed.slots));
    status.flows = installed.maps.flows();
    status.addresses = installed.maps.addresses().iter().map(|known| known.address.to_string()).collect();
    status
}

/// What the kernel knows of a NIC.
pub(crate) fn kernel(journal: &Journal, slots: Option<&Slots>) -> NicStatus {
    let Journal { vif, forward, index, bridge, .. } = journal;
    let counted = slots.and_then(|slots| slots.counters(index.get()).ok()).unwrap_or_default();
    NicStatus {
        vif: vif.name.to_string(),
        forward: forward.name.to_string(),
        index: index.get(),
        bridge: bridge.as_ref().map(ToString::to_string),
        kernel: Counter::ALL
            .into_iter()
            .map(|counter| (counter.label().to_owned(), counted[counter as usize]))
            .collect(),
        ..NicStatus::default()
    }
}
