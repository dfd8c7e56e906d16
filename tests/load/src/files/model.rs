//! What each step does, and what the files are after it: a function of the steps' numbers.

use crate::random::{Random, mix};

/// How many files there are at the most.
pub(super) const FILES: usize = 24;
/// The longest file.
const LONGEST: u64 = 48 << 10;

/// What a step does to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// It is there with these contents, whatever it was before.
    Make(Vec<u8>),
    /// From this place on it has these bytes.
    Overwrite(usize, Vec<u8>),
    /// It is not there.
    Delete,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Which file.
    pub(super) file: usize,
    /// What happens to it.
    pub(super) what: What,
}

/// All files, after so many steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    files: [Option<Vec<u8>>; FILES],
    steps: u64,
}

impl Model {
    /// How many there were.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// A file's contents; none if it is not there.
    pub(super) fn file(&self, number: usize) -> Option<&[u8]> {
        self.files.get(number)?.as_deref()
    }

    /// What comes next.
    pub(super) fn next(&self) -> Change {
        let mut random = Random::new(mix(self.steps + 1));
        let file = random.below(FILES as u64) as usize;
        let what = match (self.file(file).map(<[u8]>::len), random.below(10)) {
            (Some(length @ 1..), 0..=4) => {
                let from = random.below(length as u64);
                let most = length as u64 - from;
                What::Overwrite(from as usize, bytes(&mut random, most))
            }
            (Some(_), 5..=6) => What::Delete,
            _ => What::Make(bytes(&mut random, LONGEST)),
        };
        Change { file, what }
    }

    /// Does it.
    pub(super) fn step(&mut self) -> Change {
        let change = self.next();
        if let Some(file) = self.files.get_mut(change.file) {
            *file = change.of(file.as_deref());
        }
        self.steps += 1;
        change
    }
}

impl Change {
    /// What a file is after it.
    pub(super) fn of(&self, before: Option<&[u8]>) -> Option<Vec<u8>> {
        match &self.what {
            What::Make(bytes) => Some(bytes.clone()),
            What::Delete => None,
            What::Overwrite(from, bytes) => {
                let mut file = before?.to_vec();
                // It lies within the file it was made for.
                file.get_mut(*from..from + bytes.len())?.copy_from_slice(bytes);
                Some(file)
            }
        }
    }
}

/// So many at the most, and at least one unless there may be none.
fn bytes(random: &mut Random, most: u64) -> Vec<u8> {
    let length = (random.below(most) + 1).min(most) as usize;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_number_of_steps_makes_the_same_files_and_every_kind_of_step_is_there() {
        let (mut one, mut other) = (Model::default(), Model::default());
        let mut kinds = [0; 3];
        for _ in 0..2000 {
            let announced = one.next();
            assert_eq!(one.step(), announced);
            other.step();
            kinds[match announced.what {
                What::Make(_) => 0,
                What::Overwrite(..) => 1,
                What::Delete => 2,
            }] += 1;
        }
        assert_eq!(one, other);
        assert_eq!(one.steps(), 2000);
        assert!(kinds.iter().all(|count| *count > 100), "{kinds:?}");
        assert!(
            (0..FILES)
                .filter_map(|file| one.file(file))
                .all(|file| (1..=LONGEST as usize).contains(&file.len()))
        );
    }

    #[test]
    fn a_file_that_is_overwritten_keeps_its_length_and_its_other_bytes() {
        let change = Change { file: 0, what: What::Overwrite(1, vec![7, 8]) };
        assert_eq!(change.of(Some(&[1, 2, 3, 4])), Some(vec![1, 7, 8, 4]));
        assert_eq!(change.of(None), None);
    }
}
