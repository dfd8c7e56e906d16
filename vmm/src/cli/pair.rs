//! `colo-vm primary` and `colo-vm secondary`: a guest on two hosts.

use super::run::{Plan, read, start};
use super::{Assemble, Exit, Failure};
use crate::config::{Colo, ColoDraft, ColoError, Draft, Listen, Name, Peer};
use std::path::PathBuf;

const PRIMARY: &str = "\
Examples:
  colo-vm primary --config web.toml --peer 192.0.2.7:9000
      runs the guest of the file; its secondary is found, or found again, at any time
  colo-vm primary --config web.toml --peer web2:9000 --mode periodic --checkpoint-delay 50 \\
      --tls-cert web1.pem --tls-key web1.key --tls-peer web2.pem
      a checkpoint each 50 ms, the secondary's guest stands between them; each side knows the other's
      certificate
  colo-vm primary --config web.toml --peer 192.0.2.7:9000 --restore web.state
      a guest that was saved goes on, protected from then on
  colo-vm status --qmp unix:/run/web.qmp --watch
      how the two are getting on

Everything else is as with colo-vm run.";

const SECONDARY: &str = "\
Examples:
  colo-vm secondary --config web.toml --listen 0.0.0.0:9000
      waits for the primary; the guest has to be the same (memory, vCPUs, disks, cards)
  colo-vm takeover --qmp unix:/run/web.qmp
      the primary is gone for good: the guest goes on here
  colo-vm secondary --config web.toml --listen 192.0.2.7:9000 --on-peer-loss take-over
      takes over by itself when the primary is lost; only with a fence that makes sure it is

Everything else is as with colo-vm run.";

/// The words of `primary`.
#[derive(clap::Args, Debug)]
#[command(after_help = PRIMARY)]
pub(super) struct Primary {
    /// Where the secondary is
    #[arg(long, value_name = "HOST:PORT")]
    peer: Option<Peer>,
    /// Go on from a saved state (colo-vm save) instead of booting
    #[arg(long, value_name = "FILE")]
    restore: Option<PathBuf>,
    #[command(flatten)]
    both: Both,
}

/// The words of `secondary`.
#[derive(clap::Args, Debug)]
#[command(after_help = SECONDARY)]
pub(super) struct Secondary {
    /// Where the primary is waited for
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<Listen>,
    #[command(flatten)]
    both: Both,
}

#[derive(clap::Args, Debug)]
struct Both {
    /// A file that says what to run and with whom, with the words of these options (those of the pair in
    /// its table colo); what is said here as well counts more
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    #[command(flatten)]
    draft: Draft,
    #[command(flatten)]
    colo: ColoDraft,
}

impl Primary {
    pub(super) fn run(self, assemble: Assemble) -> Exit {
        start(assemble, || self.plan())
    }

    fn plan(self) -> Result<Plan, Failure> {
        let Self { peer, restore, both } = self;
        let plan = both.plan(|said| ColoDraft { peer, ..said }, ColoDraft::primary)?;
        Ok(Plan { restore, ..plan })
    }
}

impl Secondary {
    pub(super) fn run(self, assemble: Assemble) -> Exit {
        start(assemble, || self.plan())
    }

    fn plan(self) -> Result<Plan, Failure> {
        let Self { listen, both } = self;
        both.plan(|said| ColoDraft { listen, ..said }, ColoDraft::secondary)
    }
}

impl Both {
    fn plan(
        self,
        place: impl FnOnce(ColoDraft) -> ColoDraft,
        side: impl FnOnce(ColoDraft, &Name) -> Result<Colo, ColoError>,
    ) -> Result<Plan, Failure> {
        let Self { config, draft, colo } = self;
        let draft = read(config.as_deref(), Draft { colo: place(colo), ..draft })?;
        let colo = draft.colo.clone();
        let config = draft.finish()?;
        let colo = side(colo, &config.name)?;
        Ok(Plan { colo: Some(colo), config, restore: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::config::{Mode, Side};
    use clap::Parser as _;
    use std::fs;

    fn plan(words: &[&str]) -> Result<Plan, Failure> {
        let words = std::iter::once("colo-vm").chain(words.iter().copied());
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Primary(primary) => primary.plan(),
            Command::Secondary(secondary) => secondary.plan(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_file_serves_both_hosts_and_options_count_more() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.toml");
        let file = "kernel = 'k'\nname = 'web'\n[colo]\npeer = 'web2:9000'\nlisten = '[::]:9000'\nmode = 'periodic'\n";
        fs::write(&path, file).unwrap();
        let path = path.to_str().unwrap();
        let colo = plan(&["primary", "--config", path]).unwrap().colo.unwrap();
        assert_eq!((colo.mode, colo.vm_id.as_str(), colo.delay.get()), (Mode::Periodic, "web", 100));
        assert!(matches!(colo.side, Side::Primary { peer, .. } if peer.to_string() == "web2:9000"));
        let words =
            ["secondary", "--config", path, "--listen", "127.0.0.1:7", "--mode", "colo", "--vm-id", "w"];
        let colo = plan(&words).unwrap().colo.unwrap();
        assert_eq!((colo.mode, colo.vm_id.as_str(), colo.delay.get()), (Mode::Colo, "w", 20_000));
        assert!(matches!(colo.side, Side::Secondary { listen, .. } if listen.to_string() == "127.0.0.1:7"));
    }

    #[test]
    fn mistakes_are_met_with_the_right_form() {
        for (words, says) in [
            (&["primary", "--kernel", "k"][..], "write --peer HOST:PORT"),
            (&["secondary", "--kernel", "k"], "write --listen ADDR:PORT"),
            (&["primary", "--peer", "a:1"], "no kernel is named"),
            (&["primary", "--kernel", "k", "--peer", "a"], "write HOST:PORT, such as"),
            (&["secondary", "--kernel", "k", "--listen", "a:1"], "write ADDR:PORT, such as"),
            (&["primary", "--kernel", "k", "--peer", "a:1", "--packing", "lz5"], "did you mean lz4?"),
            (
                &["primary", "--kernel", "k", "--peer", "a:1", "--listen", "[::]:1"],
                "unexpected argument '--listen'",
            ),
            (
                &["primary", "--kernel", "k", "--peer", "a:1", "--checkpoint-delay", "0"],
                "write milliseconds, from 1 to",
            ),
            (
                &["primary", "--kernel", "k", "--peer", "a:1", "--on-peer-loss", "take-over"],
                "write --on-peer-loss go-on",
            ),
        ] {
            let Err(error) = plan(words) else { panic!("{words:?}") };
            assert!(error.to_string().contains(says), "{words:?}: {error}");
        }
    }
}
