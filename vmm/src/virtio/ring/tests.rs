use super::*;
use crate::virtio::fake_driver::{FakeDriver, INDIRECT, NEXT, WRITE, ram, reads, writes};
use proptest::prelude::*;
use vm_memory::bitmap::Bitmap;

const RAM: usize = 1 << 20;

fn start(size: u16, event_idx: bool) -> (FakeDriver, Ring) {
    let mut driver = FakeDriver::new(&ram(RAM), 0x1_0000, size);
    driver.event_idx = event_idx;
    let ring = Ring::new(driver.ram.clone(), &driver.queue()).unwrap();
    (driver, ring)
}

fn pop(ring: &mut Ring) -> Result<Option<(u16, Vec<Segment>)>, Broken> {
    let mut segments = Vec::new();
    Ok(ring.pop(&mut segments)?.map(|head| (head, segments)))
}

#[test]
fn a_chain_comes_out_as_it_was_offered() {
    let (mut driver, mut ring) = start(8, false);
    assert_eq!(pop(&mut ring), Ok(None));
    let direct = driver.offer(&[reads(0x100, 16), reads(0x200, 0), writes(0x300, 32)]).unwrap();
    let indirect = driver.offer_indirect(0x8_0000, &[reads(0x400, 1), writes(0x500, 2)]).unwrap();
    let segment = |address, len, writable| Segment { address, len, writable };
    let first = vec![segment(0x100, 16, false), segment(0x300, 32, true)];
    assert_eq!(pop(&mut ring), Ok(Some((direct, first))), "what is empty is left out");
    let second = vec![segment(0x400, 1, false), segment(0x500, 2, true)];
    assert_eq!(pop(&mut ring), Ok(Some((indirect, second.clone()))));
    assert_eq!(pop(&mut ring), Ok(None));
    ring.put_back(1);
    assert_eq!(pop(&mut ring), Ok(Some((indirect, second))), "what is put back comes again");
}

#[test]
fn used_buffers_become_visible_together() {
    let (mut driver, mut ring) = start(8, false);
    let heads = [driver.offer(&[writes(0, 1)]).unwrap(), driver.offer(&[writes(8, 1)]).unwrap()];
    for head in heads {
        assert_eq!(pop(&mut ring).unwrap().unwrap().0, head);
        ring.give_back(head, 7).unwrap();
        assert_eq!(driver.collect(), [], "not before it is published");
    }
    assert_eq!(ring.state().next_used, 0);
    ring.publish().unwrap();
    assert_eq!(ring.state().next_used, 2);
    assert_eq!(driver.collect(), heads.map(|head| (head, 7)));
    let region = driver.ram.find_region(GuestAddress(0)).unwrap();
    assert!(
        vm_memory::GuestMemoryRegion::bitmap(region).dirty_at(driver.used() as usize),
        "a checkpoint must see it"
    );
}

#[test]
fn a_driver_without_event_idx_switches_interrupts_and_kicks_with_flags() {
    let (mut driver, mut ring) = start(4, false);
    for wanted in [true, false, true] {
        driver.set_interrupts(wanted);
        let head = driver.offer(&[writes(0, 1)]).unwrap();
        pop(&mut ring).unwrap();
        ring.give_back(head, 0).unwrap();
        ring.publish().unwrap();
        assert_eq!(ring.interrupt_due(), Ok(wanted));
        assert_eq!(ring.interrupt_due(), Ok(false), "nothing is new");
        driver.collect();
    }
    ring.kicks_off().unwrap();
    assert_eq!(driver.half(driver.used()), 1);
    assert_eq!(ring.kicks_on(), Ok(false));
    assert_eq!(driver.half(driver.used()), 0);
    driver.offer(&[writes(0, 1)]).unwrap();
    assert_eq!(ring.kicks_on(), Ok(true), "it came before the wish, so no kick may come");
}

/// What a driver does, and what that is called.
type Case = (&'static str, fn(&mut FakeDriver), Broken);

#[test]
fn a_driver_without_the_right_form_is_told_apart() {
    let cases: [Case; 10] = [
        ("loop", |d| d.descriptor(d.table(), 0, 0, 1, NEXT, 0), Broken::Endless(MAX_CHAIN)),
        (
            "next out of table",
            |d| d.descriptor(d.table(), 0, 0, 1, NEXT, 8),
            Broken::Index { index: 8, size: 8 },
        ),
        (
            "wild address",
            |d| d.descriptor(d.table(), 0, u64::MAX - 3, 16, 0, 0),
            Broken::Wild { address: u64::MAX - 3, len: 16 },
        ),
        (
            "end of RAM",
            |d| d.descriptor(d.table(), 0, RAM as u64 - 1, 2, 0, 0),
            Broken::Wild { address: RAM as u64 - 1, len: 2 },
        ),
        (
            "huge",
            |d| d.descriptor(d.table(), 0, 0, u32::MAX, 0, 0),
            Broken::Wild { address: 0, len: u32::MAX },
        ),
        (
            "table of half a descriptor",
            |d| d.descriptor(d.table(), 0, 0, 24, INDIRECT, 0),
            Broken::Indirect { flags: INDIRECT, len: 24 },
        ),
        (
            "table with a successor",
            |d| d.descriptor(d.table(), 0, 0, 16, INDIRECT | NEXT, 1),
            Broken::Indirect { flags: INDIRECT | NEXT, len: 16 },
        ),
        (
            "table in a table",
            |d| {
                d.descriptor(d.table(), 0, 0x8_0000, 16, INDIRECT, 0);
                d.descriptor(0x8_0000, 0, 0x8_0000, 16, INDIRECT, 0);
            },
            Broken::Indirect { flags: INDIRECT, len: 16 },
        ),
        (
            "wild table",
            |d| d.descriptor(d.table(), 0, 0xffff_ffff_ffff_fff0, 32, INDIRECT, 0),
            Broken::Wild { address: 0xffff_ffff_ffff_fff0, len: 32 },
        ),
        (
            "order",
            |d| {
                d.descriptor(d.table(), 0, 0, 16, NEXT | WRITE, 1);
                d.descriptor(d.table(), 1, 0, 16, 0, 0);
            },
            Broken::Order,
        ),
    ];
    for (name, set_up, expected) in cases {
        let (mut driver, mut ring) = start(8, false);
        set_up(&mut driver);
        driver.offer_head(0);
        let mut segments = vec![Segment { address: 1, len: 1, writable: false }];
        assert_eq!(ring.pop(&mut segments), Err(expected), "{name}");
        assert_eq!(segments.len(), 1, "{name}: nothing of it is left");
    }
    let (mut driver, mut ring) = start(8, false);
    driver.offer_head(8);
    assert_eq!(pop(&mut ring), Err(Broken::Index { index: 8, size: 8 }));
    let (driver, mut ring) = start(8, false);
    driver.claim(9);
    assert_eq!(pop(&mut ring), Err(Broken::Flood(9)));
}

#[test]
fn a_ring_outside_of_ram_is_refused() {
    let (driver, _) = start(8, false);
    for (field, part) in [(0, "descriptor table"), (1, "available ring"), (2, "used ring")] {
        for address in [RAM as u64 - 16, 1 << 40, !15] {
            let mut state = driver.queue().state();
            *[&mut state.desc_table, &mut state.avail_ring, &mut state.used_ring][field] = address;
            let queue = Queue::try_from(state).unwrap();
            let error = Ring::new(driver.ram.clone(), &queue).unwrap_err();
            assert_eq!(error, Broken::Misplaced { part, address });
        }
    }
}

proptest! {
    /// The oracle: an interrupt is due when one of the indices that were passed is the one wished for.
    #[test]
    fn event_idx_interrupts_when_the_wish_is_passed(
        steps in prop::collection::vec((0u16..4, any::<u16>(), any::<bool>()), 1..200),
        begin in any::<u16>(),
    ) {
        let mut driver = FakeDriver::new(&ram(RAM), 0x1_0000, 8);
        driver.event_idx = true;
        let state = QueueState { next_avail: begin, next_used: begin, ..driver.queue().state() };
        let mut ring = Ring::new(driver.ram.clone(), &Queue::try_from(state).unwrap()).unwrap();
        let mut index = begin;
        for (count, wish, near) in steps {
            let wish = if near { index.wrapping_add(wish % 4) } else { wish };
            driver.set_used_event(wish);
            let mut passed = false;
            for _ in 0..count {
                ring.give_back(0, 0).unwrap();
                passed |= index == wish;
                index = index.wrapping_add(1);
            }
            ring.publish().unwrap();
            prop_assert_eq!(ring.interrupt_due().unwrap(), passed);
        }
    }

    /// Any bytes as rings: an answer or an error, in bounded time, and every segment is RAM.
    #[test]
    fn noise_is_no_ring(noise in prop::collection::vec(any::<u8>(), 512), heads in 1u16..9) {
        let (driver, mut ring) = start(8, true);
        driver.ram.write_slice(&noise[..128], GuestAddress(driver.table())).unwrap();
        driver.ram.write_slice(&noise[128..], GuestAddress(driver.available())).unwrap();
        driver.claim(heads);
        for _ in 0..heads {
            let Ok(Some((_, segments))) = pop(&mut ring) else { break };
            for segment in segments {
                prop_assert!(segment.address + u64::from(segment.len) <= RAM as u64 && segment.len > 0);
            }
        }
    }
}

#[test]
fn with_event_idx_a_kick_is_asked_for_by_number() {
    let (mut driver, mut ring) = start(4, true);
    driver.offer(&[reads(0, 1)]).unwrap();
    pop(&mut ring).unwrap();
    assert_eq!(ring.kicks_on(), Ok(false));
    assert_eq!(driver.avail_event(), 1);
    ring.kicks_off().unwrap();
    assert_eq!(driver.room(), 3);
}
