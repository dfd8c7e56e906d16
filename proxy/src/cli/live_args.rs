//! What `run` and `setup` are told: options of one guest, or a file about several.
//!
//! ```text
//!   --vif a --vif b --forward e --index 3 --index 4 …  ─┐
//!                                                       ├─► Spec
//!   --config FILE.toml  ────────────────────────────────┘
//! ```

use colo_proxy::live::config::{self, ConfigError, MetricsAddress};
use colo_proxy::live::options::{GuestOptions, NicOptions, PlaceArgs, SpecError, VifName, build};
use colo_proxy::live::spec::{IfName, Index, Places, Spec};
use std::path::PathBuf;
use thiserror::Error;

/// Every option that the file has a key for; a test holds this list and the options together.
const NOT_BESIDES_CONFIG: [&str; 34] = [
    "vif",
    "forward",
    "index",
    "bridge",
    "name",
    "mode",
    "notify",
    "checkpoint_command",
    "command_timeout",
    "start",
    "on_crash",
    "attach",
    "queues",
    "queue_frames",
    "flows",
    "busy_poll",
    "compare_timeout",
    "age_floor",
    "reorder_wait",
    "reorder_window",
    "trigger_interval",
    "max_queue_size",
    "max_queue_bytes",
    "total_frames",
    "total_bytes",
    "max_flows",
    "max_reassemblies",
    "reassembly_timeout",
    "arp",
    "nd",
    "rules",
    "metrics",
    "run_dir",
    "bpffs",
];

/// Options of `run` and `setup`.
#[derive(Debug, clap::Args)]
pub(super) struct LiveArgs {
    /// Read all of it from a TOML file and take no other option; it can describe several guests, and
    /// docs/colo-proxy.toml is an annotated one
    #[arg(long, value_name = "FILE", conflicts_with_all = NOT_BESIDES_CONFIG)]
    config: Option<PathBuf>,

    #[command(flatten)]
    nics: NicArgs,

    #[command(flatten)]
    guest: GuestOptions,

    /// Serve metrics for Prometheus at this address and port [default: nowhere]
    #[arg(long, value_name = "HOST:PORT", help_heading = "Places")]
    metrics: Option<MetricsAddress>,

    #[command(flatten, next_help_heading = "Places")]
    places: PlaceArgs,
}

/// The guest's NICs: the n-th of each option belong together.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "NICs")]
struct NicArgs {
    /// Host end of the guest's NIC (tap or veth); DOMID.DEVID is short for Xen's vifDOMID.DEVID. Can
    /// be repeated, once for each NIC
    #[arg(long, value_name = "VIF", required_unless_present = "config")]
    vif: Vec<VifName>,
    /// Device to the other host: one for all NICs, or one for each in the order of --vif
    #[arg(long, value_name = "DEV", required_unless_present = "config")]
    forward: Vec<IfName>,
    /// Number of the NIC on its forward device, 0 to 100, the same on both hosts; one for each NIC in
    /// the order of --vif [default: 0, 1, 2 … on each device]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    index: Vec<Index>,
    /// Bridge that the NIC is, or is to be, a port of: one for all, or one for each in the order of
    /// --vif [default: left as it is]
    #[arg(long, value_name = "BR")]
    bridge: Vec<IfName>,
}

/// Where a node keeps its files.
pub(super) fn places(args: &PlaceArgs) -> Places {
    let defaults = Places::default();
    // A process that goes on in the background is somewhere else.
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    Places {
        run: args.run_dir.as_ref().map_or(defaults.run, absolute),
        bpffs: args.bpffs.as_ref().map_or(defaults.bpffs, absolute),
    }
}

/// Options that do not fit each other.
#[derive(Debug, Error)]
pub(super) enum UsageError {
    /// An option does not belong to all NICs.
    #[error("--{option} is given {times} and --vif {vifs}; give it {right}")]
    Count {
        /// Which.
        option: &'static str,
        /// How often.
        times: Times,
        /// How many vifs there are.
        vifs: Times,
        /// How often it could be given.
        right: &'static str,
    },
    /// What the options say contradicts itself. Each such message begins with an option's name.
    #[error("--{0}")]
    Spec(#[from] SpecError),
    /// The file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// How often, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times(usize);

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            1 => f.write_str("once"),
            2 => f.write_str("twice"),
            many => write!(f, "{many} times"),
        }
    }
}

impl LiveArgs {
    /// What is to be protected.
    pub(super) fn spec(&self) -> Result<Spec, UsageError> {
        if let Some(path) = &self.config {
            return Ok(config::read(path)?);
        }
        let nics = self.nics.nics()?.into_iter().map(|nic| toml::Spanned::new(0..0, nic)).collect();
        let guest = GuestOptions { nics, ..self.guest.clone() };
        Ok(build([&guest], places(&self.places), self.metrics.map(|metrics| metrics.0))?)
    }
}

impl NicArgs {
    fn nics(&self) -> Result<Vec<NicOptions>, UsageError> {
        let vifs = self.vif.len();
        let count = |option, times: usize, fits: bool, right| {
            let wrong = || UsageError::Count { option, times: Times(times), vifs: Times(vifs), right };
            fits.then_some(()).ok_or_else(wrong)
        };
        let (forward, index, bridge) = (&self.forward, &self.index, &self.bridge);
        let one_or_each = |times: usize| times == 1 || times == vifs;
        let right = "once for all of them, or once for each --vif";
        count("forward", forward.len(), one_or_each(forward.len()), right)?;
        count("bridge", bridge.len(), bridge.is_empty() || one_or_each(bridge.len()), right)?;
        let right = "once for each --vif, or leave it out for 0, 1, 2 … on each forward device";
        count("index", index.len(), index.is_empty() || index.len() == vifs, right)?;

        let nics = self.vif.iter().enumerate().filter_map(|(at, vif)| {
            Some(NicOptions {
                vif: vif.clone(),
                forward: nth(forward, at)?.clone(),
                index: index.get(at).copied(),
                bridge: nth(bridge, at).cloned(),
            })
        });
        Ok(nics.collect())
    }
}

/// The one of the n-th NIC, where one can be for all.
fn nth<T>(list: &[T], at: usize) -> Option<&T> {
    if list.len() == 1 { list.first() } else { list.get(at) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser};

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        args: LiveArgs,
    }

    fn spec(line: &str) -> Result<Spec, String> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        let only = Only::try_parse_from(words).map_err(|error| error.to_string())?;
        only.args.spec().map_err(|error| error.to_string())
    }

    fn nics(line: &str) -> Vec<String> {
        let text = |nic: &colo_proxy::live::spec::Nic| {
            let bridge = nic.bridge.as_ref().map(|name| format!("@{name}")).unwrap_or_default();
            format!("{}>{}#{}{bridge}", nic.vif, nic.forward, nic.index)
        };
        spec(line).unwrap().guests[0].nics.iter().map(text).collect()
    }

    #[test]
    fn the_nth_vif_has_the_nth_of_everything_and_one_serves_all() {
        assert_eq!(nics("--vif a --forward f"), ["a>f#0"]);
        assert_eq!(nics("--vif 1.0 --vif b --forward f"), ["vif1.0>f#0", "b>f#1"]);
        assert_eq!(nics("--vif a --forward f --vif b --forward g --bridge br0"), ["a>f#0@br0", "b>g#0@br0"]);
        assert_eq!(
            nics("--vif a --vif b --forward f --index 7 --index 3 --bridge br0 --bridge br1"),
            ["a>f#7@br0", "b>f#3@br1"]
        );
    }

    #[test]
    fn what_fits_neither_one_nor_all_is_refused_and_says_what_would() {
        for (line, texts) in [
            (
                "--vif a --vif b --vif c --forward f --forward g",
                ["--forward is given twice and --vif 3 times", "once for each --vif"],
            ),
            ("--vif a --forward f --forward g", ["--forward is given twice and --vif once", "once for all"]),
            (
                "--vif a --vif b --forward f --index 1",
                ["--index is given once and --vif twice", "leave it out"],
            ),
            ("--vif a --forward f --bridge x --bridge y", ["--bridge is given twice", "once for all"]),
            ("--vif a --vif a --forward f", ["--vif a is given twice", "name another"]),
            ("--vif a --forward a", ["--forward a is given as a vif", "the device to the other host"]),
            ("--vif a --forward f --bridge f", ["--bridge f is given as", "a port of"]),
            (
                "--vif a --vif b --forward f --index 1 --index 1",
                ["--index 1 is given twice", "from 0 to 100"],
            ),
            (
                "--vif a --forward f --command-timeout 3",
                ["--command-timeout is given without", "add the command"],
            ),
        ] {
            let error = spec(line).unwrap_err();
            assert!(texts.iter().all(|text| error.contains(text)), "{error}");
        }
    }

    #[test]
    fn a_wrong_value_is_refused_with_the_option_and_what_would_be_right() {
        for (more, texts) in [
            ("--vif sixteen-letters-", ["--vif", "1 to 15 characters"]),
            ("--index 101", ["--index", "from 0 to 100"]),
            ("--index -1", ["--index", "index overflow"]),
            ("--index 1e1", ["--index", "index overflow"]),
            ("--mode both", ["--mode", "primary, secondary"]),
            ("--start maybe", ["--start", "protected, mirrored, unprotected"]),
            ("--attach glue", ["--attach", "auto, tcx, clsact"]),
            ("--on-crash burn", ["--on-crash", "closed, open"]),
            ("--notify /run/x", ["--notify", "unix:PATH"]),
            ("--name a/b", ["--name", "1 to 64"]),
            ("--queue-frames 0", ["--queue-frames", "from 1 to 1000000"]),
            ("--flows many", ["--flows", "from 1 to 4194304"]),
            ("--busy-poll 1000001", ["--busy-poll", "from 0 to 1000000"]),
            ("--command-timeout 0 --checkpoint-command x", ["--command-timeout", "from 1 to 86400"]),
            ("--metrics here", ["--metrics", "127.0.0.1:9090"]),
            ("--compare-timeout 0", ["--compare-timeout", "1 or more"]),
            ("--moed primary", ["--moed", "--mode"]),
        ] {
            let error = spec(&format!("--vif a --forward f {more}")).unwrap_err();
            assert!(texts.iter().all(|text| error.contains(text)), "{error}");
        }
        assert!(spec("--vif a").unwrap_err().contains("--forward <DEV>"));
        assert!(spec("--forward f").unwrap_err().contains("--vif <VIF>"));
    }

    #[test]
    fn a_file_is_instead_of_options_and_not_besides() {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/colo-proxy.toml");
        assert_eq!(spec(&format!("--config {example}")).unwrap().guests.len(), 2);
        let options: Vec<String> = Only::command()
            .get_arguments()
            .filter_map(|option| option.get_long().map(str::to_owned))
            .filter(|option| !["config", "help", "detached"].contains(&option.as_str()))
            .collect();
        assert!(options.len() >= NOT_BESIDES_CONFIG.len());
        for option in options {
            let value = match option.as_str() {
                "mode" => "primary",
                "start" => "protected",
                "on-crash" => "closed",
                "attach" => "auto",
                "arp" | "nd" => "compare",
                "notify" => "unix:/n",
                "metrics" => "localhost:1",
                "pass" => {
                    let words = ["x", "--config", example, "--pass", "pass udp"];
                    let error = Only::try_parse_from(words).unwrap_err().to_string();
                    assert!(error.contains("cannot be used with '--pass"), "{error}");
                    continue;
                }
                _ => "1",
            };
            let error = spec(&format!("--config {example} --{option} {value}")).unwrap_err();
            assert!(error.contains(&option) && error.contains("cannot be used with"), "{option}: {error}");
        }
        assert!(spec("--config /nowhere/x").unwrap_err().contains("cannot read /nowhere/x"));
    }

    #[test]
    fn options_and_a_file_that_say_the_same_are_the_same() {
        let line = "--vif a --vif 2.1 --forward f --bridge br0 --name web --mode secondary \
            --notify tcp:[::1]:9,server=off --checkpoint-command sync --command-timeout 5 --start unprotected \
            --on-crash open --attach tcx --queues 3 --queue-frames 11 --flows 12 --busy-poll 13 --metrics 127.0.0.1:9 --run-dir /r \
            --bpffs /b --compare-timeout 14 --arp ignore --max-queue-size 15";
        let file = "metrics = '127.0.0.1:9'\nrun-dir = '/r'\nbpffs = '/b'\n[[guest]]\nname = 'web'\n\
            mode = 'secondary'\nnotify = 'tcp:[::1]:9,server=off'\ncheckpoint-command = 'sync'\n\
            command-timeout = 5\nstart = 'unprotected'\non-crash = 'open'\nattach = 'tcx'\nqueues = 3\nqueue-frames = 11\nflows = 12\n\
            busy-poll = 13\n[guest.engine]\ncompare-timeout = 14\narp = 'ignore'\nmax-queue-size = 15\n\
            [[guest.nic]]\nvif = 'a'\nforward = 'f'\nbridge = 'br0'\n\
            [[guest.nic]]\nvif = 'vif2.1'\nforward = 'f'\nindex = 1\nbridge = 'br0'\n";
        let same = |line: &str, file: &str| {
            let file = config::parse("x".as_ref(), file.as_bytes()).unwrap();
            assert_eq!(format!("{:?}", spec(line).unwrap()), format!("{file:?}"));
        };
        same(line, file);
        same("--vif a --forward f", "[[guest]]\n[[guest.nic]]\nvif = 'a'\nforward = 'f'");
    }
}
