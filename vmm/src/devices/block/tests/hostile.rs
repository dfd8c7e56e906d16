//! Rings and chains that no driver makes: an error at most, and the next driver is served.

use super::*;
use crate::virtio::Device;
use driver::{BUFFERS, SIZE};
use vm_memory::{Bytes, GuestAddress};

const NEXT: u16 = 1;
const DEVICE_WRITES: u16 = 2;
const INDIRECT: u16 = 4;

/// After whatever happened, a request is answered.
fn still_serves(driver: &mut Driver) {
    assert_eq!(driver.request(GET_ID, 0, &[], 20).0, OK);
}

#[test]
fn chains_that_are_no_requests_are_given_back() {
    every(|_, driver| {
        let (header, status) = (BUFFERS, BUFFERS + 0x100);
        driver.ram.write_slice(&[0; 16], GuestAddress(header)).unwrap();
        let wild = 1 << 40;
        let cases: [&[(u64, u32, bool)]; 9] = [
            &[(header, 16, false)],
            &[(header, 15, false), (status, 1, true)],
            &[(status, 1, true)],
            &[(status, 1, true), (header, 16, false)],
            &[(wild, 16, false), (status, 1, true)],
            &[(header, 16, false), (wild, 512, true), (status, 1, true)],
            &[(header, 16, false), (header, u32::MAX, true), (status, 1, true)],
            &[(header, 16, false), (u64::MAX - 3, 512, true), (status, 1, true)],
            &[(header, 0, false), (status, 0, true)],
        ];
        for case in cases {
            let head = driver.chain(case);
            driver.kick();
            assert_eq!(driver.wait(1)[0].0, head, "{case:?}");
        }
        still_serves(driver);
    });
}

#[test]
fn links_that_lead_nowhere_end() {
    every(|_, driver| {
        let cases: [&dyn Fn(&Driver); 6] = [
            // In a circle, to itself, out of the table.
            &|driver| {
                driver.describe(0, BUFFERS, 16, NEXT, 1);
                driver.describe(1, BUFFERS, 16, NEXT, 0);
            },
            &|driver| driver.describe(0, BUFFERS, 16, NEXT | DEVICE_WRITES, 0),
            &|driver| driver.describe(0, BUFFERS, 16, NEXT, u16::MAX),
            // Tables that are nowhere, of no length, within themselves.
            &|driver| driver.describe(0, 1 << 40, 64, INDIRECT, 0),
            &|driver| driver.describe(0, BUFFERS, 7, INDIRECT, 0),
            &|driver| driver.describe(0, 0x1000, 16, INDIRECT, 0),
        ];
        for case in cases {
            case(driver);
            driver.offer(0);
            driver.kick();
            assert_eq!(driver.wait(1)[0].0, 0);
        }
        still_serves(driver);
    });
}

#[test]
fn a_ring_that_is_ahead_of_itself_stops_until_a_reset() {
    for engine in [Choice::Uring, Choice::Threads] {
        let mut block = disk(raw(false), engine);
        let features = block.features();
        let mut driver = Driver::new(&mut block, features);
        still_serves(&mut driver);
        driver.set_available(SIZE + 100);
        driver.kick();
        // It is not answered, and can be paused, resumed and reset nevertheless.
        assert_eq!(block.pause().len(), 1);
        block.resume();
        block.reset();
        still_serves(&mut Driver::new(&mut block, features));
    }
}

#[test]
fn the_same_buffers_twice_are_served_twice() {
    every(|_, driver| {
        driver.ram.write_obj(READ, GuestAddress(BUFFERS)).unwrap();
        driver.ram.write_obj(0_u64, GuestAddress(BUFFERS + 8)).unwrap();
        driver.describe(0, BUFFERS, 16, NEXT, 1);
        driver.describe(1, BUFFERS + 0x1000, 0x1001, DEVICE_WRITES, 0);
        for _ in 0..SIZE {
            driver.offer(0);
        }
        driver.kick();
        assert_eq!(driver.wait(SIZE.into()), vec![(0, 0x1001); SIZE.into()]);
    });
}
