use super::*;
use crate::virtio::fake_driver::{FakeDriver, ram, writes};
use crate::virtio::pci::tests::{Guest, until};
use crate::virtio::pci::{RING_EVENT_IDX, RING_INDIRECT_DESC, VERSION_1};
use vm_memory::{Bytes, GuestAddress};

fn started() -> (Guest, FakeDriver) {
    let ram = ram(1 << 20);
    let guest = Guest::new(Box::new(Rng::default()), &ram);
    let mut driver = FakeDriver::new(&ram, 0x1_0000, 64);
    driver.event_idx = true;
    assert!(guest.negotiate(VERSION_1 | RING_EVENT_IDX | RING_INDIRECT_DESC));
    guest.enable_interrupts();
    guest.set_queue(0, &driver);
    guest.start();
    (guest, driver)
}

#[test]
fn buffers_are_filled_and_no_more_than_they_are() {
    let (guest, mut driver) = started();
    driver.offer(&[writes(0x4_0000, 100), writes(0x4_1000, 28)]).unwrap();
    driver.offer_indirect(0x8_0000, &[writes(0x5_0000, 0x1_0000)]).unwrap();
    guest.notify(0);
    let mut got = Vec::new();
    until("randomness", || {
        got.extend(driver.collect());
        got.len() == 2
    });
    assert_eq!([got[0].1, got[1].1], [128, MOST as u32]);
    let mut bytes = [0; 128];
    driver.ram.read_slice(&mut bytes, GuestAddress(0x4_0000)).unwrap();
    // 100 zero bytes by chance happen once in 2^800 runs.
    assert!(bytes[..100].iter().any(|&byte| byte != 0));
    assert_eq!(bytes[100..], [0; 28], "nothing is beyond a buffer's end");
}

#[test]
fn with_event_idx_one_interrupt_serves_a_batch() {
    let (guest, mut driver) = started();
    driver.set_used_event(9);
    for _ in 0..10 {
        driver.offer(&[writes(0x4_0000, 16)]).unwrap();
    }
    guest.notify(0);
    guest.interrupted(1);
    assert_eq!(driver.collect().len(), 10);
    until("the next wish", || driver.avail_event() == 10);
    assert_eq!(guest.logs[1].sent(), []);
}

#[test]
fn every_page_that_it_writes_is_marked() {
    let (guest, mut driver) = started();
    // While it stands it cannot be faster than the watch.
    guest.function.pause();
    driver.offer(&[writes(0x4_0800, 4096)]).unwrap();
    let watch = crate::virtio::fake_driver::Watch::begin(&driver.ram);
    guest.function.resume();
    guest.notify(0);
    until("randomness", || !driver.collect().is_empty());
    guest.function.pause();
    let (written, unmarked) = watch.written(&driver.ram);
    assert!(written.starts_with(&[0x1a]) && written.ends_with(&[0x40, 0x41]), "{written:x?}");
    assert!(unmarked.is_empty(), "{unmarked:x?}");
}
