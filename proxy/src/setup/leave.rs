//! Secondaries that are set up and left to themselves: their part is all in the kernel.

use super::install::{Charge, Installed, install};
use super::{BeforeStep, SetupError};
use crate::live::spec::{Mode, Spec};

/// Sets all NICs up, or none, and leaves them. Only for guests that follow; a primary needs a
/// comparator. Gives a line for each NIC.
pub fn leave(spec: &Spec, before_step: BeforeStep<'_>) -> Result<Vec<String>, SetupError> {
    let mut installed: Vec<Installed> = Vec::new();
    for guest in spec.guests.iter().filter(|guest| guest.mode == Mode::Secondary) {
        for nic in &guest.nics {
            match install(guest, nic, &spec.places, Charge::Nobody, before_step) {
                Ok(one) => installed.push(one),
                Err(error) => {
                    for one in installed.into_iter().rev() {
                        one.remove(&spec.places).unwrap_or_else(|error| tracing::error!("{error}"));
                    }
                    return Err(error);
                }
            }
        }
    }
    let line = |one: &Installed| {
        let journal = &one.journal;
        format!(
            "{}: follows as secondary, index {} on {}; 'colo-proxy teardown --vif {}' ends it",
            journal.vif.name, journal.index, journal.forward.name, journal.vif.name
        )
    };
    Ok(installed.iter().map(line).collect())
}
