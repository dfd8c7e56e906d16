//! `colo-proxy checkpoint`.

use super::status::Which;
use super::{CANNOT, complain, unattended};
use colo_proxy::control::client::{ClientError, Survey, ask};
use colo_proxy::control::protocol::{Answer, Request};
use std::io::{self, Write as _};
use std::process::ExitCode;

/// Options of `checkpoint`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  colo-proxy checkpoint              the only guest that is protected here
  colo-proxy checkpoint --vif vif1   the guest with this interface

It asks whoever performs checkpoints for one, as a divergence does. Who waits for its end watches
'colo-proxy status'.

Exit codes: 0 asked for, 1 nobody answers, 2 wrong usage.")]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
}

impl Args {
    pub(super) fn run(&self) -> ExitCode {
        match self.ask() {
            Ok(names) => {
                let _ = writeln!(io::stdout(), "{}: a checkpoint is asked for", names.join(", "));
                ExitCode::SUCCESS
            }
            Err(error) => {
                complain(&error);
                ExitCode::from(CANNOT)
            }
        }
    }

    fn ask(&self) -> Result<Vec<String>, ClientError> {
        let survey = Survey::take(self.which.run_dir(), &unattended)?;
        let (socket, guest) = survey.guest(&self.which.wanted())?;
        match ask(socket, &Request::Checkpoint { guest: Some(guest.to_owned()) })? {
            Answer::Checkpoint(names) => Ok(names),
            other => Err(ClientError::Language {
                socket: socket.to_owned(),
                what: format!("to checkpoint it says {other:?}"),
            }),
        }
    }
}
