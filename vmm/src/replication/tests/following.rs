//! A disk that is followed as it should be: through lost connections, to a promotion.

use super::*;
use crate::replication::layers::Phase;

#[test]
fn another_disk_follows_through_lost_connections_until_it_is_promoted() {
    for seed in 0..12 {
        // With room for all that is on its way, and with next to none.
        let mut hosts = Hosts::new(seed, if seed % 3 == 0 { 16 << 10 } else { 4 << 20 });
        hosts.work();
        hosts.connect();
        hosts.work();
        hosts.checkpoint(true);
        let mut expected = all(&*hosts.disk);
        for _ in 0..25 {
            match hosts.rng.u8(..10) {
                0 => {
                    hosts.cut_off();
                    hosts.work();
                    hosts.connect();
                    hosts.work();
                }
                1..=3 => hosts.checkpoint(true),
                4 => hosts.others(),
                _ => {
                    hosts.work();
                    // Nothing of an epoch that is not complete is seen.
                    same(&expected, &all(&*hosts.disk), "the other guest's disk in an epoch");
                }
            }
            expected = all(&*hosts.disk);
        }
        hosts.work();
        hosts.cut_off();
        hosts.disk.promote();
        same(&expected, &all(&*hosts.disk), "the promoted guest's disk");
        until_status(&hosts.disk, "the commit", |status| status.phase == Phase::Plain);
        same(&expected, &all(&*hosts.base), "the file that it is committed to");
    }
}

#[test]
fn what_is_stable_there_is_forgotten_here() {
    let mut hosts = Hosts::new(1, 4 << 20);
    hosts.connect();
    for _ in 0..3 {
        hosts.work();
        hosts.checkpoint(true);
    }
    assert!(hosts.dirty.missing().count() > 0);
    let end = Instant::now() + LONG;
    while hosts.dirty.missing().count() > 0 {
        assert!(Instant::now() < end, "{:?}", hosts.disk.status());
        hosts.checkpoint(false);
        std::thread::sleep(Duration::from_millis(20));
    }
    hosts.cut_off();
}
