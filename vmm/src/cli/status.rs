//! `colo-vm status`: how a guest on two hosts is getting on.

pub(super) mod view;

use super::Failure;
use crate::checkpoint::status::Status;
use crate::config::Endpoint;
use crate::qmp::client::Client;
use serde_json::Value;
use std::io::{self, IsTerminal as _, Write as _};
use std::thread::sleep;
use std::time::Duration;

/// Its words.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  colo-vm status --qmp unix:/run/web.qmp
  colo-vm status --qmp unix:/run/web.qmp --watch
  colo-vm status --qmp unix:/run/web.qmp --json | jq .\\\"x-checkpoints\\\".last

Exit codes: 0 done, 1 the guest does not answer, 2 wrong usage.")]
pub(super) struct Args {
    /// The guest's QMP socket: what its --qmp says
    #[arg(long, value_name = "unix:PATH")]
    qmp: Endpoint,
    /// Write what query-colo-status says, a line of JSON, instead of text
    #[arg(long)]
    json: bool,
    /// Again every second, until ^C
    #[arg(long)]
    watch: bool,
}

/// How a guest's checkpoints are; nothing if it has no peer.
pub(super) fn ask(client: &mut Client) -> Result<Option<Status>, Failure> {
    read(&client.ask("query-colo-status", None)?)
}

fn read(said: &Value) -> Result<Option<Status>, Failure> {
    let other = |error| format!("its status cannot be read: {error}; is it another version of colo-vm?");
    let status = said.get("x-checkpoints").cloned().map(serde_json::from_value::<Status>);
    Ok(status.transpose().map_err(other)?)
}

impl Args {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut client = Client::connect(self.qmp.path())?;
        let redraw = self.watch && !self.json && io::stdout().is_terminal();
        loop {
            let text = self.once(&mut client)?;
            let written = if redraw {
                // Over the old text line by line: clearing first would flicker.
                write(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")))
            } else {
                write(&text)
            };
            // Who reads no more has seen enough.
            if !self.watch || written.is_err() {
                return Ok(());
            }
            sleep(Duration::from_secs(1));
        }
    }

    fn once(&self, client: &mut Client) -> Result<String, Failure> {
        let said = client.ask("query-colo-status", None)?;
        if self.json {
            return Ok(said.to_string() + "\n");
        }
        let guest = client.ask("query-status", None)?;
        let name = client.ask("query-name", None)?;
        let word =
            |value: &Value, member: &str| value.get(member).and_then(Value::as_str).unwrap_or("?").to_owned();
        Ok(view::text(&word(&name, "name"), &word(&guest, "status"), read(&said)?.as_ref()))
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
