//! Machines that the tests of a program take in turns, each test alone on one.
//!
//! ```text
//!   Lease::take ──► one that is free, or a new one while there are CPUs for it; or waits
//!   drop ─────────► free
//! ```

use super::start::{Lab, Options};
use anyhow::Result;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use std::time::Duration;

/// The most machines of a program, however many CPUs there are: each takes its memory, too.
const MOST: usize = 4;

static POOL: Mutex<Pool> = Mutex::new(Pool { free: Vec::new(), started: 0 });
static GIVEN_BACK: Condvar = Condvar::new();

/// All machines of this program; they go with it.
struct Pool {
    free: Vec<&'static Lab>,
    started: usize,
}

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A machine that nobody else uses meanwhile.
#[derive(Debug)]
pub struct Lease(&'static Lab);

impl Lease {
    /// Takes a machine, and waits for one if need be: a machine has one CPU, and takes one.
    pub fn take() -> Result<Self> {
        let most = available_parallelism().map_or(1, usize::from).min(MOST);
        let mut pool = pool();
        loop {
            if let Some(lab) = pool.free.pop() {
                return Ok(Self(lab));
            }
            if pool.started < most {
                break;
            }
            pool = GIVEN_BACK.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
        pool.started += 1;
        let number = pool.started;
        drop(pool);
        Self::start(number).inspect_err(|_| {
            self::pool().started -= 1;
            GIVEN_BACK.notify_one();
        })
    }

    fn start(number: usize) -> Result<Self> {
        let lab = Lab::start(&Options::of_program(&format!("-{number}")))?;
        Ok(Self(Box::leak(Box::new(lab))))
    }

    /// The machine.
    pub fn lab(&self) -> &'static Lab {
        self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        pool().free.push(self.0);
        GIVEN_BACK.notify_one();
    }
}

impl Options {
    /// Those of a machine for several of this program's tests, which share its time.
    pub(super) fn of_program(suffix: &str) -> Self {
        let program = std::env::current_exe().ok();
        let program = program.as_deref().and_then(std::path::Path::file_name).unwrap_or_default();
        let name = format!("{}{suffix}", program.to_string_lossy());
        Self { lifetime: Duration::from_hours(1), name, ..Self::default() }
    }
}
