//! All guests of one process, from set-up to teardown.

use super::mailbox::Failure;
use super::mailbox::{Mailbox, mailbox};
use super::performers::{Performers, Request};
use super::primary::Primary;
use super::secondary::Secondary;
use super::spec::{Guest, Mode, OnCrash, Places, Spec, Start};
use super::{Handle, LiveError, desk, detach, report};
use crate::control::listener::{MetricsListener, listen};
use crate::control::server::Server;
use crate::listener::Listener;
use crate::privilege::{self, Capability};
use crate::setup::{Charge, Installed, Journal, Store, abandon, install};
use crate::signals::Signals;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::SyncSender;
use std::thread::{self, JoinHandle};

/// Guests that are protected. Dropping it without [`stop`](Self::stop) leaves them to their threads.
#[derive(Debug)]
pub struct Node {
    places: Places,
    running: Vec<Running>,
    /// A byte from each thread that ends.
    ended: UnixStream,
}

#[derive(Debug)]
struct Running {
    handle: Handle,
    /// Whether its failure was reported while others went on.
    told: bool,
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
    /// checkpoints besides those whom each guest names. To be called in the network namespace of the
    /// guests' interfaces. Nothing is served, and a protected guest's output held, until
    /// [`Prepared::launch`]; whoever does not come to that calls [`Prepared::remove`].
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
        ended.set_nonblocking(true).map_err(system("prepare a socket"))?;
        for one in ready {
            let handle = one.handle.clone();
            let end = end.try_clone().map_err(system("copy a socket"))?;
            let name = format!("guest {}", handle.name());
            let places = places.clone();
            let thread = thread::Builder::new()
                .name(name)
                .spawn(move || {
                    let outcome = follow(one, &places);
                    // A byte for the main thread, which may wait for something else.
                    let _ = (&end).write(&[1]);
                    outcome
                })
                .map_err(system("start a thread"))?;
            running.push(Running { handle, told: false, thread });
        }
        Ok(Self { places: places.clone(), running, ended })
    }

    /// The guests, in the order of the spec.
    pub fn guests(&self) -> impl Iterator<Item = &Handle> {
        self.running.iter().map(|running| &running.handle)
    }

    /// Stops all guests' threads and leaves no trace, but for guests that have failed and whose output
    /// is not to leave then. What is held is never released. To be called in the network namespace in
    /// which the guests were prepared. The error is the first guest's that has failed, if one has.
    pub fn stop(self) -> Result<(), LiveError> {
        self.running.iter().for_each(|running| running.handle.stop());
        let mut first = Ok(());
        let mut installed = Vec::new();
        let mut before = Vec::new();
        for Running { handle, told, thread } in self.running {
            match thread.join() {
                Ok((_, Err(_))) if told => before.push(handle.name().to_owned()),
                Ok((mut nics, outcome)) => {
                    installed.append(&mut nics);
                    first = first.and(outcome);
                }
                Err(_) => first = first.and(Err(LiveError::Panicked(handle.name().to_owned()))),
            }
        }
        let removed = remove(installed, &self.places);
        let before = if before.is_empty() { Ok(()) } else { Err(LiveError::FailedBefore(before.join(", "))) };
        first.and(removed).and(before)
    }

    /// Reports guests that have failed, if others go on. Whether one does.
    fn go_on(&mut self) -> bool {
        while matches!((&self.ended).read(&mut [0; 64]), Ok(1..)) {}
        if self.running.iter().all(|running| running.handle.failed().is_some()) {
            return false;
        }
        for running in self.running.iter_mut().filter(|running| !running.told) {
            if let Some(why) = running.handle.failure() {
                running.told = true;
                tracing::error!("{}: {why}; the other guests go on", running.handle.name());
            }
        }
        true
    }

    /// Waits until a signal says to stop, or no guest is left. `report` is called for SIGUSR1.
    fn wait(
        &mut self,
        signals: &Signals,
        asked: &UnixStream,
        report: impl Fn(&Self),
    ) -> Result<(), LiveError> {
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
            let [ended, asked_to_stop] = [2, 3].map(|at| !fds[at].revents().is_empty());
            if signals.report() {
                report(self);
            }
            if signals.stop() || asked_to_stop || ended && !self.go_on() {
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

/// What becomes of a guest's NICs when it cannot be looked after any more. A secondary's that was let go
/// would answer beside the primary's.
pub(super) fn leaves(guest: &Guest) -> OnCrash {
    if guest.mode == Mode::Secondary { OnCrash::Closed } else { guest.on_crash }
}

/// A guest's thread. What it gives back is to be taken down; one that fails has nothing left.
fn follow(ready: Ready, places: &Places) -> (Vec<Installed>, Result<(), LiveError>) {
    let Ready { guest, installed, performers, handle, mailbox } = ready;
    let journals: Vec<Journal> = installed.iter().map(|one| one.journal.clone()).collect();
    let fail = |why: String| {
        let on_crash = leaves(&guest);
        handle.fail(Failure { status: report::failed(&guest, &journals, why), on_crash });
    };
    let work = || match guest.mode {
        Mode::Primary => {
            let mut primary = Primary::new(guest.clone(), installed, performers, mailbox);
            let outcome = primary.run().inspect_err(|error| fail(error.to_string()));
            (primary.into_installed(), outcome)
        }
        Mode::Secondary => {
            let mut secondary = Secondary::new(guest.clone(), installed, performers, mailbox);
            let outcome = secondary.run().inspect_err(|error| fail(error.to_string()));
            (secondary.into_installed(), outcome)
        }
    };
    // A fault of the program's own in what is done for one guest is no reason to leave the others.
    let error = match catch_unwind(AssertUnwindSafe(work)) {
        Ok((installed, Ok(()))) => return (installed, Ok(())),
        Ok((installed, Err(error))) => {
            drop(installed);
            error
        }
        Err(_) => LiveError::Panicked(guest.name.clone()),
    };
    fail(error.to_string());
    // From here on it is as one whose comparator died.
    if let Err(again) = abandon(&journals, leaves(&guest), places, &error.to_string()) {
        tracing::error!("{}: what was set up cannot be given up: {again}", guest.name);
    }
    (Vec::new(), Err(error))
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
        let control = listen(&Store::open(&spec.places)?.folder().join(spec.file("sock")))?;
        let metrics = spec.metrics.map(MetricsListener::bind).transpose()?;
        Ok(Self { control, metrics })
    }

    /// Answers from now on. What comes on the socket that this gives is a wish to stop.
    fn serve(self, node: &Node) -> Result<(Server, UnixStream), LiveError> {
        let (stopped, stop) =
            UnixStream::pair().map_err(|error| LiveError::System { what: "make a socket pair", error })?;
        let handler = desk::handler(node.guests().cloned().collect(), node.places.clone(), stop);
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
    let mut node = prepared.launch()?;
    let outcome = attend(&mut node, desk, attendance, &lines, &signals);
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
    node: &mut Node,
    desk: Desk,
    attendance: Attendance,
    lines: &[String],
    signals: &Signals,
) -> Result<(), LiveError> {
    let (_server, stop) = desk.serve(node)?;
    match attendance {
        Attendance::Foreground => lines.iter().for_each(|line| say(line)),
        // Who began us is gone, and has told nobody that it was done.
        Attendance::Detached if detach::ready(lines).is_err() => return Ok(()),
        Attendance::Detached => {}
    }
    node.wait(signals, &stop, |node| {
        for guest in node.guests() {
            if let Ok(status) = guest.status() {
                say(&serde_json::to_string(&status).unwrap_or_default());
            }
        }
    })
}
