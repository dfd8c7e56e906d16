//! How fast a NIC's counters move: the difference of two statuses, per second.

use super::status::{NicStatus, NodeStatus};
use colo_ebpf_shared::layout::Counter;
use serde_json::Value;
use std::time::Duration;

/// Frames that went nowhere, by what the kernel's programs call them.
const LOST: [Counter; 6] = [
    Counter::MirrorFailed,
    Counter::TooLong,
    Counter::Stale,
    Counter::Unwanted,
    Counter::NotForwarded,
    Counter::Untranslatable,
];

/// Per second, all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NicRates {
    /// Frames for the guest.
    pub input: f64,
    /// Frames of the guest.
    pub output: f64,
    /// Primary: frames of the secondary's.
    pub twin: f64,
    /// Primary: frames that were released; otherwise those that went to the bridge.
    pub released: f64,
    /// Bytes compared equal.
    pub verified: f64,
    /// Frames that were dropped in the kernel, or did not fit the comparator's queue.
    pub lost: f64,
    /// Segments whose numbers were translated.
    pub translated: f64,
}

/// How fast this NIC's counters moved; none if it is not the same process's as before.
pub fn nic(
    before: &[NodeStatus],
    pid: u32,
    guest: &str,
    after: &NicStatus,
    elapsed: Duration,
) -> Option<NicRates> {
    let node =
        before.iter().find(|node| node.pid == pid && node.guests.iter().any(|one| one.name == guest))?;
    let guest = node.guests.iter().find(|one| one.name == guest)?;
    let before = guest.nics.iter().find(|nic| nic.vif == after.vif)?;
    if elapsed.is_zero() {
        return None;
    }
    // A counter that went down was made anew: what it says is at least since then.
    let rate = |old: u64, new: u64| new.checked_sub(old).unwrap_or(new) as f64 / elapsed.as_secs_f64();
    let kernel = |counters: &[Counter]| -> f64 {
        let of = |nic: &NicStatus, counter: &Counter| nic.kernel.get(counter.label()).copied().unwrap_or(0);
        counters.iter().map(|counter| rate(of(before, counter), of(after, counter))).sum()
    };
    let verified = |nic: &NicStatus| {
        nic.engine
            .as_ref()
            .and_then(|engine| engine.get("verified_bytes"))
            .and_then(Value::as_u64)
            .unwrap_or(0)
    };
    Some(NicRates {
        input: kernel(&[Counter::Mirrored, Counter::Delivered]),
        output: kernel(&[Counter::Captured, Counter::Forwarded, Counter::Served]),
        twin: kernel(&[Counter::Received]),
        released: kernel(&[Counter::Released, Counter::Served]),
        verified: rate(verified(before), verified(after)),
        lost: kernel(&LOST) + rate(before.capture_dropped, after.capture_dropped),
        translated: kernel(&[Counter::Translated]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::GuestStatus;

    fn node(pid: u32, captured: u64, stale: u64, verified: u64) -> NodeStatus {
        let kernel = [("captured".to_owned(), captured), ("stale".to_owned(), stale)].into();
        let engine = Some(serde_json::json!({ "verified_bytes": verified }));
        let nic =
            NicStatus { vif: "vif1".into(), kernel, engine, capture_dropped: stale, ..Default::default() };
        let guest = GuestStatus { name: "web".into(), nics: vec![nic], ..Default::default() };
        NodeStatus { pid, guests: vec![guest], ..Default::default() }
    }

    fn between(before: &NodeStatus, after: &NodeStatus, ms: u64) -> Option<NicRates> {
        let nic_after = &after.guests[0].nics[0];
        nic(std::slice::from_ref(before), after.pid, "web", nic_after, Duration::from_millis(ms))
    }

    #[test]
    fn a_rate_is_the_difference_over_the_time() {
        let rates = between(&node(1, 100, 4, 1_000), &node(1, 300, 5, 9_000), 2000).unwrap();
        assert_eq!(rates, NicRates { output: 100.0, lost: 1.0, verified: 4000.0, ..Default::default() });
    }

    #[test]
    fn another_process_has_no_rate_yet_and_a_reset_counter_none_below_zero() {
        assert_eq!(between(&node(1, 100, 0, 0), &node(2, 300, 0, 0), 1000), None);
        assert_eq!(between(&node(1, 100, 0, 0), &node(1, 300, 0, 0), 0), None);
        assert!((between(&node(1, 100, 0, 0), &node(1, 30, 0, 0), 1000).unwrap().output - 30.0).abs() < 1e-9);
    }
}
