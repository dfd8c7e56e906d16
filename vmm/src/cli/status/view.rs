//! A status as text for people.
//!
//! ```text
//!   web: primary, level with 192.0.2.7:9000
//!     guest      running; colo mode, a checkpoint after 20 s at the latest
//!     last       checkpoint 17 (timer): 1203 pages, 40 of them ahead; 4.7 MiB of memory, 12.0 KiB of state
//!     stood      1.9 ms: stop 0.2, log 0.1, copy 1.0, state 0.4, resume 0.2
//!     …
//! ```

use crate::checkpoint::disks::Phase as Disk;
use crate::checkpoint::status::{Epoch, Mode, Phase, Reason, Role, Status, Stood};
use crate::cli::disk::state;
use colo_proxy::control::render::clean;
use std::fmt::{self, Write as _};
use std::time::Duration;

/// All of it. What the guest does is QEMU's word for it.
pub(super) fn text(name: &str, guest: &str, status: Option<&Status>) -> String {
    let (name, guest) = (clean(name), clean(guest));
    let Some(status) = status else {
        return format!(
            "{name}: {guest}, on this host alone (colo-vm primary and colo-vm secondary keep two level)\n"
        );
    };
    let mut out = String::new();
    // Writing into a String does not fail.
    let _ = writeln!(out, "{name}: {}, {}", role(status.role), phase(status));
    let mut row = |what: &str, said: String| {
        let _ = writeln!(out, "  {what:<10} {said}");
    };
    let mode = match status.mode {
        Mode::Colo => "colo mode, a checkpoint after",
        Mode::Periodic => "periodic mode, a checkpoint each",
    };
    row("guest", format!("{guest}; {mode} {}", Time(status.delay)));
    if status.phase == Phase::Syncing {
        let sync = status.sync;
        row(
            "sync",
            format!("round {}: {} of {} pages left, {} sent", sync.round, sync.left, sync.of, sync.sent),
        );
    }
    if let Some(last) = &status.last {
        row("last", epoch(last));
        row("stood", stood(&last.stood));
        row("then", format!("transfer {}, load {}", Time(last.transfer), Time(last.load)));
        let [median, most, longest] = status.stood.map(Time);
        row("usual", format!("stood {median}, 99 % of them up to {most}, longest {longest}"));
    }
    let causes: Vec<String> = status
        .causes
        .iter()
        .map(|(cause, count)| format!("{} {count}", format!("{cause:?}").to_lowercase()))
        .collect();
    let causes =
        if causes.is_empty() { String::new() } else { format!(" (asked for: {})", causes.join(", ")) };
    row(
        "total",
        format!(
            "{} checkpoints{causes}, {} failed; {} pages, {}",
            status.checkpoints,
            status.failed,
            status.pages,
            Bytes(status.bytes)
        ),
    );
    row(
        "peer",
        format!(
            "{} sessions, {} late heartbeats, {} peers refused",
            status.sessions, status.missed_beats, status.refused
        ),
    );
    for disk in &status.disks {
        let trouble = disk.trouble.as_deref().map_or_else(String::new, |text| format!("; {}", clean(text)));
        let more = match disk.phase {
            Disk::Connecting | Disk::Syncing => format!("; {} to be sent", Bytes(disk.unsent)),
            Disk::Committing => format!("; {} to be written", Bytes(disk.left)),
            _ => String::new(),
        };
        row(&format!("disk {}", clean(&disk.device)), format!("{}{more}{trouble}", state(disk.phase)));
    }
    if let Some(error) = status.error.as_deref() {
        // Before the first session there was no end: it is why there is none yet.
        row(if status.reason == Reason::None { "so far" } else { "last end" }, clean(error));
    }
    out
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Secondary => "secondary",
    }
}

fn phase(status: &Status) -> String {
    let peer = clean(status.peer.as_deref().unwrap_or("its peer"));
    match (status.phase, status.role) {
        (Phase::Connecting, Role::Primary) => "looks for its secondary; unprotected".to_owned(),
        (Phase::Connecting, Role::Secondary) => "waits for its primary; cannot take over".to_owned(),
        (Phase::Syncing, Role::Primary) => format!("brings {peer} level; unprotected until then"),
        (Phase::Syncing, Role::Secondary) => {
            format!("is brought level by {peer}; cannot take over until then")
        }
        (Phase::Level, _) => format!("level with {peer}"),
        (Phase::Checkpoint, _) => format!("level with {peer}; a checkpoint is under way"),
        (Phase::Lost, _) => {
            format!("has lost {peer}; colo-vm takeover makes this guest serve, if the other does not")
        }
        (Phase::Alone, _) => "serves alone".to_owned(),
    }
}

fn epoch(last: &Epoch) -> String {
    let mut text = format!(
        "checkpoint {} ({}): {} pages",
        last.epoch,
        format!("{:?}", last.cause).to_lowercase(),
        last.pages + last.ahead
    );
    for (count, what) in [(last.ahead, "ahead"), (last.foreign, "only changed by the secondary")] {
        if count > 0 {
            let _ = write!(text, ", {count} of them {what}");
        }
    }
    let _ = write!(text, "; {} of memory, {} of state", Bytes(last.ram_bytes), Bytes(last.state_bytes));
    text
}

fn stood(stood: &Stood) -> String {
    let parts = [
        ("stop", stood.stop),
        ("log", stood.log),
        ("copy", stood.copy),
        ("state", stood.state),
        ("resume", stood.resume),
    ];
    let parts = parts.map(|(what, time)| format!("{what} {}", Time(time)));
    format!("{}: {}", Time(stood.total), parts.join(", "))
}

/// With as many digits as say something.
struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        match self.0.as_micros() {
            0 => f.write_str("0 ms"),
            micros @ 1..1000 => write!(f, "{micros} µs"),
            1000..1_000_000 => write!(f, "{:.1} ms", seconds * 1e3),
            _ => write!(f, "{seconds:.1} s"),
        }
    }
}

pub(in crate::cli) struct Bytes(pub(in crate::cli) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            count @ 0..1024 => write!(f, "{count} bytes"),
            0x400..0x10_0000 => write!(f, "{:.1} KiB", bytes / 1024.0),
            0x10_0000..0x4000_0000 => write!(f, "{:.1} MiB", bytes / 1_048_576.0),
            _ => write!(f, "{:.1} GiB", bytes / 1_073_741_824.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::status::{Board, Cause};

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn board() -> Board {
        let board = Board::new(Role::Primary, Mode::Periodic, ms(50));
        board.write(|status| {
            status.phase = Phase::Level;
            status.peer = Some("192.0.2.7:9000".to_owned());
            status.sessions = 1;
            status.causes = [(Cause::Start, 1), (Cause::Timer, 16)].into();
        });
        board.complete(Epoch {
            epoch: 17,
            cause: Cause::Timer,
            ahead: 40,
            pages: 1163,
            foreign: 0,
            ram_bytes: 4_927_488,
            state_bytes: 12_288,
            stood: Stood { copy: ms(1), total: Duration::from_micros(1900), ..Stood::default() },
            transfer: ms(12),
            load: Duration::from_micros(310),
        });
        board
    }

    #[test]
    fn people_read_what_there_is_to_know() {
        let said = text("web", "running", Some(&board().read()));
        assert_eq!(
            said,
            "web: primary, level with 192.0.2.7:9000
  guest      running; periodic mode, a checkpoint each 50.0 ms
  last       checkpoint 17 (timer): 1203 pages, 40 of them ahead; 4.7 MiB of memory, 12.0 KiB of state
  stood      1.9 ms: stop 0 ms, log 0 ms, copy 1.0 ms, state 0 ms, resume 0 ms
  then       transfer 12.0 ms, load 310 µs
  usual      stood 1.9 ms, 99 % of them up to 1.9 ms, longest 1.9 ms
  total      1 checkpoints (asked for: start 1, timer 16), 0 failed; 1203 pages, 4.7 MiB
  peer       1 sessions, 0 late heartbeats, 0 peers refused
"
        );
        assert!(text("web", "running", None).starts_with("web: running, on this host alone"));
    }

    #[test]
    fn each_phase_says_whether_the_guest_is_safe() {
        let board = Board::new(Role::Secondary, Mode::Colo, ms(20_000));
        board.write(|status| {
            (status.phase, status.reason) = (Phase::Lost, Reason::Error);
            status.error = Some("no heartbeat\x1b[2J for 1 s".to_owned());
        });
        let said = text("web", "inmigrate", Some(&board.read()));
        assert!(said.contains("has lost its peer; colo-vm takeover"), "{said}");
        assert!(said.contains("last end   no heartbeat\u{fffd}[2J for 1 s"), "{said}");
        board.write(|status| {
            status.phase = Phase::Syncing;
            (status.sync.round, status.sync.left, status.sync.of) = (2, 120, 131_072);
        });
        let said = text("web", "inmigrate", Some(&board.read()));
        assert!(
            said.contains("cannot take over until then") && said.contains("round 2: 120 of 131072"),
            "{said}"
        );
    }
}
