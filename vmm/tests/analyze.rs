//! A saved machine is read by QEMU's own scripts/analyze-migration.py. Debian's source package of QEMU has
//! it; it is fetched with apt (24 MB, a few seconds) and kept below `target/`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use colo_vmm::memory;
use colo_vmm::state::{Section, encode};
use colo_vmm::stream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use vm_memory::{Bytes as _, GuestAddress};

/// Of this release of Debian: which one does not matter, and this one's archive has it.
const SOURCES: &str = "Types: deb-src
URIs: http://deb.debian.org/debian
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    output.stdout
}

/// Where the script is, fetched if it is not there.
fn script() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("qemu-source");
    let script = dir.join("analyze-migration.py");
    if script.exists() {
        return script;
    }
    let (lists, sources) = (dir.join("lists"), dir.join("archive.sources"));
    fs::create_dir_all(lists.join("partial")).unwrap();
    fs::write(&sources, SOURCES).unwrap();
    let apt = |words: &[&str]| {
        let mut apt = Command::new("apt-get");
        for (option, value) in [
            ("Dir::Etc::sourcelist", sources.to_str().unwrap()),
            ("Dir::Etc::sourceparts", "/dev/null"),
            ("Dir::State::lists", lists.to_str().unwrap()),
            // The archive's user cannot write to our folder.
            ("APT::Sandbox::User", "root"),
        ] {
            apt.arg("-o").arg(format!("{option}={value}"));
        }
        run(apt.args(words).current_dir(&dir));
    };
    apt(&["update", "-q"]);
    apt(&["source", "-q", "--tar-only", "--download-only", "qemu"]);
    let names = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    let mut tarballs = names.filter(|path| path.to_string_lossy().contains(".orig.tar."));
    let tarball = tarballs.next().expect("apt-get fetched QEMU's source");
    let mut tar = Command::new("tar");
    let words = ["--occurrence=1", "--wildcards", "--strip-components=2", "*/scripts/analyze-migration.py"];
    run(tar.arg("-xf").arg(&tarball).args(words).current_dir(&dir));
    fs::remove_file(tarball).unwrap();
    script
}

#[derive(Serialize, Deserialize)]
struct Cpu {
    registers: [u64; 2],
    msrs: Vec<Msr>,
    page: Vec<u8>,
    deadline: Option<i64>,
    mode: Mode,
    vectors: Vec<Vec<u8>>,
    line: Line,
}

#[derive(Serialize, Deserialize)]
struct Msr {
    index: u32,
    value: u64,
}

#[derive(Serialize, Deserialize)]
struct Line {
    level: bool,
    name: String,
}

#[derive(Serialize, Deserialize)]
enum Mode {
    Halted,
    Running,
}

impl Section for Cpu {
    const NAME: &'static str = "cpu";
    const VERSION: u32 = 1;
}

fn cpu(mode: Mode, deadline: Option<i64>) -> Cpu {
    Cpu {
        registers: [1, u64::MAX],
        msrs: vec![Msr { index: 0x10, value: 5 }, Msr { index: 0x11, value: 6 }],
        page: vec![0xab; 3],
        deadline,
        mode,
        vectors: vec![vec![1], vec![2, 3]],
        line: Line { level: true, name: "irq".into() },
    }
}

#[test]
fn qemus_script_reads_a_saved_machine() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("machine.vm");
    let ram = memory::new(2 << 20).unwrap();
    ram.write_slice(&[0x77; 5000], GuestAddress(0x3000)).unwrap();
    let devices = [
        encode(&cpu(Mode::Running, Some(-2))).unwrap(),
        encode(&cpu(Mode::Halted, None)).unwrap().instance(1),
    ];
    stream::save(File::create(&path).unwrap(), &ram, &devices).unwrap();

    let mut python = Command::new("python3");
    let shown = run(python.arg(script()).arg("-x").arg("-f").arg(&path).current_dir(dir.path()));
    // It also writes what it shows to files, along with the memory.
    let extracted = fs::read(dir.path().join("pc.ram")).unwrap();
    let mut content = vec![0; 2 << 20];
    ram.read_slice(&mut content, GuestAddress(0)).unwrap();
    assert!(extracted == content, "the memory is what it was");
    drop(shown);

    let mut python = Command::new("python3");
    let shown = run(python.arg(script()).arg("-f").arg(&path).current_dir(dir.path()));
    let value: Value = serde_json::from_slice(&shown).unwrap();
    assert_eq!(value["ram (2)"]["section sizes"], json!({"pc.ram": "0x0000000000200000"}));
    let first = &value["cpu (3)"];
    assert_eq!(first["registers"], json!(["0x0000000000000001", "0xffffffffffffffff"]));
    assert_eq!(first["msrs"][1], json!({"index": "0x00000011", "value": "0x0000000000000006"}));
    assert_eq!(first["page"], "ab ab ab");
    assert_eq!(first["deadline.present"], true);
    assert_eq!(first["mode"], "0x01");
    assert_eq!(first["vectors"][1]["value"], "02 03");
    assert_eq!(first["line"]["name"], "69 72 71");
    let second = &value["cpu (4)"];
    assert_eq!((&second["deadline.present"], &second["mode"]), (&json!(false), &json!("0x00")));
    assert!(second.get("deadline").is_none());
}
