//! Who is let in by what certificate: TLS 1.3, both sides show one.
//!
//! ```text
//!   peer's certificate ─► pinned? its SHA-256 is one of ours          (no name, no date: this key and no other)
//!                      ─► or an authority's: its signature, its dates; and the name of the host, for the primary
//! ```
//!
//! An authority vouches for every certificate that it signs, so it should be one that signs for the hosts of
//! this VM only.

use crate::config::Peer;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName,
    RootCertStore, ServerConfig, ServerConnection, SignatureScheme,
};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// No certificates, and no key, are as large: a file of them is read to its end.
const MOST: u64 = 1 << 20;

/// The SHA-256 of a certificate, as `openssl x509 -fingerprint -sha256` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if at == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl FromStr for Fingerprint {
    type Err = TlsError;

    fn from_str(text: &str) -> Result<Self, TlsError> {
        let wrong = || TlsError::Fingerprint(text.chars().take(200).collect());
        let digits: Vec<u32> = text
            .chars()
            .filter(|c| *c != ':')
            .map(|c| c.to_digit(16).ok_or_else(wrong))
            .collect::<Result<_, _>>()?;
        let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect();
        match <[u8; 32]>::try_from(bytes) {
            Ok(bytes) if digits.len() == 64 => Ok(Self(bytes)),
            _ => Err(wrong()),
        }
    }
}

/// Whom we believe.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Who has this certificate.
    Fingerprint(Fingerprint),
    /// Who has the certificate in this file.
    Peer(PathBuf),
    /// Who has one that an authority in this file has signed.
    Authority(PathBuf),
}

/// TLS that cannot be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A fingerprint that is none.
    #[error(
        "{0:?} is no fingerprint; write the 64 hexadecimal digits of: openssl x509 -noout -fingerprint -sha256"
    )]
    Fingerprint(String),
    /// A file that cannot be read as PEM.
    #[error("cannot read {what} in {path}: {source}; it is to be a PEM file")]
    Pem {
        /// What is looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: pem::Error,
    },
    /// No certificate in it.
    #[error("there is no certificate in {0}; it is to be a PEM file")]
    Empty(PathBuf),
    /// The certificate and the key do not do.
    #[error("the certificate and the key cannot be used: {0}; is the key the certificate's?")]
    Identity(rustls::Error),
    /// The authority does not do.
    #[error("the authority in {path} cannot be used: {problem}")]
    Authority {
        /// Where.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// A host that cannot be in a certificate.
    #[error("{0} cannot be the name in a certificate; pin the peer's certificate, or write its address")]
    Name(String),
}

/// What both kinds of connection are made from.
#[derive(Clone, Debug)]
pub struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    /// Whether the name of the host counts.
    names: bool,
}

impl Tls {
    /// With this certificate and its key, for peers that are trusted. It reads files: it is for the time before a
    /// process is confined.
    pub fn new(certificate: &Path, key: &Path, trust: &Trust) -> Result<Self, TlsError> {
        let chain = certificates(certificate)?;
        let source = |source| TlsError::Pem { what: "a private key", path: key.to_owned(), source };
        let key = PrivateKeyDer::from_pem_slice(&pem(key).map_err(source)?).map_err(source)?;
        Self::from_parts(chain, key, trust)
    }

    pub(super) fn from_parts(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        trust: &Trust,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let Verifiers { of_servers, of_clients } = verifiers(trust, &provider)?;
        let versions = &[&rustls::version::TLS13];
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(TlsError::Identity)?
            .dangerous()
            .with_custom_certificate_verifier(of_servers)
            .with_client_auth_cert(chain.clone(), key.clone_key());
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(TlsError::Identity)?
            .with_client_cert_verifier(of_clients)
            .with_single_cert(chain, key);
        let mut client = client.map_err(TlsError::Identity)?;
        let mut server = server.map_err(TlsError::Identity)?;
        // Every connection shows its certificates anew.
        client.resumption = Resumption::disabled();
        server.send_tls13_tickets = 0;
        let names = matches!(trust, Trust::Authority(_));
        Ok(Self { client: Arc::new(client), server: Arc::new(server), names })
    }

    /// For who connects to this host.
    pub(super) fn client(&self, host: &Peer) -> Result<ClientConnection, TlsError> {
        let name = match ServerName::try_from(host.host().to_owned()) {
            // A pinned certificate says nothing of names, and neither do we.
            _ if !self.names => {
                ServerName::try_from("colo-vm").map_err(|_| TlsError::Name(host.to_string()))?
            }
            Ok(name) => name,
            Err(_) => return Err(TlsError::Name(host.to_string())),
        };
        ClientConnection::new(Arc::clone(&self.client), name).map_err(TlsError::Identity)
    }

    /// For who is connected to.
    pub(super) fn server(&self) -> Result<ServerConnection, TlsError> {
        ServerConnection::new(Arc::clone(&self.server)).map_err(TlsError::Identity)
    }
}

struct Verifiers {
    of_servers: Arc<dyn ServerCertVerifier>,
    of_clients: Arc<dyn ClientCertVerifier>,
}

fn verifiers(trust: &Trust, provider: &Arc<CryptoProvider>) -> Result<Verifiers, TlsError> {
    let pinned = match trust {
        Trust::Fingerprint(fingerprint) => *fingerprint,
        Trust::Peer(path) => {
            let all = certificates(path)?;
            Fingerprint::of(all.first().ok_or_else(|| TlsError::Empty(path.clone()))?)
        }
        Trust::Authority(path) => {
            let problem = |problem: String| TlsError::Authority { path: path.clone(), problem };
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| problem(error.to_string()))?;
            }
            let roots = Arc::new(roots);
            let of_servers =
                WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider)).build();
            let of_clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider)).build();
            return Ok(Verifiers {
                of_servers: of_servers.map_err(|error| problem(error.to_string()))?,
                of_clients: of_clients.map_err(|error| problem(error.to_string()))?,
            });
        }
    };
    let pin = Arc::new(Pin { pinned, provider: Arc::clone(provider) });
    Ok(Verifiers { of_servers: Arc::clone(&pin) as _, of_clients: pin })
}

/// What is in a file that may be anything.
fn pem(path: &Path) -> Result<Vec<u8>, pem::Error> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut bytes)).map_err(pem::Error::Io)?;
    if bytes.len() as u64 == MOST {
        let large = io::Error::new(io::ErrorKind::FileTooLarge, format!("it has {MOST} bytes and more"));
        return Err(pem::Error::Io(large));
    }
    Ok(bytes)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Pem { what: "a certificate", path: path.to_owned(), source };
    let bytes = pem(path).map_err(failed)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let all = all.map_err(failed)?;
    if all.is_empty() { Err(TlsError::Empty(path.to_owned())) } else { Ok(all) }
}

/// One certificate is believed, whatever it says; that the peer has its key is shown by its signature.
#[derive(Debug)]
struct Pin {
    pinned: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl Pin {
    fn judge(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        if Fingerprint::of(certificate) == self.pinned {
            Ok(())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }
}

/// There is no connection of another version whose signature could be asked for.
fn no_older_version() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::PeerIncompatible::Tls12NotOffered.into())
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(certificate).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_older_version()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Pin {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(certificate).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_older_version()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
