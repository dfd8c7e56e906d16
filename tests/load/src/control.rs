//! When a load says something, and when it ends.
//!
//! ```text
//!   stdin "report", "end" ─┐
//!   --until FILE ──────────┼─► Control::is_over, asked between two pieces of work
//!   every few seconds ─────┘        └─ says a line when one is due
//! ```

use crate::{Report, say};
use std::io::BufRead as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How often the file is looked for.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Control {
    every: Duration,
    until: Option<PathBuf>,
    typed: Arc<Typed>,
    said: Instant,
    looked: Instant,
}

#[derive(Debug, Default)]
struct Typed {
    report: AtomicBool,
    end: AtomicBool,
}

impl Control {
    /// Listens to what is typed. Without a console there is nothing to hear, which is no end.
    pub(crate) fn new(every: Duration, until: Option<PathBuf>) -> Self {
        let typed = Arc::new(Typed::default());
        let hear = typed.clone();
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                match line.trim() {
                    "report" => hear.report.store(true, Relaxed),
                    "end" => hear.end.store(true, Relaxed),
                    _ => {}
                }
            }
        });
        let now = Instant::now();
        Self { every, until, typed, said: now, looked: now }
    }

    /// Whether to end; says what `report` tells if it is time.
    pub(crate) fn is_over(&mut self, report: impl FnOnce() -> Report) -> bool {
        if self.typed.report.swap(false, Relaxed) || self.said.elapsed() >= self.every {
            self.said = Instant::now();
            say(&report().line);
        }
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            if self.until.as_ref().is_some_and(|file| file.exists()) {
                self.typed.end.store(true, Relaxed);
            }
        }
        self.typed.end.load(Relaxed)
    }
}
