//! What comes of it, and who hears of it.

use super::*;
use crate::control::ControlError;
use std::io::{Read as _, Seek as _, Write as _};
use std::sync::mpsc::{Receiver, Sender, channel};

/// How many pages were written, or why not.
type Outcome = Result<u64, &'static str>;

/// Writes some bytes, waits until it may go on, and ends in one way or the other.
#[derive(Debug)]
struct Halting {
    go_on: Mutex<Receiver<Outcome>>,
}

impl Save for Halting {
    fn save(&self, mut out: Outlet) -> Result<Saved, ControlError> {
        out.write_all(&[7; 5000]).map_err(|error| failed(&error.to_string()))?;
        match self.go_on.lock().unwrap().recv().expect("a panic, if nobody says how to go on") {
            Ok(pages) => Ok(Saved { bytes: 5000, pages, zero_pages: 3, stood: Duration::from_millis(1500) }),
            Err(reason) => Err(failed(reason)),
        }
    }
}

fn failed(reason: &str) -> ControlError {
    ControlError { what: "save", reason: reason.to_owned() }
}

fn migration() -> (Arc<Migration>, Receiver<Stage>, Arc<dyn Save>, Sender<Outcome>) {
    let (tell, told) = channel();
    let (say, go_on) = channel();
    let migration = Migration::new(move |stage| tell.send(stage).unwrap());
    (Arc::new(migration), told, Arc::new(Halting { go_on: Mutex::new(go_on) }), say)
}

#[test]
fn a_state_is_written_and_each_stage_is_told() {
    let (migration, told, save, say) = migration();
    assert_eq!(migration.describe(), json!({"status": "none"}));
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"before").unwrap();
    migration.begin(Arc::clone(&save), file.try_clone().unwrap().into()).unwrap();
    assert_eq!([told.recv(), told.recv()], [Ok(Stage::Setup), Ok(Stage::Active)]);
    // Until it has written; it goes on when it is told to.
    while migration.describe()["ram"]["transferred"] != 5000 {
        std::thread::yield_now();
    }
    let other = tempfile::tempfile().unwrap();
    assert!(migration.begin(Arc::clone(&save), other.into()).is_err(), "one at a time");
    say.send(Ok(2)).unwrap();
    assert_eq!(told.recv(), Ok(Stage::Completed));
    let said = migration.describe();
    assert_eq!((&said["status"], &said["downtime"]), (&json!("completed"), &json!(1500)));
    assert_eq!(
        (&said["ram"]["total"], &said["ram"]["normal"], &said["ram"]["duplicate"]),
        (&json!(5 * 4096), &json!(2), &json!(3))
    );
    file.rewind().unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!((&bytes[..6], bytes.len()), (&b"before"[..], 5006));
}

#[test]
fn what_fails_says_why_and_the_next_may_go_well() {
    let (migration, told, save, say) = migration();
    say.send(Err("the disk is full")).unwrap();
    migration.begin(Arc::clone(&save), tempfile::tempfile().unwrap().into()).unwrap();
    assert_eq!([0; 3].map(|_| told.recv().unwrap()), [Stage::Setup, Stage::Active, Stage::Failed]);
    let said = migration.describe();
    assert_eq!(
        (&said["status"], &said["error-desc"]),
        (&json!("failed"), &json!("cannot save: the disk is full"))
    );
    say.send(Ok(0)).unwrap();
    migration.begin(Arc::clone(&save), tempfile::tempfile().unwrap().into()).unwrap();
    assert_eq!([0; 3].map(|_| told.recv().unwrap()), [Stage::Setup, Stage::Active, Stage::Completed]);
    drop(say);
    migration.begin(save, tempfile::tempfile().unwrap().into()).unwrap();
    assert_eq!([0; 3].map(|_| told.recv().unwrap()), [Stage::Setup, Stage::Active, Stage::Failed]);
    assert!(migration.describe()["error-desc"].as_str().unwrap().contains("an error inside"), "it panicked");
}

#[test]
fn one_that_ends_late_leaves_the_next_alone() {
    let ((tell, told), (say, go_on), (begun, next)) = (channel(), channel(), channel::<()>());
    let next = Mutex::new(next);
    // Who tells of a failure is not done with it before the next has begun.
    let migration = Arc::new(Migration::new(move |stage| {
        tell.send(stage).unwrap();
        if stage == Stage::Failed {
            let _ = next.lock().unwrap().recv();
        }
    }));
    let save: Arc<dyn Save> = Arc::new(Halting { go_on: Mutex::new(go_on) });
    say.send(Err("the disk is full")).unwrap();
    migration.begin(Arc::clone(&save), tempfile::tempfile().unwrap().into()).unwrap();
    assert_eq!([0; 3].map(|_| told.recv().unwrap()), [Stage::Setup, Stage::Active, Stage::Failed]);
    migration.begin(Arc::clone(&save), tempfile::tempfile().unwrap().into()).unwrap();
    drop(begun);
    // Until the first thread is gone, and the second alone has it.
    while Arc::strong_count(&save) > 2 {
        std::thread::yield_now();
    }
    say.send(Ok(0)).unwrap();
    assert_eq!([0; 3].map(|_| told.recv().unwrap()), [Stage::Setup, Stage::Active, Stage::Completed]);
}

#[test]
fn what_cannot_be_written_is_refused_and_what_does_not_wait_is_waited_for() {
    let (migration, told, save, say) = migration();
    let read_only = File::open("/dev/null").unwrap();
    assert!(migration.begin(Arc::clone(&save), read_only.into()).is_err());
    assert_eq!(migration.describe()["status"], "none");
    let (mut reader, writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    say.send(Ok(1)).unwrap();
    migration.begin(save, writer.into()).unwrap();
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, [7; 5000]);
    assert_eq!([0; 3].map(|_| told.recv().unwrap()), [Stage::Setup, Stage::Active, Stage::Completed]);
}

/// Fills whatever it is given.
#[derive(Debug)]
struct Endless;

impl Save for Endless {
    fn save(&self, mut out: Outlet) -> Result<Saved, ControlError> {
        loop {
            out.write_all(&[7; 5000]).map_err(|error| failed(&error.to_string()))?;
        }
    }
}

#[test]
fn a_reader_that_reads_nothing_holds_it_up_until_it_is_cancelled() {
    let (tell, told) = channel();
    let migration = Arc::new(Migration::new(move |stage| tell.send(stage).unwrap()));
    migration.cancel();
    assert_eq!(migration.describe(), json!({"status": "none"}));
    let (_reader, writer) = std::io::pipe().unwrap();
    migration.begin(Arc::new(Endless), writer.into()).unwrap();
    assert_eq!([told.recv(), told.recv()], [Ok(Stage::Setup), Ok(Stage::Active)]);
    migration.cancel();
    assert_eq!(told.recv(), Ok(Stage::Cancelled));
    assert_eq!(migration.describe()["status"], "cancelled");
    // Nobody who reads has nobody who waits.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    migration.begin(Arc::new(Endless), writer.into()).unwrap();
    assert_eq!([0; 3].map(|_| told.recv().unwrap()), [Stage::Setup, Stage::Active, Stage::Failed]);
}
