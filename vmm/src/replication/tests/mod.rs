//! Two hosts of a disk: the guest's on one, through the feed, NBD over TCP and layers, to the guest's on the other.
//!
//! ```text
//!   Hosts    local ─ feed ─ Link { sender ═ TCP [═ Proxy ═ TCP] ═ server } ─ export ─ disk ─ base
//!   Memory   a disk that remembers what is stable     Plug   a way to it that can fail, and be pulled
//! ```

mod cuts;
mod faults;
mod following;
mod memory;
mod model;
mod proxy;
mod verify;

use super::bitmap::Dirty;
use super::export::DiskExport;
use super::feed::{CutError, Feed};
use super::layers::{Limits, SecondaryDisk, Status};
use super::sender::{SendError, Sender};
use crate::block::follow::{Copy, Followed, Follower as _};
use crate::block::raw::Raw;
use crate::block::{Image, plain, read_at, write_at};
use crate::nbd::client::{Ask, ConnectError, Window, connect};
use crate::nbd::server::{Offer, Patience, Terms, serve};
use crate::nbd::transport::{Plain, no_tls};
use fastrand::Rng;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vm_memory::{GuestMemoryBackend as _, VolatileSlice};

const SIZE: usize = 8 << 20;
/// Nothing takes so long where it works.
const LONG: Duration = Duration::from_mins(1);

/// An empty file on a disk.
fn image() -> Arc<dyn Image> {
    let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    file.set_len(SIZE as u64).unwrap();
    Arc::new(Raw::new(file, false, false).unwrap())
}

/// All bytes of an image.
fn all(image: &dyn Image) -> Vec<u8> {
    let mut bytes = vec![0; image.size() as usize];
    read_at(image, &mut bytes, 0).unwrap();
    bytes
}

#[track_caller]
fn same(ours: &[u8], theirs: &[u8], what: &str) {
    // To find the place byte by byte takes much longer than to see that there is none.
    if ours != theirs {
        let at = ours.iter().zip(theirs).position(|(one, other)| one != other);
        panic!("{what} differs at {at:x?}; the lengths are {:#x} and {:#x}", ours.len(), theirs.len());
    }
}

/// Waits until something comes about: that it does is what is tested.
#[track_caller]
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !is() {
        assert!(Instant::now() < end, "{what}: it does not come about");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[track_caller]
fn until_status(disk: &SecondaryDisk, what: &str, is: impl Fn(&Status) -> bool) {
    until(what, || is(&disk.status()));
}

/// The two ends of a TCP connection.
fn tcp() -> [TcpStream; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    for socket in [&one, &other] {
        socket.set_nodelay(true).unwrap();
    }
    [one, other]
}

/// A connection, and who is at its ends.
struct Link {
    socket: TcpStream,
    server: JoinHandle<()>,
    sender: JoinHandle<SendError>,
}

impl Link {
    /// On these sockets, in this epoch; the sender verifies first what the other side has, or does not. Where it does
    /// not come about, nobody is left at either end.
    fn new(
        (feed, dirty): (&Arc<Feed>, &Arc<Dirty>),
        disk: &Arc<SecondaryDisk>,
        epoch: u64,
        verify: bool,
        [ours, theirs]: [TcpStream; 2],
    ) -> Result<Self, ConnectError> {
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let socket = ours.try_clone().unwrap();
        let export = Arc::new(DiskExport::new(disk.clone()));
        let server = std::thread::spawn(move || {
            let offers = vec![Offer { name: "vda".into(), description: String::new(), export }];
            // How it ends is the other side's to know.
            let _ = serve(Plain::new(theirs), Arc::new(Terms::new(offers)), Patience::default(), no_tls);
        });
        let ask = Ask { name: "vda".into(), epochs: true, sums: verify, ..Ask::default() };
        match connect(Plain::new(ours), ask, Window::default(), Instant::now() + LONG, no_tls) {
            Ok((transport, client)) => {
                feed.begin(epoch);
                let sender = Sender::new(feed.clone(), dirty.clone(), transport, client).unwrap();
                let sender = if verify { sender.verifying().unwrap() } else { sender };
                let feed = feed.clone();
                let sender = std::thread::spawn(move || {
                    let ended = sender.run();
                    // Who waits for what it sent is told.
                    feed.end();
                    ended
                });
                Ok(Self { socket, server, sender })
            }
            Err(error) => {
                let _ = socket.shutdown(Shutdown::Both);
                server.join().unwrap();
                Err(error)
            }
        }
    }

    /// Breaks it, wherever it is, if it is not broken. Says how the sender has ended.
    fn end(self) -> SendError {
        let Self { socket, server, sender } = self;
        let _ = socket.shutdown(Shutdown::Both);
        let ended = sender.join().unwrap();
        server.join().unwrap();
        ended
    }
}

/// Does what a worker does between the beginning and the end of a write: the local image gets what the follower has,
/// whatever a driver does to its buffer meanwhile. One that is not whole has done half of it.
fn carry(local: &dyn Image, followed: &Followed, mut buffer: Vec<u8>, offset: u64, whole: bool) {
    let len = if whole { buffer.len() } else { buffer.len() / 1024 * 512 };
    if let Some(Copy { ram, span }) = &followed.copy {
        buffer.fill(0xee);
        let slice = ram.get_slice(span.address, len).unwrap();
        local.write(&[plain(&slice)], offset).unwrap();
    } else {
        write_at(local, &mut buffer[..len], offset).unwrap();
    }
}

struct Hosts {
    local: Arc<dyn Image>,
    dirty: Arc<Dirty>,
    feed: Arc<Feed>,
    base: Arc<dyn Image>,
    disk: Arc<SecondaryDisk>,
    link: Option<Link>,
    /// What the guest writes now is of this one; 0 before the first checkpoint.
    epoch: u64,
    rng: Rng,
}

impl Hosts {
    fn new(seed: u64, room: usize) -> Self {
        Self::of(image(), image(), seed, room, Limits::default())
    }

    fn of(local: Arc<dyn Image>, base: Arc<dyn Image>, seed: u64, room: usize, limits: Limits) -> Self {
        let dirty = Arc::new(Dirty::new(local.size()));
        // The secondary's disk is another one: all of it is to be copied.
        dirty.all();
        let feed = Feed::new(local.clone(), room, dirty.clone()).unwrap();
        let disk = Arc::new(SecondaryDisk::new(base.clone(), limits, None).unwrap());
        Self { local, dirty, feed, base, disk, link: None, epoch: 0, rng: Rng::with_seed(seed) }
    }

    fn connect(&mut self) {
        self.connect_over(tcp()).unwrap();
    }

    /// The same, and what is equal is not sent.
    fn verify(&mut self) {
        let link = Link::new((&self.feed, &self.dirty), &self.disk, self.epoch, true, tcp());
        self.link = Some(link.unwrap());
    }

    fn connect_over(&mut self, sockets: [TcpStream; 2]) -> Result<(), ConnectError> {
        let link = Link::new((&self.feed, &self.dirty), &self.disk, self.epoch, false, sockets)?;
        self.link = Some(link);
        Ok(())
    }

    /// The connection breaks, wherever it is. Says how the sender has ended.
    fn cut_off(&mut self) -> Option<SendError> {
        let ended = self.link.take()?.end();
        self.disk.fail();
        Some(ended)
    }

    /// A few writes of the guest, a part of them at once.
    fn work(&mut self) {
        let size = self.local.size() as usize;
        let mut begun = Vec::new();
        for _ in 0..self.rng.usize(1..20) {
            let offset = 512 * self.rng.usize(0..size / 512);
            let most = if self.rng.u8(..) < 20 { 600 } else { 16 };
            let len = (512 * self.rng.usize(1..most)).min(size - offset);
            if self.rng.u8(..) < 25 {
                let followed = self.feed.zeroes(offset as u64, len as u64, true);
                begun.push((followed, offset, None, len));
            } else {
                let mut buffer = vec![self.rng.u8(1..); len];
                let followed = self.feed.write(offset as u64, &[VolatileSlice::from(&mut buffer[..])]);
                begun.push((followed, offset, Some(buffer), len));
            }
        }
        self.rng.shuffle(&mut begun);
        for (followed, offset, buffer, len) in begun {
            match buffer {
                None => self.local.write_zeroes(offset as u64, len as u64, true).unwrap(),
                Some(buffer) => carry(&*self.local, &followed, buffer, offset as u64, true),
            }
            self.feed.done(followed, true);
        }
    }

    /// One write of the guest.
    fn write(&self, offset: u64, len: usize, fill: u8) {
        let mut buffer = vec![fill; len];
        let followed = self.feed.write(offset, &[VolatileSlice::from(&mut buffer[..])]);
        carry(&*self.local, &followed, buffer, offset, true);
        self.feed.done(followed, true);
    }

    /// The other guest's own writes.
    fn others(&mut self) {
        let size = self.local.size() as usize;
        for _ in 0..self.rng.usize(0..6) {
            let offset = 512 * self.rng.usize(0..size / 512);
            let mut buffer = vec![self.rng.u8(..); (512 * self.rng.usize(1..40)).min(size - offset)];
            write_at(&*self.disk, &mut buffer, offset as u64).unwrap();
        }
    }

    /// An epoch ends. Says which, as soon as not too much is left.
    fn cut(&mut self) -> u64 {
        let end = Instant::now() + LONG;
        let number = self.epoch.max(1);
        while let Err(error) = self.feed.cut(number + 1) {
            assert!(matches!(error, CutError::Behind { .. }) && Instant::now() < end, "{error}");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::mem::replace(&mut self.epoch, number + 1)
    }

    /// A checkpoint, while the guest works on or rests: the other disk is what this one was.
    fn checkpoint(&mut self, works: bool) {
        let number = self.epoch.max(1);
        let before = self.cut();
        let then = all(&*self.local);
        if works {
            // While what it wrote before is on its way.
            self.work();
        }
        if let Err(undelivered) = self.feed.delivered(before, Instant::now() + LONG) {
            panic!("{undelivered}: {}", self.cut_off().unwrap());
        }
        self.disk.checkpoint(number);
        same(&then, &all(&*self.disk), "the other guest's disk after a checkpoint");
    }
}

/// What a failed read, write or sync is given.
fn eio() -> io::Error {
    rustix::io::Errno::IO.into()
}
