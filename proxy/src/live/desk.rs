//! Answers what the control socket is asked, by asking the guests' threads.

use super::mailbox::{AskError, Failure, Handle};
use super::spec::{OnCrash, Places};
use crate::control::protocol::{Answer, Handler, Refusal, Request};
use crate::control::status::NodeStatus;
use crate::engine::Cause;
use crate::setup::{Owner, Store};
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

/// Makes the handler. A byte on `stop` is what SIGTERM is.
pub(super) fn handler(guests: Vec<Handle>, places: Places, stop: UnixStream) -> Handler {
    let began = Instant::now();
    Arc::new(move |request| match request {
        Request::Status {} => status(&guests, &places, began),
        Request::Promote { guest } => {
            let guest = choose(&guests, guest.as_deref())?;
            match guest.promote().map_err(failed)? {
                Ok(said) => {
                    tracing::info!("{}: {said}", guest.name());
                    Ok(Answer::Promoted(vec![guest.name().to_owned()]))
                }
                Err(why) => Err(Refusal::NotNow { guest: guest.name().to_owned(), why }),
            }
        }
        Request::Checkpoint { guest } => {
            let guest = choose(&guests, guest.as_deref())?;
            guest.request_checkpoint(Cause::Operator).map_err(failed)?;
            Ok(Answer::Checkpoint(vec![guest.name().to_owned()]))
        }
        Request::Stop {} => {
            (&stop).write_all(&[1]).map_err(|error| Refusal::Failed(error.to_string()))?;
            Ok(Answer::Stopping)
        }
    })
}

/// Whether a guest is still this process's to speak of. One that failed is not once another process has
/// taken it over, or somebody has torn it down.
fn is_ours(guest: &Handle, places: &Places) -> bool {
    let Some(Failure { status, on_crash }) = guest.failed() else { return true };
    let journal = || {
        let vif = status.nics.first()?.vif.parse().ok()?;
        Store::open(places).ok()?.get(&vif).ok()?
    };
    match journal() {
        Some(journal) => journal.owner == Some(Owner::this()),
        None => *on_crash == OnCrash::Open,
    }
}

fn status(guests: &[Handle], places: &Places, began: Instant) -> Result<Answer, Refusal> {
    let ours = guests.iter().filter(|guest| is_ours(guest, places));
    let each: Result<Vec<_>, _> = ours.map(Handle::status).collect();
    Ok(Answer::Status(Box::new(NodeStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        guests: each.map_err(failed)?,
    })))
}

fn choose<'a>(guests: &'a [Handle], asked: Option<&str>) -> Result<&'a Handle, Refusal> {
    let names: Vec<&str> = guests.iter().map(Handle::name).collect();
    let name = Refusal::choose(asked, &names)?;
    guests
        .iter()
        .find(|guest| guest.name() == name)
        .ok_or_else(|| Refusal::Failed("the guest that was chosen is gone".to_owned()))
}

fn failed(error: AskError) -> Refusal {
    Refusal::Failed(error.to_string())
}
