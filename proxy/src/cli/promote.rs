//! `colo-proxy promote`.

use super::live_args::places;
use super::{CANNOT, complain, finish, may_change};
use colo_proxy::live::options::{PlaceArgs, VifName};
use colo_proxy::live::spec::{IfName, Places};
use colo_proxy::setup::{self, SetupError, Store};
use std::process::ExitCode;

/// Options of `promote`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The guest's output goes to its bridge from then on, and its addresses are announced. Be sure that the
primary serves no more (fence its host first): two guests with one address serve nobody.

Examples:
  colo-proxy promote --vif tap0
  colo-proxy promote --name web       all NICs of this guest

Exit codes: 0 it serves, 1 it cannot, 2 wrong usage.")]
pub(super) struct Args {
    /// Host end of the NIC of a guest that follows here; can be repeated
    #[arg(long, value_name = "VIF", required_unless_present = "name")]
    vif: Vec<VifName>,
    /// The guest, by its name: all of its NICs
    #[arg(long, value_name = "NAME", conflicts_with = "vif")]
    name: Option<String>,
    #[command(flatten)]
    places: PlaceArgs,
}

impl Args {
    pub(super) fn run(&self) -> ExitCode {
        if let Err(code) = may_change() {
            return code;
        }
        let places = places(&self.places);
        let vifs = match &self.name {
            None => self.vif.iter().map(|vif| vif.interface().clone()).collect(),
            Some(name) => match vifs_of(&places, name) {
                Ok(vifs) if vifs.is_empty() => {
                    complain(&format_args!(
                        "no guest {name} is set up here; 'colo-proxy status' shows what is"
                    ));
                    return ExitCode::from(CANNOT);
                }
                Ok(vifs) => vifs,
                Err(error) => return finish(Err(error)),
            },
        };
        // One that cannot be promoted keeps none of the others from it: they are needed now.
        let codes = vifs.iter().map(|vif| finish(setup::promote(&places, vif)));
        codes.fold(ExitCode::SUCCESS, |sum, code| if code == ExitCode::SUCCESS { sum } else { code })
    }
}

/// The NICs that were set up for a guest.
fn vifs_of(places: &Places, name: &str) -> Result<Vec<IfName>, SetupError> {
    let journals = Store::open(places)?.all()?.with_warnings();
    Ok(journals.into_iter().filter(|journal| journal.guest == name).map(|journal| journal.vif.name).collect())
}
