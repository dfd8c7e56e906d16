//! Our server, and the programs of QEMU, libnbd and fio.

use super::rig::{SIZE, Server, attempt, content, image, offer, pattern, raw, run};
use serde_json::{Value, json};

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[test]
fn qemu_img_writes_and_reads_what_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let source = raw(dir.path(), "source.raw", &pattern(1));
    let (one, two) = (image(dir.path(), "one.raw", "raw"), image(dir.path(), "two.qcow2", "qcow2"));
    {
        let server = Server::new(dir.path(), vec![offer("raw", &one), offer("qcow2", &two)]);
        for export in ["raw", "qcow2"] {
            let uri = server.uri(export);
            let info = json_of(&run("qemu-img", &["info", "--output=json", "-f", "raw", &uri]));
            assert_eq!(info["virtual-size"], json!(SIZE));
            run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &source, &uri]);
            run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &source, &uri]);
            let back = dir.path().join(format!("back-{export}"));
            run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, back.to_str().unwrap()]);
            assert!(content(back) == pattern(1), "{export}");
        }
        assert_eq!(server.complaints(), Vec::<String>::new());
    }
    assert!(content(&one) == pattern(1));
    run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &source, &two]);
    run("qemu-img", &["check", "-q", &two]);
}

#[test]
fn maps_say_where_there_are_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let source = raw(dir.path(), "source.raw", &pattern(2));
    let server = Server::new(dir.path(), vec![offer("disk", &source)]);
    let zeros = |map: &Value| {
        let mut out: Vec<(u64, u64, bool)> = Vec::new();
        for extent in map.as_array().unwrap() {
            let start = extent.get("start").or(extent.get("offset")).and_then(Value::as_u64).unwrap();
            let len = extent["length"].as_u64().unwrap();
            let zero = extent.get("zero").map_or(extent["type"] == json!(3), |zero| zero == &json!(true));
            match out.last_mut() {
                Some(last) if last.2 == zero => last.1 = start + len,
                _ => out.push((start, start + len, zero)),
            }
        }
        out
    };
    let theirs = zeros(&json_of(&run("qemu-img", &["map", "--output=json", "-f", "raw", &source])));
    assert!(theirs.len() > 20, "the image has holes");
    let uri = server.uri("disk");
    assert_eq!(zeros(&json_of(&run("qemu-img", &["map", "--output=json", "-f", "raw", &uri]))), theirs);
    assert_eq!(zeros(&json_of(&run("nbdinfo", &["--map", "--json", &uri]))), theirs);
}

#[test]
fn nbdinfo_is_told_what_an_export_can_do() {
    let dir = tempfile::tempdir().unwrap();
    let disk = image(dir.path(), "disk.raw", "raw");
    let server = Server::new(dir.path(), vec![offer("one", &disk)]);
    let info = json_of(&run("nbdinfo", &["--json", &server.uri("one")]));
    assert_eq!((&info["protocol"], &info["structured"]), (&json!("newstyle-fixed"), &json!(true)));
    let export = &info["exports"][0];
    let expected = json!({
        "export-name": "one", "description": "a disk of the tests", "export-size": SIZE, "is_read_only": false,
        "can_flush": true, "can_fua": true, "can_trim": true, "can_zero": true, "can_fast_zero": true,
        "can_df": true, "can_cache": true, "can_multi_conn": true, "contexts": ["base:allocation"],
        "block_size_minimum": 1, "block_size_preferred": 4096, "block_size_maximum": 33_554_432,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&export[key], value, "{key} in {export}");
    }
    // The only export is also the default one.
    assert_eq!(run("nbdinfo", &["--size", &server.uri("")]).trim(), SIZE.to_string());
    let (_, complaint, good) = attempt("nbdinfo", &[&server.uri("other")]);
    assert!(!good && complaint.contains("No such file or directory"), "{complaint}");
}

#[test]
fn every_export_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let offers: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|name| offer(name, &image(dir.path(), &format!("{name}.raw"), "raw")))
        .collect();
    let server = Server::new(dir.path(), offers);
    let list = json_of(&run("nbdinfo", &["--list", "--json", &server.uri("")]));
    let names: Vec<&str> =
        list["exports"].as_array().unwrap().iter().map(|one| one["export-name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(server.complaints(), Vec::<String>::new());
}

#[test]
fn nbdcopy_copies_both_ways_over_several_connections() {
    let dir = tempfile::tempdir().unwrap();
    let source = raw(dir.path(), "source.raw", &pattern(3));
    let (one, two) = (image(dir.path(), "one.raw", "raw"), image(dir.path(), "two.qcow2", "qcow2"));
    let back = dir.path().join("back.raw").to_str().unwrap().to_owned();
    let server = Server::new(dir.path(), vec![offer("raw", &one), offer("qcow2", &two)]);
    run("nbdcopy", &["--flush", &source, &server.uri("raw")]);
    assert!(content(&one) == pattern(3));
    run("nbdcopy", &["--flush", &server.uri("raw"), &server.uri("qcow2")]);
    run("nbdcopy", &[&server.uri("qcow2"), &back]);
    assert!(content(&back) == pattern(3));
    assert_eq!(server.complaints(), Vec::<String>::new());
}

#[test]
fn qemu_io_finds_what_it_wrote_discarded_and_zeroed() {
    let dir = tempfile::tempdir().unwrap();
    for format in ["raw", "qcow2"] {
        let dir = dir.path().join(format);
        std::fs::create_dir(&dir).unwrap();
        let disk = image(&dir, &format!("disk.{format}"), format);
        let server = Server::new(&dir, vec![offer("disk", &disk)]);
        let script = [
            "write -P 0x11 0 4M",
            "write -f -P 0x22 1000 3000",
            "write -z 100k 50k",
            "write -z -u 200k 70k",
            "aio_write -P 0x33 1M 64k",
            "aio_write -P 0x44 1100k 64k",
            "aio_flush",
            "discard 2M 1M",
            "flush",
            "read -P 0x11 0 1000",
            "read -P 0x22 1000 3000",
            "read -P 0x11 4000 98400",
            "read -P 0 100k 50k",
            "read -P 0 200k 70k",
            "read -P 0x33 1M 64k",
            "read -P 0x44 1100k 64k",
            "read -P 0x11 3M 1M",
            "read -P 0 4M 4M",
        ];
        let uri = server.uri("disk");
        let mut words = vec!["-f", "raw"];
        script.iter().for_each(|line| words.extend(["-c", line]));
        words.push(&uri);
        let said = run("qemu-io", &words);
        assert!(!said.contains("verification failed") && !said.contains("failed:"), "{said}");
        assert_eq!(server.complaints(), Vec::<String>::new());
    }
}

#[test]
fn fio_verifies_what_it_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let disk = image(dir.path(), "disk.raw", "raw");
    let server = Server::new(dir.path(), vec![offer("disk", &disk)]);
    let uri = format!("--uri={}", server.uri("disk"));
    // fio writes what it verifies by into the folder that it runs in, if it is not told otherwise.
    let aux = format!("--aux-path={}", dir.path().display());
    let words =
        ["--name=verify", "--ioengine=nbd", &uri, &aux, "--rw=randrw", "--bsrange=512-64k", "--iodepth=16"];
    let more = ["--size=8M", "--verify=crc32c", "--verify_fatal=1", "--fsync=32", "--verify_state_save=0"];
    run("fio", &[words.as_slice(), &more].concat());
    assert_eq!(server.complaints(), Vec::<String>::new());
}
