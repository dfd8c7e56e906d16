//! The runner of the checkpoint command: the real binary, and real commands.
#![allow(clippy::unwrap_used, reason = "a fixture that fails is a test that fails")]

use colo_proxy::live::hook::{Failure, Hook, HookError, Outcome, Trigger};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(30);

fn hook(command: &str, timeout: Duration) -> Hook {
    Hook::start_as(env!("CARGO_BIN_EXE_colo-proxy").as_ref(), command, timeout).unwrap()
}

fn trigger() -> Trigger {
    Trigger {
        guest: "web".into(),
        cause: "payload".into(),
        epoch: 7,
        flow: "tcp 10.0.0.1:80 > 10.0.0.2:5000".into(),
        vifs: "tap0 tap1".into(),
    }
}

/// Waits for the outcome as the data thread does.
fn outcome(hook: &mut Hook) -> Outcome {
    loop {
        if let Some(outcome) = hook.read() {
            return outcome;
        }
        let fd = hook.fd().expect("a runner, or an outcome");
        let timeout = Timespec { tv_sec: LONG.as_secs() as i64, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)).unwrap();
        assert_eq!(ready, 1, "no outcome");
    }
}

fn run(hook: &mut Hook) -> Outcome {
    hook.run(&trigger()).unwrap();
    outcome(hook)
}

/// Waits until a file has a whole line, which is a process's number.
fn number_in(path: &Path) -> Pid {
    let deadline = Instant::now() + LONG;
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if let Some(pid) = text.strip_suffix('\n').and_then(|text| Pid::from_raw(text.parse().unwrap())) {
            return pid;
        }
        assert!(Instant::now() < deadline, "{} was not written", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a process is gone; one that nobody reaps counts as gone.
fn gone(pid: Pid) {
    let deadline = Instant::now() + LONG;
    let lives = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        test_kill_process(pid).is_ok() && !stat.contains(") Z ")
    };
    while lives() {
        assert!(Instant::now() < deadline, "process {pid} lives");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn exit_status_0_is_a_complete_checkpoint_and_the_command_is_told_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("told");
    let script = format!(
        "echo \"$COLO_GUEST,$COLO_CAUSE,$COLO_EPOCH,$COLO_FLOW,$COLO_VIFS\" >> {}; echo noise",
        path.display()
    );
    let mut hook = hook(&script, LONG);
    assert!(!hook.is_busy() && hook.read().is_none());
    assert_eq!(run(&mut hook), Outcome::Complete);
    // The same runner, again.
    assert_eq!(run(&mut hook), Outcome::Complete);
    let line = "web,payload,7,tcp 10.0.0.1:80 > 10.0.0.2:5000,tap0 tap1\n";
    assert_eq!(fs::read_to_string(path).unwrap(), line.repeat(2));
}

#[test]
fn any_other_end_is_a_failure() {
    assert_eq!(run(&mut hook("exit 3", LONG)), Outcome::Failed(Failure::Exit(3)));
    assert_eq!(run(&mut hook("kill -KILL $$", LONG)), Outcome::Failed(Failure::Signal(9)));
    // The shell says so of what it does not find.
    assert_eq!(run(&mut hook("/nowhere/checkpoint", LONG)), Outcome::Failed(Failure::Exit(127)));
}

#[test]
fn only_one_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    let mut hook = hook(&format!("mkfifo {0}; read line < {0}", fifo.display()), LONG);
    hook.run(&trigger()).unwrap();
    assert!(matches!(hook.run(&trigger()), Err(HookError::Busy)));
    let deadline = Instant::now() + LONG;
    while !fifo.exists() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::write(fifo, "go\n").unwrap();
    assert_eq!(outcome(&mut hook), Outcome::Complete);
    assert!(!hook.is_busy());
}

#[test]
fn one_that_hangs_is_killed_with_its_children_and_theirs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pid");
    let script = format!(
        "trap '' TERM; (trap '' TERM; sh -c 'echo $$ > {}; sleep 600' & wait) & wait; sleep 600",
        path.display()
    );
    let mut hook = hook(&script, Duration::from_millis(300));
    assert_eq!(run(&mut hook), Outcome::Failed(Failure::TimedOut));
    gone(number_in(&path));
    // The runner is there for the next.
    assert!(hook.fd().is_some());
    hook.run(&trigger()).unwrap();
    drop(hook);
}

#[test]
fn a_session_of_its_own_is_no_way_out_but_what_was_left_on_purpose_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    // The first time it leaves a daemon and is done; then it hangs, with one that has got away twice.
    let script = format!(
        "cd {}; if [ ! -e left ]; then (setsid sh -c 'echo $$ > left; exec sleep 600' &) > /dev/null 2>&1; \
         while [ ! -s left ]; do sleep 0.01; done; exit 0; fi; \
         (setsid sh -c 'trap \"\" TERM; echo $$ > away; sleep 600' &); \
         setsid sh -c 'echo $$ > near; sleep 600' & sleep 600",
        directory.path().display()
    );
    let mut hook = hook(&script, Duration::from_secs(1));
    assert_eq!(run(&mut hook), Outcome::Complete);
    let left = number_in(&path("left"));
    assert_eq!(run(&mut hook), Outcome::Failed(Failure::TimedOut));
    gone(number_in(&path("away")));
    gone(number_in(&path("near")));
    test_kill_process(left).unwrap();
    // It ends with nobody's time limit, and its runner is not its end either.
    drop(hook);
    test_kill_process(left).unwrap();
    kill_process(left, Signal::KILL).unwrap();
}

/// A hook whose command runs and has a child: with the numbers of that and of the runner.
fn with_a_child() -> (Hook, Pid, Pid) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pid");
    // Its parent is the runner.
    let script = format!("sh -c 'echo $$ > {0}; sleep 600' & echo $PPID > {0}.runner; wait", path.display());
    let mut hook = hook(&script, LONG);
    hook.run(&trigger()).unwrap();
    let (child, runner) = (number_in(&path), number_in(&path.with_extension("runner")));
    (hook, child, runner)
}

#[test]
fn when_the_runner_is_killed_its_command_has_failed_and_is_gone() {
    let (mut hook, grandchild, runner) = with_a_child();
    assert!(hook.read().is_none());
    kill_process(runner, Signal::KILL).unwrap();
    assert_eq!(outcome(&mut hook), Outcome::Failed(Failure::RunnerGone));
    gone(grandchild);
    // There is nothing left to wait for, and nobody left to ask.
    assert!(hook.fd().is_none() && hook.read().is_none());
    assert!(matches!(hook.run(&trigger()), Err(HookError::Gone(Failure::RunnerGone))));
}

#[test]
fn the_runner_and_its_command_go_with_their_parent() {
    let (hook, grandchild, runner) = with_a_child();
    drop(hook);
    gone(grandchild);
    gone(runner);
}

#[test]
fn what_it_says_on_standard_error_does_not_stop_it_however_much_it_is() {
    // More than a pipe holds, and one line without an end.
    let script = "head -c 3000000 /dev/zero | tr '\\0' x >&2; yes noise | head -n 100000 >&2";
    assert_eq!(run(&mut hook(script, LONG)), Outcome::Complete);
    // Closing it is no reason to wait in circles.
    assert_eq!(run(&mut hook("exec 2>&-; sleep 0.1", LONG)), Outcome::Complete);
}

#[test]
fn a_parent_that_speaks_nonsense_ends_it() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_colo-proxy"))
        .args(["hook-runner", "--timeout-ms", "1000", "--", "true"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&[0xff; 64]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot understand its parent"));
    drop(stdin);
}
