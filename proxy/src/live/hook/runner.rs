//! The process that runs the command: one thread, one `poll`, one command at a time.
//!
//! ```text
//!   idle ── Trigger ──► running ── it ends ──────────────────────► Outcome ──► idle
//!                          ├────── time is up ─► SIGTERM, SIGKILL ─► TimedOut ──► idle
//!                          └────── parent gone, SIGTERM ─► SIGTERM, SIGKILL ─► end
//! ```

use super::lines::Lines;
use super::message::{LONGEST, Trigger};
use super::{Failure, GRACE, Outcome};
use crate::live::descent::{self, Earlier};
use crate::live::group::{End, Group};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, read};
use rustix::process::{Signal, set_parent_process_death_signal, setsid};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::{ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};
use thiserror::Error;

/// A runner that cannot go on.
#[derive(Debug, Error)]
#[error("the runner of the checkpoint command cannot {what}: {error}")]
pub struct RunnerError {
    what: &'static str,
    error: io::Error,
}

fn cannot<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> RunnerError {
    move |error| RunnerError { what, error: error.into() }
}

/// A command at work.
#[derive(Debug)]
struct Running {
    group: Group,
    /// None when it has closed it.
    stderr: Option<ChildStderr>,
    lines: Lines,
    deadline: Instant,
    guest: String,
    /// What commands before it have left on purpose.
    earlier: Earlier,
}

/// What woke the runner up.
#[derive(Clone, Copy, Debug, Default)]
struct Woken {
    /// A signal, or the parent's end.
    stop: bool,
    trigger: bool,
    stderr: bool,
}

/// Serves the parent on standard input and output until it is gone.
pub fn run(command: &str, timeout: Duration) -> Result<(), RunnerError> {
    // A session of its own: no signals from a terminal, and a mark on everything that is started. It
    // fails for the leader of a group, which is one by somebody else's wish.
    let _ = setsid();
    let (signals, on_signal) = UnixStream::pair().map_err(cannot("receive signals"))?;
    let again = on_signal.try_clone().map_err(cannot("receive signals"))?;
    pipe::register(SIGTERM, on_signal).map_err(cannot("receive signals"))?;
    pipe::register(SIGINT, again).map_err(cannot("receive signals"))?;
    // The end of the pipe says the same; this says it as well if somebody else has that pipe.
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(cannot("follow its parent"))?;
    // Whatever a command starts, in whatever group or session, stays below this process.
    descent::adopt().map_err(cannot("keep what the command starts"))?;

    let mut received = Vec::new();
    let mut running: Option<Running> = None;
    loop {
        let woken = wait(&signals, running.as_ref()).map_err(cannot("wait"))?;
        if woken.trigger && !hear(&mut received).map_err(cannot("read triggers"))? || woken.stop {
            if let Some(running) = running {
                running.end();
            }
            return Ok(());
        }
        if let Some(mut current) = running.take() {
            if woken.stderr {
                current.listen();
            }
            match current.outcome().map_err(cannot("wait for the command"))? {
                None => running = Some(current),
                Some(outcome) => {
                    current.finish(outcome);
                    report(outcome).map_err(cannot("report"))?;
                }
            }
        }
        if running.is_none() {
            let trigger = Trigger::decode(&mut received).map_err(io::Error::other);
            if let Some(trigger) = trigger.map_err(cannot("understand its parent"))? {
                match start(command, timeout, &trigger) {
                    Ok(started) => running = Some(started),
                    Err(error) => {
                        let errno = error.raw_os_error().unwrap_or_default();
                        report(Outcome::Failed(Failure::NotStarted(errno))).map_err(cannot("report"))?;
                    }
                }
            }
        }
    }
}

fn wait(signals: &UnixStream, running: Option<&Running>) -> Result<Woken, Errno> {
    let stdin = io::stdin();
    let mut fds = vec![PollFd::new(signals, PollFlags::IN), PollFd::new(&stdin, PollFlags::IN)];
    if let Some(running) = running {
        fds.push(PollFd::from_borrowed_fd(running.group.fd(), PollFlags::IN));
        if let Some(stderr) = &running.stderr {
            fds.push(PollFd::new(stderr, PollFlags::IN));
        }
    }
    let left = running.map(|running| running.deadline.saturating_duration_since(Instant::now()));
    let timeout =
        left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) });
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(Woken::default()),
        Err(error) => return Err(error),
    }
    let woken = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
    Ok(Woken { stop: woken(0), trigger: woken(1), stderr: woken(3) })
}

/// Reads what the parent says. False if it is gone.
fn hear(received: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; LONGEST];
    match read(io::stdin(), &mut buffer) {
        Ok(0) => Ok(false),
        // It waits for an outcome before it says more, so this does not grow.
        Ok(_) if received.len() > LONGEST => Err(io::Error::other("more than one trigger at once")),
        Ok(count) => {
            received.extend(&buffer[..count]);
            Ok(true)
        }
        Err(Errno::INTR | Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn report(outcome: Outcome) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(&outcome.encode())?;
    stdout.flush()
}

fn start(command: &str, timeout: Duration, trigger: &Trigger) -> io::Result<Running> {
    descent::bury_dead();
    let earlier = Earlier::now();
    let mut group = Group::start(
        Command::new("/bin/sh")
            .args(["-c", command])
            .envs(trigger.variables())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped()),
    )?;
    let stderr = group.leader().stderr.take();
    if let Some(stderr) = &stderr {
        // To empty it at the end without waiting for whoever else has it.
        fcntl_setfl(stderr, fcntl_getfl(stderr)? | OFlags::NONBLOCK)?;
    }
    let deadline = Instant::now() + timeout;
    Ok(Running { group, stderr, lines: Lines::default(), deadline, guest: trigger.guest.clone(), earlier })
}

impl Running {
    /// Reads some of what the command says.
    fn listen(&mut self) {
        let Some(stderr) = &self.stderr else { return };
        let mut buffer = [0; 4096];
        match read(stderr.as_fd(), &mut buffer) {
            Ok(count @ 1..) => {
                let guest = &self.guest;
                self.lines.feed(&buffer[..count], Instant::now(), &mut |line| log(guest, line));
            }
            Err(Errno::INTR | Errno::WOULDBLOCK) => {}
            Ok(0) | Err(_) => self.stderr = None,
        }
    }

    /// How it ended, if it has or has to.
    fn outcome(&self) -> io::Result<Option<Outcome>> {
        Ok(match self.group.end()? {
            Some(End::Exit(0)) => Some(Outcome::Complete),
            Some(End::Exit(code)) => Some(Outcome::Failed(Failure::Exit(code))),
            Some(End::Signal(number)) => Some(Outcome::Failed(Failure::Signal(number))),
            None if Instant::now() >= self.deadline => Some(Outcome::Failed(Failure::TimedOut)),
            None => None,
        })
    }

    /// Ends it with everything that it started.
    fn end(&self) {
        self.group.stop(GRACE);
        self.earlier.kill_others();
    }

    fn finish(mut self, outcome: Outcome) {
        if outcome == Outcome::Failed(Failure::TimedOut) {
            self.end();
        }
        // What it said last; what a child of it says for ever is not waited for.
        for _ in 0..16 {
            self.listen();
        }
        let guest = &self.guest;
        self.lines.finish(Instant::now(), &mut |line| log(guest, line));
    }
}

fn log(guest: &str, line: &str) {
    tracing::info!("{guest}: checkpoint command: {line}");
}
