use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts kicks; `flying` is what it has begun and not ended.
#[derive(Debug)]
struct Counter {
    kick: EventFd,
    seen: Arc<AtomicU64>,
    flying: u64,
    told: Sender<u64>,
}

impl Work for Counter {
    fn sources(&self) -> Vec<RawFd> {
        vec![self.kick.as_raw_fd()]
    }

    fn run(&mut self) -> Next {
        let Ok(count) = self.kick.read() else { return Next::Wait };
        self.flying += 1;
        self.seen.fetch_add(count, Ordering::Relaxed);
        self.told.send(count).unwrap();
        Next::Again
    }

    fn rest(&mut self) {
        self.flying = 0;
    }
}

fn start() -> (Worker<Counter>, EventFd, Arc<AtomicU64>, Receiver<u64>) {
    let kick = EventFd::new(EFD_NONBLOCK).unwrap();
    let (told, hear) = channel();
    let seen = Arc::new(AtomicU64::new(0));
    let work = Counter { kick: kick.try_clone().unwrap(), seen: seen.clone(), flying: 0, told };
    (Worker::spawn("counter", work).unwrap(), kick, seen, hear)
}

#[test]
fn a_kick_is_worked_on_and_one_in_a_pause_after_it() {
    let (mut worker, kick, seen, hear) = start();
    kick.write(2).unwrap();
    assert_eq!(hear.recv(), Ok(2));
    assert_eq!(worker.pause().unwrap().flying, 0, "it has rested");
    kick.write(3).unwrap();
    assert_eq!(worker.pause().unwrap().flying, 0);
    assert_eq!(seen.load(Ordering::Relaxed), 2, "nobody works");
    worker.resume();
    worker.resume();
    assert_eq!(hear.recv(), Ok(3));
    assert_eq!(worker.stop().unwrap().seen.load(Ordering::Relaxed), 5);
}

#[test]
fn a_thousand_pauses_under_load_lose_nothing() {
    let (mut worker, kick, seen, _hear) = start();
    for round in 0..1000 {
        kick.write(1).unwrap();
        if round % 3 != 0 {
            assert_eq!(worker.pause().unwrap().flying, 0);
            worker.resume();
        }
    }
    let mut work = worker.stop().unwrap();
    work.run();
    assert_eq!(seen.load(Ordering::Relaxed), 1000);
}

#[test]
fn a_worker_that_is_dropped_ends() {
    let (worker, kick, _, hear) = start();
    kick.write(1).unwrap();
    hear.recv().unwrap();
    drop(worker);
    assert!(hear.recv().is_err(), "its work is gone with it");
}
