//! VLAN 7 on a kernel that has no VLAN devices: a tap in each namespace that has the addresses, and two
//! threads that put the tag on and take it off.
//!
//! ```text
//!   kernel's TCP ─► vlan7 (tap) ─► tag on  ─► eth0
//!   kernel's TCP ◄─ vlan7 (tap) ◄─ tag off ◄─ eth0
//! ```

use crate::netns::lab::{CLIENT_MAC, Lab, mac, show_mac};
use crate::netns::packet::LONGEST;
use crate::netns::{PacketSocket, Recorder, Space};
use anyhow::Result;
use colo_proxy::link::{Tap, VNET_HDR};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The guests' address there.
pub(super) const GUEST: &str = "10.78.0.10";

const CLIENT: &str = "10.78.0.1";

/// The 802.1Q tag.
const TAG: [u8; 4] = [0x81, 0, 0, 7];

/// One namespace's end.
#[derive(Debug)]
pub(super) struct Vlan {
    stop: Arc<AtomicBool>,
    /// Takes tags off until it is dropped.
    _inward: Recorder,
}

impl Drop for Vlan {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Lays it between the client and both guests.
pub(super) fn lay(lab: &Lab) -> Result<Vec<Vlan>> {
    let guest = (GUEST, mac(0, 0));
    let client = (CLIENT, CLIENT_MAC);
    let mut ends = vec![end(&lab.client, client, guest)?];
    for run in lab.twins(0) {
        ends.push(end(run, guest, client)?);
    }
    Ok(ends)
}

fn end(space: &Space, own: (&str, [u8; 6]), peer: (&str, [u8; 6])) -> Result<Vlan> {
    let tap = Arc::new(space.enter(|| Tap::make("vlan7"))?);
    space.run("ethtool -K vlan7 tx off tso off gso off")?;
    space.run(&format!("ip link set dev vlan7 address {} mtu 1496 up", show_mac(own.1)))?;
    space.run(&format!("ip address add {}/24 dev vlan7", own.0))?;
    space.run(&format!("ip neigh replace {} lladdr {} dev vlan7 nud permanent", peer.0, show_mac(peer.1)))?;
    let inward = Recorder::of(space, "eth0", LONGEST, {
        let tap = Arc::clone(&tap);
        move |frame| {
            if !frame.outgoing && frame.bytes.get(12..16) == Some(&TAG) {
                // A full queue is a lost frame.
                let _ = tap.write_plain(&[&frame.bytes[..12], &frame.bytes[16..]].concat());
            }
            false
        }
    })?;
    let stop = Arc::new(AtomicBool::new(false));
    let outward = PacketSocket::sender(space, "eth0")?;
    std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || tag(&tap, &outward, &stop)
    });
    Ok(Vlan { stop, _inward: inward })
}

/// Puts the tag on whatever the kernel sends on the tap.
fn tag(tap: &Tap, outward: &PacketSocket, stop: &AtomicBool) {
    let mut buffer = vec![0; VNET_HDR + LONGEST];
    let mut behind_macs = [0; 4];
    let wait = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    while !stop.load(Ordering::Relaxed) {
        while let Ok(Some(count)) = tap.read(&mut buffer, &mut behind_macs) {
            let Some((macs, rest)) = buffer[..count].get(VNET_HDR..).and_then(|f| f.split_at_checked(12))
            else {
                continue;
            };
            // An interface that is down loses it, like any other.
            let _ = outward.send(&[macs, &TAG, &behind_macs, rest].concat());
        }
        let _ = poll(&mut [PollFd::new(tap, PollFlags::IN)], Some(&wait));
    }
}
