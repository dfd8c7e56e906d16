//! `colo-proxy compare`: its sockets, signals and exit codes.

#![allow(clippy::unwrap_used, reason = "in helpers of tests")]

mod common;

use common::*;
use rustix::process::Signal;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;

/// Runs it with wrong options and returns what it says.
fn refused(options: &[&str]) -> String {
    let stopped = Comparer::start_in(tempfile::tempdir().unwrap(), options).wait();
    assert_eq!(stopped.code, Some(2), "{:?}", stopped.log);
    stopped.log.join("\n")
}

#[test]
fn tcp_works_as_unix_does() {
    let tcp_any = "tcp:127.0.0.1:0";
    let options =
        ["--primary-in", tcp_any, "--secondary-in", tcp_any, "--outdev", tcp_any, "--notify-dev", tcp_any];
    let comparer = Comparer::start_in(tempfile::tempdir().unwrap(), &options);
    let [mut pri, mut sec, mut out, mut ntf] =
        ["primary-in", "secondary-in", "outdev", "notify-dev"].map(|socket| {
            let line = comparer.wait_for_log(&format!("{socket}: listens on tcp:"));
            let address = line.split("tcp:").nth(1).unwrap().split(' ').next().unwrap();
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            Peer(stream)
        });
    let frames: Vec<Vec<u8>> = (0..1000).map(|n| udp(n, &[1; 1000])).collect();
    let (sent, mut feeder) = (frames.concat(), frames.concat());
    feeder.extend(udp(1, b"alone"));
    let threads = [
        std::thread::spawn(move || {
            pri.send(&feeder);
            pri
        }),
        std::thread::spawn(move || {
            sec.send(&sent);
            sec
        }),
    ];
    for frame in &frames {
        assert_eq!(out.receive(), *frame);
    }
    drop(out);
    comparer.wait_for_log("outdev: the peer is disconnected");
    ntf.send(&framed(b"COLO_CHECKPOINT"));
    ntf.send(&framed(b"COLO_USERSPACE_PROXY_INIT"));
    assert_eq!(ntf.receive(), framed(HELLO_REPLY));
    drop(threads.map(|thread| thread.join().unwrap()));
    let report = comparer.stop().report();
    assert_eq!((&report["outdev"]["frames"], &report["outdev"]["pending_frames"]), (&1000.into(), &1.into()));
}

#[test]
fn it_connects_and_connects_again_where_it_is_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (pri_path, out_path) = (path("pri"), path("out"));
    let ntf_listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let pri = format!("unix:{},server=off", pri_path.display());
    let sec = format!("unix:{},server=on", path("sec").display());
    let out = format!("unix:{},server=off", out_path.display());
    let ntf = format!("tcp:{},server=off", ntf_listener.local_addr().unwrap());
    let options = ["--primary-in", &pri, "--secondary-in", &sec, "--outdev", &out, "--notify-dev", &ntf];
    let comparer = Comparer::start_in(directory, &options);
    comparer.wait_for_log("primary-in: cannot connect to unix:");

    let pri_listener = UnixListener::bind(&pri_path).unwrap();
    let out_listener = UnixListener::bind(&out_path).unwrap();
    let mut pri = Peer(pri_listener.accept().unwrap().0);
    let mut sec = comparer.connect("sec");
    let mut ntf = Peer(ntf_listener.accept().unwrap().0);
    ntf.send(&framed(b"COLO_USERSPACE_PROXY_INIT"));
    assert_eq!(ntf.receive(), framed(HELLO_REPLY));
    for n in 0..3 {
        let mut out = Peer(out_listener.accept().unwrap().0);
        let frame = udp(n, b"again");
        pri.send(&frame);
        sec.send(&frame);
        assert_eq!(out.receive(), frame);
        drop(out);
        drop(pri);
        pri = Peer(pri_listener.accept().unwrap().0);
    }
    let stopped = comparer.stop();
    assert_eq!(stopped.report()["primary_in"]["connected"], 4);
    assert!(pri_path.exists(), "it removes only what it made");
}

#[test]
fn signals_report_and_stop() {
    for signal in [Signal::TERM, Signal::INT] {
        let comparer = Comparer::start(&[]);
        let [mut pri, mut sec, mut out, _ntf] = comparer.connect_all();
        pri.send(&udp(1, b"one"));
        sec.send(&udp(1, b"one"));
        out.receive();
        pri.send(&udp(1, b"held"));
        for n in 1.. {
            comparer.signal(Signal::USR1);
            if comparer.wait_for_log_times("in: ", n).contains("; held: 1 primary") {
                break;
            }
        }
        comparer.signal(signal);
        let stopped = comparer.wait();
        assert_eq!(stopped.code, Some(0));
        let last = stopped.log.last().unwrap();
        assert!(last.starts_with("in: 2 primary frames"), "{last}");
        assert!(last.contains("released 1 (0 by 0 checkpoints"), "{last}");
        assert!(last.contains("; out: 1 frames"), "{last}");
        assert!(last.contains("; secondary discarded: compared 1"), "{last}");
        assert!(last.contains("; held: 1 primary"), "{last}");
        let left: Vec<_> = std::fs::read_dir(stopped.directory.path()).unwrap().collect();
        assert!(left.is_empty(), "its sockets are removed: {left:?}");
    }
}

#[test]
fn a_socket_that_a_crash_left_is_replaced_and_one_in_use_is_not() {
    let directory = tempfile::tempdir().unwrap();
    drop(UnixListener::bind(directory.path().join("pri")).unwrap());
    let unix = |name: &str| format!("unix:{}", directory.path().join(name).display());
    let (pri, sec, out) = (unix("pri"), unix("sec"), unix("out"));
    let comparer =
        Comparer::start_in(directory, &["--primary-in", &pri, "--secondary-in", &sec, "--outdev", &out]);
    comparer.wait_for_log("left behind");
    comparer.wait_for_log("outdev: listens on ");

    let other = tempfile::tempdir().unwrap();
    let mine = format!("unix:{}", other.path().join("mine").display());
    let options = ["--primary-in", &mine, "--secondary-in", &pri, "--outdev", &out];
    let said = refused(&options);
    assert!(said.contains("secondary-in: ") && said.contains("is in use"), "{said}");
    assert!(!other.path().join("mine").exists(), "what it had made is removed again");
    comparer.connect("pri");
    assert_eq!(comparer.stop().code, Some(0));
}

#[test]
fn what_cannot_work_is_refused_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let file_socket = format!("unix:{}", file.display());
    let others = ["--secondary-in", "tcp:127.0.0.1:0", "--outdev", "tcp:127.0.0.1:0"];
    let with_primary = |primary: &str| refused(&[&["--primary-in", primary], &others[..]].concat());
    assert!(with_primary(&file_socket).contains("is not a socket"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    assert!(with_primary("unix:/does/not/exist/socket").contains("make the directory first"));
    assert!(with_primary("nonsense").contains("unix:PATH or tcp:HOST:PORT"));
    assert!(with_primary("tcp:192.0.2.1:1").contains("choose an address of this host"));
    assert!(refused(&others).contains("--primary-in"));
}
