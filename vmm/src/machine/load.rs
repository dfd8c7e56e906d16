//! Takes a machine's state, and makes a machine what a state says: all of it, or nothing.
//!
//! ```text
//!   load   check everything ─► save what is there ─► chips ─► clock ─► vCPUs (each at the same time) ─► devices
//!                │                                     └───────┬────────────┘ KVM refuses
//!                ▼ nothing was changed                         ▼ what was there is put back
//! ```
//!
//! Devices come last: once they are checked they cannot refuse. Chips come before the local APICs: what a
//! chip delivers while it is set is overwritten by what the vCPU had.

use super::clocks::{Instant, Reading};
use super::frozen::Frozen;
use super::state::{ClockState, LoadError, MachineState, Shape, StateError};
use crate::kvm::Chips;
use crate::vcpu::{self, HostTicks, Vcpu, VcpuError, VcpuState};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

fn shape(frozen: &Frozen<'_>) -> Shape {
    let memory = frozen.vm.ram().iter().map(GuestMemoryRegion::len).sum();
    Shape { memory, cpus: frozen.vcpus.len() as u32 }
}

/// vCPUs are asked first and waited for last: what is the machine's own to do is done meanwhile.
pub(super) fn save(frozen: &mut Frozen<'_>) -> Result<MachineState, StateError> {
    let Instant { nanoseconds, at } = frozen.clocks.now()?;
    let answers: Vec<_> = frozen.vcpus.iter().map(|vcpu| vcpu.save(at)).collect();
    let chips = frozen.vm.chips()?;
    let devices = frozen.devices.state();
    let vcpus = answers.into_iter().map(|answer| answer.done().map(|state| *state));
    Ok(MachineState {
        shape: shape(frozen),
        clock: ClockState { nanoseconds },
        vcpus: vcpus.collect::<Result<_, _>>()?,
        chips,
        serial: devices.serial,
        rtc: frozen.devices.rtc().state(),
        pm: devices.pm,
        reset: devices.reset,
        pci: devices.cards.root,
        cards: devices.cards.cards,
    })
}

pub(super) fn load(frozen: &mut Frozen<'_>, state: &MachineState) -> Result<(), LoadError> {
    check(frozen, state)?;
    let chips = frozen.vm.chips().map_err(StateError::from)?;
    let clocks = frozen.clocks.reading().map_err(StateError::from)?;
    let mut before = Vec::new();
    if let Err(refused) = set(frozen, state, &mut before) {
        return Err(match put_back(frozen, &chips, clocks, before) {
            Ok(()) if !is_lost(&refused) => LoadError::Refused(refused),
            again => {
                let again = again.err().map(|again| again.to_string());
                let lost = LoadError::Lost { refused, again: again.unwrap_or_else(|| "a vCPU".to_owned()) };
                frozen.lost = Some(lost.to_string());
                lost
            }
        });
    }
    frozen.devices.take(state);
    frozen.stateful = true;
    Ok(())
}

/// What can be known without a change.
fn check(frozen: &Frozen<'_>, state: &MachineState) -> Result<(), LoadError> {
    let (theirs, ours) = (state.shape, shape(frozen));
    if theirs != ours {
        return Err(LoadError::Shape { theirs, ours });
    }
    if state.vcpus.len() != frozen.vcpus.len() {
        return Err(LoadError::Cpus { found: state.vcpus.len(), said: theirs.cpus });
    }
    for (index, (vcpu, state)) in frozen.vcpus.iter().zip(&state.vcpus).enumerate() {
        vcpu.check(state).map_err(|source| LoadError::Vcpu { index, source })?;
    }
    Ok(frozen.devices.check(&state.pci, &state.cards)?)
}

/// A vCPU that was changed: when its counter says what the state of before says, and that state.
type Before<'a> = (&'a Vcpu, HostTicks, Box<VcpuState>);

/// Sets all that KVM has. What vCPUs were goes into `before`; one that refuses is that still.
fn set<'a>(
    frozen: &mut Frozen<'a>,
    state: &MachineState,
    before: &mut Vec<Before<'a>>,
) -> Result<(), VcpuError> {
    frozen.vm.set_chips(&state.chips)?;
    let at = frozen.clocks.load(state.clock.nanoseconds)?;
    let vcpus = frozen.vcpus.iter().zip(&state.vcpus);
    let answers: Vec<_> = vcpus.map(|(vcpu, state)| (vcpu, vcpu.load(state.clone(), at))).collect();
    let mut outcome = Ok(());
    for (vcpu, answer) in answers {
        match answer.done() {
            Ok(state) => before.push((vcpu, at, state)),
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    outcome
}

fn put_back(
    frozen: &mut Frozen<'_>,
    chips: &Chips,
    clocks: Reading,
    before: Vec<Before<'_>>,
) -> Result<(), VcpuError> {
    frozen.vm.set_chips(chips)?;
    frozen.clocks.put_back(clocks)?;
    let answers: Vec<_> = before.into_iter().map(|(vcpu, at, state)| vcpu.load(*state, at)).collect();
    answers.into_iter().try_for_each(|answer| answer.done().map(drop))
}

fn is_lost(error: &VcpuError) -> bool {
    matches!(error, VcpuError::Gone(_) | VcpuError::State { source: vcpu::StateError::Lost { .. }, .. })
}
