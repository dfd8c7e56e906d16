//! `files`: files whose contents are known, changed one step after the other. Each step is on the disk before it
//! is told.
//!
//! ```text
//!   step i:  a file is made anew beside the old one and renamed over it, or overwritten in part, or deleted; fsync
//!            of the file, or of the folder ─► record i into `log`, fsync ─► "files i" in a datagram to the outside
//!   check:   `log` has the records 1 to i; every file is what the steps make of it. Both are read from the disk
//!            (O_DIRECT), not from what the guest's memory has of it
//!   begin:   the same of what is there, with one step more or part of one: it may have been on its way
//! ```
//!
//! What a step does follows from its number alone, so whoever knows how many there were knows all contents.

mod disk;
mod model;

use crate::control::Control;
use crate::{Report, say};
use disk::Dir;
use model::Model;
use std::net::UdpSocket;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Steps between two checks.
const BATCH: u64 = 32;
/// Between two steps: other loads want the disk, too.
const PAUSE: Duration = Duration::from_millis(3);

/// Who is told of each step. That may be nobody, and what is told may be lost.
struct Outside(Option<UdpSocket>);

impl Outside {
    fn new(address: Option<&str>) -> Result<Self, String> {
        let connect = |address: &str| {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            socket.connect(address)?;
            Ok(socket)
        };
        let socket = address.map(connect).transpose();
        socket.map(Self).map_err(|error: std::io::Error| format!("cannot tell {address:?}: {error}"))
    }

    fn tell(&self, step: u64) {
        if let Some(socket) = &self.0 {
            let _ = socket.send(format!("files {step}").as_bytes());
        }
    }
}

pub(crate) fn files(path: &Path, outside: Option<&str>, control: &mut Control) -> Result<Report, String> {
    let outside = Outside::new(outside)?;
    let dir = Dir::open(path)?;
    let (mut errors, mut checks) = (0, 0_u64);
    let wrong = |words: &str| say(&format!("files: WRONG: {words}"));

    let mut model = Model::default();
    let found = dir.log()?;
    if let Some(words) = found.wrong {
        errors += 1;
        wrong(&words);
    }
    (0..found.steps).for_each(|_| drop(model.step()));
    for words in dir.differ(&model, Some(&model.next()))? {
        errors += 1;
        wrong(&words);
    }
    say(&format!("files: found {} steps, {errors} errors", found.steps));
    dir.restore(&model)?;

    loop {
        for _ in 0..BATCH {
            let change = model.step();
            dir.change(&change)?;
            dir.record(model.steps())?;
            outside.tell(model.steps());
            thread::sleep(PAUSE);
        }
        checks += 1;
        let found = dir.log()?;
        let lost = (found.steps != model.steps())
            .then(|| format!("the log has {} steps, not {}", found.steps, model.steps()));
        for words in found.wrong.into_iter().chain(lost).chain(dir.differ(&model, None)?) {
            errors += 1;
            wrong(&words);
        }
        let report = || Report {
            line: format!("files: {} steps, {checks} checks, {errors} errors", model.steps()),
            errors,
        };
        if control.is_over(report) {
            return Ok(report());
        }
    }
}
