use super::super::greet::GreetError;
use super::super::tls::{Fingerprint, Tls, TlsError, Trust};
use super::super::{Arrival, Door, Terms};
use super::host::{Identity, LONG, authority, door, file, hello, knock, main_of, pinned, terms};
use crate::checkpoint::protocol::Channel as _;
use crate::checkpoint::protocol::hello::{Answer, Hello, Mismatch, Role, Side};
use proptest::prelude::*;
use std::io::{IoSlice, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The other side closes this, in order or not; gives what it said before.
fn is_closed(mut socket: TcpStream) -> Vec<u8> {
    socket.set_read_timeout(Some(LONG)).unwrap();
    let mut said = Vec::new();
    match socket.read_to_end(&mut said) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
    said
}

fn says(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.write_all(bytes).unwrap();
    socket
}

/// Waits until so many are.
fn are_refused(door: &Door, count: u64) {
    let deadline = Instant::now() + LONG;
    while door.refused() < count {
        assert!(Instant::now() < deadline, "{} were refused", door.refused());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn strangers_are_refused_and_the_session_goes_on() {
    let terms = Terms { patience: Duration::from_secs(5), ..terms(None) };
    let (door, arrivals, address) = door(terms);
    let ours = hello(Side::Primary);
    let (mut here, agreed) = knock(address, None, &ours).unwrap();
    let (mut there, same, seat) = main_of(&arrivals);
    assert_eq!(agreed, same);

    let whole = ours.to_bytes();
    let garbage = says(address, b"GET / HTTP/1.1\r\n\r\n");
    let silent = says(address, b"");
    let half = says(address, &whole[..whole.len() - 1]);
    let gone = says(address, &whole[..20]);
    drop(gone);
    for (peer, expected) in [
        (ours.clone(), Mismatch::Refused(Answer::Busy)),
        (Hello { role: Role::Heartbeat, session: 78, ..ours.clone() }, Mismatch::Refused(Answer::NoSession)),
    ] {
        let error = knock(address, None, &peer).unwrap_err();
        assert!(matches!(&error, GreetError::Mismatch(got) if *got == expected), "{error}");
    }
    let other = Hello { vm: "other".parse().unwrap(), ..ours.clone() };
    let error = knock(address, None, &other).unwrap_err().to_string();
    assert!(error.contains("we protect other") && error.contains("the peer protects guest"), "{error}");
    for stranger in [garbage, silent, half] {
        assert!(is_closed(stranger).is_empty());
    }
    are_refused(&door, 7);

    // Its heartbeat is let in, once.
    let beat = Hello { role: Role::Heartbeat, ..ours.clone() };
    let _heart = knock(address, None, &beat).unwrap();
    assert!(matches!(arrivals.recv_timeout(LONG).unwrap(), Arrival::Heartbeat { .. }));
    assert!(knock(address, None, &beat).is_err());

    // And the session has heard nothing of it.
    here.send(&mut [IoSlice::new(b"level")], Instant::now() + LONG).unwrap();
    let mut bytes = [0; 5];
    assert_eq!(there.receive(&mut bytes, Instant::now() + LONG).unwrap(), 5);
    assert_eq!(&bytes, b"level");

    // The seat is free when the session is over.
    drop(seat);
    knock(address, None, &ours).unwrap();
    let (_again, _, _seat) = main_of(&arrivals);
}

#[test]
fn who_knocks_without_end_does_not_keep_the_primary_out() {
    // Patience without end: places are only got from those who are put out.
    let (door, arrivals, address) = door(Terms { places: 4, ..terms(None) });
    let slow: Vec<_> = (0..12).map(|_| says(address, b"C")).collect();
    are_refused(&door, 8);
    knock(address, None, &hello(Side::Primary)).unwrap();
    main_of(&arrivals);
    // Those that were not put out find the door closed.
    drop(door);
    slow.into_iter().for_each(|slow| assert!(is_closed(slow).is_empty()));
}

#[test]
fn only_the_pinned_certificate_opens_the_door() {
    let (client, server) = pinned();
    let (door, arrivals, address) = door(terms(Some(server)));
    let ours = hello(Side::Primary);
    let (_here, _) = knock(address, Some(&client), &ours).unwrap();
    let (_there, _, _seat) = main_of(&arrivals);

    // Another certificate; one that trusts nobody there; no TLS at all; no certificate.
    let (stranger, _) = pinned();
    let error = knock(address, Some(&stranger), &ours).unwrap_err();
    assert!(matches!(error, GreetError::Handshake(_)), "{error}");
    assert!(knock(address, None, &ours).is_err());
    let error = without_certificate(address);
    assert!(error.contains("CertificateRequired"), "{error}");
    are_refused(&door, 3);
    assert!(arrivals.try_recv().is_err());
}

/// What a client hears that shows no certificate, and would believe any.
fn without_certificate(address: SocketAddr) -> String {
    let server = Identity::of_its_own();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.certificate.der().clone()).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(Anybody))
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("anybody").unwrap();
    let mut connection = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let mut stream = rustls::Stream::new(&mut connection, &mut socket);
    let asked = stream.write_all(&hello(Side::Primary).to_bytes());
    asked.and_then(|()| stream.read_exact(&mut [0; 1])).unwrap_err().to_string()
}

/// Believes whoever is there.
#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        let provider = rustls::crypto::ring::default_provider();
        provider.signature_verification_algorithms.supported_schemes()
    }
}

#[test]
fn an_authority_vouches_for_its_hosts_and_for_no_others() {
    let (ours, theirs) = (authority(), authority());
    let (ours_file, theirs_file) = (file(&ours.pem()), file(&theirs.pem()));
    let trust = Trust::Authority(ours_file.path().to_owned());
    let server = Identity::signed_by(&ours).trusting(&trust);
    let (_door, arrivals, address) = door(terms(Some(server)));
    let hello = hello(Side::Primary);

    // Of the wrong authority; and one that believes the wrong one.
    let stranger = Identity::signed_by(&theirs).trusting(&trust);
    let error = knock(address, Some(&stranger), &hello).unwrap_err();
    assert!(matches!(error, GreetError::Handshake(_)), "{error}");
    let deceived = Identity::signed_by(&ours).trusting(&Trust::Authority(theirs_file.path().to_owned()));
    let error = knock(address, Some(&deceived), &hello).unwrap_err();
    assert!(matches!(error, GreetError::Handshake(_)), "{error}");
    assert!(arrivals.try_recv().is_err());

    let friend = Identity::signed_by(&ours).trusting(&trust);
    knock(address, Some(&friend), &hello).unwrap();
    main_of(&arrivals);
}

#[test]
fn files_that_are_none_are_named() {
    let identity = Identity::of_its_own();
    let (certificate, key) = identity.der();
    let pinned = Fingerprint::of(&certificate);
    assert!(Tls::from_parts(vec![certificate.clone()], key.clone_key(), &Trust::Fingerprint(pinned)).is_ok());
    let (_, other) = Identity::of_its_own().der();
    let error = Tls::from_parts(vec![certificate], other, &Trust::Fingerprint(pinned)).unwrap_err();
    assert!(matches!(error, TlsError::Identity(_)), "{error}");
    let empty = file("");
    for path in [empty.path(), std::path::Path::new("/no/such/file")] {
        let error = Tls::new(path, path, &Trust::Fingerprint(pinned)).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("PEM"), "{error}");
    }
}

proptest! {
    #[test]
    fn a_fingerprint_is_read_as_openssl_shows_it(bytes: [u8; 32]) {
        let shown = bytes.map(|byte| format!("{byte:02X}")).join(":");
        let read: Fingerprint = shown.parse().unwrap();
        prop_assert_eq!(read.to_string(), shown.clone());
        prop_assert_eq!(shown.to_lowercase().replace(':', "").parse::<Fingerprint>().unwrap(), read);
        prop_assert!(shown[..shown.len() - 1].parse::<Fingerprint>().is_err());
    }

    #[test]
    fn no_text_for_a_fingerprint_panics(text in "\\PC*") {
        let _ = text.parse::<Fingerprint>();
    }
}
