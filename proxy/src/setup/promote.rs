//! The secondary becomes the one that serves.
//!
//! ```text
//!   one write to NICS ──► the guest's output goes to the bridge
//!   then: RARP, gratuitous ARP, unsolicited NA, as if the guest had sent them, four times
//! ```

use super::SetupError;
use super::announce::{self, Announcement};
use super::journal::{Journal, Store};
use crate::datapath::{Hook, NicMaps, Place, Slots, attach_pinned};
use crate::link::{Netlink, Tap};
use crate::live::spec::{IfName, Mode, Places};
use colo_ebpf_shared::layout::Role;
use std::io;
use std::time::Duration;

/// When announcements are repeated: switches and neighbours may miss one.
const ROUNDS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(100), Duration::from_millis(200)];

/// Promotes a secondary's NIC. Gives a line for people.
pub fn promote(places: &Places, vif: &IfName) -> Result<Vec<String>, SetupError> {
    let store = Store::open(places)?;
    let journal = store.get(vif)?.ok_or_else(|| SetupError::NotSetUp { vif: vif.clone() })?;
    let announcements = serve(&journal)?;
    announce(&journal, &announcements)?;
    Ok(vec![describe(vif, &announcements)])
}

/// What was done, for people.
pub(crate) fn describe(vif: &IfName, announcements: &[Announcement]) -> String {
    let announced: Vec<String> = announcements.iter().map(ToString::to_string).collect();
    let announced = match announced.len() {
        0 => "nothing: it did so before, or has not said anything yet".into(),
        _ => announced.join(", "),
    };
    format!("{vif}: serves from now on; announced {announced}")
}

/// Flips the switch, and says what is to be announced.
pub(crate) fn serve(journal: &Journal) -> Result<Vec<Announcement>, SetupError> {
    if journal.mode != Mode::Secondary {
        return Err(SetupError::NotASecondary { vif: journal.vif.name.clone() });
    }
    let mut slots = Slots::open(&journal.forward_folder)?;
    let mut was = Role::None;
    slots.update(journal.index.get(), journal.vif.number, |nic| {
        was = Role::from_u32(nic.role);
        nic.role = Role::Promoted as u32;
    })?;
    if was == Role::Promoted {
        // It was announced then.
        return Ok(Vec::new());
    }
    let known = NicMaps::open(&journal.nic_folder)?.addresses();
    Ok(announce::all(&known))
}

/// Sends announcements as if the guest had: they arrive on the vif, so that the bridge and
/// everything behind it learns where the guest is now.
pub(crate) fn announce(journal: &Journal, announcements: &[Announcement]) -> Result<(), SetupError> {
    if announcements.is_empty() {
        return Ok(());
    }
    let tap = Tap::make("colo%d")?;
    let mut netlink = Netlink::open()?;
    let link = netlink.get(tap.name())?;
    netlink.set_carrier_only(&link, 1500, 64)?;
    netlink.set_up(&link, true)?;
    let _attached = attach_pinned(&journal.nic_folder, Place::CaptureIngress, tap.name(), Hook::best())?;
    for pause in ROUNDS {
        std::thread::sleep(pause);
        for announcement in announcements {
            tap.write_plain(&announcement.frame).map_err(|errno| {
                SetupError::Tap(crate::link::TapError::Make {
                    name: tap.name().to_owned(),
                    error: io::Error::from(errno),
                })
            })?;
        }
    }
    Ok(())
}
