//! `colo-vm run`, and what it has in common with `primary` and `secondary`.

use super::{Assemble, Assembled, Ended, Exit, Failure, Launch, complain};
use crate::config::{self, Colo, Config, Console, Draft, Side};
use crate::console;
use crate::control::Control;
use crate::metrics;
use crate::qmp;
use crate::sandbox::{Confinement, Kind, Sandbox};
use colo_proxy::control::{MetricsListener, scrape};
use colo_proxy::listener::Listener;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use tracing_subscriber::EnvFilter;

pub(super) const HELP: &str = "\
Examples:
  colo-vm run --kernel /boot/vmlinuz-6.1.0-41-cloud-amd64 --initrd initrd.img \\
      --cmdline 'console=ttyS0' --memory 512M --cpus 2
      a kernel and its initial RAM file system, on this terminal
  colo-vm run --kernel vmlinuz --initrd initrd.img --cmdline 'console=ttyS0 root=/dev/vda1' \\
      --disk path=disk.qcow2 --disk path=data.img,format=raw,readonly --net tap=vif1.0
      from a disk, with a second one, and a network card; the tap is made before with
      ip tuntap add vif1.0 mode tap vnet_hdr
  colo-vm run --config web.toml --memory 4G --console unix:/run/web.console --qmp unix:/run/web.qmp
      a file (docs/colo-vm.toml shows every key) and what is different this time
  colo-vm run --config web.toml --restore web.state
      goes on where \"colo-vm save web.state --qmp unix:/run/web.qmp\" was said

On a terminal every key goes to the guest; Ctrl-a x ends it. SIGINT, SIGTERM and SIGHUP end it, too.
COLO_LOG=debug says more of what happens.

Exit codes: 0 the guest powered off or was ended, 1 it could not be started or could not go on,
2 wrong usage, 3 it was reset and --on-reset exit was said, 5 a thread made a system call that it has
no business with (--seccomp).";

/// Its words.
#[derive(clap::Args, Debug)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// A file that says what to run, with the words of these options; what is said here as well counts
    /// more, and disks, cards and sockets come after those of the file
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    #[command(flatten)]
    draft: Draft,
    /// Go on from this state, which "colo-vm save" wrote, instead of booting; the rest as it was then
    #[arg(long, value_name = "FILE")]
    restore: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self, assemble: Assemble) -> Exit {
        let Self { config, draft, restore } = self;
        start(assemble, || {
            Ok(Plan { config: read(config.as_deref(), draft)?.finish()?, colo: None, restore })
        })
    }
}

/// What is to be done.
pub(super) struct Plan {
    pub(super) config: Config,
    pub(super) colo: Option<Colo>,
    pub(super) restore: Option<PathBuf>,
}

/// What the command line says, over what the file does.
pub(super) fn read(file: Option<&Path>, draft: Draft) -> Result<Draft, Failure> {
    Ok(draft.over(file.map(config::read).transpose()?.unwrap_or_default()))
}

/// Makes a plan, and runs a guest by it.
pub(super) fn start(assemble: Assemble, plan: impl FnOnce() -> Result<Plan, Failure>) -> Exit {
    log();
    let plan = match plan() {
        Ok(plan) => plan,
        Err(error) => {
            complain(&*error);
            return Exit::Usage;
        }
    };
    match run(&plan, assemble) {
        Ok(exit) => exit,
        Err(error) => {
            // What is said would be hard to read on a raw terminal.
            console::restore_terminal();
            complain(&*error);
            Exit::Failed
        }
    }
}

/// Messages go to standard error. Somebody else may have seen to them already.
fn log() {
    // The library of qcow2 warns of each request that meets damage, as often as a guest likes.
    let filter = EnvFilter::try_from_env("COLO_LOG").unwrap_or_else(|_| EnvFilter::new("info,imago=error"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .log_internal_errors(false)
        .try_init();
}

fn run(plan: &Plan, assemble: Assemble) -> Result<Exit, Failure> {
    let Plan { config, colo, restore } = plan;
    colo.iter().flat_map(Colo::warnings).for_each(|warning| tracing::warn!("{warning}"));
    let scraped = config.metrics.map(MetricsListener::bind).transpose()?;
    let listeners: Result<Vec<Listener>, _> =
        config.qmp.iter().map(|endpoint| Listener::bind(endpoint.path())).collect();
    let listeners = listeners?;
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|error| format!("cannot catch the signals that end it: {error}"))?;
    // A file that may not grow is an error of who writes it, and not the guest's end.
    signal_hook::flag::register(libc::SIGXFSZ, Arc::default())
        .map_err(|error| format!("cannot catch the signal of a file that is too large: {error}"))?;
    refuse_own_console(config)?;
    let opened = console::open(&config.console)?;
    let mut line = summary(plan, opened.described());
    if let Some(listener) = &scraped {
        // With the port that was chosen.
        line = format!("{line}; metrics on {}", listener.address()?);
    }
    let confinement = Confinement::new(config, console::restore_terminal);
    let (colo, restore) = (colo.as_ref(), restore.as_deref());
    let launch = Launch { config, colo, restore, console: opened.output(), confinement };
    let Assembled { control: controls, input, sandbox, run } = assemble(launch)?;
    let control = Arc::clone(&controls.guest);
    let _ = writeln!(io::stderr(), "{line}");

    let signals = quit_at(signals, Arc::clone(&control), &sandbox)?;
    // Without a socket there is nobody to speak with: its threads would only hold up the guest's start.
    let speak = !listeners.is_empty();
    let server = speak
        .then(|| qmp::Server::start(listeners, controls.clone(), config.name.as_str(), enters(&sandbox)))
        .transpose()
        .map_err(|error| format!("cannot start QMP: {error}"))?;
    let name = config.name.to_string();
    let scraped = scraped
        .map(|listener| {
            scrape::Server::start(listener, enters(&sandbox), move || metrics::text(&name, &controls))
        })
        .transpose()?;
    let quit = Arc::clone(&control);
    let console = opened
        .start(enters(&sandbox), input, move || quit.quit())
        .map_err(|error| format!("cannot start the console: {error}"))?;
    sandbox.enter(Kind::Control)?;

    let ended = run();
    // Clients hear the last event, and readers the last words.
    drop(server);
    drop(console);
    drop(scraped);
    signals.close();
    match ended? {
        Ended::Done => Ok(Exit::Done),
        Ended::Reset => Ok(Exit::Reset),
    }
}

/// What the guest says is not to be written into what it boots.
fn refuse_own_console(config: &Config) -> Result<(), Failure> {
    let Console::File(path) = &config.console else { return Ok(()) };
    let identity = |path: &Path| path.metadata().map(|file| (file.dev(), file.ino())).ok();
    let boots = [Some(&config.kernel), config.initrd.as_ref()];
    if identity(path).is_some_and(|it| boots.into_iter().flatten().any(|file| identity(file) == Some(it))) {
        let path = path.display();
        return Err(
            format!("the console cannot be {path}: this guest boots it; choose another file:PATH").into()
        );
    }
    Ok(())
}

/// What a thread of control does first. A thread without its filter must not go on.
fn enters(sandbox: &Sandbox) -> impl Fn() + Clone + Send + 'static {
    let sandbox = sandbox.clone();
    move || {
        if let Err(error) = sandbox.enter(Kind::Control) {
            console::restore_terminal();
            complain(&error);
            std::process::exit(i32::from(Exit::Failed.code()));
        }
    }
}

/// Ends the guest when one of these signals comes.
fn quit_at(mut signals: Signals, control: Arc<dyn Control>, sandbox: &Sandbox) -> io::Result<Handle> {
    let (handle, enter) = (signals.handle(), enters(sandbox));
    thread::Builder::new().name("signals".into()).spawn(move || {
        enter();
        for signal in signals.forever() {
            tracing::info!("signal {signal}: the guest is ended");
            control.quit();
        }
    })?;
    Ok(handle)
}

/// What runs, in one line.
fn summary(plan: &Plan, console: &str) -> String {
    use std::fmt::Write as _;
    let Plan { config, colo, restore } = plan;
    let plural = if config.cpus.get() == 1 { "" } else { "s" };
    let mut line = format!(
        "colo-vm {} runs {}: {} vCPU{plural}, {} of RAM, {}",
        env!("CARGO_PKG_VERSION"),
        config.name,
        config.cpus,
        config.memory,
        config.kernel.display(),
    );
    // Writing into a String does not fail.
    for (letter, disk) in ('a'..).zip(&config.disks) {
        let _ = write!(line, "; vd{letter} {disk}");
    }
    for net in &config.nets {
        let _ = write!(line, "; {} ({})", net.tap, net.mac);
    }
    for endpoint in &config.qmp {
        let _ = write!(line, "; QMP on {endpoint}");
    }
    if let Some(restore) = restore {
        let _ = write!(line, "; goes on from {}", restore.display());
    }
    match colo.as_ref().map(|colo| (&colo.side, colo.mode)) {
        Some((Side::Primary { peer, .. }, mode)) => {
            let _ = write!(line, "; primary of {peer} ({mode})");
        }
        Some((Side::Secondary { listen, .. }, mode)) => {
            let _ = write!(line, "; secondary, waits for its primary on {listen} ({mode})");
        }
        None => {}
    }
    line + "; " + console
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ColoDraft;

    #[test]
    fn one_line_says_what_runs() {
        let draft = Draft {
            kernel: Some("vmlinuz".into()),
            cpus: Some("2".parse().unwrap()),
            disk: vec!["path=a.qcow2".parse().unwrap(), "path=b,readonly".parse().unwrap()],
            net: vec!["tap=vif1.0,mac=02:00:00:00:00:01".parse().unwrap()],
            qmp: vec!["unix:/run/q".parse().unwrap()],
            ..Draft::default()
        };
        let mut plan = Plan { config: draft.finish().unwrap(), colo: None, restore: None };
        let line = summary(&plan, "no console");
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            line,
            format!(
                "colo-vm {version} runs guest: 2 vCPUs, 512M of RAM, vmlinuz; vda a.qcow2; vdb b (read-only); \
                 vif1.0 (02:00:00:00:00:01); QMP on unix:/run/q; no console"
            )
        );
        plan.restore = Some("web.state".into());
        let pair = ColoDraft { peer: Some("web2:9000".parse().unwrap()), ..ColoDraft::default() };
        plan.colo = Some(pair.primary(&plan.config.name).unwrap());
        let line = summary(&plan, "no console");
        assert!(line.contains("; goes on from web.state; primary of web2:9000 (colo); no console"), "{line}");
    }
}
