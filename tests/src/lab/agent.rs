//! The agent: what runs commands inside a lab machine. It is started by the machine's init, in the
//! host's root, from the very file that was built outside.

use super::protocol::{self, Message, Request};
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

/// How long output of a command that has ended is waited for: a daemon that it left may hold the pipe.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Process groups of the commands that run.
type Groups = Arc<Mutex<HashMap<u32, Pid>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The port's writing end; a message goes out whole.
#[derive(Clone)]
struct Mouth(Arc<Mutex<File>>);

impl Mouth {
    fn say(&self, run: u32, message: &Message) -> io::Result<()> {
        protocol::write(&mut *lock(&self.0), run, message)
    }
}

/// Serves the port until its other end is gone.
pub fn serve(port: &str) -> Result<()> {
    let open = || File::options().read(true).write(true).open(port);
    let mut ear = open().with_context(|| format!("cannot open the port {port}"))?;
    let mouth = Mouth(Arc::new(Mutex::new(ear.try_clone()?)));
    let groups = Groups::default();
    mouth.say(0, &Message::Ready)?;
    while let Some((run, message)) = protocol::read(&mut ear).context("cannot understand the outside")? {
        match message {
            Message::Run(request) => start(run, &request, &mouth, &groups)?,
            Message::Signal(number) => {
                let group = lock(&groups).get(&run).copied();
                if let (Some(group), Some(signal)) = (group, Signal::from_named_raw(number)) {
                    let _ = kill_process_group(group, signal);
                }
            }
            other => eprintln!("lab: the outside says what only the agent does: {other:?}"),
        }
    }
    Ok(())
}

fn start(run: u32, request: &Request, mouth: &Mouth, groups: &Groups) -> io::Result<()> {
    let Some((program, args)) = request.argv.split_first() else {
        return mouth.say(run, &Message::Failed("an empty command".to_owned()));
    };
    let mut command = Command::new(program);
    command.args(args).envs(request.env.iter().map(|(name, value)| (name, value)));
    command.current_dir(request.dir.as_deref().unwrap_or("/"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    match command.spawn() {
        Ok(child) => {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                lock(groups).insert(run, group);
            }
            let (mouth, groups) = (mouth.clone(), groups.clone());
            thread::spawn(move || attend(run, child, &mouth, &groups));
            Ok(())
        }
        Err(error) => mouth.say(run, &Message::Failed(format!("cannot start {program}: {error}"))),
    }
}

/// Hands on what a command says, and how it ends.
fn attend(run: u32, mut child: Child, mouth: &Mouth, groups: &Groups) {
    let (done, all_done) = mpsc::channel::<()>();
    if let Some(pipe) = child.stdout.take() {
        hand_on(run, pipe, Message::Stdout, mouth.clone(), done.clone());
    }
    if let Some(pipe) = child.stderr.take() {
        hand_on(run, pipe, Message::Stderr, mouth.clone(), done.clone());
    }
    drop(done);
    let status = child.wait();
    // What it left running in its group goes with it; a daemon that wants to stay has a session of its own.
    if let Some(group) = lock(groups).remove(&run) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    // Nothing is sent: this ends when both readers have dropped their ends.
    let _ = all_done.recv_timeout(LAST_WORDS);
    let last = match status {
        Ok(status) => Message::Exit(code(status)),
        Err(error) => Message::Failed(format!("cannot wait for it: {error}")),
    };
    let _ = mouth.say(run, &last);
}

fn hand_on(
    run: u32,
    mut pipe: impl Read + Send + 'static,
    kind: fn(Vec<u8>) -> Message,
    mouth: Mouth,
    done: mpsc::Sender<()>,
) {
    thread::spawn(move || {
        let _done = done;
        let mut buffer = vec![0; 1 << 15];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            if mouth.say(run, &kind(buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    });
}

/// An exit status as a shell tells it.
fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
