//! A connection that ends between any two messages, or within one, in either direction.
//!
//! ```text
//!   first sync, checkpoints, work ──── cut ──┬─► promotion: exactly the last checkpoint, and what its guest wrote since
//!                                            └─► another connection: equal at the next checkpoint
//! ```
//!
//! Sessions are repeated until one is over before its cut comes; so every boundary there is was one.

use super::memory::{Memory, Plug};
use super::proxy::{How, Passed, Proxy, Until, Way};
use super::*;
use crate::replication::feed::Undelivered;
use crate::replication::layers::Phase;

/// Its last region is not a whole one.
const SMALL: usize = 5 * 65536 + 3 * 512;

/// A session, up to its end or its cut, and what comes after it.
struct Session {
    hosts: Hosts,
    base: Arc<Memory>,
    /// What the guest there sees, once there is one.
    guest: Option<Vec<u8>>,
}

impl Session {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let [local, base] = [Memory::random(SMALL, &mut rng), Memory::random(SMALL, &mut rng)];
        let hosts = Hosts::of(Plug::new(&local), Plug::new(&base), seed, 1 << 20, Limits::default());
        Self { hosts, base, guest: None }
    }

    /// All of it; some of that may not come about.
    fn run(&mut self, sockets: [TcpStream; 2]) -> Result<(), Undelivered> {
        if self.hosts.connect_over(sockets).is_err() {
            return Err(Undelivered::Lost);
        }
        for _ in 0..3 {
            self.hosts.work();
            let number = self.hosts.epoch.max(1);
            let before = self.hosts.cut();
            let then = all(&*self.hosts.local);
            self.hosts.work();
            self.hosts.feed.delivered(before, Instant::now() + LONG)?;
            self.hosts.disk.checkpoint(number);
            same(&then, &all(&*self.hosts.disk), "the guest's disk at a checkpoint");
            let guest = self.guest.insert(then);
            // What it writes itself.
            let (at, fill) = (512 * self.hosts.rng.usize(..SMALL / 512), self.hosts.rng.u8(..));
            guest[at..at + 512].fill(fill);
            write_at(&*self.hosts.disk, &mut [fill; 512], at as u64).unwrap();
        }
        Ok(())
    }

    fn promoted(self) {
        let Some(guest) = self.guest else { return };
        self.hosts.disk.promote();
        same(&guest, &all(&*self.hosts.disk), "the promoted guest's disk");
        until_status(&self.hosts.disk, "the commit", |status| status.phase == Phase::Plain);
        same(&guest, &self.base.bytes(), "what it is committed to");
    }

    fn connected_again(mut self) {
        if self.guest.is_none() {
            // A first sync begins again as one.
            self.hosts.epoch = 0;
        }
        self.hosts.connect();
        self.hosts.work();
        self.hosts.checkpoint(false);
        self.hosts.checkpoint(true);
        self.hosts.cut_off();
    }
}

/// A session that ends there, if it does.
fn cut(seed: u64, cut: (Way, Until, How), promote: bool) -> Passed {
    let (proxy, sockets) = Proxy::new(Some(cut));
    let mut session = Session::new(seed);
    let outcome = session.run(sockets);
    session.hosts.cut_off();
    let passed = proxy.ended();
    assert!(outcome.is_ok() || passed.cut, "{outcome:?} without a cut: {passed:?}");
    if let (way, Until::Frames(frames), _) = cut
        && passed.cut
    {
        assert_eq!(passed.frames[way as usize], frames);
    }
    if promote {
        session.promoted();
    } else {
        session.connected_again();
    }
    passed
}

fn at_every_boundary(way: Way, how: How) {
    for promote in [false, true] {
        let mut boundaries = 0;
        while cut(7, (way, Until::Frames(boundaries), how), promote).cut {
            boundaries += 1;
        }
        // A handshake of four options, six regions, what the guest wrote, and their answers.
        assert!(boundaries > 20, "{boundaries} messages are no session");
    }
}

#[test]
fn closed_at_every_boundary_of_what_is_sent() {
    at_every_boundary(Way::Ahead, How::Close);
}

#[test]
fn reset_at_every_boundary_of_what_is_sent() {
    at_every_boundary(Way::Ahead, How::Reset);
}

#[test]
fn closed_at_every_boundary_of_what_is_answered() {
    at_every_boundary(Way::Back, How::Close);
}

#[test]
fn reset_at_every_boundary_of_what_is_answered() {
    at_every_boundary(Way::Back, How::Reset);
}

#[test]
fn cut_within_messages() {
    let mut rng = Rng::with_seed(11);
    let mut cuts = 0;
    for seed in 0..150 {
        // A session sends about a MiB, and is answered with a few KiB.
        let (way, most) = if rng.bool() { (Way::Ahead, 1 << 20) } else { (Way::Back, 1 << 11) };
        let bytes = rng.usize(..most);
        let how = if rng.bool() { How::Close } else { How::Reset };
        cuts += usize::from(cut(seed, (way, Until::Bytes(bytes), how), rng.bool()).cut);
    }
    assert!(cuts > 75, "{cuts} of them were cut");
}
