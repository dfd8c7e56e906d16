//! Building the lab and taking it away.

use super::space::{self, PREFIX, Space};
use super::wait::until_true;
use anyhow::{Context, Result};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the lab is like.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Guests.
    pub vms: u8,
    /// NICs of each.
    pub nics: u8,
    /// The largest packet on every link but the forward link, which has room for tags besides.
    pub mtu: u32,
    /// Segmentation and checksums left to the (virtual) hardware.
    pub offload: bool,
    /// The forward link goes through a namespace of its own, [`Lab::wire`], which can lose frames.
    pub wire: bool,
    /// Neighbours are known for good: no ARP and no neighbour discovery while a test runs.
    pub neighbours: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { vms: 1, nics: 1, mtu: 1500, offload: true, wire: false, neighbours: false }
    }
}

/// A guest on one of the hosts.
pub type Guest = Space;

/// The whole.
#[derive(Debug)]
pub struct Lab {
    /// How it was built.
    pub options: Options,
    /// Who uses the guests' services.
    pub client: Space,
    /// The switch.
    pub lan: Space,
    /// The primary's host.
    pub p: Space,
    /// The secondary's host.
    pub s: Space,
    /// What the forward link goes through, if it is asked for.
    pub wire: Option<Space>,
    /// The guests on the primary's host.
    pub pg: Vec<Guest>,
    /// The guests on the secondary's host.
    pub sg: Vec<Guest>,
    dir: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

/// Labs of one program are there one after the other: each takes all CPUs that there are.
static TURN: Mutex<()> = Mutex::new(());

/// The client's MAC address.
pub const CLIENT_MAC: [u8; 6] = [0x52, 0x54, 0, 0xc0, 0xff, 1];

/// The host end of a guest's NIC.
pub fn vif(vm: u8, nic: u8) -> String {
    format!("vif{vm}{nic}")
}

/// The MAC address of a guest's NIC, on both hosts.
pub fn mac(vm: u8, nic: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0xc0, vm, nic + 1]
}

/// A MAC address as people write it.
pub fn show_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn v4(nic: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, nic, host)
}

fn v6(nic: u8, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, u16::from(nic), 0, 0, 0, 0, 0, u16::from(host))
}

/// The addresses of a guest's NIC, IPv4 and IPv6.
pub fn addresses(vm: u8, nic: u8) -> [IpAddr; 2] {
    [v4(nic, 10 + vm).into(), v6(nic, 10 + vm).into()]
}

/// The client's addresses in the network of the guests' n-th NICs.
pub fn client_addresses(nic: u8) -> [IpAddr; 2] {
    [v4(nic, 1).into(), v6(nic, 1).into()]
}

/// A guest's firewall: the kernel's own reports of multicast groups come at random times, and would
/// come before the protection on one host and after it on the other.
const NO_LISTENER_REPORTS: &str = "table inet quiet { chain output { type filter hook output priority 0; \
     icmpv6 type { mld-listener-report, mld2-listener-report, nd-router-solicit } drop; }; }";

impl Lab {
    /// Builds it.
    pub fn new(options: Options) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        space::sweep();
        sweep_folders();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(&prefix);
        fs::create_dir_all(dir.join("bpf"))?;
        // Servers give up root before they read their files.
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        space::host(&["mount", "-t", "bpf", "bpf", &dir.join("bpf").display().to_string()])?;
        let new = |who: &str, ipv6| Space::new(format!("{prefix}-{who}"), ipv6);
        let guests = |who: &str| -> Result<Vec<Space>> {
            (0..options.vms).map(|vm| new(&format!("{who}{vm}"), true)).collect()
        };
        let lab = Self {
            options,
            client: new("client", true)?,
            lan: new("lan", false)?,
            p: new("p", false)?,
            s: new("s", false)?,
            wire: options.wire.then(|| new("wire", false)).transpose()?,
            pg: guests("pg")?,
            sg: guests("sg")?,
            dir,
            _turn: turn,
        };
        lab.build().context("building the lab")?;
        Ok(lab)
    }

    /// A folder for files of this lab.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A BPF file system of its own.
    pub fn bpffs(&self) -> PathBuf {
        self.dir.join("bpf")
    }

    /// The two hosts.
    pub fn hosts(&self) -> [&Space; 2] {
        [&self.p, &self.s]
    }

    /// The two runs of one guest.
    pub fn twins(&self, vm: u8) -> [&Guest; 2] {
        [&self.pg[usize::from(vm)], &self.sg[usize::from(vm)]]
    }

    fn build(&self) -> Result<()> {
        let mtu = self.options.mtu;
        bridge(&self.lan, mtu)?;
        for host in self.hosts() {
            bridge(host, mtu)?;
        }
        self.cable((&self.client, "eth0"), (&self.lan, "client"), mtu)?;
        self.cable((&self.p, "uplink"), (&self.lan, "p"), mtu)?;
        self.cable((&self.s, "uplink"), (&self.lan, "s"), mtu)?;
        self.forward_link(mtu)?;
        for (host, guests) in [(&self.p, &self.pg), (&self.s, &self.sg)] {
            for (vm, guest) in (0..).zip(guests) {
                guest.nft(NO_LISTENER_REPORTS)?;
                for nic in 0..self.options.nics {
                    self.cable((guest, &format!("eth{nic}")), (host, &vif(vm, nic)), mtu)?;
                    port(host, &vif(vm, nic))?;
                    address(guest, &format!("eth{nic}"), Some(mac(vm, nic)), addresses(vm, nic))?;
                }
            }
            port(host, "uplink")?;
        }
        for name in ["client", "p", "s"] {
            port(&self.lan, name)?;
        }
        self.client.run(&format!("ip link set dev eth0 address {} up", show_mac(CLIENT_MAC)))?;
        for nic in 0..self.options.nics {
            address(&self.client, "eth0", None, client_addresses(nic))?;
        }
        for space in self.hosts() {
            space.run("ip link set dev fwd up")?;
        }
        // One kernel runs both guests, so it would give both the same timestamps.
        for guest in &self.sg {
            guest.sysctl("net/ipv4/tcp_timestamps", "2")?;
        }
        if self.options.neighbours {
            self.introduce()?;
        }
        self.settle()
    }

    /// Waits until every cable carries.
    fn settle(&self) -> Result<()> {
        let spaces = [&self.client, &self.lan, &self.p, &self.s];
        for space in spaces.into_iter().chain(&self.wire).chain(&self.pg).chain(&self.sg) {
            until_true(&format!("every link of {} is up", space.name()), || {
                let links: serde_json::Value = serde_json::from_str(&space.run("ip -j link show")?)?;
                let carries = |link: &serde_json::Value| link["ifname"] == "lo" || link["operstate"] == "UP";
                Ok(links.as_array().is_some_and(|links| links.iter().all(carries)))
            })?;
        }
        Ok(())
    }

    /// The forward link, with room for its tag and for a VLAN tag of the guest's.
    fn forward_link(&self, mtu: u32) -> Result<()> {
        let mtu = mtu + 8;
        let Some(wire) = &self.wire else { return self.cable((&self.p, "fwd"), (&self.s, "fwd"), mtu) };
        bridge(wire, mtu)?;
        self.cable((&self.p, "fwd"), (wire, "p"), mtu)?;
        self.cable((&self.s, "fwd"), (wire, "s"), mtu)?;
        port(wire, "p")?;
        port(wire, "s")
    }

    /// Loses one frame in a hundred on the forward link, so many times, in both directions.
    pub fn lose(&self, percent: u32) -> Result<()> {
        let wire = self.wire.as_ref().context("a lab without a wire loses nothing")?;
        let hook = |name: &str| {
            format!(
                "chain {name} {{ type filter hook ingress device \"{name}\" priority 0; \
                 numgen random mod 100 < {percent} counter drop; }}; "
            )
        };
        wire.nft(&format!("table netdev loss {{ {}{} }}", hook("p"), hook("s")))
    }

    /// How many frames the forward link has lost.
    pub fn lost(&self) -> Result<u64> {
        let wire = self.wire.as_ref().context("a lab without a wire loses nothing")?;
        let rules = wire.run("nft list ruleset")?;
        let counts = rules.split("packets ").skip(1);
        Ok(counts.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok()).sum())
    }

    /// A cable between two namespaces.
    fn cable(&self, a: (&Space, &str), b: (&Space, &str), mtu: u32) -> Result<()> {
        let ((a, a_name), (b, b_name)) = (a, b);
        a.run(&format!(
            "ip link add name {a_name} mtu {mtu} type veth peer name {b_name} mtu {mtu} netns {}",
            b.name()
        ))?;
        if !self.options.offload {
            for (space, name) in [(a, a_name), (b, b_name)] {
                space.run(&format!("ethtool -K {name} tx off rx off tso off gso off gro off"))?;
            }
        }
        Ok(())
    }

    /// Makes everybody know everybody's hardware address for good.
    fn introduce(&self) -> Result<()> {
        let client = show_mac(CLIENT_MAC);
        for nic in 0..self.options.nics {
            for vm in 0..self.options.vms {
                for guest in self.twins(vm) {
                    for address in client_addresses(nic) {
                        guest.run(&format!(
                            "ip neigh replace {address} lladdr {client} dev eth{nic} nud permanent"
                        ))?;
                    }
                }
                for address in addresses(vm, nic) {
                    let mac = show_mac(mac(vm, nic));
                    self.client
                        .run(&format!("ip neigh replace {address} lladdr {mac} dev eth0 nud permanent"))?;
                }
            }
        }
        Ok(())
    }

    /// The primary's host dies: its links with everybody else are gone at one stroke, and nothing on
    /// it is told.
    pub fn cut_primary(&self) -> Result<()> {
        self.p.run("ip link set dev uplink down")?;
        self.p.run("ip link set dev fwd down")?;
        for vm in 0..self.options.vms {
            for nic in 0..self.options.nics {
                self.p.run(&format!("ip link set dev {} down", vif(vm, nic)))?;
            }
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Sockets of this program keep their namespaces alive; the cables go all the same.
        for (space, names) in
            [(&self.p, ["uplink", "fwd"]), (&self.s, ["uplink", "br0"]), (&self.client, ["eth0", "lo"])]
        {
            for name in names {
                let _ = space.output(&format!("ip link del {name}"));
            }
        }
        for guest in self.pg.iter().chain(&self.sg) {
            for nic in 0..self.options.nics {
                let _ = guest.output(&format!("ip link del eth{nic}"));
            }
        }
        // What runs in the namespaces may hold files in the folder; the namespaces go first.
        for space in self.hosts() {
            space::end(space.name());
        }
        remove_folder(&self.dir);
    }
}

/// A bridge that says nothing itself.
fn bridge(space: &Space, mtu: u32) -> Result<()> {
    space.run(&format!(
        "ip link add br0 mtu {mtu} type bridge forward_delay 0 stp_state 0 mcast_snooping 0"
    ))?;
    space.run("ip link set dev br0 up")?;
    Ok(())
}

/// Makes an interface a port of the bridge.
fn port(space: &Space, name: &str) -> Result<()> {
    space.run(&format!("ip link set dev {name} master br0 up"))?;
    Ok(())
}

fn address(space: &Space, interface: &str, mac: Option<[u8; 6]>, addresses: [IpAddr; 2]) -> Result<()> {
    if let Some(mac) = mac {
        space.run(&format!("ip link set dev {interface} address {} up", show_mac(mac)))?;
    }
    for address in addresses {
        let length = if address.is_ipv4() { 24 } else { 64 };
        let nodad = if address.is_ipv4() { "" } else { "nodad" };
        space.run(&format!("ip address add {address}/{length} dev {interface} {nodad}"))?;
    }
    Ok(())
}

fn remove_folder(dir: &Path) {
    let _ = space::host(&["umount", "-l", &dir.join("bpf").display().to_string()]);
    let _ = fs::remove_dir_all(dir);
}

/// Takes away the folders of labs whose process is gone.
fn sweep_folders() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(space::is_stale) {
            remove_folder(&entry.path());
        }
    }
}
