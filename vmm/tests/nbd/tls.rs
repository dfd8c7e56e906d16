//! The same under TLS, with certificates of an authority: our two sides, and both with other people's programs.

use super::client::{Script, script};
use super::rig::{LONG, Running, SIZE, attempt, content, drive, image, offer, run, until};
use colo_vmm::checkpoint::link::{Stream, Tls, Trust};
use colo_vmm::config::Peer;
use colo_vmm::nbd::client::{Answer, Ask, Command, ConnectError, Order, Window, connect};
use colo_vmm::nbd::server::{Patience, ServeError, Terms, serve};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Certificates in the files that QEMU and libnbd look for; and ours, of the same.
fn certificates(dir: &Path) -> Tls {
    let named = |names: &[&str], name: &str| {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters
    };
    let mut authority = named(&[], "the tests' authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(dir.join("ca-cert.pem"), authority.pem()).unwrap();
    for role in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let certificate = named(&["127.0.0.1", "localhost"], role).signed_by(&key, &authority).unwrap();
        std::fs::write(dir.join(format!("{role}-cert.pem")), certificate.pem()).unwrap();
        std::fs::write(dir.join(format!("{role}-key.pem")), key.serialize_pem()).unwrap();
    }
    let trust = Trust::Authority(dir.join("ca-cert.pem"));
    Tls::new(&dir.join("server-cert.pem"), &dir.join("server-key.pem"), &trust).unwrap()
}

fn stream(socket: TcpStream) -> Stream {
    socket.set_nonblocking(true).unwrap();
    let peer = socket.peer_addr().ok();
    Stream::plain(socket, peer)
}

/// Serves so many connections, and gives what came of each.
fn server(
    disk: &str,
    tls: Tls,
    connections: usize,
) -> (u16, std::thread::JoinHandle<Vec<Result<(), ServeError>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let terms = Arc::new(Terms { tls: true, ..Terms::new(vec![offer("disk", disk)]) });
    let thread = std::thread::spawn(move || {
        let patience = Patience { handshake: LONG, idle: None, send: Some(LONG) };
        let one = |_| {
            let stream = stream(listener.accept().unwrap().0);
            serve(stream, Arc::clone(&terms), patience, |stream, until| stream.secure_from(&tls, until))
        };
        (0..connections).map(one).collect()
    });
    (port, thread)
}

fn ask(tls: bool) -> Ask {
    Ask { name: "disk".to_owned(), tls, epochs: true, allocation: false, sums: false }
}

#[test]
fn both_sides_send_and_receive_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let tls = certificates(dir.path());
    let disk = image(dir.path(), "disk.raw", "raw");
    let (port, thread) = server(&disk, tls.clone(), 2);
    let host: Peer = format!("127.0.0.1:{port}").parse().unwrap();
    // Who does not begin TLS gets nothing.
    let plain = stream(TcpStream::connect(("127.0.0.1", port)).unwrap());
    let met =
        connect::<_, Vec<u8>>(plain, ask(false), Window::default(), Instant::now() + LONG, |s, _| Ok(s));
    let error = met.map(|_| ()).unwrap_err();
    assert!(
        matches!(error, ConnectError::Handshake(_)) && error.to_string().contains("demands TLS"),
        "{error}"
    );
    let secure = |stream: Stream, until| stream.secure_to(&host, &tls, until);
    let plain = stream(TcpStream::connect(("127.0.0.1", port)).unwrap());
    let window = Window { requests: 128, bytes: 64 << 20 };
    let (mut transport, mut client) =
        connect(plain, ask(true), window, Instant::now() + LONG, secure).unwrap();
    let mut expected = vec![0; SIZE];
    let Script { orders, reads } = script(1000, &mut expected);
    for one in drive(&mut transport, &mut client, orders) {
        match one.result.unwrap() {
            Answer::Data(data) => assert!(Some(&data) == reads.get(&one.token)),
            other => assert_eq!(other, Answer::Done),
        }
    }
    // More than any buffer between the two holds, in both directions.
    let large = |token: u64| {
        let (offset, len) = (token % 2 * (4 << 20), 4 << 20);
        let data = vec![token as u8; len as usize];
        let command = if token % 4 < 2 {
            Command::Write { offset, data, fua: false }
        } else {
            Command::Read { offset, len }
        };
        Order { token, epoch: 0, command }
    };
    for one in drive(&mut transport, &mut client, (0..32).map(large)) {
        match one.result.unwrap() {
            Answer::Data(data) => assert!(data.iter().all(|byte| u64::from(*byte) == one.token - 2)),
            other => assert_eq!(other, Answer::Done),
        }
    }
    client.disconnect();
    drive(&mut transport, &mut client, []);
    drop(transport);
    let ended = thread.join().unwrap();
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
}

#[test]
fn programs_of_libnbd_and_qemu_reach_our_server_under_tls_alone() {
    let dir = tempfile::tempdir().unwrap();
    let tls = certificates(dir.path());
    let disk = image(dir.path(), "disk.raw", "raw");
    let (port, thread) = server(&disk, tls, 3);
    let certificates = dir.path().to_str().unwrap();
    let uri = format!("nbds://localhost:{port}/disk?tls-certificates={certificates}");
    assert_eq!(run("nbdinfo", &["--size", &uri]).trim(), SIZE.to_string());
    let object = format!("tls-creds-x509,id=tls,dir={certificates},endpoint=client");
    let node = format!("driver=nbd,host=localhost,port={port},export=disk,tls-creds=tls");
    let write = ["-c", "write -P 0x5a 0 1M", "-c", "read -P 0x5a 0 1M"];
    let said = run("qemu-io", &[["--object", &object, "--image-opts", &node].as_slice(), &write].concat());
    assert!(!said.contains("failed"), "{said}");
    assert!(content(&disk)[..1 << 20].iter().all(|byte| *byte == 0x5a));
    let (_, complaint, good) = attempt("nbdinfo", &[&format!("nbd://localhost:{port}/disk")]);
    assert!(!good && complaint.contains("server replied with error"), "{complaint}");
    let ended = thread.join().unwrap();
    assert!(ended[..2].iter().all(Result::is_ok), "{ended:?}");
}

#[test]
fn our_client_reaches_qemu_nbd_under_tls() {
    let dir = tempfile::tempdir().unwrap();
    let tls = certificates(dir.path());
    let disk = image(dir.path(), "disk.raw", "raw");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let object = format!("tls-creds-x509,id=tls,dir={},endpoint=server,verify-peer=on", dir.path().display());
    let words = ["--object", &object, "--tls-creds=tls", "-f", "raw", "-x", "disk", "--persistent"];
    let number = port.to_string();
    let words = [words.as_slice(), &["-b", "127.0.0.1", "-p", &number, &disk]].concat();
    let mut server = Running::new("qemu-nbd", &words);
    let plain = until(&mut server, || TcpStream::connect(("127.0.0.1", port)).ok());
    let host: Peer = format!("127.0.0.1:{port}").parse().unwrap();
    let secure = |stream: Stream, until| stream.secure_to(&host, &tls, until);
    let (mut transport, mut client) =
        connect(stream(plain), ask(true), Window::default(), Instant::now() + LONG, secure).unwrap();
    let mut expected = vec![0; SIZE];
    let Script { orders, reads } = script(500, &mut expected);
    for one in drive(&mut transport, &mut client, orders) {
        match one.result.unwrap() {
            Answer::Data(data) => assert!(Some(&data) == reads.get(&one.token)),
            other => assert_eq!(other, Answer::Done),
        }
    }
    client.disconnect();
    drive(&mut transport, &mut client, []);
    drop(server);
    assert!(content(&disk) == expected);
}
