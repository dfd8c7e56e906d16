//! A server in this process, programs besides it, and images that have something in them.

use colo_vmm::block::{self, Options};
use colo_vmm::nbd::ImageExport;
use colo_vmm::nbd::client::{Client, Done, Order, Refused, turn};
use colo_vmm::nbd::server::{Offer, Patience, ServeError, Terms, serve};
use colo_vmm::nbd::transport::{Plain, Transport, no_tls};
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longer than anything takes on the slowest machine.
pub(crate) const LONG: Duration = Duration::from_mins(2);
/// Of the images.
pub(crate) const SIZE: usize = 8 << 20;

/// Runs a program to its end and gives what it says. One that fails, or is not there, fails the test.
pub(crate) fn run(name: &str, words: &[&str]) -> String {
    let (said, complaint, good) = attempt(name, words);
    assert!(good, "{name} {words:?} failed:\n{said}\n{complaint}");
    said
}

/// The same, whatever comes of it: what it says, what it complains of, whether it is content.
pub(crate) fn attempt(name: &str, words: &[&str]) -> (String, String, bool) {
    let mut command = Command::new(name);
    let output = command.args(words).stdin(Stdio::null()).output();
    let output =
        output.unwrap_or_else(|error| panic!("cannot run {name}: {error}; cargo xtask test installs it"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.success())
}

/// Bytes with zeros between them, aligned to nothing.
pub(crate) fn pattern(seed: usize) -> Vec<u8> {
    let byte = |at: usize| match (at / 100_000) % 3 {
        0 => 0,
        _ => ((at + seed).wrapping_mul(2_654_435_761) >> 13) as u8,
    };
    (0..SIZE).map(byte).collect()
}

/// A raw file with this in it, and holes where there are whole blocks of zeros.
pub(crate) fn raw(dir: &Path, name: &str, bytes: &[u8]) -> String {
    let path = dir.join(name);
    let file = File::create(&path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (at, block) in bytes.chunks(4096).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, at as u64 * 4096).unwrap();
        }
    }
    path.to_str().unwrap().to_owned()
}

/// An empty image in a format that qemu-img knows.
pub(crate) fn image(dir: &Path, name: &str, format: &str) -> String {
    let path = dir.join(name).to_str().unwrap().to_owned();
    run("qemu-img", &["create", "-q", "-f", format, &path, &SIZE.to_string()]);
    path
}

/// An image as an offer, by this name.
pub(crate) fn offer(name: &str, path: &str) -> Offer {
    let image = block::open(&Options::new(path)).unwrap();
    Offer {
        name: name.to_owned(),
        description: "a disk of the tests".to_owned(),
        export: Arc::new(ImageExport::new(image)),
    }
}

/// A server on a Unix socket. When it is dropped, it says of which connections it thought badly.
pub(crate) struct Server {
    pub(crate) socket: PathBuf,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    complaints: Arc<Mutex<Vec<ServeError>>>,
}

impl Server {
    pub(crate) fn new(dir: &Path, offers: Vec<Offer>) -> Self {
        let socket = dir.join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let (ended, complaints) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<_>>>::default());
        let (stop, complain) = (Arc::clone(&ended), Arc::clone(&complaints));
        let terms = Arc::new(Terms::new(offers));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.unwrap();
                stream.set_nonblocking(true).unwrap();
                let (terms, complain) = (Arc::clone(&terms), Arc::clone(&complain));
                std::thread::spawn(move || {
                    let patience = Patience { handshake: LONG, idle: None, send: None };
                    if let Err(error) = serve(Plain::new(stream), terms, patience, no_tls) {
                        complain.lock().unwrap().push(error);
                    }
                });
            }
        });
        Self { socket, ended, thread: Some(thread), complaints }
    }

    /// Where programs find an export.
    pub(crate) fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    /// What was said of connections that ended badly.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap().iter().map(ToString::to_string).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        drop(UnixStream::connect(&self.socket));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// A program that runs until this is dropped.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn new(name: &str, words: &[&str]) -> Self {
        let child = Command::new(name).args(words).stdin(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("cannot run {name}: {error}; cargo xtask test installs it")))
    }

    /// Whether it still does.
    pub(crate) fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended by itself cannot be ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Tries until it works, as long as a program lives.
pub(crate) fn until<T>(program: &mut Running, mut attempt: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(program.lives(), "the server has ended");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Has all of these done, as many at once as the window lets be; gives what came of each, in the order in which
/// the answers came.
pub(crate) fn drive<T: Transport>(
    transport: &mut T,
    client: &mut Client<Vec<u8>>,
    orders: impl IntoIterator<Item = Order<Vec<u8>>>,
) -> Vec<Done> {
    let mut orders = orders.into_iter();
    let (mut next, mut done) = (orders.next(), Vec::new());
    loop {
        while let Some(order) = next.take() {
            match client.submit(order) {
                Ok(()) => next = orders.next(),
                Err(Refused::Full(order)) => {
                    next = Some(order);
                    break;
                }
                Err(other) => panic!("{other}"),
            }
        }
        let turn = turn(transport, client, |one| done.push(one)).unwrap();
        if next.is_none() && client.unanswered() == 0 && !client.wants_to_send() {
            return done;
        }
        assert!(!turn.ended, "the server has ended");
        let room = next.is_some() && client.unanswered() == 0;
        if !turn.again && !room {
            let what = if turn.send { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            poll(&mut [PollFd::new(&transport.as_fd(), what)], None).unwrap();
        }
    }
}

/// What is in a file.
pub(crate) fn content(path: impl AsRef<Path>) -> Vec<u8> {
    fs::read(path).unwrap()
}
