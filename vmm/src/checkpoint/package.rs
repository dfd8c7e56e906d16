//! Everything of a guest but its memory, as one package.

use crate::machine::MachineState;
use crate::machine::sections::{Form, Found, SectionsError};
use crate::state::EncodeError;
use crate::stream;
use thiserror::Error;

/// A package that cannot be made, or makes no sense.
#[derive(Debug, Error)]
pub enum PackageError {
    /// A state has no form.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// It is too long, or none.
    #[error(transparent)]
    Package(#[from] stream::PackageError),
    /// What is in it is no machine.
    #[error("the peer's package is no state of a machine: {0}")]
    Sections(#[from] SectionsError),
}

/// A state as a package.
pub fn write(state: &MachineState) -> Result<Vec<u8>, PackageError> {
    Ok(stream::write_package(&state.sections(Form::Bare)?)?)
}

/// A package as a state: all of it is understood, or none.
pub fn read(bytes: &[u8]) -> Result<MachineState, PackageError> {
    let devices = stream::read_package(bytes)?;
    let found = devices.iter().map(|device| Found {
        name: &device.name,
        instance: device.instance,
        version: device.version,
        bytes: &device.data,
    });
    Ok(MachineState::from_sections(found)?)
}
