//! Each in a process of its own, because nothing gives back what is given up.

use super::*;
use crate::config;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};

/// Set in a process that a test starts to run itself in.
const CHILD: &str = "COLO_TEST_SANDBOX_CHILD";

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs this test in a process of its own.
fn in_a_child(test: &str) -> Output {
    let this = std::env::current_exe().unwrap();
    let test = format!("sandbox::tests::{test}");
    let arguments = ["--exact", &test, "--nocapture", "--test-threads=1"];
    Command::new(this).args(arguments).env(CHILD, "1").env("RUST_BACKTRACE", "0").output().unwrap()
}

fn passes_in_a_child(test: &str) {
    let output = in_a_child(test);
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{}: {text}", output.status);
}

/// A thread of this kind that does this.
fn thread(sandbox: &Sandbox, kind: Kind, work: impl FnOnce() + Send + 'static) {
    let sandbox = sandbox.clone();
    let thread = std::thread::Builder::new().name("subject".into()).spawn(move || {
        sandbox.enter(kind).unwrap();
        work();
    });
    thread.unwrap().join().unwrap();
}

#[test]
fn a_thread_that_opens_a_file_ends_the_process_with_a_message() {
    if !is_child() {
        let output = in_a_child("a_thread_that_opens_a_file_ends_the_process_with_a_message");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(i32::from(VIOLATION)), "{said}");
        assert!(said.contains("the thread subject made the system call openat (number 257)"), "{said}");
        assert!(said.contains("before the end\n"), "{said}");
        return;
    }
    let before_end = || {
        rustix::io::write(rustix::stdio::stderr(), b"before the end\n").unwrap();
    };
    let sandbox = Sandbox::new(SeccompMode::On, before_end).unwrap();
    thread(&sandbox, Kind::Worker, || drop(fs::read("/etc/passwd")));
}

#[test]
fn a_signal_may_come_in_any_thread() {
    use signal_hook::consts::SIGTERM;
    if !is_child() {
        return passes_in_a_child("a_signal_may_come_in_any_thread");
    }
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM]).unwrap();
    let sandbox = Sandbox::new(SeccompMode::On, || {}).unwrap();
    for kind in Kind::ALL {
        thread(&sandbox, kind, || signal_hook::low_level::raise(SIGTERM).unwrap());
        assert_eq!(signals.pending().collect::<Vec<_>>(), [SIGTERM], "{kind:?}");
    }
}

#[test]
fn no_kind_of_thread_makes_a_socket() {
    if !is_child() {
        let output = in_a_child("no_kind_of_thread_makes_a_socket");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(i32::from(VIOLATION)), "{said}");
        assert!(said.contains("made the system call socket (number 41)"), "{said}");
        return;
    }
    let sandbox = Sandbox::new(SeccompMode::On, || {}).unwrap();
    thread(&sandbox, Kind::Control, || drop(std::net::UdpSocket::bind("127.0.0.1:0")));
}

#[test]
fn who_connects_to_the_other_host_speaks_tcp_alone() {
    if !is_child() {
        let output = in_a_child("who_connects_to_the_other_host_speaks_tcp_alone");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("two sockets\n"), "{said}");
        assert_eq!(output.status.code(), Some(i32::from(VIOLATION)), "{said}");
        assert!(said.contains("made the system call socket (number 41)"), "{said}");
        return;
    }
    let sandbox = Sandbox::new(SeccompMode::On, || {}).unwrap();
    thread(&sandbox, Kind::Peer, || {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            socket_with(family, SocketType::STREAM, flags, None).unwrap();
        }
        rustix::io::write(rustix::stdio::stderr(), b"two sockets\n").unwrap();
        drop(socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None));
    });
}

#[test]
fn memory_that_can_be_executed_is_not_given() {
    if !is_child() {
        let output = in_a_child("memory_that_can_be_executed_is_not_given");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(i32::from(VIOLATION)), "{said}");
        assert!(said.contains("made the system call mmap (number 9)"), "{said}");
        return;
    }
    let sandbox = Sandbox::new(SeccompMode::On, || {}).unwrap();
    thread(&sandbox, Kind::Vcpu, || sys::map(4096, true));
}

#[test]
fn what_threads_do_is_let_pass() {
    if !is_child() {
        return passes_in_a_child("what_threads_do_is_let_pass");
    }
    let directory = tempfile::tempdir().unwrap();
    let mut image = fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(directory.path().join("image"))
        .unwrap();
    let listener = colo_proxy::listener::Listener::bind(&directory.path().join("socket")).unwrap();
    let mut client = UnixStream::connect(listener.path()).unwrap();
    let kvm = kvm_ioctls::Kvm::new().and_then(|kvm| kvm.create_vm()).unwrap();
    let sandbox = Sandbox::new(SeccompMode::On, || {}).unwrap();

    thread(&sandbox, Kind::Worker, move || {
        use std::os::unix::fs::FileExt as _;
        image.write_all(&[7; 8192]).unwrap();
        image.sync_data().unwrap();
        image.read_exact_at(&mut [0; 512], 4096).unwrap();
        image.set_len(100 << 10).unwrap();
        sys::map(8 << 20, false);
        // A worker that starts another, and a panic that is caught.
        std::thread::spawn(|| std::panic::catch_unwind(|| panic!("on purpose"))).join().unwrap().unwrap_err();
    });
    let inner = sandbox.clone();
    thread(&sandbox, Kind::Vcpu, move || {
        // A question to KVM, an eventfd, and a worker of its own.
        assert!(kvm.check_extension_int(kvm_ioctls::Cap::NrMemslots) > 0);
        vmm_sys_util::eventfd::EventFd::new(0).unwrap().try_clone().unwrap();
        std::thread::spawn(move || inner.enter(Kind::Worker).unwrap()).join().unwrap();
    });
    thread(&sandbox, Kind::Control, move || {
        let mut server = listener.accept().unwrap().unwrap();
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
        let path = listener.path().to_owned();
        drop(listener);
        assert!(!path.exists());
        std::thread::sleep(std::time::Duration::from_millis(1));
        tracing::info!("words are said");
    });
}

#[test]
fn log_and_off_let_everything_pass() {
    if !is_child() {
        return passes_in_a_child("log_and_off_let_everything_pass");
    }
    for mode in [SeccompMode::Log, SeccompMode::Off] {
        let sandbox = Sandbox::new(mode, || {}).unwrap();
        thread(&sandbox, Kind::Worker, || assert!(fs::read("/etc/passwd").is_ok()));
    }
}

#[test]
fn every_list_makes_a_filter_and_no_call_is_on_one_twice() {
    for kind in Kind::ALL {
        let calls = kind.calls();
        assert!(calls::compile(&calls, SeccompAction::Trap).is_ok());
        for never in [libc::SYS_execve, libc::SYS_openat, libc::SYS_ptrace, libc::SYS_mount] {
            assert!(calls.iter().all(|call| call.number() != never), "{kind:?} {never}");
        }
        // Who connects to the other host makes sockets for TCP; nobody else makes any.
        let sockets: Vec<_> = calls.iter().filter(|call| call.number() == libc::SYS_socket).collect();
        let families: &[i32] = if kind == Kind::Peer { &[libc::AF_INET, libc::AF_INET6] } else { &[] };
        let tcp = |family: &i32| {
            calls::Call::with(libc::SYS_socket, 0, *family as u32).and(1, 0xf, libc::SOCK_STREAM as u32)
        };
        let tcp: Vec<_> = families.iter().map(tcp).collect();
        assert_eq!(format!("{sockets:?}"), format!("{tcp:?}"), "{kind:?}");
    }
    for list in [common::CALLS, vcpu::CALLS, worker::CALLS, control::CALLS, peer::CALLS] {
        for (at, call) in list.iter().enumerate() {
            assert!(!list[..at].contains(call), "{call:?}");
        }
    }
}

/// A line of the calling thread's status.
fn status(field: &str) -> String {
    let text = fs::read_to_string("/proc/thread-self/status").unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":")).unwrap();
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn no_privilege_is_left() {
    if !is_child() {
        return passes_in_a_child("no_privilege_is_left");
    }
    let root = rustix::process::geteuid().is_root();
    let user: config::User = "65534:65533".parse().unwrap();
    give_up_privileges(root.then_some(&user)).unwrap();
    let none = "0000000000000000";
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(status(set), none, "{set}");
    }
    assert_eq!(status("NoNewPrivs"), "1");
    if root {
        assert_eq!(status("CapBnd"), none);
        assert_eq!(status("Uid"), "65534 65534 65534 65534");
        assert_eq!(status("Gid"), "65533 65533 65533 65533");
        assert_eq!(status("Groups"), "");
    }
    assert_eq!(std::thread::spawn(|| status("CapPrm")).join().unwrap(), none, "nor do new threads have any");
    let error = give_up_privileges(Some(&"0:0".parse().unwrap())).unwrap_err().to_string();
    assert!(error.starts_with("cannot become 0:0: Operation not permitted"), "{error}");
}

#[test]
fn files_are_out_of_reach_but_those_that_are_open() {
    if !is_child() {
        return passes_in_a_child("files_are_out_of_reach_but_those_that_are_open");
    }
    let directory = tempfile::tempdir().unwrap();
    let (socket, other) = (directory.path().join("run/socket"), directory.path().join("file"));
    fs::create_dir(directory.path().join("run")).unwrap();
    fs::write(&other, "x").unwrap();
    let mut open = fs::File::open(&other).unwrap();
    let listener = colo_proxy::listener::Listener::bind(&socket).unwrap();
    let status = confine_files([socket.as_path()]).unwrap();
    let denied = status != Landlocked::Not;
    eprintln!("landlock: {status:?}");
    open.read_exact(&mut [0]).unwrap();
    assert_eq!(fs::read(&other).is_err(), denied);
    assert_eq!(fs::write(directory.path().join("run/new"), "x").is_err(), denied);
    assert_eq!(std::thread::spawn(|| fs::read("/etc/passwd").is_err()).join().unwrap(), denied);
    drop(listener);
    assert!(!socket.exists(), "the file of a socket is removed");
    assert_eq!(fs::remove_file(&other).is_err(), denied);
}
