//! A program with everything it starts, as a process group, that has only so long.
//!
//! ```text
//!   start ──► leader ──► its children …        one process group, named by the leader's number
//!     │  wait: until the leader ends, or the time is up
//!     └─ stop: SIGTERM to all ─► a moment for each to clean up ─► SIGKILL to who is left
//! ```
//!
//! The leader is not reaped before its group is done with: until then nobody else can get its
//! number, and no signal can hit a stranger.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, pidfd_send_signal, waitid,
};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// How often is looked whether a group that was told to end has done so.
const GLANCE: Duration = Duration::from_millis(20);

/// How long what was killed may take to be gone. It is gone at once, unless the kernel is stuck.
const BURIAL: Duration = Duration::from_secs(1);

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this exit status.
    Exit(i32),
    /// By this signal.
    Signal(i32),
}

/// A program in a process group of its own. Dropping it kills the group if the program still runs.
#[derive(Debug)]
pub struct Group {
    leader: Child,
    pidfd: OwnedFd,
    id: Pid,
}

impl Group {
    /// Starts a program.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let mut leader = command.process_group(0).spawn()?;
        let id = Pid::from_child(&leader);
        match pidfd_open(id, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { leader, pidfd, id }),
            Err(error) => {
                // Whatever these say, it is not going to be watched.
                let _ = kill_process_group(id, Signal::KILL);
                let _ = leader.wait();
                Err(error.into())
            }
        }
    }

    /// The leader, for its pipes.
    pub fn leader(&mut self) -> &mut Child {
        &mut self.leader
    }

    /// Readable when the leader has ended.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// How the leader ended, if it has.
    pub fn end(&self) -> io::Result<Option<End>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(self.id), options)?;
        Ok(status.and_then(|status| match status.exit_status() {
            Some(code) => Some(End::Exit(code)),
            None => status.terminating_signal().map(End::Signal),
        }))
    }

    /// Waits for the leader's end, but not longer than this.
    pub fn wait(&self, deadline: Instant) -> io::Result<Option<End>> {
        loop {
            if let Some(end) = self.end()? {
                return Ok(Some(end));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            await_readable(self.fd(), left)?;
        }
    }

    /// Ends all of it: politely, and after this time by force.
    pub fn stop(&self, grace: Duration) {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline && self.is_alive() {
            std::thread::sleep(GLANCE);
        }
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // It fails only where there is nobody left.
        let _ = kill_process_group(self.id, signal);
    }

    fn is_alive(&self) -> bool {
        let group = self.id.as_raw_nonzero().get();
        processes().any(|process| process.group == group && process.lives)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if matches!(self.leader.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
            // If it is still there then, it stays a zombie for who reaps this process's children.
            let _ = await_readable(self.fd(), BURIAL);
            let _ = self.leader.try_wait();
        }
    }
}

fn await_readable(fd: BorrowedFd<'_>, patience: Duration) -> io::Result<()> {
    let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
    match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Kills every process of a session, however it came into it, and waits for nobody. The session's
/// leader must not have been reaped, so that its number is not another session's by now.
pub(super) fn kill_session(leader: u32) {
    // Who forks while being looked for is found the next time; what does nothing else is not met.
    for _ in 0..8 {
        let mut found = false;
        for process in processes().filter(|process| is_of(process, leader)) {
            let Some(pid) = Pid::from_raw(process.pid) else { continue };
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            // The number may have changed hands before the descriptor was there, not after it.
            if read_process(process.pid).is_some_and(|process| is_of(&process, leader)) {
                found = true;
                // It fails only where there is nobody left.
                let _ = pidfd_send_signal(pidfd, Signal::KILL);
            }
        }
        if !found {
            return;
        }
    }
}

fn is_of(process: &Process, session: u32) -> bool {
    i64::from(process.session) == i64::from(session) && process.lives
}

/// A process, as far as it matters here.
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) group: i32,
    session: i32,
    /// When it began, in ticks since the machine did.
    pub(super) started: u64,
    /// It is not a zombie.
    pub(super) lives: bool,
}

pub(super) fn processes() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| read_process(entry.file_name().to_str()?.parse().ok()?))
}

/// From `/proc/PID/stat`: `PID (name) state parent group session …`, and field 22.
pub(super) fn read_process(pid: i32) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name may hold anything, parentheses included.
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
    let lives = !matches!(fields.next()?, "Z" | "X");
    let mut number = || fields.next()?.parse().ok();
    let (parent, group, session) = (number()?, number()?, number()?);
    let started = fields.nth(15)?.parse().ok()?;
    Some(Process { pid, parent, group, session, started, lives })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::process::Stdio;

    const LONG: Duration = Duration::from_secs(30);

    fn shell(script: &str) -> Group {
        Group::start(Command::new("/bin/sh").args(["-c", script]).stdout(Stdio::piped())).unwrap()
    }

    /// Its standard output until all that have it are gone.
    fn rest(output: &mut impl std::io::Read) -> String {
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn how_it_ended_can_be_looked_at_again_and_again() {
        let exit = shell("exit 7");
        assert_eq!(exit.wait(Instant::now() + LONG).unwrap(), Some(End::Exit(7)));
        assert_eq!(exit.end().unwrap(), Some(End::Exit(7)));
        let signal = shell("kill -9 $$");
        assert_eq!(signal.wait(Instant::now() + LONG).unwrap(), Some(End::Signal(9)));
    }

    #[test]
    fn one_that_does_not_end_is_stopped_with_its_children_who_may_clean_up() {
        let mut group = shell(
            "(trap 'sleep 0.1; echo cleaned; exit' TERM; echo up; while :; do sleep 0.05; done) & wait",
        );
        let mut output = BufReader::new(group.leader().stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!((line.as_str(), group.wait(Instant::now()).unwrap()), ("up\n", None));
        group.stop(LONG);
        // The end of the pipe is the end of all who could write to it.
        assert_eq!(rest(&mut output), "cleaned\n");
    }

    #[test]
    fn one_that_does_not_listen_is_killed_with_its_children() {
        let mut group = shell("trap '' TERM; (trap '' TERM; echo up; while :; do sleep 1; done) & wait");
        let mut output = group.leader().stdout.take().unwrap();
        output.read_exact(&mut [0; 3]).unwrap();
        group.stop(Duration::from_millis(50));
        assert_eq!(rest(&mut output), "");
    }

    #[test]
    fn dropping_it_is_its_end() {
        let mut group = shell("echo up; sleep 600 & wait");
        let mut output = group.leader().stdout.take().unwrap();
        output.read_exact(&mut [0; 3]).unwrap();
        drop(group);
        assert_eq!(rest(&mut output), "");
    }
}
