//! Disks that fail and peers that are slow or silent. Nothing is lost, and it is said what to do.

use super::memory::{Memory, Plug, Wrong};
use super::proxy::{Mode, Proxy};
use super::*;
use crate::replication::bitmap::REGION;
use crate::replication::feed::Undelivered;
use crate::replication::layers::{Epoch, Phase};
use rustix::io::Errno;

const DISK: usize = 40 * REGION as usize + 512;

/// Two hosts with disks in memory, and these.
fn hosts(limits: Limits) -> (Hosts, Arc<Plug>, Arc<Plug>) {
    let mut rng = Rng::with_seed(5);
    let [local, base] = [(); 2].map(|()| Plug::new(&Memory::random(DISK, &mut rng)));
    (Hosts::of(local.clone(), base.clone(), 5, 256 << 10, limits), local, base)
}

fn reads(range: std::ops::Range<u64>) -> Wrong {
    Wrong { reads: Some((range, Errno::IO)), ..Wrong::default() }
}

fn writes(errno: Errno) -> Wrong {
    Wrong { writes: Some((7 * REGION..8 * REGION, errno)), ..Wrong::default() }
}

/// The sender ends by itself.
#[track_caller]
fn ends(hosts: &mut Hosts, words: &[&str]) {
    until("the sender's end", || hosts.link.as_ref().unwrap().sender.is_finished());
    let text = hosts.cut_off().unwrap().to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

/// With all disks whole again, the two become equal.
#[track_caller]
fn recovers(hosts: &mut Hosts) {
    hosts.connect();
    hosts.work();
    hosts.checkpoint(true);
    hosts.checkpoint(false);
    hosts.cut_off();
}

#[test]
fn what_cannot_be_read_here_is_neither_sent_nor_forgotten() {
    let (mut hosts, local, _) = hosts(Limits::default());
    hosts.connect();
    hosts.checkpoint(true);
    // Two at once are sent by reading their region.
    let twice = [0, 1].map(|_| hosts.feed.zeroes(9 * REGION, 512, true));
    hosts.local.write_zeroes(9 * REGION, 512, true).unwrap();
    local.set(reads(9 * REGION..10 * REGION));
    for followed in twice {
        hosts.feed.done(followed, true);
    }
    ends(&mut hosts, &["0x90000", "local disk"]);
    assert!(hosts.dirty.missing().is_set(9));
    // The guest goes on; what it writes is noted.
    hosts.write(20 * REGION, 4096, 7);
    assert!(hosts.dirty.missing().is_set(20));
    local.set(Wrong::default());
    recovers(&mut hosts);
}

#[test]
fn an_epoch_of_which_something_could_not_be_read_is_not_delivered() {
    let mut rng = Rng::with_seed(1);
    let local = Plug::new(&Memory::random(DISK, &mut rng));
    let dirty = Arc::new(Dirty::new(local.size()));
    let feed = Feed::new(local.clone(), 1 << 20, dirty.clone()).unwrap();
    dirty.mark(3 * REGION, 512, None);
    feed.begin(1);
    local.set(reads(3 * REGION..4 * REGION));
    feed.next().unwrap_err();
    // The connection is about to be ended; a checkpoint is made meanwhile.
    let error = feed.cut(2).unwrap_err();
    assert!(matches!(error, CutError::Read { offset, .. } if offset == 3 * REGION), "{error}");
    local.set(Wrong::default());
    feed.cut(2).unwrap();
    assert_eq!(feed.delivered(1, Instant::now()), Err(Undelivered::Late(1)));
}

#[test]
fn an_epoch_that_ended_on_a_lost_connection_is_not_delivered_by_another() {
    let (mut hosts, ..) = hosts(Limits::default());
    hosts.connect();
    hosts.checkpoint(false);
    hosts.work();
    let before = hosts.cut();
    hosts.cut_off();
    hosts.connect();
    // All that was sent on it is confirmed; that is nothing of the epoch.
    until("a quiet connection", || hosts.feed.behind() == 0);
    assert_eq!(hosts.feed.delivered(before, Instant::now()), Err(Undelivered::Lost));
    hosts.checkpoint(true);
    hosts.cut_off();
}

#[test]
fn a_disk_there_that_fails_in_a_first_sync_ends_it_with_its_error() {
    for (errno, words) in [(Errno::IO, "error"), (Errno::NOSPC, "space")] {
        let (mut hosts, _, base) = hosts(Limits::default());
        base.set(writes(errno));
        hosts.connect();
        ends(&mut hosts, &["0x70000", words, "see to the disk there"]);
        assert!(hosts.dirty.missing().is_set(7));
        base.set(Wrong::default());
        recovers(&mut hosts);
    }
}

#[test]
fn a_disk_there_that_takes_no_epochs_ends_the_connection_in_time_and_loses_none() {
    let limits = Limits { layers: 2, patience: Duration::from_millis(20), ..Limits::default() };
    for errno in [Errno::IO, Errno::NOSPC] {
        let (mut hosts, _, base) = hosts(limits.clone());
        hosts.connect();
        hosts.checkpoint(false);
        base.set(Wrong { writes: Some((0..DISK as u64, errno)), ..Wrong::default() });
        for fill in 1..=2 {
            hosts.write(0, 8192, fill);
            hosts.checkpoint(false);
        }
        let level = all(&*hosts.disk);
        hosts.write(0, 8192, 3);
        ends(&mut hosts, &["does not keep up", "status", "see to the disk there"]);
        hosts.disk.promote();
        same(&level, &all(&*hosts.disk), "the promoted guest's disk, with a base that fails");
        base.set(Wrong::default());
        until_status(&hosts.disk, "the commit", |status| status.phase == Phase::Plain);
        same(&level, &all(&*hosts.base), "what it is committed to");
    }
}

#[test]
fn a_disk_there_that_cannot_be_read_holds_up_no_checkpoint() {
    let (mut hosts, _, base) = hosts(Limits::default());
    hosts.connect();
    hosts.checkpoint(false);
    base.set(reads(0..DISK as u64));
    hosts.write(5 * REGION, 8192, 9);
    let number = hosts.epoch;
    let before = hosts.cut();
    hosts.feed.delivered(before, Instant::now() + LONG).unwrap();
    hosts.disk.checkpoint(number);
    // Its guest has the disk's error where it reads from the disk itself, and no wrong bytes.
    read_at(&*hosts.disk, &mut [0; 512], 0).unwrap_err();
    base.set(Wrong::default());
    same(&all(&*hosts.local), &all(&*hosts.disk), "the other disk, once it can be read");
    hosts.cut_off();
}

#[test]
fn what_was_not_synced_there_is_sent_again_after_a_loss_of_power() {
    let mut rng = Rng::with_seed(9);
    let [ours, theirs] = [Memory::random(DISK, &mut rng), Memory::random(DISK, &mut rng)];
    let base = Plug::new(&theirs);
    let mut hosts = Hosts::of(Plug::new(&ours), base.clone(), 9, 1 << 20, Limits::default());
    hosts.connect();
    hosts.checkpoint(false);
    base.set(Wrong { syncs: true, ..Wrong::default() });
    for _ in 0..5 {
        hosts.work();
        hosts.checkpoint(false);
    }
    until_status(&hosts.disk, "a failed sync", |status| status.base_errors > 0);
    until_status(&hosts.disk, "everything in the base", |status| status.left == 0);
    hosts.cut_off();
    base.pull();
    let again: Arc<dyn Image> = Plug::new(&theirs);
    hosts.disk = Arc::new(SecondaryDisk::new(again, Limits::default(), None).unwrap());
    theirs.lose_power(&mut rng);
    assert!(ours.bytes() != theirs.bytes());
    hosts.epoch = 0;
    recovers(&mut hosts);
}

#[test]
fn a_spill_file_on_a_full_disk_ends_the_connection_and_keeps_the_guest() {
    let (mut hosts, _, base) = hosts(Limits::default());
    let full = std::fs::File::options().read(true).write(true).open("/dev/full").unwrap();
    let limits = Limits { memory: 1 << 20, ..Limits::default() };
    hosts.disk = Arc::new(SecondaryDisk::new(base, limits, Some(full)).unwrap());
    hosts.connect();
    hosts.checkpoint(false);
    let level = all(&*hosts.disk);
    for region in 0..30 {
        hosts.write(region * REGION, REGION as usize, 1);
    }
    ends(&mut hosts, &["spill", "space", "see to the disk there"]);
    same(&level, &all(&*hosts.disk), "the other guest's disk");
    // With an epoch that has room, it goes on.
    hosts.disk.release();
    hosts.epoch = 0;
    hosts.connect();
    hosts.checkpoint(false);
    hosts.cut_off();
}

#[test]
fn a_late_write_of_a_lost_connection_overwrites_nothing_newer() {
    for epoch in [0, 1] {
        let memory = Memory::new(DISK);
        let base = Plug::new(&memory);
        let disk =
            SecondaryDisk::new(base.clone(), Limits { patience: LONG, ..Limits::default() }, None).unwrap();
        let (old, tag) = (disk.primary(), if epoch == 0 { 0 } else { Epoch::new(epoch).tag() });
        base.set(Wrong { stuck: true, ..Wrong::default() });
        std::thread::scope(|scope| {
            let late = scope.spawn(|| old.write(0, 0, &mut [1; 8192]));
            until("a write that hangs", || base.waiting() == 1);
            disk.fail();
            let new = disk.primary();
            let next = scope.spawn(move || new.write(tag, 4096, &mut [2; 8192]));
            until_status(&disk, "a write that waits", |status| status.waits == 1);
            assert_eq!((disk.status().pending, base.waiting()), (0, 1));
            base.set(Wrong::default());
            late.join().unwrap().unwrap();
            next.join().unwrap().unwrap();
        });
        disk.checkpoint(1);
        until_status(&disk, "the end of that", |status| status.left == 0);
        let found = memory.bytes();
        assert!(found[..4096] == [1; 4096] && found[4096..12288] == [2; 8192]);
    }
}

/// Much more than there is room for is written while next to nothing, or nothing, goes through.
fn held_up(mode: Mode) {
    let (mut hosts, ..) = hosts(Limits::default());
    hosts.connect();
    hosts.checkpoint(false);
    hosts.cut_off();
    let (proxy, sockets) = Proxy::new(None);
    hosts.connect_over(sockets).unwrap();
    hosts.checkpoint(true);
    let level = all(&*hosts.disk);
    proxy.set(mode);
    for round in 0..4_u64 {
        for at in 0..40 {
            hosts.write(at * REGION, REGION as usize, (round + at) as u8);
        }
        for at in 0..30_000 {
            let at = at % (DISK as u64 / 512) * 512;
            let followed = hosts.feed.zeroes(at, 512, true);
            hosts.local.write_zeroes(at, 512, true).unwrap();
            hosts.feed.done(followed, true);
            assert!(hosts.feed.seen().0 <= 256 << 10);
        }
    }
    // What waits is bounded, zeros too, of which nothing is in that room.
    let waiting = hosts.feed.waiting();
    assert!((1000..=64 + 1024).contains(&waiting), "{waiting} changes wait");
    // Nobody has to wait for longer than he likes.
    hosts.feed.cut(hosts.epoch + 1).unwrap();
    let late = hosts.feed.delivered(hosts.epoch, Instant::now());
    assert!(matches!(late, Err(Undelivered::Late(owed)) if owed >= waiting), "{late:?}");
    hosts.epoch += 1;
    let Link { socket, sender, .. } = hosts.link.as_ref().unwrap();
    socket.shutdown(Shutdown::Both).unwrap();
    until("the sender's end, whatever the peer does", || sender.is_finished());
    proxy.set(Mode::Pass);
    hosts.cut_off();
    proxy.ended();
    same(&level, &all(&*hosts.disk), "the other guest's disk");
    recovers(&mut hosts);
}

#[test]
fn a_slow_peer_slows_no_guest_and_takes_no_memory() {
    held_up(Mode::Slow);
}

#[test]
fn a_silent_peer_slows_no_guest_and_takes_no_memory() {
    held_up(Mode::Stall);
}
