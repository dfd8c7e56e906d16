//! What can be written on the command line and into a file: a configuration or an error that is one line of
//! reason, and the same of both.
#![no_main]

use arbitrary::Arbitrary;
use clap::Parser;
use colo_vmm::config::{self, Console, Disk, Draft, Endpoint, Memory, Net};
use libfuzzer_sys::fuzz_target;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;

#[derive(Parser)]
struct Words {
    #[command(flatten)]
    draft: Draft,
}

#[derive(Arbitrary, Debug)]
enum Case {
    /// A file.
    Text(Vec<u8>),
    /// A command line.
    Words(Vec<String>),
    /// The same, said twice.
    Twice(Vec<(Key, Value)>),
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Name,
    Kernel,
    Initrd,
    Cmdline,
    Memory,
    Console,
    OnReset,
    Seccomp,
    User,
    Qmp,
    Cpus,
}

/// A value that is right somewhere, or anything.
#[derive(Arbitrary, Debug)]
enum Value {
    Size(u32, u8),
    Number(u8),
    Path(u8),
    Socket(u8),
    Word(u8),
    Any(String),
}

impl Key {
    fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Cmdline => "cmdline",
            Self::Memory => "memory",
            Self::Console => "console",
            Self::OnReset => "on-reset",
            Self::Seccomp => "seccomp",
            Self::User => "user",
            Self::Qmp => "qmp",
            Self::Cpus => "cpus",
        }
    }
}

impl Value {
    fn text(&self) -> String {
        let words = ["stdio", "pty", "none", "file:/x", "on", "off", "log", "reboot", "exit", "root", "1:2"];
        match self {
            Self::Size(number, unit) => {
                format!("{number}{}", ["", "M", "G", "k", "T"][usize::from(*unit) % 5])
            }
            Self::Number(number) => number.to_string(),
            Self::Path(letter) => format!("/boot/{}", char::from(b'a' + letter % 26)),
            Self::Socket(letter) => format!("unix:/run/{}", char::from(b'a' + letter % 26)),
            Self::Word(word) => words[usize::from(*word) % words.len()].to_owned(),
            Self::Any(text) => text.clone(),
        }
    }
}

fn of_file(text: &[u8]) -> Result<Draft, config::FileError> {
    let fd = rustix::fs::memfd_create("config", rustix::fs::MemfdFlags::CLOEXEC).expect("a file in memory");
    let mut file = File::from(fd);
    file.write_all(text).expect("a file in memory");
    config::read(format!("/proc/self/fd/{}", file.as_raw_fd()).as_ref())
}

/// What is shown of a configuration can be read again, and is the same.
fn shown(draft: &Draft) {
    let Ok(config) = draft.clone().finish() else { return };
    assert_eq!(config.memory.to_string().parse::<Memory>(), Ok(config.memory));
    assert!((2 << 20..=4 << 40).contains(&config.memory.bytes()) && (1..=16).contains(&config.cpus.get()));
    assert!(config.disks.len() + config.nets.len() <= 28 && config.cmdline.len() <= 2047);
    for net in &config.nets {
        assert!((1..16).contains(&net.tap.as_str().len()), "IFNAMSIZ");
    }
    let lossless = |text: &str| !text.contains([',', char::REPLACEMENT_CHARACTER]);
    for endpoint in config.qmp.iter().filter(|endpoint| lossless(&endpoint.to_string())) {
        assert_eq!(endpoint.to_string().parse::<Endpoint>().as_ref(), Ok(endpoint));
    }
    if lossless(&config.console.to_string()) {
        assert_eq!(config.console.to_string().parse::<Console>().as_ref(), Ok(&config.console));
    }
}

fuzz_target!(|case: Case| {
    match case {
        Case::Text(text) => match of_file(&text) {
            Ok(draft) => shown(&draft),
            Err(error) => assert!(!error.to_string().is_empty()),
        },
        Case::Words(words) => {
            for word in &words {
                let _ = (word.parse::<Disk>(), word.parse::<Net>());
            }
            if let Ok(words) = Words::try_parse_from(std::iter::once("colo-vm".to_owned()).chain(words)) {
                shown(&words.draft);
            }
        }
        Case::Twice(said) => {
            let mut once: Vec<(Key, String)> = Vec::new();
            for (key, value) in said {
                if once.iter().all(|(other, _)| *other != key) {
                    once.push((key, value.text()));
                }
            }
            let (mut words, mut file) = (vec!["colo-vm".to_owned()], String::new());
            for (key, text) in &once {
                words.push(format!("--{}={text}", key.word()));
                // JSON's texts are TOML's, but for one byte.
                let quoted = serde_json::to_string(text).expect("a text").replace('\x7f', "\\u007F");
                let value = match key {
                    Key::Qmp => format!("[{quoted}]"),
                    // A number, in both languages.
                    Key::Cpus => text.parse::<u64>().map_or(quoted, |number| number.to_string()),
                    _ => quoted,
                };
                writeln!(file, "{} = {value}", key.word()).expect("memory");
            }
            let finish = |mut draft: Draft| {
                shown(&draft);
                draft.kernel.get_or_insert_with(|| "vmlinuz".into());
                draft.finish().map_err(|error| error.to_string())
            };
            let words = Words::try_parse_from(words).map_err(|error| error.to_string());
            let words = words.and_then(|words| finish(words.draft));
            let file = of_file(file.as_bytes()).map_err(|error| error.to_string()).and_then(finish);
            match (words, file) {
                (Ok(words), Ok(file)) => assert_eq!(words, file),
                (Err(_), Err(_)) => {}
                (words, file) => panic!("{words:?}, but {file:?}"),
            }
        }
    }
});
