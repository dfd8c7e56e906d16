//! Consoles as they are seen from both ends.

use super::*;
use crate::config;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};

/// What a guest would hear, with room for at most 3 bytes at a time.
fn start(opened: Opened) -> (Console, Receiver<Vec<u8>>) {
    let (heard, hears) = channel();
    let take = move |bytes: &[u8]| {
        let taken = bytes.len().min(3);
        heard.send(bytes[..taken].to_vec()).unwrap();
        taken
    };
    (opened.start(|| {}, take, || panic!("nobody asked for the end")).unwrap(), hears)
}

fn hear(hears: &Receiver<Vec<u8>>, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(hears.recv().unwrap());
    }
    all
}

#[test]
fn a_file_has_all_that_was_said_when_the_console_ends() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let opened = open(&config::Console::File(path.clone())).unwrap();
    assert_eq!(opened.described(), format!("console in {}", path.display()));
    let mut output = opened.output();
    let said: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
    output.write_all(&said).unwrap();
    let (console, _) = start(opened);
    output.write_all(b"the end").unwrap();
    drop(console);
    assert_eq!(fs::read(&path).unwrap(), [&said[..], b"the end"].concat());
    assert_eq!(output.dropped(), 0);
}

#[test]
fn a_file_keeps_what_was_said_before_and_is_one_guests() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    fs::write(&path, "before, ").unwrap();
    let place = config::Console::File(path.clone());
    let opened = open(&place).unwrap();
    let error = open(&place).unwrap_err().to_string();
    assert!(error.contains("this very guest uses it; choose another file:PATH"), "{error}");
    let mut output = opened.output();
    let (console, _) = start(opened);
    output.write_all(b"after").unwrap();
    drop(console);
    assert_eq!(fs::read(&path).unwrap(), b"before, after");
}

#[test]
fn a_socket_replays_what_nobody_heard_and_serves_one_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("console");
    let console: config::Console = format!("unix:{},server", path.display()).parse().unwrap();
    let opened = open(&console).unwrap();
    let mut output = opened.output();
    let (_console, hears) = start(opened);
    output.write_all(b"booting\r\n").unwrap();
    let mut first = UnixStream::connect(&path).unwrap();
    let mut read = [0; 9];
    first.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"booting\r\n");
    first.write_all(b"hello guest").unwrap();
    assert_eq!(hear(&hears, 11), b"hello guest", "in pieces of what it has room for");

    let mut second = UnixStream::connect(&path).unwrap();
    let mut said = String::new();
    second.read_to_string(&mut said).unwrap();
    assert_eq!(said, "another client has this console\r\n");

    drop(first);
    // The one that comes after it is heard, once the console has noticed that the first is gone.
    let mut third = loop {
        let mut third = UnixStream::connect(&path).unwrap();
        if third.write_all(b"x").is_err() {
            // It was turned away already.
            continue;
        }
        let mut byte = [0];
        third.set_nonblocking(true).unwrap();
        if let Ok(heard) = hears.recv_timeout(std::time::Duration::from_millis(50)) {
            assert_eq!(heard, b"x");
            third.set_nonblocking(false).unwrap();
            break third;
        }
        let _ = third.read(&mut byte);
    };
    output.write_all(b"again").unwrap();
    let mut read = [0; 5];
    third.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"again");
}

#[test]
fn of_too_much_that_nobody_hears_the_newest_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("console");
    let opened = open(&format!("unix:{}", path.display()).parse().unwrap()).unwrap();
    let mut output = opened.output();
    let (console, _) = start(opened);
    for line in 0..100_000 {
        writeln!(output, "{line:07}").unwrap();
    }
    assert_eq!(output.dropped(), 8 * 100_000 - place::KEPT as u64);
    let mut client = UnixStream::connect(&path).unwrap();
    let mut all = vec![0; place::KEPT];
    client.read_exact(&mut all).unwrap();
    assert!(all.starts_with(b"0067232\n") && all.ends_with(b"0099999\n"));
    drop(console);
    assert!(!path.exists());
}

#[test]
fn a_pseudo_terminal_carries_bytes_both_ways_and_outlives_its_reader() {
    let opened = open(&config::Console::Pty).unwrap();
    let path = opened.described().strip_prefix("console on ").unwrap().to_owned();
    let mut output = opened.output();
    let (_console, hears) = start(opened);
    output.write_all(b"login: \x1b[0m\r\n\x03").unwrap();
    for round in 0..2 {
        let mut terminal = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        if round == 1 {
            output.write_all(b"login: \x1b[0m\r\n\x03").unwrap();
        }
        let mut read = [0; 14];
        terminal.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"login: \x1b[0m\r\n\x03", "nothing is translated");
        terminal.write_all(b"root\r\x03").unwrap();
        assert_eq!(hear(&hears, 6), b"root\r\x03", "and nothing is echoed");
    }
}

#[test]
fn nowhere_takes_everything() {
    let opened = open(&config::Console::None).unwrap();
    let mut output = opened.output();
    let (console, _) = start(opened);
    output.write_all(&[0; 1000]).unwrap();
    drop(console);
    assert_eq!(output.dropped(), 1000);
}

#[test]
fn what_cannot_be_opened_says_why() {
    let error = open(&config::Console::File("/nowhere/log".into())).unwrap_err().to_string();
    assert!(error.starts_with("cannot write the console to /nowhere/log: No such file"), "{error}");
}
