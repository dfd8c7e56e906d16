//! Which process is in charge: its number, and when it began, because numbers come again.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::time::{Duration, Instant};

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Owner {
    /// Its number.
    pub pid: u32,
    /// When it began, in ticks since the machine did (field 22 of `/proc/PID/stat`).
    pub started: u64,
}

impl Owner {
    /// This process.
    pub fn this() -> Self {
        let pid = std::process::id();
        Self { pid, started: started(pid).unwrap_or(0) }
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// Asks it to stop, and waits for it. False if it does not.
    pub fn stop(self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let mut told = false;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            if let (Some(pid), false) = (pid, told) {
                told = kill_process(pid, Signal::TERM).is_ok();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

/// When a process began; none if there is none, or nothing but its remains.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything, parentheses included.
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_one_of_another_time_is_not() {
        let this = Owner::this();
        assert!(this.is_alive() && this.started > 0);
        assert!(!Owner { started: this.started + 1, ..this }.is_alive());
    }

    #[test]
    fn a_process_is_stopped_and_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let owner = Owner { pid: child.id(), started: started(child.id()).unwrap() };
        assert!(owner.is_alive());
        assert!(owner.stop(Duration::from_secs(20)), "a zombie does not count as alive");
        child.wait().unwrap();
    }
}
