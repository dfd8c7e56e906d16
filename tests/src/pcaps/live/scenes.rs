//! What is recorded on the live path: programs of both guests, and what is different in the second.

use crate::pcaps::record::scenarios::{
    DIG, DNSMASQ, HTTP_THREE, HTTP_UPLOAD, NGINX, NGINX_CONF, REDIS, REDIS_CLI, SITE,
};

/// One recording.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub struct Scene {
    /// The row of the table, and the stem of its files.
    pub name: &'static str,
    /// What it shows.
    pub shows: &'static str,
    /// Store as pcapng.
    pub ng: bool,
    /// Time stamps in nanoseconds.
    pub nano: bool,
    /// Segmentation and checksums are left to the (virtual) hardware.
    pub offload: bool,
    /// The guests' addresses are on VLAN 7.
    pub vlan: bool,
    /// Shell lines that prepare each guest, with its files in `{dir}`.
    pub setup: &'static [&'static str],
    /// Shell lines that make the second guest another.
    pub apart: &'static [&'static str],
    /// The byte of every answer of the lab's own server that is another in the second guest.
    pub flaw: Option<u64>,
    /// Programs that run in both guests.
    pub servers: &'static [&'static str],
    /// Programs that run at the client.
    pub client_servers: &'static [&'static str],
    /// TCP ports of the guests that must be open first.
    pub ready: &'static [u16],
    /// Those of the client.
    pub client_ready: &'static [u16],
    /// What happens: who (`cli`, `guest`: both at the same time) does what.
    pub script: &'static [(&'static str, &'static str)],
    /// Whether the comparator must find that the guests differ.
    pub differs: bool,
}

impl Scene {
    /// The name of the primary's file (0) or the secondary's (1).
    pub fn file(&self, side: usize) -> String {
        let side = if side == 0 { "primary" } else { "secondary" };
        format!("{}.{side}.{}", self.name, if self.ng { "pcapng" } else { "pcap" })
    }
}

const BASE: Scene = Scene {
    name: "",
    shows: "",
    ng: false,
    nano: false,
    offload: false,
    vlan: false,
    setup: &[],
    apart: &[],
    flaw: None,
    servers: &[],
    client_servers: &[],
    ready: &[],
    client_ready: &[],
    script: &[],
    differs: false,
};

/// Both guests serve the site.
const WEB: Scene = Scene { setup: &[SITE, NGINX_CONF], servers: &[NGINX], ready: &[80], ..BASE };

/// Longer than any answer that agrees takes; one that differs is held for good.
const ONE_PAGE: &str =
    "curl -sS --max-time 1 -o /dev/null -H Connection:close http://10.77.0.2/small.txt || true";

/// A smaller path MTU in the second guest: its segments end elsewhere.
const SHORT: &str = "ip route change 10.77.0.0/24 dev eth0 mtu lock 1000 && ip -6 route change fd77::/64 dev eth0 metric 256 mtu lock 1300";

/// The answer to one name is in a file.
const NAMES: &str = "dnsmasq -k -C /dev/null -u root -h -R --pid-file= --port=53 --listen-address=10.77.0.2 --bind-interfaces \
     --local=/example/ --address=/a.example/10.1.2.3 --address=/b.example/10.1.2.4 --address=/c.example/$(cat {dir}/address)";

/// Everything that is recorded.
pub const SCENES: &[Scene] = &[
    Scene {
        name: "http-recut",
        shows: "Keep-alive, four responses, 66 KB; the secondary's path has a smaller MTU, so its segments end elsewhere",
        apart: &[SHORT],
        script: &[(
            "cli",
            "curl -sS -o /dev/null -o /dev/null -o /dev/null -o /dev/null http://10.77.0.2/ http://10.77.0.2/small.txt \
             http://10.77.0.2/middle.txt http://10.77.0.2/",
        )],
        ..WEB
    },
    Scene {
        name: "http-small-isn-translated",
        shows: "SYN-ACK with another ISN, the rest translated; other IP ids and timestamps",
        ng: true,
        nano: true,
        script: &[("cli", HTTP_THREE)],
        ..WEB
    },
    Scene {
        name: "http-small-mss",
        shows: "Another MSS is no divergence",
        nano: true,
        apart: &["ip route change 10.77.0.0/24 dev eth0 advmss 1000"],
        script: &[("cli", HTTP_THREE)],
        ..WEB
    },
    Scene {
        name: "http-small-last-byte",
        shows: "The last byte of a connection differs",
        nano: true,
        apart: &["printf X | dd of={dir}/www/small.txt bs=1 seek=6599 conv=notrunc status=none && \
                  touch -d 2026-01-01T00:00:00Z {dir}/www/small.txt"],
        script: &[("cli", ONE_PAGE)],
        differs: true,
        ..WEB
    },
    Scene {
        name: "http-small-wscale",
        shows: "Another window scale in SYN-ACK",
        nano: true,
        apart: &["echo 4096 65536 65536 > /proc/sys/net/ipv4/tcp_rmem"],
        script: &[("cli", ONE_PAGE)],
        differs: true,
        ..WEB
    },
    Scene {
        name: "http-small-no-timestamps",
        shows: "SYN-ACK without the timestamp option",
        nano: true,
        apart: &["echo 0 > /proc/sys/net/ipv4/tcp_timestamps"],
        script: &[("cli", ONE_PAGE)],
        differs: true,
        ..WEB
    },
    Scene {
        name: "bulk-byte",
        shows: "One byte differs deep in a bulk transfer; what comes after it is held, and sent again",
        flaw: Some(150_000),
        script: &[("cli", "printf 'down 200000 5\\n' | timeout 1 nc 10.77.0.2 7000 > /dev/null || true")],
        differs: true,
        ..BASE
    },
    Scene {
        name: "bulk-gso-recut",
        shows: "Super-frames and partial checksums at the primary, plain segments at the secondary",
        offload: true,
        setup: &[SITE],
        apart: &["ethtool -K eth0 tx off tso off gso off"],
        servers: &["nc -N -l 10.77.0.2 7001 < {dir}/www/big.txt"],
        ready: &[7001],
        script: &[("cli", "nc -d 10.77.0.2 7001 > /dev/null")],
        ..BASE
    },
    Scene {
        name: "dns-byte",
        shows: "One byte of one answer differs",
        ng: true,
        nano: true,
        setup: &["echo 10.1.2.5 > {dir}/address"],
        apart: &["echo 10.1.2.6 > {dir}/address"],
        servers: &[NAMES],
        ready: &[53],
        script: &[(
            "cli",
            "for n in a b c; do dig -b 10.77.0.1#5353 +tries=1 +time=1 +noall @10.77.0.2 $n.example A; done; true",
        )],
        differs: true,
        ..BASE
    },
    Scene {
        name: "ipv6-byte",
        shows: "IPv6: one byte of HTTP differs",
        apart: &["printf X | dd of={dir}/www/small.txt bs=1 seek=2700 conv=notrunc status=none && \
                  touch -d 2026-01-01T00:00:00Z {dir}/www/small.txt"],
        script: &[("cli", "curl -sS -g --max-time 1 -o /dev/null http://[fd77::2]/small.txt || true")],
        differs: true,
        ..WEB
    },
    Scene {
        name: "active-isn-translated",
        shows: "The guest opens connections; SYN with another ISN, the rest translated",
        client_servers: &["python3 -m http.server -d /usr/share/common-licenses -b 10.77.0.1 8080"],
        client_ready: &[8080],
        script: &[
            ("guest", "curl -sS --local-port 48062 -o /dev/null http://10.77.0.1:8080/BSD"),
            (
                "guest",
                "curl -sS --local-port 48064 -o /dev/null --data-binary @/usr/share/common-licenses/Artistic \
                 http://10.77.0.1:8080/BSD",
            ),
            ("guest", "nc -p 48066 -z 10.77.0.1 8081 || true"),
        ],
        ..BASE
    },
    Scene {
        name: "active-byte",
        shows: "The guest's upload differs in one byte",
        setup: &["head -c 6000 /usr/share/common-licenses/Artistic > {dir}/upload"],
        apart: &["printf '\\001' | dd of={dir}/upload bs=1 seek=400 conv=notrunc status=none"],
        client_servers: &["nc -l 10.77.0.1 8080"],
        client_ready: &[8080],
        script: &[("guest", "timeout 1 nc -N -p 48064 10.77.0.1 8080 < {dir}/upload > /dev/null || true")],
        differs: true,
        ..BASE
    },
    Scene {
        name: "vlan-recut",
        shows: "802.1Q-tagged HTTP",
        vlan: true,
        script: &[("cli", "curl -sS -o /dev/null -o /dev/null http://10.77.0.2/ http://10.77.0.2/small.txt")],
        ..WEB
    },
    Scene {
        name: "live-upload",
        shows: "60 KB towards two guests in sequence spaces of their own: acknowledgements are cut differently",
        script: &[("cli", HTTP_UPLOAD)],
        ..WEB
    },
    Scene {
        name: "live-dns",
        shows: "20 names and types over UDP from one port, two from others, one over TCP",
        nano: true,
        servers: &[DNSMASQ],
        ready: &[53],
        script: &[("cli", DIG)],
        ..BASE
    },
    Scene {
        name: "live-ping",
        shows: "ICMP echo, and 3000-byte echo in fragments that end elsewhere at the secondary",
        apart: &[SHORT],
        script: &[("cli", "ping -q -c 4 -i 0.2 10.77.0.2"), ("cli", "ping -q -c 2 -i 0.2 -s 3000 10.77.0.2")],
        ..BASE
    },
    Scene {
        name: "live-ipv6",
        shows: "ICMPv6 echo, fragments and HTTP over IPv6; segments and fragments end elsewhere at the secondary",
        ng: true,
        apart: &[SHORT],
        script: &[
            ("cli", "ping -q -c 3 -i 0.2 fd77::2"),
            ("cli", "ping -q -c 2 -i 0.2 -s 3000 fd77::2"),
            ("cli", "curl -sS -g -o /dev/null -o /dev/null http://[fd77::2]/ http://[fd77::2]/small.txt"),
        ],
        ..WEB
    },
    Scene {
        name: "live-redis",
        shows: "Short commands, each on a connection of its own or repeated",
        servers: &[REDIS],
        ready: &[6379],
        script: &[("cli", REDIS_CLI)],
        ..BASE
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = SCENES.iter().map(|scene| scene.name).collect();
        assert_eq!(names.len(), SCENES.len());
    }
}
