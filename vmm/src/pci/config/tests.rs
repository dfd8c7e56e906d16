use super::*;
use proptest::prelude::*;

fn space() -> ConfigSpace {
    let identity =
        Identity { vendor: 0x1af4, device: 0x1041, class: [2, 0, 1], revision: 1, subsystem: 0x40 };
    let mut space = ConfigSpace::new(identity);
    space.add_bar(0, BarKind::Memory32, 0x4000, 0xc000_0000).unwrap();
    space.add_bar(1, BarKind::Ports, 0x100, 0xc000).unwrap();
    space.add_bar(2, BarKind::Memory64, 1 << 33, 1 << 33).unwrap();
    space
}

/// What an operating system does to learn a BAR's size (PCI Local Bus 3.0 §6.2.5.1).
fn sized(space: &mut ConfigSpace, at: u8) -> u32 {
    let old = space.word(at);
    space.write(at, &[0xff; 4]);
    let mask = space.word(at);
    space.write(at, &old.to_le_bytes());
    mask
}

#[test]
fn bars_are_sized_and_moved() {
    let mut space = space();
    assert_eq!(space.word(0), 0x1041_1af4);
    assert_eq!(space.word(8), 0x0200_0101);
    assert_eq!(sized(&mut space, 0x10), 0xffff_c000);
    assert_eq!(sized(&mut space, 0x14), 0xffff_ff01);
    assert_eq!(sized(&mut space, 0x18), 4);
    assert_eq!(sized(&mut space, 0x1c), 0xffff_fffe);
    assert_eq!(sized(&mut space, 0x20), 0, "there is none");
    let region = |space, bar, first, last| Region { space, bar, first, last };
    let ports = region(AddressSpace::Ports, 1, 0xc000, 0xc0ff);
    let wide = region(AddressSpace::Memory, 2, 1 << 33, (2 << 33) - 1);
    let memory = region(AddressSpace::Memory, 0, 0xc000_0000, 0xc000_3fff);
    assert_eq!(space.regions(), [memory, ports, wide]);
    space.write(0x10, &0xd000_1234_u32.to_le_bytes());
    let memory = region(AddressSpace::Memory, 0, 0xd000_0000, 0xd000_3fff);
    assert_eq!(space.regions()[0], memory);
    space.write(4, &[1]);
    assert_eq!(space.regions(), [ports], "memory decoding is off");
    space.write(4, &[0]);
    assert_eq!(space.regions(), []);
}

#[test]
fn a_bar_that_cannot_be_is_refused() {
    let mut space = space();
    for (number, kind, size, address) in [
        (0, BarKind::Ports, 0x100, 0),
        (3, BarKind::Ports, 0x100, 0),
        (5, BarKind::Memory64, 0x1000, 0),
        (6, BarKind::Ports, 4, 0),
        (4, BarKind::Memory32, 0x1001, 0),
        (4, BarKind::Memory32, 0x1000, 0x800),
        (4, BarKind::Memory32, 8, 0),
    ] {
        assert!(space.add_bar(number, kind, size, address).is_err(), "{number} {size:#x}");
    }
    assert!(space.add_capability(9, &[0; 191], &[]).is_err());
}

#[test]
fn capabilities_are_a_list() {
    let mut space = space();
    assert_eq!(space.word(4) >> 16 & 0x10, 0);
    let first = space.add_capability(0x11, &[1, 2, 3], &[0, 0x0f]).unwrap();
    let second = space.add_capability(0x09, &[4], &[]).unwrap();
    assert_eq!(space.word(4) >> 16 & 0x10, 0x10);
    assert_eq!((space.word(0x34), first, second), (0x40, 0x40, 0x48));
    assert_eq!(space.word(0x40), 0x0201_4811);
    assert_eq!(space.word(0x48), 0x0004_0009);
    space.write(0x40, &[0xff; 8]);
    assert_eq!(space.word(0x40), 0x0f01_4811, "only what the mask says");
}

#[test]
fn a_state_of_another_device_is_refused() {
    let mut space = space();
    space.write(0x10, &0xd000_0000_u32.to_le_bytes());
    let mut state = space.save();
    let mut other = super::tests::space();
    other.load(other.check(&state).unwrap());
    assert_eq!(other.regions(), space.regions());
    state.bytes[0x10] |= 8;
    assert_eq!(other.check(&state).unwrap_err(), ConfigError::Differs { at: 0x10, theirs: 8, ours: 0 });
    state.bytes.pop();
    assert_eq!(other.check(&state).unwrap_err(), ConfigError::Length(255));
}

proptest! {
    /// Whatever is written: identity and capabilities stay, and each region is where its BAR says.
    #[test]
    fn any_writes_keep_what_is_fixed(
        writes in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 1..5)), 0..64),
    ) {
        let mut space = space();
        for (offset, data) in writes {
            space.write(offset, &data);
        }
        prop_assert_eq!(space.word(0), 0x1041_1af4);
        for region in space.regions() {
            let size = [0x4000, 0x100, 1 << 33][usize::from(region.bar)];
            prop_assert_eq!(region.first % size, 0);
            prop_assert_eq!(region.last - region.first, size - 1);
        }
        let again = super::tests::space();
        prop_assert!(again.check(&space.save()).is_ok());
    }
}
