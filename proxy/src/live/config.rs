//! A file that says what one process protects: `run --config FILE.toml`.
//!
//! ```text
//!   metrics = "127.0.0.1:9090"        [[guest]]                 several
//!   run-dir = "/run/colo-proxy"         name = "web" …          as on the command line
//!   bpffs = "/sys/fs/bpf"               [guest.engine]          the comparator's limits
//!                                       [[guest.nic]]           vif, forward, index, bridge
//! ```
//!
//! `docs/colo-proxy.toml` has all of it with explanations. Every mistake is shown with its line and
//! column, and a key that means nothing is one.

use super::options::{GuestOptions, Problem, SpecError, build, text};
use super::spec::{Places, Spec};
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use thiserror::Error;
use toml::Spanned;

/// The largest file that is read: room for thousands of guests.
const LARGEST: u64 = 1 << 20;

/// A file that says nothing that can be done.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {path}: {error}; check its name and its permissions")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It is something else.
    #[error("{0} has more than {max} KiB, which no configuration has; is it another file?", max = LARGEST >> 10)]
    TooLarge(PathBuf),
    /// It is no text, is no TOML, or a key or a value is wrong.
    #[error("{path}: {error}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong and where, with the line.
        error: Box<toml::de::Error>,
    },
    /// It contradicts itself.
    #[error("{path}: line {line}, column {column}: {problem}")]
    Spec {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What is wrong.
        problem: Problem,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Document {
    #[serde(default, deserialize_with = "text")]
    metrics: Option<MetricsAddress>,
    run_dir: Option<PathBuf>,
    bpffs: Option<PathBuf>,
    #[serde(rename = "guest", default)]
    guests: Vec<Spanned<GuestOptions>>,
}

/// Where metrics are served: an address and a port, or `localhost:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsAddress(pub SocketAddr);

/// A text that is none.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{0:?} is not an address and a port; write 127.0.0.1:9090, [::1]:9090, or 0.0.0.0:9090 for everybody"
)]
pub struct MetricsError(String);

impl FromStr for MetricsAddress {
    type Err = MetricsError;
    fn from_str(text: &str) -> Result<Self, MetricsError> {
        // Other names would have to be looked up, and a look-up can take its time or fail.
        let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
        let local = local.map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        local.or_else(|| text.parse().ok()).map(Self).ok_or_else(|| MetricsError(text.to_owned()))
    }
}

/// Reads a file.
pub fn read(path: &Path) -> Result<Spec, ConfigError> {
    let failed = |error| ConfigError::Read { path: path.to_owned(), error };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(ConfigError::TooLarge(path.to_owned()));
    }
    parse(path, &bytes)
}

/// Reads the content of a file; its path is for messages.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Spec, ConfigError> {
    let document: Document = toml::from_slice(bytes)
        .map_err(|error| ConfigError::Syntax { path: path.to_owned(), error: Box::new(error) })?;
    let defaults = Places::default();
    // Whoever reads the file from wherever finds the same places.
    let folder = path.parent().unwrap_or(Path::new(""));
    let beside = |given: PathBuf| {
        let place = folder.join(given);
        std::path::absolute(&place).unwrap_or(place)
    };
    let places = Places {
        run: document.run_dir.map_or(defaults.run, beside),
        bpffs: document.bpffs.map_or(defaults.bpffs, beside),
    };
    let guests = document.guests.iter().map(Spanned::get_ref);
    build(guests, places, document.metrics.map(|metrics| metrics.0)).map_err(|error| {
        let (line, column) = position(bytes, place(&document.guests, &error));
        ConfigError::Spec { path: path.to_owned(), line, column, problem: error.problem }
    })
}

/// Where in the file what is meant begins.
fn place(guests: &[Spanned<GuestOptions>], error: &SpecError) -> usize {
    let Some(guest) = guests.get(error.guest) else { return 0 };
    let nic = error.nic.and_then(|at| guest.get_ref().nics.get(at));
    nic.map_or(guest.span().start, |nic| nic.span().start)
}

/// Line and column of a byte, both from 1.
fn position(bytes: &[u8], at: usize) -> (usize, usize) {
    let before = &bytes[..at.min(bytes.len())];
    let lines = before.split(|&byte| byte == b'\n');
    let (count, last) = lines.fold((0, 0), |(count, _), line| (count + 1, line.len()));
    (count, last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::spec::{Attach, IfName, Mode, OnCrash, Start};
    use std::time::Duration;

    fn spec(text: &str) -> Result<Spec, String> {
        parse(Path::new("guests.toml"), text.as_bytes()).map_err(|error| error.to_string())
    }

    const NIC: &str = "[[guest.nic]]\nvif = 'tap0'\nforward = 'eth1'\n";

    #[test]
    fn the_annotated_example_is_one() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/colo-proxy.toml");
        let spec = read(&example).unwrap();
        assert_eq!(spec.guests.len(), 2);
        let web = &spec.guests[0];
        assert_eq!((web.name.as_str(), web.mode, web.nics.len()), ("web", Mode::Primary, 2));
        // What it shows as a comment is the default, so that it can be copied and changed.
        let text = std::fs::read_to_string(&example).unwrap();
        let shown: String = text
            .lines()
            .map(|line| line.strip_prefix("#: ").unwrap_or(line))
            .fold(String::new(), |all, line| all + line + "\n");
        assert_ne!(shown, text, "something is shown as a default");
        assert_eq!(format!("{:?}", self::spec(&shown).unwrap()), format!("{spec:?}"));
    }

    #[test]
    fn every_key_reaches_the_spec() {
        let spec = spec(
            "metrics = 'localhost:9'\nrun-dir = '/r'\nbpffs = '/b'\n[[guest]]\nname = 'web'\nmode = 'secondary'\n\
             notify = 'tcp:10.0.0.1:9,server=off'\ncheckpoint-command = 'true'\ncommand-timeout = 3\n\
             start = 'unprotected'\non-crash = 'open'\nattach = 'clsact'\nqueues = 3\nqueue-frames = 5\nflows = 6\nbusy-poll = 7\n\
             [guest.engine]\nmax-flows = 8\n[[guest.nic]]\nvif = '1.0'\nforward = 'eth1'\nindex = 9\nbridge = 'br0'\n",
        )
        .unwrap();
        assert_eq!(spec.metrics, "127.0.0.1:9".parse().ok());
        assert_eq!((spec.places.run, spec.places.bpffs), ("/r".into(), "/b".into()));
        let guest = &spec.guests[0];
        assert_eq!(
            (guest.name.as_str(), guest.mode, guest.start),
            ("web", Mode::Secondary, Start::Unprotected)
        );
        assert_eq!((guest.on_crash, guest.attach), (OnCrash::Open, Attach::Clsact));
        assert_eq!((guest.queue_frames, guest.flows), (5, 6));
        assert_eq!(guest.queues.get(), 3);
        assert_eq!((guest.busy_poll, guest.engine.max_flows), (Duration::from_micros(7), 8));
        assert!(!guest.checkpoints.notify.as_ref().unwrap().server);
        assert_eq!(guest.checkpoints.command.as_deref(), Some("true"));
        assert_eq!(guest.checkpoints.command_timeout, Duration::from_secs(3));
        let nic = &guest.nics[0];
        assert_eq!((nic.vif.as_str(), nic.forward.as_str(), nic.index.get()), ("vif1.0", "eth1", 9));
        assert_eq!(nic.bridge.as_ref().map(IfName::as_str), Some("br0"));
    }

    #[test]
    fn relative_places_are_beside_the_file_wherever_it_is_read_from() {
        let text = "run-dir = 'run'\nbpffs = '../bpf'\n[[guest]]\n".to_owned() + NIC;
        let places = |file: &str| parse(Path::new(file), text.as_bytes()).unwrap().places;
        let there = places("/etc/colo/guests.toml");
        assert_eq!((there.run, there.bpffs), ("/etc/colo/run".into(), "/etc/colo/../bpf".into()));
        let here = std::env::current_dir().unwrap();
        assert_eq!(places("guests.toml").run, here.join("run"));
        assert_eq!(places("etc/guests.toml").run, here.join("etc/run"));
    }

    #[test]
    fn a_key_that_means_nothing_is_shown_where_it_is() {
        for (text, place, key) in [
            ("\nmetric = 'x'\n".to_owned(), "line 2, column 1", "unknown field `metric`"),
            (format!("[[guest]]\n  vif = 'x'\n{NIC}"), "line 2, column 3", "unknown field `vif`"),
            (format!("[[guest]]\n[guest.engine]\nflows = 1\n{NIC}"), "line 3, column 1", "`flows`"),
            (format!("[[guest]]\n{NIC}mac = 1\n"), "line 5, column 1", "unknown field `mac`"),
        ] {
            let error = spec(&text).unwrap_err();
            assert!(error.contains("guests.toml") && error.contains(place) && error.contains(key), "{error}");
        }
    }

    #[test]
    fn a_value_that_is_wrong_is_shown_where_it_is_with_what_would_be_right() {
        let guest = |line: &str| format!("[[guest]]\n{line}\n{NIC}");
        for (text, place, right) in [
            (guest("mode = 'both'"), "line 2, column 8", "`primary` or `secondary`"),
            (guest("start = 'x'"), "line 2, column 9", "`protected`, `mirrored`, `unprotected`"),
            (guest("attach = 'x'"), "line 2, column 10", "`auto`, `tcx`, `clsact`"),
            (guest("on-crash = 'x'"), "line 2, column 12", "`closed` or `open`"),
            (guest("name = 'a/b'"), "line 2, column 8", "1 to 64"),
            (guest("notify = '/n'"), "line 2, column 10", "unix:PATH"),
            (guest("flows = 0"), "line 2, column 9", "from 1 to 4194304"),
            (guest("command-timeout = -1"), "line 2, column 19", "expected u64"),
            (guest("[guest.engine]\npass = ['x']"), "line 3", "rule 'x'"),
            (guest("") + "index = 101\n", "line 6, column 9", "index overflow"),
            ("[[guest]]\n[[guest.nic]]\nvif = 'a/b'\n".to_owned(), "line 3, column 7", "1 to 15 characters"),
            (
                "[[guest]]\n[[guest.nic]]\nvif = 'a'\n".to_owned(),
                "line 2, column 1",
                "missing field `forward`",
            ),
            ("metrics = 'here:9'".to_owned(), "line 1, column 11", "127.0.0.1:9090"),
            ("guest = 1".to_owned(), "line 1, column 9", "a sequence"),
            ("[[guest]\n".to_owned(), "line 1", "]"),
        ] {
            let error = spec(&text).unwrap_err();
            assert!(error.contains(place) && error.contains(right), "{place}, {right}: {error}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_shown_where_it_is() {
        let twice = format!("[[guest]]\n{NIC}\n[[guest]]\nname = 'b'\n  {NIC}");
        let error = spec(&twice).unwrap_err();
        assert_eq!(
            error,
            "guests.toml: line 8, column 3: vif tap0 is given twice; an interface is one NIC of one guest: \
             name another, or leave one out"
        );
        let alone = spec(&format!("[[guest]]\n{NIC}[[guest]]\nname = 'b'\n")).unwrap_err();
        assert!(alone.contains("line 5, column 1: the guest has no NIC"), "{alone}");
        assert!(spec("").unwrap_err().contains("no guest is described"));
    }

    #[test]
    fn a_file_that_is_no_configuration_is_not_read_to_its_end() {
        let error = read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.contains("/dev/zero has more than 1024 KiB"), "{error}");
        let error = read(Path::new("/nowhere/x.toml")).unwrap_err().to_string();
        assert!(error.contains("cannot read /nowhere/x.toml"), "{error}");
        assert!(parse(Path::new("x"), b"name = '\xff'").unwrap_err().to_string().contains("x: "));
    }
}
