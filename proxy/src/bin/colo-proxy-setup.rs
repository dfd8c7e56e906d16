//! `colo-proxy-setup setup|teardown`: what Xen's toolstack runs for each NIC of a protected guest,
//! with the NIC in the environment.
//!
//! ```text
//!   vifname forwarddev mode index bridge ─► Spec ─► worker: setup or teardown    40 s in all, the last
//!                                                     │ not done in time ─► killed ─► teardown   ⅛ of it
//!                                                     └─► comparator (of a primary), which stays
//! ```
//!
//! The work is done by a second process of this program, because what hangs in a thread can be
//! neither ended nor undone.
#![forbid(unsafe_code)]

use colo_proxy::live::detach::{self, DetachError};
use colo_proxy::live::group::{End, Group};
use colo_proxy::live::options::{GuestOptions, ModeOption, NicOptions, VifName, build};
use colo_proxy::live::spec::{IfName, Index, Places, Spec};
use colo_proxy::live::{self, Attendance, LiveError};
use colo_proxy::setup::{self, SetupError, TIME_LIMIT, Which};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::env;
use std::fmt;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use thiserror::Error;
use tracing_subscriber::EnvFilter;

/// Set for the processes that do the work.
const WORKER: &str = "COLO_PROXY_SETUP_WORKER";

/// The word behind the verb that makes a worker a primary's comparator.
const COMPARATOR: &str = "comparator";

/// How long a worker that is ended may take for it.
const GRACE: Duration = Duration::from_millis(500);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Setup,
    Teardown,
}

impl Verb {
    const fn word(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Teardown => "teardown",
        }
    }
}

/// Which of the processes this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Supervisor,
    Worker,
    Comparator,
}

/// Something that cannot be done as it was asked for. Toolstacks and people look for these words, so
/// they stay as they are.
#[derive(Debug, Error)]
enum RequestError {
    #[error("Invalid command: {0}")]
    Command(String),
    #[error("{0}: parameter null or not set")]
    Missing(&'static str),
    #[error("Invalid mode: {0}")]
    Mode(String),
    #[error("index overflow")]
    Index,
    #[error("{name}: {why}")]
    Value { name: &'static str, why: String },
    #[error("{0}")]
    Spec(String),
}

/// A worker that cannot do it.
#[derive(Debug, Error)]
enum WorkError {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Detach(#[from] DetachError),
    #[error(transparent)]
    Live(#[from] LiveError),
}

/// A supervisor whose worker did not do it.
#[derive(Debug, Error)]
enum SuperviseError {
    #[error(
        "colo-proxy-setup {verb} for {vif} was given up after {seconds} s; {}",
        if *undone { "what it had done is undone" } else { "'colo-proxy teardown' ends what is left of it" }
    )]
    TooSlow { verb: &'static str, vif: IfName, seconds: u64, undone: bool },
    #[error("the process that does the work: {0}")]
    Worker(#[from] io::Error),
}

/// What is asked for.
struct Request {
    verb: Verb,
    part: Part,
    mode: ModeOption,
    vif: IfName,
    forward: IfName,
    index: Index,
    bridge: IfName,
    spec: Spec,
    limit: Duration,
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("COLO_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // A stderr that cannot be written to is no reason to stop.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false)
        .log_internal_errors(false)
        .init();
    let request = match Request::read() {
        Ok(request) => request,
        Err(error) => return fail(&error),
    };
    let done = match request.part {
        Part::Supervisor => return request.supervisor(),
        Part::Worker => request.work(),
        Part::Comparator => live::run(&request.spec, Attendance::Detached).map_err(WorkError::from),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &dyn fmt::Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "{error}");
    ExitCode::FAILURE
}

/// A variable of the environment that is there and not empty.
fn variable(name: &'static str) -> Option<String> {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
}

fn mandatory(name: &'static str) -> Result<String, RequestError> {
    variable(name).ok_or(RequestError::Missing(name))
}

/// A value, or why it is none in the words of its own parser.
fn parsed<T: std::str::FromStr<Err: fmt::Display>>(
    name: &'static str,
    text: &str,
) -> Result<T, RequestError> {
    text.parse().map_err(|error: T::Err| RequestError::Value { name, why: error.to_string() })
}

/// How long it may take in all: the toolstack's own limit, or less if the environment says so.
fn limit() -> Result<Duration, RequestError> {
    let name = "COLO_PROXY_TIMEOUT";
    let Some(text) = variable(name) else { return Ok(TIME_LIMIT) };
    let seconds = text.parse().ok().filter(|seconds| (1..=TIME_LIMIT.as_secs()).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| RequestError::Value {
        name,
        why: format!("{text} is not a whole number of seconds from 1 to {}", TIME_LIMIT.as_secs()),
    })
}

impl Request {
    /// From the command line and the environment.
    fn read() -> Result<Self, RequestError> {
        let words: Vec<String> =
            env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let is_worker = env::var_os(WORKER).is_some();
        let part = if is_worker { Part::Worker } else { Part::Supervisor };
        let (verb, part) = match words.as_slice() {
            ["setup"] => (Verb::Setup, part),
            ["teardown"] => (Verb::Teardown, part),
            ["setup", COMPARATOR] if is_worker => (Verb::Setup, Part::Comparator),
            other => return Err(RequestError::Command(other.join(" "))),
        };
        let [vif, forward, mode, index, bridge] = [
            mandatory("vifname")?,
            mandatory("forwarddev")?,
            mandatory("mode")?,
            mandatory("index")?,
            mandatory("bridge")?,
        ];
        let mode = match mode.as_str() {
            "primary" => ModeOption::Primary,
            "secondary" => ModeOption::Secondary,
            _ => return Err(RequestError::Mode(mode)),
        };
        let index: Index = index.parse().map_err(|_| RequestError::Index)?;
        // The toolstack names the interface itself: nothing is short for anything here.
        let vif: IfName = parsed("vifname", &vif)?;
        let forward: IfName = parsed("forwarddev", &forward)?;
        let bridge: IfName = parsed("bridge", &bridge)?;
        let nic = NicOptions {
            vif: VifName::from(vif.clone()),
            forward: forward.clone(),
            index: Some(index),
            bridge: Some(bridge.clone()),
        };
        let notify = variable("COLO_NOTIFY").map(|text| parsed("COLO_NOTIFY", &text)).transpose()?;
        let nics = vec![toml::Spanned::new(0..0, nic)];
        let guest = GuestOptions { nics, mode, notify, ..GuestOptions::default() };
        let defaults = Places::default();
        let places = Places {
            run: variable("COLO_PROXY_RUN_DIR").map_or(defaults.run, Into::into),
            bpffs: variable("COLO_PROXY_BPFFS").map_or(defaults.bpffs, Into::into),
        };
        let spec = build([&guest], places, None).map_err(|error| RequestError::Spec(error.to_string()))?;
        Ok(Self { verb, part, mode, vif, forward, index, bridge, spec, limit: limit()? })
    }

    /// Does it, in whatever time it takes.
    fn work(&self) -> Result<(), WorkError> {
        // With who waits for it gone, nobody would end it. Where this fails, it ends later.
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
        let lines = match (self.verb, self.mode) {
            (Verb::Teardown, _) => setup::teardown(&self.spec.places, &Which::Vifs(vec![self.vif.clone()]))?,
            (Verb::Setup, ModeOption::Secondary) => setup::leave(&self.spec, &mut |_| Ok(()))?,
            (Verb::Setup, ModeOption::Primary) => {
                let args = [Verb::Setup.word().into(), COMPARATOR.into()];
                // By its name, for people who look at processes; by what it is if the name is another's.
                let this = env::current_exe().ok().filter(|path| path.exists());
                detach::spawn(&this.unwrap_or_else(|| "/proc/self/exe".into()), &args, &self.spec)?
            }
        };
        lines.iter().for_each(|line| tracing::debug!("{line}"));
        Ok(())
    }

    /// Has it done, and says so.
    fn supervisor(&self) -> ExitCode {
        match self.supervise() {
            Ok(Some(End::Exit(0))) => {
                // It is done, whether or not somebody reads it.
                let _ = writeln!(io::stdout(), "{self}");
                ExitCode::SUCCESS
            }
            Ok(Some(End::Signal(number))) => {
                fail(&format_args!("the process that does the work was ended by signal {number}"))
            }
            // It has said why.
            Ok(_) => ExitCode::FAILURE,
            Err(error) => fail(&error),
        }
    }

    /// Has it done in time, or undone.
    fn supervise(&self) -> Result<Option<End>, SuperviseError> {
        let begun = Instant::now();
        // The rest is for undoing it.
        let patience = self.limit / 8 * 7;
        let end = in_time(self.verb, begun + patience)?;
        if matches!(end, Some(End::Exit(_))) {
            return Ok(end);
        }
        let undone =
            self.verb == Verb::Setup && in_time(Verb::Teardown, begun + self.limit)? == Some(End::Exit(0));
        if end.is_some() {
            return Ok(end);
        }
        let (verb, vif) = (self.verb.word(), self.vif.clone());
        Err(SuperviseError::TooSlow { verb, vif, seconds: begun.elapsed().as_secs(), undone })
    }
}

/// Runs a worker; none if it was not done by then, and was killed.
fn in_time(verb: Verb, deadline: Instant) -> io::Result<Option<End>> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("colo-proxy-setup").arg(verb.word()).env(WORKER, "1").stdin(Stdio::null());
    let worker = Group::start(&mut command)?;
    let end = worker.wait(deadline)?;
    if end.is_none() {
        worker.stop(GRACE);
    }
    Ok(end)
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vif, forward, index, bridge, .. } = self;
        let verb = self.verb.word();
        write!(
            f,
            "Successful colo-proxy-setup {verb} for {vif}. vifname: {vif}, index: {index}, forwarddev: {forward}"
        )?;
        if self.mode == ModeOption::Secondary {
            write!(f, ", bridge: {bridge}")?;
        }
        f.write_str(".")
    }
}
