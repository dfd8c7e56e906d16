//! A guest and its checkpoints as metrics, for Prometheus.
//!
//! ```text
//!   Controls ── state, Status ──► families colo_vm_… ──► colo_proxy's scrape server (--metrics)
//! ```
//!
//! Labels: `guest`; and `state`, `role` and `phase`, `cause`, `quantile`, or `disk` and `phase`.

use crate::checkpoint::disks::{self, Phase as Disk};
use crate::checkpoint::status::{Cause, Phase, Role, Status};
use crate::control::{Controls, RunState};
use colo_proxy::control::families::{self, Families, Label};
use serde::Serialize;
use std::fmt;

/// The text of one scrape.
pub fn text(name: &str, controls: &Controls) -> Result<String, fmt::Error> {
    let (name, state) = (name.to_owned(), controls.guest.state());
    let status = controls.colo.as_ref().map(|colo| colo.status());
    families::text("colo_vm", move |out| {
        let guest = ("guest", name.as_str());
        running(out, guest, state)?;
        status.as_ref().map_or(Ok(()), |status| checkpoints(out, guest, status))
    })
}

/// The word for something in JSON, which is the word for it everywhere.
fn word(of: impl Serialize) -> String {
    serde_json::to_value(of).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

fn running(out: &mut Families<'_>, guest: Label<'_>, state: RunState) -> fmt::Result {
    out.info("build", "The program", &[("version", env!("CARGO_PKG_VERSION"))])?;
    out.gauge("guest_state", "What the guest does", &|all| all.level(&[guest, ("state", &word(state))], 1))?;
    out.gauge("guest_running", "Whether its vCPUs run", &|all| {
        all.level(&[guest], u64::from(state == RunState::Running))
    })
}

const PHASES: [Phase; 6] =
    [Phase::Connecting, Phase::Syncing, Phase::Level, Phase::Checkpoint, Phase::Lost, Phase::Alone];

/// A level of a disk: its name, what it is, and where it is found.
type Level = (&'static str, &'static str, fn(&disks::Status) -> u64);

const DISK_PHASES: [Disk; 7] = [
    Disk::Unprotected,
    Disk::Connecting,
    Disk::Syncing,
    Disk::Replicating,
    Disk::Following,
    Disk::Committing,
    Disk::Promoted,
];

fn disks(out: &mut Families<'_>, guest: Label<'_>, disks: &[disks::Status]) -> fmt::Result {
    out.gauge("disk_phase", "What a disk does: 1 for that, 0 for everything else", &|all| {
        disks.iter().try_for_each(|disk| {
            DISK_PHASES.into_iter().try_for_each(|phase| {
                let labels = [guest, ("disk", &disk.device), ("phase", &word(phase))];
                all.level(&labels, u64::from(phase == disk.phase))
            })
        })
    })?;
    let levels: [Level; 5] = [
        ("disk_missing_bytes", "What the secondary may not have", |disk| disk.missing),
        ("disk_unsent_bytes", "What is still to be read and sent to it", |disk| disk.unsent),
        ("disk_pending_bytes", "What is on its way, or of an epoch that is not complete", |disk| {
            disk.pending
        }),
        ("disk_left_bytes", "What a secondary has still to write into its image", |disk| disk.left),
        ("disk_spilled_bytes", "What of that is in the spill file", |disk| disk.spilled),
    ];
    for (name, help, of) in levels {
        out.gauge(name, help, &|all| {
            disks.iter().try_for_each(|disk| all.level(&[guest, ("disk", &disk.device)], of(disk)))
        })?;
    }
    let counts: [Level; 2] = [
        ("disk_waits", "Changes that found no room on their way, or waited for it", |disk| disk.waits),
        ("disk_errors", "What was refused or failed", |disk| disk.errors),
    ];
    for (name, help, of) in counts {
        out.counter(name, help, &|all| {
            disks.iter().try_for_each(|disk| all.count(&[guest, ("disk", &disk.device)], of(disk)))
        })?;
    }
    out.bytes_counter("disk_moved", "Bytes that were sent, or written into a secondary's image", &|all| {
        disks.iter().try_for_each(|disk| all.count(&[guest, ("disk", &disk.device)], disk.moved))
    })
}

fn checkpoints(out: &mut Families<'_>, guest: Label<'_>, status: &Status) -> fmt::Result {
    let role = match status.role {
        Role::Primary => "primary",
        Role::Secondary => "secondary",
    };
    out.gauge("phase", "What this side does: 1 for that, 0 for everything else", &|all| {
        PHASES.into_iter().try_for_each(|phase| {
            let is = u64::from(phase == status.phase);
            all.level(&[guest, ("role", role), ("phase", &word(phase))], is)
        })
    })?;
    out.gauge("epoch", "The last checkpoint that is complete on the secondary; 0 is none", &|all| {
        all.level(&[guest], status.epoch)
    })?;
    for (name, help, value) in [
        ("checkpoints", "Checkpoints that were completed", status.checkpoints),
        ("checkpoints_failed", "Checkpoints that came to nothing", status.failed),
        ("sessions", "Times that a peer was met", status.sessions),
        ("checkpoint_pages", "Pages that were sent or received for checkpoints", status.pages),
        ("missed_beats", "Heartbeats that did not come in time", status.missed_beats),
        ("refused_peers", "Peers that were refused", status.refused),
    ] {
        out.counter(name, help, &|all| all.count(&[guest], value))?;
    }
    out.bytes_counter("checkpoint", "Bytes that were sent or received for checkpoints", &|all| {
        all.count(&[guest], status.bytes)
    })?;
    out.counter("checkpoint_causes", "Checkpoints that were asked for, by cause", &|all| {
        Cause::ALL.into_iter().try_for_each(|cause| {
            let count = status.causes.get(&cause).copied().unwrap_or_default();
            all.count(&[guest, ("cause", &word(cause))], count)
        })
    })?;
    out.gauge("sync_left_pages", "Pages that this round of the first transfer still has", &|all| {
        all.level(&[guest], status.sync.left)
    })?;
    out.seconds("checkpoint_delay", "The time between two checkpoints that nothing else asks for", &|all| {
        all.time(&[guest], status.delay.as_secs_f64())
    })?;
    disks(out, guest, &status.disks)?;
    let Some(last) = &status.last else { return Ok(()) };
    out.seconds("stood", "How long the guest stood for a checkpoint, of the last 1024", &|all| {
        ["0.5", "0.99", "1"]
            .into_iter()
            .zip(status.stood)
            .try_for_each(|(quantile, time)| all.time(&[guest, ("quantile", quantile)], time.as_secs_f64()))
    })?;
    for (name, help, time) in [
        ("last_stood", "How long the guest stood for the last checkpoint", last.stood.total),
        ("transfer", "How long the last checkpoint took to be sent", last.transfer),
        ("load", "How long the secondary took to load it", last.load),
    ] {
        out.seconds(name, help, &|all| all.time(&[guest], time.as_secs_f64()))?;
    }
    Ok(())
}
