//! A status as metrics, in the `OpenMetrics` text format that Prometheus reads.
//!
//! ```text
//!   NodeStatus ─► families (one table each for what a guest, a NIC and its comparator count) ─► text
//! ```
//!
//! Labels: `guest`, `vif`, `side` (primary, secondary), and `cause`, `event` or `quantile`.

use super::families::{self, Families, Family, Label};
use super::status::{GuestStatus, NicStatus, NodeStatus};
use serde_json::Value;
use std::fmt;

/// The metrics of a status.
pub fn text(status: NodeStatus) -> Result<String, fmt::Error> {
    let snapshot = Snapshot(status);
    families::text("colo", move |out| {
        snapshot.node(out)?;
        snapshot.guests(out)?;
        snapshot.nics(out)?;
        snapshot.comparators(out)
    })
}

/// Counters of the comparator: where in its object, the metric's name, what it is.
const COUNTED: [(&str, &str, &str); 13] = [
    ("/verified_bytes", "verified_bytes", "Bytes of streams and messages that were compared equal"),
    ("/acks_lowered", "acks_lowered_frames", "Frames whose acknowledgement or window was lowered"),
    ("/acks_injected", "acks_injected_frames", "Acknowledgements that were let out later"),
    ("/gaps_told", "gaps_told_frames", "Acknowledgements that told of what only the secondary misses"),
    ("/frames_cut", "cut_frames", "Frames that were cut, because only their beginning was verified"),
    ("/reordered", "reordered_messages", "Messages that matched out of order"),
    ("/syn_options_tolerated", "syn_options_tolerated_segments", "SYNs whose options differ tolerably"),
    ("/reassembled", "reassembled_datagrams", "Datagrams put together from fragments"),
    ("/flows_created", "new_flows", "Flows that were made"),
    ("/flows_evicted", "evicted_flows", "Idle flows that were forgotten for want of room"),
    ("/streams_restarted", "restarted_streams", "Streams that began anew on known ports"),
    ("/checkpoints", "comparator_checkpoints", "Checkpoints that the comparator was told of"),
    ("/checkpoints_failed", "comparator_checkpoints_failed", "Failed checkpoints that it was told of"),
];

/// The same by cause.
const BY_CAUSE: [(&str, &str, &str); 3] = [
    ("/divergences", "divergences", "Outputs that differ, at most one per flow and epoch"),
    ("/triggers", "triggers", "Checkpoints that the comparator asked for"),
    ("/triggers_merged", "triggers_merged", "Further reasons for a checkpoint that was asked for already"),
];

const SIDES: [&str; 2] = ["primary", "secondary"];

#[derive(Debug)]
struct Snapshot(NodeStatus);

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

impl Snapshot {
    fn each_guest(&self, mut each: impl FnMut(&GuestStatus, Label<'_>) -> fmt::Result) -> fmt::Result {
        self.0.guests.iter().try_for_each(|guest| each(guest, ("guest", &guest.name)))
    }

    fn each_nic(&self, mut each: impl FnMut(&NicStatus, [Label<'_>; 2]) -> fmt::Result) -> fmt::Result {
        self.each_guest(|guest, name| {
            guest.nics.iter().try_for_each(|nic| each(nic, [name, ("vif", &nic.vif)]))
        })
    }

    fn node(&self, out: &mut Families<'_>) -> fmt::Result {
        let node = &self.0;
        out.info("build", "The program", &[("version", node.version.as_str())])?;
        out.seconds("uptime", "How long the process has run", &|all| all.time(&[], seconds(node.uptime_ms)))
    }

    fn guests(&self, out: &mut Families<'_>) -> fmt::Result {
        out.gauge("guest_state", "The guest's role and state", &|all| {
            self.each_guest(|guest, name| {
                all.level(&[name, ("role", &guest.role), ("state", &guest.state)], 1)
            })
        })?;
        out.gauge("guest_waiting", "Whether something is missing before it goes on", &|all| {
            self.each_guest(|guest, name| all.level(&[name], u64::from(guest.waiting_for.is_some())))
        })?;
        out.gauge("epoch", "The current epoch", &|all| {
            self.each_guest(|guest, name| all.level(&[name], guest.epoch))
        })?;
        out.counter("checkpoints", "Checkpoints that ended, by outcome", &|all| {
            self.each_guest(|guest, name| {
                all.count(&[name, ("outcome", "completed")], guest.checkpoints.completed)?;
                all.count(&[name, ("outcome", "failed")], guest.checkpoints.failed)
            })
        })?;
        out.counter("checkpoint_requests", "Checkpoints that were asked for, by cause", &|all| {
            self.each_guest(|guest, name| {
                let mut causes = guest.checkpoints.triggers.iter();
                causes.try_for_each(|(cause, count)| all.count(&[name, ("cause", cause)], *count))
            })
        })?;
        out.seconds("checkpoint_outstanding", "How long one has been asked for; 0 if none is", &|all| {
            self.each_guest(|guest, name| {
                let checkpoints = &guest.checkpoints;
                let ms = checkpoints.outstanding.as_ref().map_or(0, |_| checkpoints.outstanding_ms);
                all.time(&[name], seconds(ms))
            })
        })?;
        out.seconds("checkpoint_last", "From the last request to the end of its checkpoint", &|all| {
            self.each_guest(|guest, name| {
                guest.checkpoints.last_ms.map_or(Ok(()), |ms| all.time(&[name], seconds(ms)))
            })
        })?;
        out.gauge("checkpoint_performer", "Whether somebody is there to perform checkpoints", &|all| {
            self.each_guest(|guest, name| {
                all.level(&[name], u64::from(guest.checkpoints.performer.is_some()))
            })
        })
    }

    fn nics(&self, out: &mut Families<'_>) -> fmt::Result {
        out.counter("kernel_events", "What the programs in the kernel counted", &|all| {
            self.each_nic(|nic, [guest, vif]| {
                let mut events = nic.kernel.iter();
                events.try_for_each(|(event, count)| all.count(&[guest, vif, ("event", event)], *count))
            })
        })?;
        out.counter("capture_dropped_frames", "Frames that did not fit the comparator's queue", &|all| {
            self.each_nic(|nic, labels| all.count(&labels, nic.capture_dropped))
        })?;
        out.gauge("flows", "Connections that are known", &|all| {
            self.each_nic(|nic, labels| all.level(&labels, nic.flows))
        })?;
        out.gauge("held_flows", "Flows that hold something, as far as they are listed", &|all| {
            self.each_nic(|nic, labels| all.level(&labels, nic.held_flows.len() as u64))
        })?;
        out.gauge("held_frames", "Frames that wait", &|all| {
            self.each_held(|labels, held| all.level(labels, held.frames))
        })?;
        out.bytes("held", "Bytes of the frames that wait", &|all| {
            self.each_held(|labels, held| all.level(labels, held.bytes))
        })?;
        out.seconds("held_oldest", "How long the oldest frame has waited; 0 if none does", &|all| {
            self.each_nic(|nic, labels| {
                let oldest = nic.held_flows.iter().map(|flow| flow.oldest_ms).max();
                nic.held.map_or(Ok(()), |_| all.time(&labels, seconds(oldest.unwrap_or(0))))
            })
        })?;
        out.seconds("match_delay", "How long released frames were held", &|all| {
            self.each_nic(|nic, [guest, vif]| {
                let Some(delay) = nic.match_delay else { return Ok(()) };
                let quantiles = [
                    ("0.5", delay.p50_us),
                    ("0.9", delay.p90_us),
                    ("0.99", delay.p99_us),
                    ("1", delay.max_us),
                ];
                let mut quantiles = quantiles.into_iter();
                quantiles.try_for_each(|(quantile, us)| {
                    all.time(&[guest, vif, ("quantile", quantile)], us as f64 / 1e6)
                })
            })
        })?;
        out.counter("match_delay_frames", "Frames whose delay was measured", &|all| {
            self.each_nic(|nic, labels| {
                nic.match_delay.map_or(Ok(()), |delay| all.count(&labels, delay.count))
            })
        })
    }

    fn each_held(
        &self,
        mut each: impl FnMut(&[Label<'_>], super::status::HeldStatus) -> fmt::Result,
    ) -> fmt::Result {
        self.each_nic(|nic, [guest, vif]| {
            let sides = SIDES.into_iter().zip(nic.held.into_iter().flatten());
            sides.into_iter().try_for_each(|(side, held)| each(&[guest, vif, ("side", side)], held))
        })
    }

    fn comparators(&self, out: &mut Families<'_>) -> fmt::Result {
        out.counter("frames", "Frames that came to the comparator", &|all| self.each_side("frames", all))?;
        out.bytes_counter("received", "Bytes that came to the comparator", &|all| {
            self.each_side("bytes", all)
        })?;
        out.counter("discarded_frames", "Frames that were discarded, by cause", &|all| {
            self.each_engine(|engine, [guest, vif]| {
                SIDES.into_iter().try_for_each(|side| {
                    let discards = engine.get(side).and_then(|side| side.get("discards"));
                    each_cause(discards, |cause, count| {
                        all.count(&[guest, vif, ("side", side), ("cause", cause)], count)
                    })
                })
            })
        })?;
        out.counter("released_frames", "Primary frames that left, by what let them", &|all| {
            self.each_engine(|engine, [guest, vif]| {
                let number = |name| engine.get(name).and_then(Value::as_u64).unwrap_or(0);
                let (checkpoint, rule) = (number("released_by_checkpoint"), number("passed_through"));
                let compared = number("released").saturating_sub(checkpoint).saturating_sub(rule);
                let mut ways =
                    [("comparison", compared), ("checkpoint", checkpoint), ("rule", rule)].into_iter();
                ways.try_for_each(|(by, count)| all.count(&[guest, vif, ("by", by)], count))
            })
        })?;
        for (place, name, help) in COUNTED {
            out.counter(name, help, &|all| {
                self.each_engine(|engine, labels| {
                    let count = engine.pointer(place).and_then(Value::as_u64);
                    count.map_or(Ok(()), |count| all.count(&labels, count))
                })
            })?;
        }
        for (place, name, help) in BY_CAUSE {
            out.counter(name, help, &|all| {
                self.each_engine(|engine, [guest, vif]| {
                    each_cause(engine.pointer(place), |cause, count| {
                        all.count(&[guest, vif, ("cause", cause)], count)
                    })
                })
            })?;
        }
        Ok(())
    }

    fn each_engine(&self, mut each: impl FnMut(&Value, [Label<'_>; 2]) -> fmt::Result) -> fmt::Result {
        self.each_nic(|nic, labels| nic.engine.as_ref().map_or(Ok(()), |engine| each(engine, labels)))
    }

    fn each_side(&self, what: &str, all: &mut Family<'_>) -> fmt::Result {
        self.each_engine(|engine, [guest, vif]| {
            SIDES.into_iter().try_for_each(|side| {
                let count = engine.get(side).and_then(|side| side.get(what)).and_then(Value::as_u64);
                count.map_or(Ok(()), |count| all.count(&[guest, vif, ("side", side)], count))
            })
        })
    }
}

/// Each number of an object of counts.
fn each_cause(counts: Option<&Value>, mut each: impl FnMut(&str, u64) -> fmt::Result) -> fmt::Result {
    let counts = counts.and_then(Value::as_object).into_iter().flatten();
    counts
        .into_iter()
        .filter_map(|(cause, count)| Some((cause, count.as_u64()?)))
        .try_for_each(|(cause, count)| each(cause, count))
}
