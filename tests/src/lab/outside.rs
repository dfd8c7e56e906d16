//! What is outside both hosts on the client network: a namespace with `client0`, where clients run
//! that must outlive a host.

use super::link::Link;
use super::sys;
use crate::netns::Space;
use crate::netns::space::PREFIX;
use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// Its address.
pub const ADDRESS: &str = "10.77.0.254";

/// How often the reader looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// The namespace, plugged into the client network.
#[derive(Debug)]
pub(super) struct Outside {
    pub(super) space: Space,
    ended: Arc<AtomicBool>,
}

impl Outside {
    pub(super) fn plug_into(link: &Link) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}{}-m{}-client", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let space = Space::new(name, true).context("a namespace for clients needs root and iproute2")?;
        let tap = space.enter(|| sys::tap("client0")).context("cannot make a tap for clients")?;
        space.run("ip link set client0 address 52:54:00:c0:00:fe up")?;
        space.run(&format!("ip address add {ADDRESS}/24 dev client0"))?;
        let (mut from, mut to) = (tap.try_clone()?, tap);
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        let read = move |frame: &mut Vec<u8>| {
            while !readable(&from)? {
                if end.load(Relaxed) {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
            frame.resize(1 << 16, 0);
            let length = from.read(frame)?;
            frame.truncate(length);
            Ok(())
        };
        // A frame that the tap does not take is lost; the port stays.
        let write = move |frame: &[u8]| {
            let _ = to.write(frame);
            Ok(())
        };
        link.add(read, write);
        Ok(Self { space, ended })
    }
}

fn readable(file: &File) -> io::Result<bool> {
    let timeout = Timespec::try_from(LOOK).ok();
    let mut files = [PollFd::new(file, PollFlags::IN)];
    Ok(poll(&mut files, timeout.as_ref())? > 0)
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.ended.store(true, Relaxed);
    }
}
