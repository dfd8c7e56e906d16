//! Commands in a lab machine, from outside.

use super::machine::Machine;
use super::protocol::{self, Message, Request};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use std::collections::HashMap;
use std::fmt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// Of what a command says, so much is kept; what comes later is only streamed.
const KEPT: usize = 32 << 20;
/// How long the agent has for an answer to a kill.
const GRACE: Duration = Duration::from_secs(20);
/// How long a command has if nothing else is said.
const USUAL: Duration = Duration::from_mins(2);

/// Where a command said something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
}

type Sink = Box<dyn FnMut(Stream, &[u8]) + Send>;

/// A command for a lab machine.
pub struct Job {
    request: Request,
    timeout: Duration,
    sink: Option<Sink>,
}

impl fmt::Debug for Job {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:?}", self.request.argv)
    }
}

impl Job {
    /// A program with its arguments.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        let argv = argv.into_iter().map(Into::into).collect();
        Self { request: Request { argv, ..Request::default() }, timeout: USUAL, sink: None }
    }

    /// A line for bash.
    pub fn shell(line: &str) -> Self {
        Self::new(["bash", "-c", line])
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.request.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// In a folder.
    #[must_use]
    pub fn dir(mut self, dir: &str) -> Self {
        self.request.dir = Some(dir.to_owned());
        self
    }

    /// Ended after so long.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What it says is handed to `sink` as it comes.
    #[must_use]
    pub fn live(mut self, sink: impl FnMut(Stream, &[u8]) + Send + 'static) -> Self {
        self.sink = Some(Box::new(sink));
        self
    }
}

/// What a command said and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; 128 and the signal that ended it.
    pub status: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

#[derive(Default)]
struct Progress {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    sink: Option<Sink>,
    ended: Option<Result<i32, String>>,
}

#[derive(Default)]
struct Run {
    progress: Mutex<Progress>,
    changed: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Run {
    fn hear(&self, stream: Stream, bytes: &[u8]) {
        let mut progress = lock(&self.progress);
        if let Some(sink) = &mut progress.sink {
            sink(stream, bytes);
        }
        let kept = match stream {
            Stream::Stdout => &mut progress.stdout,
            Stream::Stderr => &mut progress.stderr,
        };
        let room = KEPT.saturating_sub(kept.len()).min(bytes.len());
        kept.extend(&bytes[..room]);
        drop(progress);
        self.changed.notify_all();
    }

    fn end(&self, how: Result<i32, String>) {
        lock(&self.progress).ended.get_or_insert(how);
        self.changed.notify_all();
    }
}

/// What is shared with the thread that listens to the agent.
#[derive(Default)]
struct Runs {
    /// `None` once the agent is gone.
    open: Mutex<Option<HashMap<u32, Arc<Run>>>>,
}

/// A lab machine as a host: it runs commands, and it can die.
pub struct Host {
    name: char,
    machine: Machine,
    mouth: Mutex<UnixStream>,
    runs: Arc<Runs>,
    next: AtomicU32,
}

impl fmt::Debug for Host {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "host {} (pid {})", self.name, self.machine.pid())
    }
}

impl Host {
    /// Waits for the agent's first word.
    pub(super) fn meet(name: char, machine: Machine, agent: UnixStream, deadline: Instant) -> Result<Self> {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        agent.set_read_timeout(Some(left))?;
        let mut ear = agent.try_clone()?;
        match protocol::read(&mut ear) {
            Ok(Some((_, Message::Ready))) => {}
            Ok(Some((_, other))) => bail!("the agent's first word is {other:?}"),
            Ok(None) | Err(_) => bail!("{}", machine.last_words("was not ready for commands in its time")),
        }
        agent.set_read_timeout(None)?;
        let runs = Arc::new(Runs { open: Mutex::new(Some(HashMap::new())) });
        let theirs = Arc::downgrade(&runs);
        thread::spawn(move || listen(ear, &theirs));
        Ok(Self { name, machine, mouth: Mutex::new(agent), runs, next: AtomicU32::new(1) })
    }

    /// `a` or `b`.
    pub fn name(&self) -> char {
        self.name
    }

    /// The process that is this host.
    pub fn pid(&self) -> u32 {
        self.machine.pid()
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        self.machine.ended().is_none()
    }

    /// The death of the host: its process is killed, and gone when this returns.
    pub fn kill(&self) {
        self.machine.kill();
    }

    /// The host stands still until [`Host::thaw`].
    pub fn freeze(&self) -> Result<()> {
        self.machine.signal(Signal::STOP)
    }

    /// The host goes on.
    pub fn thaw(&self) -> Result<()> {
        self.machine.signal(Signal::CONT)
    }

    /// Starts a command and leaves it running.
    pub fn start(&self, job: Job) -> Result<Running<'_>> {
        let number = self.next.fetch_add(1, Relaxed);
        let run = Arc::new(Run::default());
        lock(&run.progress).sink = job.sink;
        let what = job.request.argv.join(" ");
        match &mut *lock(&self.runs.open) {
            Some(open) => open.insert(number, run.clone()),
            None => {
                bail!("cannot run `{what}`: {}", self.machine.last_words(&format!("{} is gone", self.name)))
            }
        };
        self.say(number, &Message::Run(job.request)).with_context(|| format!("cannot run `{what}`"))?;
        Ok(Running { host: self, number, run, what, deadline: Instant::now() + job.timeout })
    }

    /// Runs a command to its end, whatever that is.
    pub fn run(&self, job: Job) -> Result<Output> {
        self.start(job)?.wait()
    }

    /// Runs a line of bash that must succeed; what it printed.
    pub fn shell(&self, line: &str) -> Result<String> {
        let Output { status, stdout, stderr } = self.run(Job::shell(line))?;
        ensure!(status == 0, "on host {}, `{line}`: exit status {status}\n{stdout}{stderr}", self.name);
        Ok(stdout)
    }

    fn say(&self, run: u32, message: &Message) -> Result<()> {
        protocol::write(&mut *lock(&self.mouth), run, message)
            .with_context(|| self.machine.last_words("does not listen"))
    }
}

/// Hands on what the agent says, until it is gone.
fn listen(mut ear: UnixStream, runs: &Weak<Runs>) {
    while let Ok(Some((number, message))) = protocol::read(&mut ear) {
        let Some(runs) = runs.upgrade() else { return };
        let mut open = lock(&runs.open);
        let Some(open) = open.as_mut() else { return };
        let Some(run) = open.get(&number).cloned() else { continue };
        match message {
            Message::Stdout(bytes) => run.hear(Stream::Stdout, &bytes),
            Message::Stderr(bytes) => run.hear(Stream::Stderr, &bytes),
            Message::Exit(code) => {
                open.remove(&number);
                run.end(Ok(code));
            }
            Message::Failed(words) => {
                open.remove(&number);
                run.end(Err(words));
            }
            Message::Ready | Message::Run(_) | Message::Signal(_) => {}
        }
    }
    let Some(runs) = runs.upgrade() else { return };
    for (_, run) in lock(&runs.open).take().into_iter().flatten() {
        run.end(Err("the machine died".to_owned()));
    }
}

/// A command that runs; killed when this is dropped.
#[must_use]
pub struct Running<'a> {
    host: &'a Host,
    number: u32,
    run: Arc<Run>,
    what: String,
    deadline: Instant,
}

impl fmt::Debug for Running<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "`{}` on {:?}", self.what, self.host)
    }
}

impl Running<'_> {
    /// Sends its process group a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.host.say(self.number, &Message::Signal(signal.as_raw()))
    }

    /// What it has said so far on its standard output.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&lock(&self.run.progress).stdout).into_owned()
    }

    /// Waits until it has said `words` on its standard output; an error if it ends before, or its time
    /// is up.
    pub fn until_said(&self, words: &str) -> Result<()> {
        let found = |progress: &Progress| {
            progress.stdout.windows(words.len().max(1)).any(|part| part == words.as_bytes())
        };
        let progress = self.watch(self.deadline, |progress| found(progress) || progress.ended.is_some());
        let (is_found, said, complained) = (
            found(&progress),
            String::from_utf8_lossy(&progress.stdout).into_owned(),
            String::from_utf8_lossy(&progress.stderr).into_owned(),
        );
        ensure!(is_found, "{self:?} never said {words:?}\n{said}{complained}");
        Ok(())
    }

    /// Waits for its end. When its time is up it is killed, and that is an error.
    pub fn wait(self) -> Result<Output> {
        let is_over = |progress: &Progress| progress.ended.is_some();
        if !is_over(&self.watch(self.deadline, is_over)) {
            let said = self.said();
            self.signal(Signal::KILL)?;
            if !is_over(&self.watch(Instant::now() + GRACE, is_over)) {
                self.host.kill();
                bail!("{self:?} could not be ended, so the host was; it had said:\n{said}");
            }
            bail!("{self:?} did not end in its time and was killed; it had said:\n{said}");
        }
        let progress = lock(&self.run.progress);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&progress.stdout), text(&progress.stderr));
        match &progress.ended {
            Some(Ok(status)) => Ok(Output { status: *status, stdout, stderr }),
            Some(Err(words)) => bail!("{self:?}: {words}; it had said:\n{stdout}{stderr}"),
            None => bail!("{self:?} has not ended"),
        }
    }

    /// The progress, when `is_so` or at the deadline.
    fn watch(&self, deadline: Instant, is_so: impl Fn(&Progress) -> bool) -> MutexGuard<'_, Progress> {
        let mut progress = lock(&self.run.progress);
        while !is_so(&progress) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            progress =
                self.run.changed.wait_timeout(progress, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        progress
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let ended = lock(&self.run.progress).ended.is_some();
        if !ended && self.host.is_alive() {
            let _ = self.signal(Signal::KILL);
        }
    }
}
