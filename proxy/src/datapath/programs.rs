//! The programs of one NIC: loaded once, attached one by one.

use super::attach::{Attached, Hook, Place};
use super::maps::NicMaps;
use super::{DatapathError, Hooks, chain, load, sys};
use aya::programs::{ProgramError, SchedClassifier, SocketFilter};
use aya::{Ebpf, EbpfLoader};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

/// The programs, ready to be attached.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
}

impl Programs {
    /// Loads them for the NIC `index` of a forward device. Maps that are pinned already in `forward`
    /// are used, the others are made and pinned.
    pub fn load(index: u8, flows: u32, forward: &Path, nic: &Path) -> Result<Self, DatapathError> {
        let index = u32::from(index);
        let mut loader = EbpfLoader::new();
        loader
            .override_global("INDEX", &index, true)
            .map_max_entries("FLOWS", flows.max(1))
            .map_pin_path("NICS", forward.join("nics"))
            .map_pin_path("COUNTERS", forward.join("counters"))
            .map_pin_path("FLOWS", nic.join("flows"))
            .map_pin_path("ADDRESSES", nic.join("addresses"));
        let mut ebpf = loader.load(sys::OBJECT).map_err(|error| DatapathError::Load(chain(&error)))?;
        for place in Place::ALL {
            let program = program(&mut ebpf, place)?;
            load(|| program.load()).map_err(|error| {
                tracing::debug!("{error:?}");
                DatapathError::Load(chain(&error))
            })?;
        }
        Ok(Self { ebpf })
    }

    /// The maps of this NIC alone.
    pub fn maps(&mut self) -> Result<NicMaps, DatapathError> {
        let mut take = |name: &'static str| {
            self.ebpf.take_map(name).ok_or(DatapathError::Map {
                what: "find",
                map: name,
                why: "the object does not have it".into(),
            })
        };
        NicMaps::new(take("FLOWS")?, take("ADDRESSES")?)
    }

    /// Pins a program that is not attached yet, for [`attach_pinned`]: loading one takes privileges
    /// (`CAP_PERFMON` for its loops) that attaching one does not.
    pub fn pin(&mut self, place: Place, folder: &Path) -> Result<(), DatapathError> {
        let path = folder.join(place.program());
        program(&mut self.ebpf, place)?.pin(&path).map_err(|error| DatapathError::Place {
            what: "pin a program at",
            path,
            error: io::Error::other(chain(&error)),
        })
    }

    /// Loads the program that chooses between the queues of a capture tap, and gives it. The tap
    /// keeps it.
    pub fn steering(&mut self) -> Result<BorrowedFd<'_>, DatapathError> {
        const NAME: &str = "capture_queue";
        let missing = || DatapathError::Load(format!("there is no program {NAME}"));
        let failed = |error: ProgramError| DatapathError::Load(chain(&error));
        let program = self.ebpf.program_mut(NAME).ok_or_else(missing)?;
        let program: &mut SocketFilter = program.try_into().map_err(failed)?;
        load(|| program.load()).map_err(failed)?;
        Ok(program.fd().map_err(failed)?.as_fd())
    }

    /// Attaches one of them to a device. With a `pin` it stays when this process ends.
    pub fn attach(
        &mut self,
        place: Place,
        device: &str,
        hook: Hook,
        pin: Option<&Path>,
    ) -> Result<Attached, DatapathError> {
        Hooks::attach(program(&mut self.ebpf, place)?, place, device, hook, pin)
    }
}

/// Attaches a program that was pinned in `folder`, until the result is dropped.
pub fn attach_pinned(
    folder: &Path,
    place: Place,
    device: &str,
    hook: Hook,
) -> Result<Attached, DatapathError> {
    let mut program = SchedClassifier::from_pin(folder.join(place.program()))
        .map_err(|error| DatapathError::Load(chain(&error)))?;
    Hooks::attach(&mut program, place, device, hook, None)
}

fn program(ebpf: &mut Ebpf, place: Place) -> Result<&mut SchedClassifier, DatapathError> {
    let name = place.program();
    let program =
        ebpf.program_mut(name).ok_or_else(|| DatapathError::Load(format!("there is no program {name}")))?;
    program.try_into().map_err(|error| DatapathError::Load(chain(&error)))
}
