//! A thread that signals keep interrupting.

use super::sys::{ThisThread, interrupt_only};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// Runs `work` on this thread, which so many signals interrupt meanwhile, one after another; returns
/// what it returned, and how many came before it was done.
pub fn interrupted<T>(signals: u32, every: Duration, work: impl FnOnce() -> T) -> (T, u32) {
    interrupt_only();
    let (done, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    let storm = |target: &ThisThread| {
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..signals {
                    if done.load(Ordering::Acquire) {
                        break;
                    }
                    target.poke();
                    sent.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(every);
                }
            });
            let result = work();
            done.store(true, Ordering::Release);
            (result, sent.load(Ordering::Relaxed))
        })
    };
    ThisThread::lend(storm)
}
