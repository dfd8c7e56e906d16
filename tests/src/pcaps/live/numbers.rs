//! Numbers of its own for the second guest.
//!
//! Linux makes an initial sequence number from a secret, both addresses, both ports and the time. Two
//! namespaces of one kernel share the secret, so two guests of the lab differ by what the clock has moved
//! in between: a few hundred. Two hosts differ by anything. So the second guest gets other addresses,
//! and its firewall translates them, without state, where it meets the wire.
//!
//! ```text
//!   sg0's kernel: 10.77.0.210 ─► postrouting: from 10.77.0.10 ─► eth0
//!                 10.77.0.210 ◄─ prerouting:  to 10.77.0.10   ◄─ eth0
//! ```

use crate::netns::Space;
use anyhow::Result;
use std::fmt::Write as _;

/// Interface, prefix length, the address that the world sees, the address that the kernel has.
const EYES: [(&str, u8, &str, &str); 3] = [
    ("eth0", 24, "10.77.0.10", "10.77.0.210"),
    ("eth0", 64, "fd77::a", "fd77::d2"),
    ("vlan7", 24, super::vlan::GUEST, "10.78.0.210"),
];

/// A line of a program that runs in the second guest, with the addresses that it has there.
pub(super) fn inside(line: &str) -> String {
    EYES.iter().fold(line.to_owned(), |line, (.., seen, own)| line.replace(seen, own))
}

/// Gives the second guest's interfaces their other addresses.
pub(super) fn estrange(guest: &Space, vlan: bool) -> Result<()> {
    // An interface without any address would forget its neighbours.
    guest.sysctl("net/ipv4/conf/all/promote_secondaries", "1")?;
    let (mut inward, mut outward) = (String::new(), String::new());
    for (interface, length, seen, own) in EYES.into_iter().filter(|(name, ..)| vlan || *name != "vlan7") {
        let (family, nodad) = if length == 64 { ("ip6", "nodad") } else { ("ip", "") };
        guest.run(&format!("ip address add {own}/{length} dev {interface} {nodad}"))?;
        guest.run(&format!("ip address del {seen}/{length} dev {interface}"))?;
        let _ = write!(inward, "{family} daddr {seen} {family} daddr set {own}; ");
        let _ = write!(outward, "{family} saddr {own} {family} saddr set {seen}; ");
    }
    guest.nft(&format!(
        "table inet numbers {{ \
         chain inward {{ type filter hook prerouting priority -300; {inward} }}; \
         chain outward {{ type filter hook postrouting priority 300; {outward} }}; }}"
    ))
}
