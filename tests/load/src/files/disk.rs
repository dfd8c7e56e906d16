//! The files as they are on the disk.

use super::model::{Change, FILES, Model, What};
use crate::random::mix;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Of x86-64; what is read so does not come from the page cache.
const O_DIRECT: i32 = 0o40_000;
const ALIGNED: usize = 4096;
/// A record of the log: its number, and a number that follows from it.
const RECORD: usize = 16;

/// The folder, and the log in it.
pub(super) struct Dir {
    path: PathBuf,
    folder: File,
    log: File,
}

/// What the log says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Log {
    /// How many steps it has, from the first on, without a gap.
    pub(super) steps: u64,
    /// What is wrong with it.
    pub(super) wrong: Option<String>,
}

fn record(step: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..8].copy_from_slice(&step.to_le_bytes());
    record[8..].copy_from_slice(&mix(step ^ 0x5eed).to_le_bytes());
    record
}

/// Reads the log's bytes. A record that was on its way in a crash may be there in part.
fn read_log(bytes: &[u8]) -> Log {
    let records = bytes.chunks(RECORD);
    let steps = (1..).zip(records).take_while(|(step, bytes)| record(*step) == **bytes).count();
    let rest = &bytes[steps * RECORD..];
    let wrong = (rest.len() > RECORD)
        .then(|| format!("behind step {steps} the log has {} bytes that are no records", rest.len()));
    Log { steps: steps as u64, wrong }
}

impl Dir {
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let cannot = |what: &str, error| format!("cannot {what} {}: {error}", path.display());
        fs::create_dir_all(path).map_err(|error| cannot("make", error))?;
        let folder = File::open(path).map_err(|error| cannot("open", error))?;
        let log = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("log"));
        let log = log.map_err(|error| cannot("open the log in", error))?;
        folder.sync_all().map_err(|error| cannot("sync", error))?;
        Ok(Self { path: path.to_owned(), folder, log })
    }

    fn name(&self, file: usize) -> PathBuf {
        self.path.join(format!("file-{file}"))
    }

    /// What the log on the disk says.
    pub(super) fn log(&self) -> Result<Log, String> {
        let bytes = read(&self.path.join("log"))?;
        Ok(read_log(&bytes.unwrap_or_default()))
    }

    /// Writes a step down; it is on the disk when this returns.
    pub(super) fn record(&self, step: u64) -> Result<(), String> {
        let at = (step - 1) * RECORD as u64;
        let written = self.log.write_all_at(&record(step), at).and_then(|()| self.log.sync_data());
        written.map_err(|error| format!("cannot write step {step} down: {error}"))
    }

    /// Does a step; it is on the disk when this returns.
    pub(super) fn change(&self, change: &Change) -> Result<(), String> {
        let name = self.name(change.file);
        let done = match &change.what {
            What::Make(bytes) => self.make(&name, bytes),
            What::Overwrite(from, bytes) => OpenOptions::new()
                .write(true)
                .open(&name)
                .and_then(|file| file.write_all_at(bytes, *from as u64).and_then(|()| file.sync_data())),
            What::Delete => fs::remove_file(&name).and_then(|()| self.folder.sync_all()),
        };
        done.map_err(|error| format!("cannot change {}: {error}", name.display()))
    }

    fn make(&self, name: &Path, bytes: &[u8]) -> std::io::Result<()> {
        let new = self.path.join("new");
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, name)?;
        self.folder.sync_all()
    }

    /// Files that are not what the model says, nor what they would be after `more`, or in the middle of that.
    pub(super) fn differ(&self, model: &Model, more: Option<&Change>) -> Result<Vec<String>, String> {
        let mut wrong = Vec::new();
        for number in 0..FILES {
            let (found, expected) = (read(&self.name(number))?, model.file(number));
            let more = more.filter(|change| change.file == number);
            let is_right = match more {
                None => found.as_deref() == expected,
                Some(change) => is_between(found.as_deref(), expected, change),
            };
            if !is_right {
                let length = |file: Option<&[u8]>| {
                    file.map_or_else(|| "none".to_owned(), |file| file.len().to_string())
                };
                let at = found.iter().flatten().zip(expected.into_iter().flatten()).position(|(a, b)| a != b);
                wrong.push(format!(
                    "after {} steps, file {number} has {} bytes, not {}; the first that differs: {at:?}",
                    model.steps(),
                    length(found.as_deref()),
                    length(expected)
                ));
            }
        }
        Ok(wrong)
    }

    /// Makes every file what the model says: a step that was on its way is undone, and can be done anew.
    pub(super) fn restore(&self, model: &Model) -> Result<(), String> {
        let cut = self.log.set_len(model.steps() * RECORD as u64).and_then(|()| self.log.sync_all());
        cut.map_err(|error| format!("cannot shorten the log: {error}"))?;
        for file in 0..FILES {
            let name = self.name(file);
            let found = read(&name)?;
            let what = match model.file(file) {
                same if same == found.as_deref() => continue,
                Some(bytes) => What::Make(bytes.to_owned()),
                None => What::Delete,
            };
            self.change(&Change { file, what })?;
        }
        Ok(())
    }
}

/// Whether a file is as it was before a change, or after it, or has some bytes of both.
fn is_between(found: Option<&[u8]>, before: Option<&[u8]>, change: &Change) -> bool {
    let after = change.of(before);
    if found == before || found == after.as_deref() {
        return true;
    }
    // Only what is overwritten in place can be in between.
    let (What::Overwrite(..), Some(found), Some(before), Some(after)) = (&change.what, found, before, &after)
    else {
        return false;
    };
    found.len() == before.len()
        && found.iter().zip(before.iter().zip(after)).all(|(found, (a, b))| found == a || found == b)
}

/// A file's bytes on the disk; none if it is not there.
fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let cannot = |error| format!("cannot read {}: {error}", path.display());
    let file = match OpenOptions::new().read(true).custom_flags(O_DIRECT).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        // There are file systems that cannot do that.
        Err(error) if error.kind() == ErrorKind::InvalidInput => File::open(path).map_err(cannot)?,
        Err(error) => return Err(cannot(error)),
    };
    let length = usize::try_from(file.metadata().map_err(cannot)?.len()).map_err(|_| "a file without end")?;
    let whole = length.next_multiple_of(ALIGNED);
    let mut room = vec![0; whole + ALIGNED];
    let skip = room.as_ptr().align_offset(ALIGNED).min(ALIGNED);
    let buffer = &mut room[skip..skip + whole];
    let mut done = 0;
    while done < length {
        match file.read_at(&mut buffer[done..], done as u64).map_err(cannot)? {
            0 => return Err(format!("{} ends at byte {done} of {length}", path.display())),
            count => done += count,
        }
    }
    Ok(Some(buffer[..length].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("colo-load-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn worked(dir: &Dir, steps: u64) -> Model {
        let mut model = Model::default();
        for step in 1..=steps {
            dir.change(&model.step()).unwrap();
            dir.record(step).unwrap();
        }
        model
    }

    #[test]
    fn what_was_done_is_found_and_a_step_that_is_lost_or_spoilt_is_not_overlooked() {
        let folder = Folder::new("found");
        let dir = Dir::open(&folder.0).unwrap();
        let model = worked(&dir, 60);
        assert_eq!(dir.log().unwrap(), Log { steps: 60, wrong: None });
        assert_eq!(dir.differ(&model, None).unwrap(), Vec::<String>::new());

        // One step too few or too many, whatever it was.
        let mut more = model.clone();
        let change = more.step();
        assert_eq!(dir.differ(&more, None).unwrap().len(), 1, "{change:?}");
        assert_eq!(dir.differ(&model, Some(&change)).unwrap().len(), 0);
        dir.change(&change).unwrap();
        assert_eq!(dir.differ(&model, None).unwrap().len(), 1, "{change:?}");
        assert_eq!(dir.differ(&model, Some(&change)).unwrap().len(), 0, "it may have been on its way");
        dir.restore(&model).unwrap();
        assert_eq!(dir.differ(&model, None).unwrap().len(), 0);

        // One bit of one file.
        let there = (0..FILES).find(|file| *file != change.file && model.file(*file).is_some()).unwrap();
        let name = dir.name(there);
        let mut bytes = fs::read(&name).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&name, &bytes).unwrap();
        assert_eq!(dir.differ(&model, Some(&change)).unwrap().len(), 1);
        fs::remove_file(&name).unwrap();
        assert_eq!(dir.differ(&model, None).unwrap().len(), 1);
    }

    #[test]
    fn a_log_ends_where_its_numbers_do() {
        let log: Vec<u8> = (1..=5).flat_map(record).collect();
        let read = |bytes: &[u8]| (read_log(bytes).steps, read_log(bytes).wrong.is_some());
        assert_eq!(read(&[]), (0, false));
        assert_eq!(read(&log), (5, false));
        assert_eq!(read(&log[..79]), (4, false), "a part of the last");
        let mut spoilt = log.clone();
        spoilt[40] ^= 1;
        assert_eq!(read(&spoilt), (2, true), "a hole, with records behind it");
        assert_eq!(read(&[&log[..64], &[0; 16]].concat()), (4, false), "the last was not yet there");
    }

    #[test]
    fn in_the_middle_of_a_change_a_file_has_bytes_of_both() {
        let overwrite = Change { file: 0, what: What::Overwrite(1, vec![7, 8]) };
        let before = Some(&[1, 2, 3, 4][..]);
        for (found, is_right) in [
            (&[1, 2, 3, 4][..], true),
            (&[1, 7, 8, 4], true),
            (&[1, 7, 3, 4], true),
            (&[7, 7, 3, 4], false),
            (&[1, 7, 3], false),
        ] {
            assert_eq!(is_between(Some(found), before, &overwrite), is_right, "{found:?}");
        }
        let made = Change { file: 0, what: What::Make(vec![9]) };
        assert!(is_between(Some(&[9]), before, &made) && is_between(before, before, &made));
        assert!(!is_between(Some(&[8]), before, &made) && !is_between(None, before, &made));
    }
}
