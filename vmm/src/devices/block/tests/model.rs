//! Any requests, against what one would keep on paper: a list of bytes.

use super::*;
use proptest::prelude::*;

/// As large as matters here: the end of the disk and its first sectors.
const SECTORS: u64 = DISK / 512;

#[derive(Clone, Debug)]
enum Act {
    Write(u64, Vec<u8>),
    Read(u64, usize),
    Zero(u64, u32, bool),
    Discard(u64, u32),
    Flush,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let place = || prop_oneof![0..64_u64, SECTORS - 40..SECTORS + 8, 120..140_u64, Just(u64::MAX >> 9)];
    let data = prop::collection::vec(1_u8.., 1..40)
        .prop_map(|sectors| sectors.into_iter().flat_map(|fill| [fill; 512]).collect());
    prop::collection::vec(
        prop_oneof![
            4 => (place(), data).prop_map(|(at, data)| Act::Write(at, data)),
            4 => (place(), 1..80_usize).prop_map(|(at, sectors)| Act::Read(at, sectors * 512)),
            2 => (place(), 1..300_u32, any::<bool>()).prop_map(|(at, len, unmap)| Act::Zero(at, len, unmap)),
            1 => (place(), 1..300_u32).prop_map(|(at, len)| Act::Discard(at, len)),
            1 => Just(Act::Flush),
        ],
        1..40,
    )
}

/// The bytes of a range of sectors, if all of them are on the disk.
fn bytes(sector: u64, len: u64) -> Option<std::ops::Range<usize>> {
    let end = sector.checked_mul(512)?.checked_add(len)?;
    (end <= DISK).then_some((end - len) as usize..end as usize)
}

/// Does them to a device and to a list, whose bytes are `None` where a discard leaves them open.
fn compare(driver: &mut Driver, acts: &[Act]) -> Result<(), TestCaseError> {
    let mut model = vec![Some(0); DISK as usize];
    let status = |there: bool| if there { OK } else { ERROR };
    for act in acts {
        match act {
            Act::Write(sector, data) => {
                let place = bytes(*sector, data.len() as u64);
                prop_assert_eq!(driver.request(WRITE, *sector, data, 0).0, status(place.is_some()));
                if let Some(place) = place {
                    model[place].iter_mut().zip(data).for_each(|(at, byte)| *at = Some(*byte));
                }
            }
            Act::Read(sector, len) => {
                let place = bytes(*sector, *len as u64);
                let (said, found) = driver.request(READ, *sector, &[], *len);
                prop_assert_eq!(said, status(place.is_some()));
                let expected = place.map_or(&[][..], |place| &model[place]);
                let differs =
                    |(found, expected): (&u8, &Option<u8>)| expected.is_some_and(|byte| byte != *found);
                prop_assert!(!found.iter().zip(expected).any(differs), "{:?}", act);
            }
            Act::Zero(sector, sectors, unmap) => {
                let place = bytes(*sector, u64::from(*sectors) * 512);
                let data = range(*sector, *sectors, u32::from(*unmap));
                prop_assert_eq!(driver.request(WRITE_ZEROES, 0, &data, 0).0, status(place.is_some()));
                model[place.unwrap_or_default()].fill(Some(0));
            }
            Act::Discard(sector, sectors) => {
                let place = bytes(*sector, u64::from(*sectors) * 512);
                let data = range(*sector, *sectors, 0);
                prop_assert_eq!(driver.request(DISCARD, 0, &data, 0).0, status(place.is_some()));
                model[place.unwrap_or_default()].fill(None);
            }
            Act::Flush => prop_assert_eq!(driver.request(FLUSH, 0, &[], 0).0, OK),
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn a_disk_is_a_list_of_bytes(acts in acts()) {
        for engine in [Choice::Uring, Choice::Threads] {
            for image in [raw(false), qcow2(), secondary(false), secondary(true)] {
                let mut block = disk(image, engine);
                let features = crate::virtio::Device::features(&block);
                let mut driver = Driver::new(&mut block, features);
                compare(&mut driver, &acts)?;
            }
        }
    }
}
