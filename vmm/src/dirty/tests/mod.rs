//! Guests and devices that write, beside an oracle that looks at the memory itself.

mod guest;
mod level;

use super::*;
use guest::Guest;
use vm_memory::{Bytes, GuestAddress};

const BOTH: [Tracking; 2] = [Tracking::Log, Tracking::RING];

#[test]
fn all_is_dirty_first_and_nothing_once_it_is_rearmed() {
    for tracking in BOTH {
        let guest = Guest::new(tracking, 1);
        let mut tracker = choose(&guest.vm).unwrap();
        tracker.start().unwrap();
        let mut set = PageSet::new(guest.vm.ram());
        tracker.collect(&mut set).unwrap();
        assert_eq!(set.count(), set.capacity(), "{tracker:?}");
        tracker.rearm(&set).unwrap();
        set.clear();
        tracker.collect(&mut set).unwrap();
        assert!(set.is_empty(), "{set:?}");
        // Standing costs no page; a start makes all dirty again.
        tracker.start().unwrap();
        tracker.collect(&mut set).unwrap();
        assert_eq!(set.count(), set.capacity());
    }
}

#[test]
fn what_is_not_rearmed_is_collected_again() {
    for tracking in BOTH {
        let guest = Guest::new(tracking, 1);
        let mut tracker = guest.clean_tracker();
        guest.run_a_while();
        guest.vm.ram().write_obj(5_u8, GuestAddress(guest::DEVICES)).unwrap();
        let device = guest::DEVICES / PAGE;
        let (mut first, mut second) = (PageSet::new(guest.vm.ram()), PageSet::new(guest.vm.ram()));
        tracker.collect(&mut first).unwrap();
        assert!(first.contains(device) && first.count() > 1);
        tracker.collect(&mut second).unwrap();
        assert_eq!(first, second);
        let mut one = first.none();
        one.insert(device);
        tracker.rearm(&one).unwrap();
        second.clear();
        tracker.collect(&mut second).unwrap();
        first.subtract(&one);
        assert_eq!(first, second);
    }
}

#[test]
fn a_page_that_is_dirty_again_is_collected_until_it_is_rearmed() {
    for tracking in BOTH {
        let guest = Guest::new(tracking, 1);
        let mut tracker = guest.clean_tracker();
        let mut failed = PageSet::new(guest.vm.ram());
        failed.insert_run(3, 100);
        failed.insert(guest::HIGH / PAGE + 7);
        tracker.redirty(&failed);
        for _ in 0..2 {
            let mut set = failed.none();
            tracker.collect(&mut set).unwrap();
            assert_eq!(set, failed);
        }
        tracker.rearm(&failed).unwrap();
        let mut set = failed.none();
        tracker.collect(&mut set).unwrap();
        assert!(set.is_empty());
    }
}

#[test]
fn one_that_is_stopped_says_so_and_begins_anew() {
    for tracking in BOTH {
        let guest = Guest::new(tracking, 1);
        let mut tracker = choose(&guest.vm).unwrap();
        let mut set = PageSet::new(guest.vm.ram());
        assert!(matches!(tracker.collect(&mut set), Err(DirtyError::Off)));
        assert!(matches!(tracker.rearm(&set), Err(DirtyError::Off)));
        tracker.start().unwrap();
        tracker.collect(&mut set).unwrap();
        tracker.rearm(&set).unwrap();
        tracker.stop().unwrap();
        tracker.stop().unwrap();
        assert!(matches!(tracker.collect(&mut set), Err(DirtyError::Off)));
        guest.run_a_while();
        tracker.start().unwrap();
        set.clear();
        tracker.collect(&mut set).unwrap();
        assert_eq!(set.count(), set.capacity());
    }
}

/// The smallest ring, and more pages than it has entries: each vCPU has to empty it again and again.
#[test]
fn a_vcpu_whose_ring_is_full_goes_on_and_nothing_is_lost() {
    let guest = Guest::large(Tracking::Ring(0), 2);
    assert_eq!(guest.vm.tracked(), Tracked::Ring(1024));
    let mut tracker = guest.clean_tracker();
    for _ in 0..2 {
        let before = guest.contents();
        guest.resume();
        guest.wait(2500);
        guest.pause();
        let mut set = PageSet::new(guest.vm.ram());
        tracker.collect(&mut set).unwrap();
        let mut missed = guest.changed_since(&before);
        assert!(missed.count() > 2048, "{} pages are more than two rings hold", missed.count());
        missed.subtract(&set);
        assert!(missed.is_empty(), "{missed:?}");
        tracker.rearm(&set).unwrap();
    }
}

/// A KVM that emulates does not stop a vCPU whose ring is full: then that is said. Others do.
#[test]
fn a_ring_that_lost_pages_says_so() {
    let guest = Guest::large_and_silent(Tracking::Ring(0), 1);
    let mut tracker = guest.clean_tracker();
    let before = guest.contents();
    guest.resume();
    let done = guest.try_wait(20_000);
    guest.pause();
    let mut set = PageSet::new(guest.vm.ram());
    match (done, tracker.collect(&mut set)) {
        (Ok(()), Ok(())) => {
            let mut missed = guest.changed_since(&before);
            missed.subtract(&set);
            assert!(missed.is_empty(), "{missed:?}");
        }
        (done, collected) => {
            assert!(matches!(collected, Err(DirtyError::Kvm(KvmError::Overrun))), "{collected:?} {done:?}");
            assert!(matches!(tracker.collect(&mut set), Err(DirtyError::Kvm(KvmError::Overrun))), "for ever");
        }
    }
}
