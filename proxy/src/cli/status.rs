//! `colo-proxy status`.

use clap::Args as ClapArgs;
use colo_proxy::control::client::{ClientError, Orphans, Survey, Wanted};
use colo_proxy::control::render;
use colo_proxy::control::status::NodeStatus;
use colo_proxy::live::spec::{IfName, Places};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

/// Options of `status`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  colo-proxy status                  every guest of this network namespace
  colo-proxy status --vif vif1       the guest with this interface
  colo-proxy status --json | jq .    an array with an object for each process

Exit codes: 0 done, 1 nobody answers for what was asked, 2 wrong usage.")]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// Write a JSON array instead of text; with --watch one on each line
    #[arg(long)]
    json: bool,
    /// Again every second, until ^C
    #[arg(long)]
    watch: bool,
}

/// Where to look, and for whom.
#[derive(Clone, Debug, ClapArgs)]
pub(super) struct Which {
    /// The guest with this interface
    #[arg(long, value_name = "VIF", conflicts_with = "name")]
    vif: Option<IfName>,
    /// The guest of this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where processes keep their control sockets
    #[arg(long, value_name = "DIR", default_value_os_t = Places::default().run)]
    run_dir: PathBuf,
}

impl Which {
    pub(super) fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    pub(super) fn wanted(&self) -> Wanted {
        match (&self.vif, &self.name) {
            (Some(vif), _) => Wanted::Vif(vif.to_string()),
            (None, Some(name)) => Wanted::Name(name.clone()),
            (None, None) => Wanted::Any,
        }
    }

    /// What those that are meant say, and what went wrong with others.
    pub(super) fn look(&self, orphans: Orphans<'_>) -> Result<(Vec<NodeStatus>, Vec<String>), ClientError> {
        let survey = Survey::take(&self.run_dir, orphans)?;
        let silent = survey.silent.iter().map(ToString::to_string).collect();
        Ok((survey.nodes(&self.wanted())?, silent))
    }
}

const NOTHING: &str = "nothing is protected in this network namespace; start with 'colo-proxy run --vif VIF --forward DEV' or 'colo-proxy setup …'\n";

impl Args {
    /// Writes the status, once or until it is stopped.
    pub(super) fn run(&self, orphans: Orphans<'_>) -> ExitCode {
        let redraw = self.watch && !self.json && io::stdout().is_terminal();
        loop {
            let (text, complete) = self.once(orphans);
            let written = if redraw {
                // Over the old text line by line: clearing first would flicker.
                let lines = text.replace('\n', "\x1b[K\n");
                write(&format!("\x1b[H{lines}\x1b[J"))
            } else {
                write(&text)
            };
            if !self.watch || written.is_err() {
                return if complete { ExitCode::SUCCESS } else { ExitCode::from(1) };
            }
            sleep(Duration::from_secs(1));
        }
    }

    /// What goes to stdout, and whether that is all that was asked for. The rest goes to stderr.
    fn once(&self, orphans: Orphans<'_>) -> (String, bool) {
        let (nodes, silent) = match self.which.look(orphans) {
            Ok(found) => found,
            Err(error) => {
                say(&format!("error: {error}"));
                return (String::new(), false);
            }
        };
        silent.iter().for_each(|error| say(&format!("warning: {error}")));
        let text = match (self.json, nodes.is_empty()) {
            (true, _) => match serde_json::to_string(&nodes) {
                Ok(text) => text + "\n",
                Err(error) => {
                    say(&format!("error: {error}"));
                    return (String::new(), false);
                }
            },
            (false, true) if silent.is_empty() => NOTHING.to_owned(),
            (false, _) => render::text(&nodes),
        };
        (text, silent.is_empty())
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A line for people. A stderr that is gone is no reason to stop.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{}", render::clean(line));
}
