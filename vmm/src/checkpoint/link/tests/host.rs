//! What a test needs of two hosts: hellos, certificates, a door, connections.

use super::super::greet::{GreetError, dial};
use super::super::{Arrival, Door, Seat, Stream, Terms, Tls, Trust, socket};
use crate::checkpoint::Holding;
use crate::checkpoint::disks::NoDisks;
use crate::checkpoint::protocol::hello::{
    Agreed, Answer, Block, Capabilities, Held, Hello, Mode, Role, Side,
};
use crate::config::Peer;
use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Longer than anything takes on the slowest machine.
pub(super) const LONG: Duration = Duration::from_mins(2);

pub(super) fn hello(side: Side) -> Hello {
    Hello {
        role: Role::Main,
        side,
        mode: Mode::Colo,
        answer: Answer::Asked,
        capabilities: Capabilities::LZ4,
        generation: 1,
        session: 77,
        held: Held::default(),
        run: 1,
        epochs: 0,
        machine: String::new(),
        vm: "guest".parse().unwrap(),
        blocks: vec![Block { name: "pc.ram".parse().unwrap(), size: 64 << 20 }],
        disks: Vec::new(),
    }
}

/// A file with this in it.
pub(super) fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// A certificate of its own, for the address of the tests.
pub(super) struct Identity {
    pub(super) certificate: Certificate,
    key: KeyPair,
}

fn parameters() -> CertificateParams {
    CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap()
}

impl Identity {
    pub(super) fn of_its_own() -> Self {
        let key = KeyPair::generate().unwrap();
        Self { certificate: parameters().self_signed(&key).unwrap(), key }
    }

    pub(super) fn signed_by(authority: &CertifiedIssuer<'_, KeyPair>) -> Self {
        let key = KeyPair::generate().unwrap();
        Self { certificate: parameters().signed_by(&key, authority).unwrap(), key }
    }

    pub(super) fn trusting(&self, trust: &Trust) -> Tls {
        let (certificate, key) = (file(&self.certificate.pem()), file(&self.key.serialize_pem()));
        Tls::new(certificate.path(), key.path(), trust).unwrap()
    }

    pub(super) fn der(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        (self.certificate.der().clone(), PrivateKeyDer::try_from(self.key.serialize_der()).unwrap())
    }
}

pub(super) fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut parameters = CertificateParams::new(Vec::<String>::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

/// Two sides that have pinned each other's certificate.
pub(super) fn pinned() -> (Tls, Tls) {
    let (one, other) = (Identity::of_its_own(), Identity::of_its_own());
    let (of_one, of_other) = (file(&one.certificate.pem()), file(&other.certificate.pem()));
    let trust = |file: &tempfile::NamedTempFile| Trust::Peer(file.path().to_owned());
    (one.trusting(&trust(&of_other)), other.trusting(&trust(&of_one)))
}

pub(super) fn door(terms: Terms) -> (Door, Receiver<Arrival>, SocketAddr) {
    let listener = socket::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let (door, arrivals) = Door::open(listener, terms).unwrap();
    let address = door.address().unwrap();
    (door, arrivals, address)
}

pub(super) fn terms(tls: Option<Tls>) -> Terms {
    Terms { patience: LONG, ..Terms::new(hello(Side::Secondary), Holding::default(), Arc::new(NoDisks), tls) }
}

pub(super) fn knock(at: SocketAddr, tls: Option<&Tls>, ours: &Hello) -> Result<(Stream, Agreed), GreetError> {
    dial(&Peer::from(at), &[at], tls, ours, LONG)
}

pub(super) fn main_of(arrivals: &Receiver<Arrival>) -> (Stream, Agreed, Seat) {
    match arrivals.recv_timeout(LONG).unwrap() {
        Arrival::Main { stream, agreed, seat } => (stream, agreed, seat),
        Arrival::Heartbeat { .. } => panic!("a main connection"),
    }
}

/// A connection without hellos: ours, and a peer that the test plays.
pub(super) fn pair() -> (Stream, TcpStream) {
    let listener = socket::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let peer = TcpStream::connect(address).unwrap();
    peer.set_nodelay(true).unwrap();
    listener.set_nonblocking(false).unwrap();
    let (ours, from) = socket::accept(&listener).unwrap().unwrap();
    (Stream::plain(ours, from), peer)
}
