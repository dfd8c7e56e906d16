//! QEMU's tools and we read each other's images, and keep out of each other's way.

use crate::block::{Format, OpenError, Options, open, read_at, write_at};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn qemu_img(args: &[&str]) -> (bool, String) {
    let output = Command::new("qemu-img").args(args).output().expect("the Debian package qemu-utils");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

fn must(args: &[&str]) {
    let (fine, text) = qemu_img(args);
    assert!(fine, "qemu-img {args:?}: {text}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A raw image with something to see in it.
fn flat(dir: &Path) -> (PathBuf, Vec<u8>) {
    let path = dir.join("flat.img");
    let mut bytes = vec![0; 5 << 20];
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = if n >> 18 & 3 == 2 { 0 } else { (n / 3000 % 256) as u8 };
    }
    std::fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

#[test]
fn images_of_qemu_img_are_read_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, bytes) = flat(dir.path());
    let made: [&[&str]; 8] = [
        &[],
        &["-o", "compat=0.10"],
        &["-o", "cluster_size=512"],
        &["-o", "cluster_size=2M"],
        &["-o", "refcount_bits=1"],
        &["-o", "lazy_refcounts=on"],
        &["-o", "preallocation=metadata"],
        &["-c"],
    ];
    for (number, how) in made.into_iter().enumerate() {
        let path = dir.path().join(format!("{number}.qcow2"));
        let mut args = vec!["convert", "-f", "raw", "-O", "qcow2"];
        args.extend(how);
        args.extend([text(&raw), text(&path)]);
        must(&args);
        let image = open(&Options::new(&path)).unwrap();
        assert_eq!((image.size(), image.format()), (bytes.len() as u64, Format::Qcow2));
        let mut found = vec![0xee; bytes.len()];
        read_at(&*image, &mut found, 0).unwrap();
        assert!(found == bytes, "{how:?} reads wrongly");
        // What is written into it is there for QEMU, and nothing else has changed.
        let mut expected = bytes.clone();
        for (at, len) in [(0, 512), (70_000, 200_000), (3 << 20, 1536)] {
            expected[at..at + len].fill(0xab);
            write_at(&*image, &mut vec![0xab; len], at as u64).unwrap();
        }
        expected[1 << 20..(1 << 20) + 300_032].fill(0);
        image.write_zeroes(1 << 20, 300_032, true).unwrap();
        image.flush().unwrap();
        drop(image);
        let changed = dir.path().join("changed.img");
        std::fs::write(&changed, &expected).unwrap();
        must(&["check", text(&path)]);
        must(&["compare", "-f", "raw", "-F", "qcow2", text(&changed), text(&path)]);
    }
}

#[test]
fn a_chain_of_backing_images_is_read_through() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, bytes) = flat(dir.path());
    let (middle, top) = (dir.path().join("middle.qcow2"), dir.path().join("top.qcow2"));
    must(&["create", "-q", "-f", "qcow2", "-b", "flat.img", "-F", "raw", text(&middle)]);
    must(&["create", "-q", "-f", "qcow2", "-b", text(&middle), "-F", "qcow2", text(&top), "6M"]);
    let image = open(&Options::new(&top)).unwrap();
    write_at(&*image, &mut [7; 1000], 100_000).unwrap();
    let mut found = vec![0xee; 6 << 20];
    read_at(&*image, &mut found, 0).unwrap();
    let mut expected = bytes.clone();
    expected[100_000..101_000].fill(7);
    expected.resize(6 << 20, 0);
    assert!(found == expected);
    image.flush().unwrap();
    drop(image);
    must(&["check", text(&top)]);
    assert_eq!(std::fs::read(&raw).unwrap(), bytes, "what is below is not written");
    // An image below itself, however it came to that, is found out.
    must(&["rebase", "-u", "-b", text(&top), "-F", "qcow2", text(&middle)]);
    assert!(matches!(open(&Options::new(&top)), Err(OpenError::Chain { .. })));
}

#[test]
fn what_cannot_be_served_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    let refused = |options: &[&str], expected: &str| {
        let mut args = vec!["create", "-q", "-f", "qcow2"];
        args.extend(options);
        args.extend([text(&path), "10M"]);
        must(&args);
        let error = open(&Options::new(&path)).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("disk.qcow2"), "{error}");
    };
    refused(&["-o", "compression_type=zstd"], "zstd");
    refused(&["-o", "extended_l2=on"], "extended_l2");
    let data = format!("data_file={}", text(&dir.path().join("data.raw")));
    refused(&["-o", &data], "another file");
    must(&["create", "-q", "-f", "qcow2", text(&path), "10M"]);
    must(&["snapshot", "-c", "one", text(&path)]);
    let error = open(&Options::new(&path)).unwrap_err().to_string();
    assert!(error.contains("1 internal snapshots"), "{error}");
    let mut reader = Options::new(&path);
    reader.read_only = true;
    assert_eq!(open(&reader).unwrap().size(), 10 << 20);
}

#[test]
fn a_format_that_a_guest_could_have_forged_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let image = open(&Options::new(&path)).unwrap();
    assert_eq!(image.format(), Format::Raw);
    let real = dir.path().join("real.qcow2");
    must(&["create", "-q", "-f", "qcow2", text(&real), "1M"]);
    write_at(&*image, &mut std::fs::read(&real).unwrap(), 0).unwrap();
    drop(image);
    assert!(matches!(open(&Options::new(&path)), Err(OpenError::Ambiguous { magic: true, .. })));
    let named = Options { format: Some(Format::Raw), ..Options::new(&path) };
    assert_eq!(open(&named).unwrap().format(), Format::Raw);
    std::fs::write(&real, vec![0; 1 << 20]).unwrap();
    assert!(matches!(open(&Options::new(&real)), Err(OpenError::Ambiguous { magic: false, .. })));
}

#[test]
fn a_disk_has_one_user_qemu_or_us() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    must(&["create", "-q", "-f", "qcow2", text(&path), "10M"]);
    let ours = open(&Options::new(&path)).unwrap();
    let (fine, said) = qemu_img(&["check", text(&path)]);
    assert!(!fine && said.contains("lock"), "{said}");
    drop(ours);
    let mut io = Command::new("qemu-io")
        .args(["-f", "qcow2", text(&path)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It has opened the image once it answers.
    let mut commands = io.stdin.take().unwrap();
    commands.write_all(b"length\n").unwrap();
    let mut answer = String::new();
    BufReader::new(io.stdout.take().unwrap()).read_line(&mut answer).unwrap();
    assert!(answer.contains("10 MiB"), "{answer}");
    let error = open(&Options::new(&path)).unwrap_err().to_string();
    assert!(error.contains(&format!("process {} uses", io.id())), "{error}");
    drop(commands);
    io.wait().unwrap();
    open(&Options::new(&path)).unwrap();
}
