//! How it stands with a guest.

use super::exit::ExitStats;
use super::intake::IntakeStats;
use super::primary::Primary;
use super::secondary::Secondary;
use super::shard::Shard;
use crate::control::status::{
    CheckpointStatus, DelayStatus, FlowStatus, GuestStatus, HeldStatus, NicStatus, QueueStatus,
};
use crate::datapath::Slots;
use crate::engine::{Cause, Mode, Nanos, Side, Stats, Usage};
use crate::link::Netlink;
use crate::live::spec::{Guest, Mode as NodeMode, OnCrash};
use crate::setup::{Installed, Journal};
use colo_ebpf_shared::layout::{Counter, Role};
use hdrhistogram::Histogram;
use serde_json::Value;
use std::collections::BTreeMap;

/// Flows that are listed; those that have waited longest.
const HELD_FLOWS: usize = 1000;

fn millis(time: Nanos) -> u64 {
    time.0 / 1_000_000
}

/// How one queue's comparator stands, as its thread sees it.
#[derive(Debug)]
pub(super) struct LaneView {
    stats: Stats,
    held: [Usage; 2],
    flows: u64,
    held_flows: Vec<FlowStatus>,
    delays: Histogram<u64>,
    exit: ExitStats,
    intake: IntakeStats,
}

/// How it stands with a thread's queues, one for each NIC.
pub(super) fn views(shard: &Shard, now: Nanos) -> Vec<LaneView> {
    let view = |lane: &super::lane::Lane| LaneView {
        stats: *lane.engine.stats(),
        held: [Side::Primary, Side::Secondary].map(|side| lane.engine.held(side)),
        flows: lane.engine.flows() as u64,
        held_flows: lane.engine.inspect(HELD_FLOWS).iter().map(|view| FlowStatus::new(view, now)).collect(),
        delays: lane.exit.delays.clone(),
        exit: lane.exit.stats(),
        intake: lane.intake.stats(),
    };
    shard.lanes.iter().map(view).collect()
}

/// A primary's, from what each of its threads says.
pub(super) fn primary(guest: &Primary, views: &[Vec<LaneView>], now: Nanos) -> GuestStatus {
    let mode = guest.mode();
    let state = match mode {
        Mode::Compare => "protected",
        Mode::Periodic => "periodic",
        Mode::Unprotected => "unprotected",
    };
    let of_nic = |at: usize| views.iter().filter_map(move |thread| thread.get(at)).collect::<Vec<_>>();
    GuestStatus {
        name: guest.guest.name.clone(),
        role: "primary".into(),
        state: state.into(),
        waiting_for: waiting_for(guest, views, mode, now),
        epoch: guest.epoch().0,
        checkpoints: checkpoints(guest, views, now),
        nics: guest.nics.iter().enumerate().map(|(at, installed)| nic(installed, &of_nic(at))).collect(),
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

fn waiting_for(guest: &Primary, views: &[Vec<LaneView>], mode: Mode, now: Nanos) -> Option<String> {
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
    let is_silent =
        |at: usize| views.iter().filter_map(|one| one.get(at)).all(|view| view.stats.secondary.frames == 0);
    let (_, silent) = guest.nics.iter().enumerate().find(|(at, _)| is_silent(*at))?;
    let journal = &silent.journal;
    let stale = silent.slots.counters(journal.index.get()).unwrap_or_default()[Counter::Stale as usize];
    if stale > 0 {
        return Some(format!(
            "a secondary of this epoch: {stale} frames on {} are of another one; tell both nodes of checkpoints",
            journal.forward.name
        ));
    }
    Some(format!("the secondary's first frame on {} (index {})", journal.forward.name, journal.index))
}

fn checkpoints(guest: &Primary, views: &[Vec<LaneView>], now: Nanos) -> CheckpointStatus {
    // Every comparator has seen every checkpoint.
    let first = guest.shard.lanes.first().map(|lane| *lane.engine.stats()).unwrap_or_default();
    let mut triggers = BTreeMap::new();
    for (place, cause) in Cause::ALL.into_iter().enumerate() {
        let count: u64 = views.iter().flatten().map(|view| view.stats.triggers.get(place)).sum();
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

/// A NIC's, put together from its queues.
fn nic(installed: &Installed, queues: &[&LaneView]) -> NicStatus {
    let mut status = kernel(&installed.journal, Some(&installed.slots));
    let Some((first, others)) = queues.split_first() else { return status };
    let mut delays = first.delays.clone();
    let mut engine = serde_json::to_value(first.stats).unwrap_or_default();
    for other in others {
        // Both have the same bounds.
        let _ = delays.add(&other.delays);
        add(&mut engine, &serde_json::to_value(other.stats).unwrap_or_default());
    }
    // A checkpoint is one, however many comparators see it.
    for (label, count) in
        [("checkpoints", first.stats.checkpoints), ("checkpoints_failed", first.stats.checkpoints_failed)]
    {
        engine[label] = count.into();
    }
    let sum = |of: &dyn Fn(&LaneView) -> u64| queues.iter().map(|view| of(view)).sum::<u64>();
    let held = |side: usize| HeldStatus {
        frames: sum(&|view| view.held[side].frames as u64),
        bytes: sum(&|view| view.held[side].bytes as u64),
    };
    status.flows = sum(&|view| view.flows);
    status.engine = Some(engine);
    status.held = Some([held(0), held(1)]);
    status.held_flows = queues.iter().flat_map(|view| view.held_flows.iter().cloned()).collect();
    status.held_flows.sort_by_key(|flow| std::cmp::Reverse(flow.oldest_ms));
    status.held_flows.truncate(HELD_FLOWS);
    status.match_delay = Some(DelayStatus {
        count: delays.len(),
        p50_us: delays.value_at_quantile(0.5),
        p90_us: delays.value_at_quantile(0.9),
        p99_us: delays.value_at_quantile(0.99),
        max_us: delays.max(),
    });
    status.kernel.extend([
        ("written".to_owned(), sum(&|view| view.exit.written)),
        ("refused".to_owned(), sum(&|view| view.exit.refused)),
        ("untagged".to_owned(), sum(&|view| view.intake.untagged)),
        ("bad-header".to_owned(), sum(&|view| view.intake.bad_header)),
    ]);
    let capture = installed.slots.get(installed.journal.index.get()).map_or(0, |slot| slot.capture);
    status.capture_dropped = Netlink::open()
        .and_then(|mut netlink| netlink.get_by_index(capture))
        .map_or(0, |link| link.tx_dropped);
    if !others.is_empty() {
        status.queues = queues.iter().map(|view| queue(view)).collect();
    }
    status
}

fn queue(view: &LaneView) -> QueueStatus {
    QueueStatus {
        frames: [view.stats.primary.frames, view.stats.secondary.frames],
        released: view.stats.released,
        held: view.held.map(HeldStatus::from),
        flows: view.flows,
        triggers: view.stats.triggers.total(),
    }
}

/// Adds counters to counters of the same names.
fn add(sum: &mut Value, other: &Value) {
    match (sum, other) {
        (Value::Object(sum), Value::Object(other)) => {
            for (label, count) in other {
                sum.entry(label).and_modify(|sum| add(sum, count)).or_insert_with(|| count.clone());
            }
        }
        (sum, other) => {
            if let (Some(one), Some(two)) = (sum.as_u64(), other.as_u64()) {
                *sum = one.saturating_add(two).into();
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counters_of_several_queues_add_up_by_name() {
        let mut sum = json!({"released": 3, "primary": {"frames": 1, "discards": {"stale": 2}}});
        add(&mut sum, &json!({"released": 4, "primary": {"frames": 5, "discards": {"stale": 0}}}));
        assert_eq!(sum, json!({"released": 7, "primary": {"frames": 6, "discards": {"stale": 2}}}));
        // What the engine counts is nothing but counters and groups of them.
        let engine = serde_json::to_value(Stats::default()).unwrap();
        let is_count = |value: &Value| value.is_u64() || value.is_object();
        assert!(engine.as_object().unwrap().values().all(is_count), "{engine}");
    }
}
