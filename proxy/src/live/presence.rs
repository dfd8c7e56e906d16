//! Devices that are protected may be deleted at any time.

use super::LiveError;
use crate::link::{LinkError, Netlink};
use crate::setup::Journal;

/// Whether both devices of a NIC are still there. Where that cannot be found out, they are.
pub(super) fn check(journal: &Journal) -> Result<(), LiveError> {
    let Ok(mut netlink) = Netlink::open() else { return Ok(()) };
    for device in [&journal.vif, &journal.forward] {
        if let Err(LinkError::Missing(_)) = netlink.get_by_index(device.number) {
            return Err(LiveError::Gone { vif: journal.vif.name.clone(), device: device.name.clone() });
        }
    }
    Ok(())
}
