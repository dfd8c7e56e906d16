//! `colo-proxy run` and `colo-proxy setup`.

use super::live_args::LiveArgs;
use super::{CANNOT, USAGE, complain, finish};
use colo_proxy::live::detach::{self, DetachError};
use colo_proxy::live::spec::{Guest, Mode, Spec};
use colo_proxy::live::{self, Attendance};
use colo_proxy::setup;
use std::ffi::OsString;
use std::process::ExitCode;

/// Stands in both helps.
macro_rules! examples {
    ($verb:literal, $more:literal) => {
        concat!(
            "Examples:\n",
            "  colo-proxy ",
            $verb,
            " --vif tap0 --forward eth1 --notify unix:/run/vm/web.notify\n",
            "      a primary whose VMM connects to that socket, performs checkpoints and reports them\n",
            "  colo-proxy ",
            $verb,
            " --vif tap0 --forward eth1 --mode secondary \\\n",
            "      --notify tcp:10.0.0.1:9000,server=off\n",
            "      the other host: the guest follows, its output goes to the primary only\n",
            "  colo-proxy ",
            $verb,
            " --name web --vif tap0 --vif tap1 --forward eth1 --index 4 --index 5 \\\n",
            "      --checkpoint-command 'virsh qemu-monitor-command web …' --command-timeout 10\n",
            "      two NICs of one guest over one device; a command instead of a socket\n",
            "  colo-proxy ",
            $verb,
            " --vif 1.0 --forward eth1 --bridge xenbr0\n",
            "      vif1.0 of Xen, made a port of xenbr0 if it is none\n",
            "  colo-proxy ",
            $verb,
            " --config guests.toml\n",
            "      several guests; docs/colo-proxy.toml shows every key\n\n",
            $more
        )
    };
}

pub(super) const RUN_HELP: &str = examples!(
    "run",
    "\
What it is told over the socket of --notify (u32 big-endian length, then text):
  COLO_CHECKPOINT   a checkpoint is complete; DO_CHECKPOINT goes out when one is needed
  COLO_FAILOVER     on a secondary: serve from now on, the primary is gone

Signals: SIGINT and SIGTERM take down what was set up and stop.

A guest that cannot be compared any more (its capture tap or a device was deleted) does not stop the
others: it is reported once, 'colo-proxy status' shows it as failed, and --on-crash says whether its
output passes from then on. 'colo-proxy run' for it takes it over, beside the process that goes on.

Exit codes: 0 stopped by a signal, 1 cannot be set up (then all is as before), or no guest is left, or
stopped by a signal after a guest had failed, 2 wrong usage."
);

pub(super) const SETUP_HELP: &str = examples!(
    "setup",
    "\
A primary leaves a comparator running in the background; a secondary leaves nothing but programs in
the kernel. 'colo-proxy status' shows both, and 'colo-proxy teardown' ends them.

Exit codes: 0 set up, 1 cannot be set up (then all is as before), 2 wrong usage."
);

/// Options of `run`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = RUN_HELP, after_help = "--help has examples and says what signals do.")]
pub(super) struct RunArgs {
    #[command(flatten)]
    live: LiveArgs,
    /// Say on stdout that it runs, and go on without a terminal
    #[arg(long, hide = true)]
    detached: bool,
}

/// Options of `setup`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = SETUP_HELP, after_help = "--help has examples.")]
pub(super) struct SetupArgs {
    #[command(flatten)]
    live: LiveArgs,
}

impl RunArgs {
    /// Protects until a signal comes.
    pub(super) fn run(&self) -> ExitCode {
        let attendance = if self.detached { Attendance::Detached } else { Attendance::Foreground };
        with_spec(&self.live, |spec| match live::run(spec, attendance) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&error);
                ExitCode::from(CANNOT)
            }
        })
    }
}

impl SetupArgs {
    /// Sets up, and leaves.
    pub(super) fn run(&self) -> ExitCode {
        with_spec(&self.live, |spec| {
            // One that is to be told of checkpoints needs somebody who listens.
            let is_left = |guest: &Guest| guest.mode == Mode::Secondary && guest.checkpoints.notify.is_none();
            if spec.guests.iter().all(is_left) && spec.metrics.is_none() {
                return finish(setup::leave(spec, &mut |_| Ok(())));
            }
            finish(in_background(spec))
        })
    }
}

/// Leaves this program running with the arguments of `setup`.
fn in_background(spec: &Spec) -> Result<Vec<String>, DetachError> {
    let program = std::env::current_exe()
        .map_err(|error| DetachError::Start { program: "colo-proxy".into(), error })?;
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(verb) = args.iter_mut().find(|arg| *arg == "setup") {
        *verb = "run".into();
    }
    args.push("--detached".into());
    detach::spawn(&program, &args, spec)
}

fn with_spec(args: &LiveArgs, act: impl FnOnce(&Spec) -> ExitCode) -> ExitCode {
    match args.spec() {
        Ok(spec) => act(&spec),
        Err(error) => {
            complain(&error);
            ExitCode::from(USAGE)
        }
    }
}
