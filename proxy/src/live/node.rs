//! All guests of one process, from set-up to teardown.

use super::mailbox::{Mailbox, mailbox};
use super::performers::{Performers, Request};
use super::primary::Primary;
use super::secondary::Secondary;
use super::spec::{Guest, Mode, OnCrash, Places, Spec, Start};
use super::{Handle, LiveError, desk, detach};
use crate::control::listener::{Listener, MetricsListener};
use crate::control::server::Server;
use crate::privilege::{self, Capability};
use crate::setup::{Charge, Installed, Store, install};
use crate::signals::Signals;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::SyncSender;
use std::thread::{self, JoinHandle};

/// Guests that are protected. Dropping it without [`stop`](Self::stop) leaves them to their threads.
#[derive(Debug)]
pub struct Node {
    places: Places,
    running: Vec<Running>,
    /// Closed by threads that end.
    ended: UnixStream,
}

#[derive(Debug)]
struct Running {
    handle: Handle,
    on_crash: OnCrash,
    thread: JoinHandle<(Vec<Installed>, Result<(), LiveError>)>,
}

/// A guest that is set up, before its thread runs.
struct Ready {
    guest: Guest,
    installed: Vec<Installed>,
    performers: Performers,
    handle: Handle,
    mailbox: Mailbox,
}

/// Guests that are set up, before their threads run: the time to give up privileges.
#[must_use = "what is set up is not served until it is launched"]
pub struct Prepared {
    ready: Vec<Ready>,
    places: Places,
}

impl Prepared {
    /// A line for each NIC, and what each guest waits for.
    pub fn describe(&self) -> Vec<String> {
        self.ready.iter().flat_map(describe).collect()
    }

    /// Starts the guests' threads.
    pub fn launch(self) -> Result<Node, LiveError> {
        Node::launch(self.ready, &self.places)
    }

    /// Takes everything down again.
    pub fn remove(self) -> Result<(), LiveError> {
        remove(self.ready.into_iter().flat_map(|one| one.installed).collect(), &self.places)
    }
}

impl Node {
    /// Sets all guests up; all of them, or none. A `listener` in this process is asked for
    /// checkpoints besides those whom each guest names.
    pub fn prepare(spec: &Spec, listener: Option<&SyncSender<Request>>) -> Result<Prepared, LiveError> {
        let mut ready = Vec::with_capacity(spec.guests.len());
        for guest in &spec.guests {
            match prepare(guest, &spec.places, listener) {
                Ok(one) => ready.push(one),
                Err(error) => {
                    let installed = ready.into_iter().flat_map(|one: Ready| one.installed).collect();
                    remove(installed, &spec.places).unwrap_or_else(|error| tracing::error!("{error}"));
                    return Err(error);
                }
            }
        }
        Ok(Prepared { ready, places: spec.places.clone() })
    }

    fn launch(ready: Vec<Ready>, places: &Places) -> Result<Self, LiveError> {
        let system = |what| move |error| LiveError::System { what, error };
        let (ended, end) = UnixStream::pair().map_err(system("make a socket pair"))?;
        let mut running = Vec::with_capacity(ready.len());
        for Ready { guest, installed, performers, handle, mailbox } in ready {
            let on_crash = guest.on_crash;
            let end = end.try_clone().map_err(system("copy a socket"))?;
            let name = format!("guest {}", guest.name);
            let thread = thread::Builder::new()
                .name(name)
                .spawn(move || {
                    let outcome = follow(guest, installed, performers, mailbox);
                    // A byte for the main thread, which may wait for something else.
                    let _ = (&end).write(&[1]);
                    outcome
                })
                .map_err(system("start a thread"))?;
            running.push(Running { handle, on_crash, thread });
        }
        Ok(Self { places: places.clone(), running, ended })
    }

    /// The guests, in the order of the spec.
    pub fn guests(&self) -> impl Iterator<Item = &Handle> {
        self.running.iter().map(|running| &running.handle)
    }

    /// Stops all guests' threads and leaves no trace, but for guests whose thread has failed and whose
    /// output is not to leave then. What is held is never released.
    pub fn stop(self) -> Result<(), LiveError> {
        self.running.iter().for_each(|running| running.handle.stop());
        let mut first = Ok(());
        let mut installed = Vec::new();
        for Running { handle, on_crash, thread } in self.running {
            match thread.join() {
                // A guest that cannot be compared any more is as one whose comparator died.
                Ok((_, Err(error))) if on_crash == OnCrash::Closed => first = first.and(Err(error)),
                Ok((mut nics, outcome)) => {
                    installed.append(&mut nics);
                    first = first.and(outcome);
                }
                Err(_) => first = first.and(Err(LiveError::Panicked(handle.name().to_owned()))),
            }
        }
        let removed = remove(installed, &self.places);
        first.and(removed)
    }

    /// Waits until a signal says to stop, or a thread ends. `report` is called for SIGUSR1.
    fn wait(&self, signals: &Signals, asked: &UnixStream, mut report: impl FnMut()) -> Result<(), LiveError> {
        loop {
            let [stop, status] = signals.fds();
            let mut fds = [
                PollFd::from_borrowed_fd(stop, PollFlags::IN),
                PollFd::from_borrowed_fd(status, PollFlags::IN),
                PollFd::new(&self.ended, PollFlags::IN),
                PollFd::new(asked, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(LiveError::Poll(error.into())),
            }
            let ended = fds[2..].iter().any(|fd| !fd.revents().is_empty());
            if signals.report() {
                report();
            }
            if ended || signals.stop() {
                return Ok(());
            }
        }
    }
}

fn prepare(
    guest: &Guest,
    places: &Places,
    listener: Option<&SyncSender<Request>>,
) -> Result<Ready, LiveError> {
    let performers = Performers::open(guest, listener.cloned())
        .map_err(|error| LiveError::Performers { guest: guest.name.clone(), error })?;
    let (handle, mailbox) =
        mailbox(&guest.name).map_err(|error| LiveError::System { what: "make a socket pair", error })?;
    let mut installed = Vec::with_capacity(guest.nics.len());
    for nic in &guest.nics {
        match install(guest, nic, places, Charge::This, &mut |_| Ok(())) {
            Ok(one) => installed.push(one),
            Err(error) => {
                remove(installed, places).unwrap_or_else(|error| tracing::error!("{error}"));
                return Err(error.into());
            }
        }
    }
    Ok(Ready { guest: guest.clone(), installed, performers, handle, mailbox })
}

fn follow(
    guest: Guest,
    installed: Vec<Installed>,
    performers: Performers,
    mailbox: Mailbox,
) -> (Vec<Installed>, Result<(), LiveError>) {
    match guest.mode {
        Mode::Primary => {
            let mut primary = Primary::new(guest, installed, performers, mailbox);
            let outcome = primary.run();
            (primary.into_installed(), outcome)
        }
        Mode::Secondary => {
            let mut secondary = Secondary::new(guest, installed, performers, mailbox);
            let outcome = secondary.run();
            (secondary.into_installed(), outcome)
        }
    }
}

/// Takes NICs down, the last one first.
fn remove(installed: Vec<Installed>, places: &Places) -> Result<(), LiveError> {
    let mut first = Ok(());
    for one in installed.into_iter().rev() {
        first = first.and(one.remove(places));
    }
    Ok(first?)
}

/// A line for each NIC, and what the guest waits for.
fn describe(ready: &Ready) -> Vec<String> {
    let mut lines: Vec<String> = ready
        .installed
        .iter()
        .map(|nic| {
            let journal = &nic.journal;
            let bridge =
                journal.bridge.as_ref().map(|bridge| format!(", bridge {bridge}")).unwrap_or_default();
            let (does, waits) = match journal.mode {
                Mode::Primary if ready.guest.start == Start::Protected => {
                    ("protected as primary", "waiting for the secondary's output")
                }
                Mode::Primary => ("not protected yet", "waiting for the first complete checkpoint"),
                Mode::Secondary => ("follows as secondary", "waiting for the primary's frames"),
            };
            format!(
                "{}: {does}, index {} on {}{bridge}; {waits}",
                journal.vif.name, journal.index, journal.forward.name
            )
        })
        .collect();
    lines.extend(ready.performers.describe().map(|line| format!("{}: {line}", ready.guest.name)));
    if ready.performers.is_nobody() && ready.guest.mode == Mode::Primary {
        lines.push(format!(
            "warning: {}: without --notify or --checkpoint-command nobody performs checkpoints: output that \
             differs stays held",
            ready.guest.name
        ));
    }
    lines
}

/// Whether somebody watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attendance {
    /// A person or a service manager, who reads stderr.
    Foreground,
    /// Nobody, once [`detach::spawn`] has heard that it runs.
    Detached,
}

/// What is needed to set up: loading programs with loops takes more than using them.
const NEEDED_AT_FIRST: [Capability; 3] = [Capability::NetAdmin, Capability::Bpf, Capability::Perfmon];

/// What is needed from then on: the maps, the links, and the frames of an announcement.
const NEEDED: [Capability; 2] = [Capability::NetAdmin, Capability::Bpf];

/// The sockets that a node is asked on. Opened while there are privileges for it.
struct Desk {
    control: Listener,
    metrics: Option<MetricsListener>,
}

impl Desk {
    fn open(spec: &Spec) -> Result<Self, LiveError> {
        let control = Listener::bind(&Store::open(&spec.places)?.folder().join(spec.file("sock")))?;
        let metrics = spec.metrics.map(MetricsListener::bind).transpose()?;
        Ok(Self { control, metrics })
    }

    /// Answers from now on. What comes on the socket that this gives is a wish to stop.
    fn serve(self, node: &Node) -> Result<(Server, UnixStream), LiveError> {
        let (stopped, stop) =
            UnixStream::pair().map_err(|error| LiveError::System { what: "make a socket pair", error })?;
        let handler = desk::handler(node.guests().cloned().collect(), stop);
        Ok((Server::start(self.control, self.metrics, handler)?, stopped))
    }
}

/// Protects until SIGINT, SIGTERM or a command says to stop, then restores everything.
pub fn run(spec: &Spec, attendance: Attendance) -> Result<(), LiveError> {
    privilege::require(&NEEDED_AT_FIRST)?;
    if attendance == Attendance::Detached {
        detach::until_ready()
            .map_err(|error| LiveError::System { what: "follow the command that began this", error })?;
    }
    let signals =
        Signals::install().map_err(|error| LiveError::System { what: "set up signal handling", error })?;
    let prepared = Node::prepare(spec, None)?;
    let opened = Desk::open(spec).and_then(|desk| Ok(privilege::keep(&NEEDED).map(|()| desk)?));
    let desk = match opened {
        Ok(desk) => desk,
        Err(error) => {
            prepared.remove()?;
            return Err(error);
        }
    };
    let lines = prepared.describe();
    let node = prepared.launch()?;
    let outcome = attend(&node, desk, attendance, &lines, &signals);
    let vifs: Vec<&str> =
        spec.guests.iter().flat_map(|guest| &guest.nics).map(|nic| nic.vif.as_str()).collect();
    let stopped = node.stop();
    if stopped.is_ok() {
        say(&format!("{}: torn down", vifs.join(", ")));
    }
    outcome.and(stopped)
}

/// A line for people. A stderr that is gone is no reason to stop.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn attend(
    node: &Node,
    desk: Desk,
    attendance: Attendance,
    lines: &[String],
    signals: &Signals,
) -> Result<(), LiveError> {
    let (_server, stop) = desk.serve(node)?;
    match attendance {
        Attendance::Foreground => lines.iter().for_each(|line| say(line)),
        // Who began us may be gone already.
        Attendance::Detached => drop(detach::ready(lines)),
    }
    node.wait(signals, &stop, || {
        for guest in node.guests() {
            if let Ok(status) = guest.status() {
                say(&serde_json::to_string(&status).unwrap_or_default());
            }
        }
    })
}
