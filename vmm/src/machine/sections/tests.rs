//! Random states as sections and back, and sections that are no machine.

use super::*;
use crate::checkpoint::package;
use crate::state::dice::dice;
use proptest::prelude::*;
use std::fmt::Debug;

/// What is encoded is decoded, and encoded again as the same bytes; a description changes none of them.
fn goes_there_and_back<T: Section + PartialEq + Debug>(seed: u64) {
    let state: T = dice(seed);
    let bare = state::encode_bare(&state).unwrap();
    let back: T = state::decode(bare.version, &bare.bytes).unwrap();
    assert_eq!(back, state);
    assert_eq!(state::encode_bare(&back).unwrap(), bare);
    assert_eq!(state::encode(&state).unwrap().bytes, bare.bytes);
}

impl<'a> From<&'a Encoded> for Found<'a> {
    fn from(section: &'a Encoded) -> Self {
        let Encoded { name, instance, version, bytes, .. } = section;
        Self { name, instance: *instance, version: *version, bytes }
    }
}

fn found(sections: &[Encoded]) -> Vec<Found<'_>> {
    sections.iter().map(Found::from).collect()
}

/// With two vCPUs and two cards at least.
fn machine(seed: u64) -> MachineState {
    let mut state: MachineState = dice(seed);
    for more in 0..2 {
        state.vcpus.push(dice(seed ^ more));
        state.cards.push(dice(seed ^ more));
    }
    state
}

proptest! {
    #[test]
    fn every_state_goes_there_and_back(seed: u64) {
        goes_there_and_back::<Shape>(seed);
        goes_there_and_back::<ClockState>(seed);
        goes_there_and_back::<VcpuState>(seed);
        goes_there_and_back::<Chips>(seed);
        goes_there_and_back::<SerialState>(seed);
        goes_there_and_back::<RtcState>(seed);
        goes_there_and_back::<PmState>(seed);
        goes_there_and_back::<ResetState>(seed);
        goes_there_and_back::<RootState>(seed);
        goes_there_and_back::<CardState>(seed);
    }

    #[test]
    fn a_machine_goes_through_a_package(seed: u64) {
        let state: MachineState = dice(seed);
        let bytes = package::write(&state).unwrap();
        let back = package::read(&bytes).unwrap();
        prop_assert_eq!(&back, &state);
        prop_assert!(package::write(&back).unwrap() == bytes);
        // As a file has it, in any order.
        let mut described = state.sections(Form::Described).unwrap();
        described.reverse();
        prop_assert_eq!(MachineState::from_sections(found(&described)).unwrap(), state);
    }

    #[test]
    fn a_section_that_is_missing_twice_unknown_or_of_another_version_is_named(seed: u64) {
        let state = machine(seed);
        let sections = state.sections(Form::Bare).unwrap();
        let whole = found(&sections);
        let read = |found: &[Found<'_>]| MachineState::from_sections(found.iter().copied());
        for (at, section) in whole.iter().enumerate() {
            let mut fewer = whole.clone();
            fewer.remove(at);
            let many = whole.iter().filter(|other| other.name == section.name).count();
            match read(&fewer) {
                Err(SectionsError::Missing { name, instance: 0 }) => {
                    prop_assert_eq!((name, many), (section.name, 1));
                }
                // One of many is a gap, and what is behind it is nobody's …
                Err(SectionsError::Unknown { name, instance }) => {
                    prop_assert_eq!((&*name, instance), (section.name, section.instance + 1));
                }
                // … unless it was the last: how many there have to be is the machine's to know.
                Ok(less) => {
                    prop_assert_eq!(section.instance as usize, many - 1);
                    let left = (less.vcpus.len() + less.cards.len(), state.vcpus.len() + state.cards.len());
                    prop_assert_eq!(left.0 + 1, left.1);
                }
                other => panic!("without {} {}: {other:?}", section.name, section.instance),
            }
            let twice = [&whole[..], &[*section]].concat();
            let error = read(&twice).unwrap_err();
            let SectionsError::Twice { name, instance } = error else { panic!("{error}") };
            prop_assert_eq!((&*name, instance), (section.name, section.instance));
            for version in [0, section.version + 1, u32::MAX] {
                let mut other = whole.clone();
                other[at].version = version;
                let error = read(&other).unwrap_err();
                let SectionsError::Decode(error) = error else { panic!("{error}") };
                let text = error.to_string();
                prop_assert!(text.contains("is not known here") && text.contains(section.name), "{}", text);
            }
            for bytes in [&section.bytes[..section.bytes.len() - 1], &[section.bytes, &[0]].concat()] {
                let mut other = whole.clone();
                other[at].bytes = bytes;
                let error = read(&other).unwrap_err();
                prop_assert!(matches!(error, SectionsError::Decode(_)), "{}", error);
            }
        }
        for (name, instance) in [("floppy", 0), ("cpu", 99), ("serial", 1), ("", 0)] {
            let more = [&whole[..], &[Found { name, instance, version: 1, bytes: &[] }]].concat();
            let error = read(&more).unwrap_err();
            let SectionsError::Unknown { name: of, instance: number } = error else { panic!("{error}") };
            prop_assert_eq!((&*of, number), (name, instance));
        }
    }
}

/// However it is cut, and also if it says that it is as short as it is.
#[test]
fn a_package_cut_at_every_byte_is_an_error() {
    for seed in 0..4 {
        let whole = package::write(&machine(seed)).unwrap();
        for len in 0..whole.len() {
            let mut cut = whole[..len].to_vec();
            package::read(&cut).unwrap_err();
            if let Some(says) = len.checked_sub(9) {
                cut[5..9].copy_from_slice(&(says as u32).to_be_bytes());
                package::read(&cut).unwrap_err();
            }
        }
    }
}
