//! A configuration in TOML, with the words of the command line. `docs/colo-vm.toml` has every key.

use super::colo::COLO_KEYS;
use super::draft::Draft;
use super::suggest::hint;
use super::{disk, net};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The largest file that is read.
const LARGEST: u64 = 1 << 20;

/// Every key at the top of a file. `[[disk]]` and `[[net]]` have the parts of `--disk` and `--net`, `[colo]` has
/// [`COLO_KEYS`].
pub const KEYS: [&str; 16] = [
    "name", "kernel", "initrd", "cmdline", "memory", "cpus", "disk", "net", "console", "qmp", "rng",
    "on-reset", "seccomp", "user", "metrics", "colo",
];

/// A file that says nothing that can be run.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {}: {error}; check its name and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It is something else.
    #[error("{} has more than {} KiB, which no configuration has; is it another file?", .0.display(), LARGEST >> 10)]
    TooLarge(PathBuf),
    /// It is no text, no TOML, or a value is wrong.
    #[error("{}: {error}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its line.
        error: Box<toml::de::Error>,
    },
    /// A key that means nothing.
    #[error("{}: line {line}: {key:?} is no key of {of}{hint}; write one of {known}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// Of what.
        of: &'static str,
        /// What was probably meant.
        hint: String,
        /// What there is.
        known: String,
    },
}

/// Reads a file.
pub fn read(path: &Path) -> Result<Draft, FileError> {
    let failed = |error| FileError::Read { path: path.to_owned(), error };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(FileError::TooLarge(path.to_owned()));
    }
    parse(path, &bytes)
}

/// Reads the content of a file; its path is for messages.
fn parse(path: &Path, bytes: &[u8]) -> Result<Draft, FileError> {
    let syntax = |error| FileError::Syntax { path: path.to_owned(), error: Box::new(error) };
    // Errors of UTF-8 are shown with their place, too.
    let text = std::str::from_utf8(bytes).map_err(|_| match toml::from_slice::<Draft>(bytes) {
        Err(error) => syntax(error),
        Ok(_) => FileError::Read { path: path.to_owned(), error: io::ErrorKind::InvalidData.into() },
    })?;
    let table = DeTable::parse(text).map_err(syntax)?;
    check(path, text, table.get_ref())?;
    toml::from_str(text).map_err(syntax)
}

/// Looks at every key, because serde says what there is and not what was probably meant.
fn check(path: &Path, text: &str, table: &DeTable<'_>) -> Result<(), FileError> {
    let place = Place { path, text };
    place.keys("the configuration", table, &KEYS)?;
    for (key, of, grammar) in [("disk", "[[disk]]", disk::GRAMMAR), ("net", "[[net]]", net::GRAMMAR)] {
        let known: Vec<&str> = grammar.keys.iter().map(|(key, _)| *key).collect();
        let several = match table.get(key).map(Spanned::get_ref) {
            Some(DeValue::Array(several)) => &several[..],
            // Something else is serde's to refuse.
            _ => &[],
        };
        for one in several {
            if let DeValue::Table(table) = one.get_ref() {
                place.keys(of, table, &known)?;
            }
        }
    }
    match table.get("colo").map(Spanned::get_ref) {
        Some(DeValue::Table(colo)) => place.keys("[colo]", colo, &COLO_KEYS),
        _ => Ok(()),
    }
}

struct Place<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Place<'_> {
    fn keys(&self, of: &'static str, table: &DeTable<'_>, known: &[&str]) -> Result<(), FileError> {
        let Some((key, _)) = table.iter().find(|(key, _)| !known.contains(&key.get_ref().as_ref())) else {
            return Ok(());
        };
        let before = self.text.get(..key.span().start).unwrap_or_default();
        Err(FileError::Key {
            path: self.path.to_owned(),
            line: 1 + before.matches('\n').count(),
            key: key.get_ref().to_string(),
            of,
            hint: hint(key.get_ref(), known.iter().copied()),
            known: known.join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cache, ColoDraft, Console, Format};
    use proptest::prelude::*;

    fn of(text: &str) -> Result<Draft, FileError> {
        parse(Path::new("web.toml"), text.as_bytes())
    }

    #[test]
    fn a_file_says_what_the_command_line_says() {
        let draft = of(r#"
            kernel = "/boot/vmlinuz"
            memory = "2G"
            cpus = 4
            console = "file:/var/log/web"
            qmp = ["unix:/run/web.qmp"]
            rng = false
            [[disk]]
            path = "a.qcow2"
            cache = "none"
            [[disk]]
            path = "b.img"
            format = "raw"
            readonly = true
            [[net]]
            tap = "vif1.0"
        "#)
        .unwrap();
        let said = Draft {
            kernel: Some("/boot/vmlinuz".into()),
            memory: Some("2G".parse().unwrap()),
            cpus: Some("4".parse().unwrap()),
            console: Some(Console::File("/var/log/web".into())),
            qmp: vec!["unix:/run/web.qmp".parse().unwrap()],
            rng: Some(false),
            disk: vec![
                "path=a.qcow2,cache=none".parse().unwrap(),
                "path=b.img,format=raw,readonly".parse().unwrap(),
            ],
            net: vec!["tap=vif1.0".parse().unwrap()],
            ..Draft::default()
        };
        assert_eq!(draft, said);
        assert_eq!((draft.disk[0].cache, draft.disk[1].format), (Cache::None, Some(Format::Raw)));
    }

    /// The file with every default taken out of its comment.
    fn documented() -> String {
        include_str!("../../../docs/colo-vm.toml").replace("\n#: ", "\n")
    }

    #[test]
    fn the_documented_file_has_every_key_and_says_the_defaults() {
        let text = documented();
        let table = DeTable::parse(&text).unwrap();
        for key in KEYS {
            assert!(table.get_ref().contains_key(key), "{key} is not in docs/colo-vm.toml");
        }
        for grammar in [disk::GRAMMAR, net::GRAMMAR] {
            for (key, _) in grammar.keys {
                assert!(text.contains(&format!("\n{key} = ")), "{key} of {}", grammar.of);
            }
        }
        for key in COLO_KEYS {
            // One of two that exclude each other is in a comment.
            let said = [format!("\n{key} = "), format!("\n# {key} = ")];
            assert!(said.iter().any(|said| text.contains(said)), "{key} of [colo]");
        }
        let said = of(include_str!("../../../docs/colo-vm.toml")).unwrap();
        let all = of(&text).unwrap();
        let name = &crate::config::Name::unnamed();
        let sides = |draft: &Draft| (draft.colo.clone().primary(name), draft.colo.clone().secondary(name));
        assert_eq!(sides(&all), sides(&said), "a default of [colo] that is not the default");
        assert!(sides(&said).0.is_ok() && sides(&said).1.is_ok());
        assert_eq!(all.finish().unwrap(), said.finish().unwrap(), "a default that is not the default");
    }

    #[test]
    fn every_key_of_the_command_line_is_one_of_the_file() {
        use clap::Args as _;
        let command = Draft::augment_args(clap::Command::new("run"));
        let options = command.get_arguments().filter_map(clap::Arg::get_long).chain(["colo"]);
        assert_eq!(options.collect::<Vec<_>>(), KEYS);
        let command = ColoDraft::augment_args(clap::Command::new("primary"));
        let options = command.get_arguments().filter_map(clap::Arg::get_long);
        assert_eq!(["peer", "listen"].into_iter().chain(options).collect::<Vec<_>>(), COLO_KEYS);
    }

    #[test]
    fn mistakes_are_shown_with_their_line_and_what_was_meant() {
        for (text, says) in [
            (
                "kernel = 'k'\nmemroy = '1G'",
                "web.toml: line 2: \"memroy\" is no key of the configuration; did you mean memory?",
            ),
            (
                "\n[[disk]]\npath = 'a'\nread_only = true",
                "line 4: \"read_only\" is no key of [[disk]]; did you mean readonly?",
            ),
            ("[[net]]\nbridge = 'b'", "\"bridge\" is no key of [[net]]; write one of tap, mac, queues"),
            ("disks = []", "did you mean disk?"),
            ("memory = '1X'", "no size; write a number"),
            ("memory = 1", "\"1\" of memory is too little"),
            ("memory = true", "expected a size in MiB"),
            ("cpus = 17", "no number of vCPUs; write one from 1 to 16"),
            ("cpus = -1", "line 1"),
            ("disk = 'a'", "expected a sequence"),
            ("[[net]]\ntap = 't'\nqueues = 99", "write one from 1 to 16"),
            ("[[net]]\nmac = '02:00:00:00:00:01'", "missing field `tap`"),
            ("on-reset = 'rebot'", "did you mean reboot?"),
            ("kernel = ", "line 1"),
            (
                "kernel = 'k'\n[colo]\npeer = 'b:1'\ncheckpont-delay = 5",
                "line 4: \"checkpont-delay\" is no key of [colo]; did you mean checkpoint-delay?",
            ),
            ("[colo]\ncheckpoint-delay = 0", "write milliseconds, from 1 to 3600000"),
            ("[colo]\npeer = 'b'", "write HOST:PORT"),
            ("[colo]\nmode = 'coloo'", "did you mean colo?"),
            ("colo = 1", "line 1"),
            ("metrics = 'x'", "write 127.0.0.1:9090"),
        ] {
            let error = of(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let error = parse(Path::new("x"), b"name = '\xff'").unwrap_err().to_string();
        assert!(error.contains("x:"), "{error}");
        let error = read(Path::new("/nowhere/web.toml")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read /nowhere/web.toml: No such file"), "{error}");
    }

    proptest! {
        #[test]
        fn no_file_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(Path::new("x"), &bytes);
        }

        #[test]
        fn no_bent_file_panics(at in 0usize..4000, byte in any::<u8>()) {
            let mut bytes = documented().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = parse(Path::new("x"), &bytes);
        }
    }
}
