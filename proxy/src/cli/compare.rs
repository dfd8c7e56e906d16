//! `colo-proxy compare`.

use colo_proxy::engine::{Nanos, RuleError};
use colo_proxy::live::options::EngineArgs;
use colo_proxy::socket::{Endpoint, Server, Settings};
use std::io::{self, Write as _};
use std::process::ExitCode;
use thiserror::Error;

const EXAMPLES: &str = "\
Sockets:
  unix:PATH or tcp:HOST:PORT; listens there for one peer at a time. With ,server=off appended it
  connects instead, and connects again when the peer goes. What comes in on primary-in is held
  until secondary-in brings the same, and then leaves through outdev in the same framing:
    u32 length | frame                                  lengths are big-endian
    u32 length | u32 vnet_hdr_len | vnet header, frame  with --vnet-hdr-support; length counts both
  Messages on notify-dev have a u32 length too: DO_CHECKPOINT goes out when a checkpoint is needed,
  COLO_CHECKPOINT comes in when it is complete (with another u32 behind the length if
  --vnet-hdr-support is on); COLO_USERSPACE_PROXY_INIT is answered by COLO_COMPARE_GET_XEN_INIT.

Examples:
  colo-proxy compare --primary-in unix:/run/colo/pri.sock --secondary-in unix:/run/colo/sec.sock \\
      --outdev unix:/run/colo/out.sock --notify-dev unix:/run/colo/ntf.sock --vnet-hdr-support
  colo-proxy compare --primary-in tcp:127.0.0.1:9001 --secondary-in tcp:0.0.0.0:9004 \\
      --outdev tcp:127.0.0.1:9005,server=off --notify-dev tcp:127.0.0.1:9006

In place of these lines of QEMU:
  -chardev socket,id=pri,path=/run/colo/pri.sock,server=on,wait=off
  -chardev socket,id=sec,path=/run/colo/sec.sock,server=on,wait=off
  -chardev socket,id=out,path=/run/colo/out.sock,server=on,wait=off
  -chardev socket,id=ntf,path=/run/colo/ntf.sock,server=on,wait=off
  -object colo-compare,id=c,primary_in=pri,secondary_in=sec,outdev=out,notify_dev=ntf,\\
      vnet_hdr_support=on,compare_timeout=3000,expired_scan_cycle=1000,max_queue_size=1024,iothread=i
there is the first example; option names keep their meaning, with - for _.

Signals: SIGUSR1 prints statistics on stderr; SIGINT and SIGTERM print them and stop. Frames that are held
then are not released.

Exit codes: 0 stopped by a signal, 1 cannot go on, 2 wrong usage or a socket cannot be opened.";

/// Options of `compare`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = "--help has examples and says what the sockets carry.")]
pub(crate) struct Args {
    /// Where the primary's output comes in
    #[arg(long, value_name = "SOCKET")]
    primary_in: Endpoint,
    /// Where the secondary's output comes in
    #[arg(long, value_name = "SOCKET")]
    secondary_in: Endpoint,
    /// Where output leaves once it is released
    #[arg(long, value_name = "SOCKET")]
    outdev: Endpoint,
    /// Where checkpoints are asked for and reported; without it nothing that differs ever leaves
    #[arg(long, value_name = "SOCKET")]
    notify_dev: Option<Endpoint>,
    /// Frames have virtio-net headers; both ends must agree
    #[arg(long)]
    vnet_hdr_support: bool,

    /// Longest time between two looks at what waits; when something is due is known besides
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = positive())]
    expired_scan_cycle: u64,
    /// Released bytes that may wait for outdev before the inputs are not read
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 20, value_parser = positive())]
    max_output_bytes: u64,
    /// How long to look for more before sleeping, in microseconds: spends CPU time on less latency
    #[arg(long, value_name = "US", default_value_t = 50)]
    busy_poll: u64,

    /// Print the final statistics as a JSON object on stdout
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    engine: EngineArgs,
}

fn positive() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..)
}

/// Settings that contradict each other.
#[derive(Debug, Error)]
enum UsageError {
    #[error("{0} is given twice; each socket needs an address of its own")]
    SameSocket(String),
    #[error(transparent)]
    Rule(#[from] RuleError),
}

impl Args {
    fn settings(&self) -> Result<Settings, UsageError> {
        let given =
            [Some(&self.primary_in), Some(&self.secondary_in), Some(&self.outdev), self.notify_dev.as_ref()];
        let given: Vec<&Endpoint> = given.into_iter().flatten().collect();
        for (index, endpoint) in given.iter().enumerate() {
            // Port 0 is a different port each time.
            let address = endpoint.address.to_string();
            if given[..index].iter().any(|other| other.address == endpoint.address)
                && !address.ends_with(":0")
            {
                return Err(UsageError::SameSocket(address));
            }
        }
        Ok(Settings {
            primary_in: self.primary_in.clone(),
            secondary_in: self.secondary_in.clone(),
            outdev: self.outdev.clone(),
            notify_dev: self.notify_dev.clone(),
            vnet: self.vnet_hdr_support,
            scan_cycle: Nanos::from_millis(self.expired_scan_cycle),
            max_output: size(self.max_output_bytes),
            busy_poll: Nanos(self.busy_poll.saturating_mul(1000)),
            engine: self.engine.config()?,
        })
    }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A line for people. A stderr that is gone is no reason to stop.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Runs a comparer until it is stopped.
pub(crate) fn run(args: &Args) -> ExitCode {
    let settings = match args.settings() {
        Ok(settings) => settings,
        Err(error) => {
            say(format_args!("error: {error}"));
            return ExitCode::from(2);
        }
    };
    let mut server = match Server::start(&settings) {
        Ok(server) => server,
        Err(error) => {
            say(format_args!("error: {error}"));
            return ExitCode::from(2);
        }
    };
    server.describe().into_iter().for_each(say);
    if settings.notify_dev.is_none() {
        say(
            "warning: without --notify-dev nobody can be asked for a checkpoint: output that differs stays held",
        );
    }
    let outcome = server.run();
    let report = server.report();
    say(report);
    if args.json {
        let object =
            serde_json::to_string(&report).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"));
        let _ = writeln!(io::stdout(), "{object}");
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {error}"));
            ExitCode::from(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use colo_proxy::engine::{Config, Neighbours};

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    const SOCKETS: [&str; 7] = [
        "x",
        "--primary-in",
        "unix:p",
        "--secondary-in",
        "unix:s",
        "--outdev",
        "tcp:localhost:9005,server=off",
    ];

    fn parse(more: &[&str]) -> Result<Settings, String> {
        let args = Only::try_parse_from(SOCKETS.iter().chain(more)).map_err(|error| error.to_string())?.args;
        args.settings().map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_the_engines() {
        let settings = parse(&[]).unwrap();
        assert_eq!(format!("{:?}", settings.engine), format!("{:?}", Config::default()));
        assert!(settings.notify_dev.is_none() && !settings.vnet && !settings.outdev.server);
    }

    #[test]
    fn options_reach_the_engine() {
        let settings = parse(&[
            "--compare-timeout",
            "50",
            "--max-queue-size",
            "7",
            "--arp",
            "ignore",
            "--pass",
            "pass udp guest :3389",
            "--vnet-hdr-support",
        ])
        .unwrap();
        let engine = settings.engine;
        assert_eq!((engine.age_ceiling, engine.age_floor), (Nanos::from_millis(50), Nanos::from_millis(50)));
        assert_eq!((engine.flow_limit.frames, engine.arp), (7, Neighbours::Ignore));
        assert!(settings.vnet && !engine.pass.is_empty());
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        assert!(parse(&["--notify-dev", "unix:p"]).unwrap_err().contains("given twice"));
        assert!(parse(&["--pass", "pass nothing"]).unwrap_err().contains("pass nothing"));
        assert!(parse(&["--max-queue-size", "0"]).is_err());
        assert!(parse(&["--notify-dev", "/run/x"]).unwrap_err().contains("unix:PATH"));
    }
}
