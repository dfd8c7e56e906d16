//! What is said of a guest, in QEMU's forms.

use super::command::Command;
use crate::checkpoint::status::{Phase, Status};
use crate::control::{Control, RunState};
use serde_json::{Value, json};

/// This program's version. The member is called "qemu" because that is where clients look.
pub(super) fn version() -> Value {
    let part = |text: &str| text.parse::<u32>().unwrap_or_default();
    json!({
        "qemu": {
            "major": part(env!("CARGO_PKG_VERSION_MAJOR")),
            "minor": part(env!("CARGO_PKG_VERSION_MINOR")),
            "micro": part(env!("CARGO_PKG_VERSION_PATCH")),
        },
        "package": concat!("colo-vm ", env!("CARGO_PKG_VERSION")),
    })
}

pub(super) fn names() -> Value {
    Command::names().chain(["qmp_capabilities"]).map(|name| json!({"name": name})).collect()
}

pub(super) fn status(state: RunState) -> Value {
    let word = match state {
        RunState::Running => "running",
        RunState::Paused => "paused",
        RunState::InMigrate => "inmigrate",
        RunState::Colo => "colo",
        RunState::Shutdown => "shutdown",
    };
    json!({"status": word, "running": state == RunState::Running})
}

pub(super) fn cpus(control: &dyn Control) -> Value {
    let cpu = |cpu: crate::control::CpuInfo| {
        json!({
            "cpu-index": cpu.index,
            "thread-id": cpu.thread,
            "qom-path": format!("/machine/cpu[{}]", cpu.index),
            "props": {"core-id": cpu.index, "thread-id": 0, "socket-id": 0},
            "target": "x86_64",
        })
    };
    control.cpus().into_iter().map(cpu).collect()
}

/// With the members that QEMU's schema says are always there: no throttling, no encryption.
pub(super) fn blocks(control: &dyn Control) -> Value {
    let block = |block: crate::control::BlockInfo| {
        let mut inserted = json!({
            "file": block.file,
            "drv": block.format,
            "ro": block.read_only,
            "encrypted": false,
            "detect_zeroes": "off",
            "write_threshold": 0,
            "backing_file_depth": 0,
            "cache": {"writeback": block.write_back, "direct": block.direct, "no-flush": false},
            "image": {"filename": block.file, "format": block.format, "virtual-size": block.size},
        });
        for limit in ["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"] {
            inserted[limit] = json!(0);
        }
        json!({
            "device": block.device,
            "type": "unknown",
            "removable": false,
            "locked": false,
            "inserted": inserted,
        })
    };
    control.blocks().into_iter().map(block).collect()
}

/// As QEMU says it, and everything else in a member of ours. Without checkpoints it is what QEMU says of a guest
/// that never had any.
pub(super) fn colo_status(status: Option<&Status>) -> Value {
    let Some(status) = status else {
        return json!({"mode": "none", "last-mode": "none", "reason": "none"});
    };
    let now = matches!(status.phase, Phase::Level | Phase::Checkpoint | Phase::Lost);
    let role = json!(status.role);
    let none = json!("none");
    json!({
        "mode": if now { &role } else { &none },
        "last-mode": if now || status.checkpoints > 0 { &role } else { &none },
        "reason": status.reason,
        "x-checkpoints": status,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::status::{Board, Mode, Reason, Role};
    use std::time::Duration;

    #[test]
    fn a_guest_is_in_colo_mode_while_its_secondary_counts() {
        let board = Board::new(Role::Secondary, Mode::Colo, Duration::from_secs(20));
        let mut said = Vec::new();
        for phase in [Phase::Connecting, Phase::Syncing, Phase::Level, Phase::Checkpoint, Phase::Lost] {
            board.write(|status| status.phase = phase);
            let status = colo_status(Some(&board.read()));
            said.push((status["mode"].clone(), status["last-mode"].clone()));
        }
        let both = |mode: &str| (json!(mode), json!(mode));
        assert_eq!(
            said,
            [both("none"), both("none"), both("secondary"), both("secondary"), both("secondary")]
        );
        board.write(|status| {
            (status.phase, status.reason, status.checkpoints) = (Phase::Alone, Reason::Request, 3);
        });
        let status = colo_status(Some(&board.read()));
        assert_eq!((&status["mode"], &status["last-mode"]), (&json!("none"), &json!("secondary")));
        assert_eq!(status["reason"], "request");
        let whole: Status = serde_json::from_value(status["x-checkpoints"].clone()).unwrap();
        assert_eq!(whole, board.read());
        assert_eq!(colo_status(None)["last-mode"], "none");
    }
}
