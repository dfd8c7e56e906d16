//! QEMU's way: its filters in front of its comparer, between the same guests and the same client.
//!
//! ```text
//!   primary's host                                             secondary's host
//!   br0 ─ vif00 ─ net0 ─ filters ─ hub ─ net1 ─ eth0  pg0      net0 ─ filters ─ hub ─ net1 ─ eth0  sg0
//!                         │  ▲                                          ▲  │
//!                  mirror │  │ what may leave                  mirrored │  │ guest's output,
//!                         │  └─ colo-compare ◄─ redirector     input    │  │ rewritten
//!                         │          ▲                                  │  │
//!                         └──────────┼── TCP over the forward link ─────┘  │
//!                                    └── TCP over the forward link ◄───────┘
//! ```
//!
//! A guest's NIC is a tap here, and QEMU has the other end: nothing stands between a guest and the
//! filters but QEMU itself. QEMU's hub joins the two netdevs, as there is no virtual machine; it knows
//! no vnet header, so the kernel cuts super-frames into plain ones before QEMU sees them.
//!
//! Two things are arranged in QEMU's favour. Guests send no TCP timestamps: its rewriter does not
//! translate them, and Linux (since 6.15) refuses a handshake that echoes a timestamp which was not
//! sent. And a checkpoint takes no time: the toolstack says at once that it is done. The rest is as QEMU
//! has it by default; more packets in its queues made nothing faster here.

use crate::bench::contender::QEMU;
use crate::netns::lab::{CLIENT_MAC, Lab, addresses, client_addresses, mac, show_mac, vif};
use crate::netns::wait::until_true;
use crate::netns::{Conduct, Program, Space, Toolstack};
use anyhow::{Context, Result};
use colo_proxy::link::Tap;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The primary's address on the forward link, and the secondary's.
const FORWARD: [&str; 2] = ["10.99.0.1", "10.99.0.2"];

/// The port that gives the primary's input, and the one that takes the secondary's output.
const PORTS: [u16; 2] = [9003, 9004];

/// Two QEMUs and who performs checkpoints.
#[derive(Debug)]
pub struct Qemu {
    /// The primary's.
    pub p: Program,
    /// The secondary's.
    pub s: Program,
    /// Who performs checkpoints.
    pub toolstack: Toolstack,
}

impl Qemu {
    /// Puts QEMU between the first guest and the world, on both hosts.
    pub fn start(lab: &Lab) -> Result<Self> {
        for (host, address) in lab.hosts().into_iter().zip(FORWARD) {
            host.run(&format!("ip address add {address}/30 dev fwd"))?;
        }
        let [notify, compared, released] =
            ["notify", "compared", "released"].map(|name| lab.dir().join(name));
        let mut p = run(lab, 0, &primary(&notify, &compared, &released))?;
        lab.p.run(&format!("ip link set dev {} master br0 up", vif(0, 0)))?;
        let mut s = run(lab, 1, &secondary())?;
        until_true("both QEMUs are connected", || {
            p.must_run()?;
            s.must_run()?;
            let links = lab.p.run("ss -Hnt state established")?;
            let inside = lab.p.run("ss -Hnx state established")?;
            let tcp = PORTS.iter().all(|port| links.contains(&format!("{}:{port}", FORWARD[0])));
            let unix = [&compared, &released].iter().all(|path| inside.contains(&path.display().to_string()));
            Ok(tcp && unix)
        })?;
        let toolstack = Toolstack::start(&notify, None, Conduct::Perform)?;
        until_true("a ping is answered through both", || {
            let ping = lab.client.output(&format!("ping -c 1 -W 1 {}", addresses(0, 0)[0]))?;
            Ok(ping.status.success())
        })?;
        Ok(Self { p, s, toolstack })
    }
}

/// Puts a tap where a guest's NIC was and one where its vif was, and starts the QEMU that has their
/// other ends.
fn run(lab: &Lab, side: usize, filters: &[String]) -> Result<Program> {
    let (host, guest) = (lab.hosts()[side], lab.twins(0)[side]);
    guest.run("ip link del dev eth0")?;
    let taps = [host.enter(|| Tap::make(&vif(0, 0)))?, guest.enter(|| Tap::make("eth0"))?];
    address(guest)?;
    let mut command = Command::new(QEMU);
    command.args("-machine none -nodefaults -display none -monitor none -serial none".split(' '));
    // Copies that a program inherits; all are closed here once it runs.
    let mut inherited = Vec::new();
    for (at, tap) in taps.iter().enumerate() {
        let copy = rustix::io::dup(tap).context("cannot copy a tap's descriptor")?;
        command.args(["-netdev", &format!("tap,id=net{at},fd={}", copy.as_raw_fd())]);
        command.args(["-netdev", &format!("hubport,id=port{at},hubid=0,netdev=net{at}")]);
        inherited.push(copy);
    }
    command.args(filters);
    Program::start(host, &mut command, &lab.dir().join(format!("qemu-{side}.log")))
}

/// The guest's NIC as the lab had it, but for timestamps.
fn address(guest: &Space) -> Result<()> {
    guest.sysctl("net/ipv4/tcp_timestamps", "0")?;
    guest.run(&format!("ip link set dev eth0 address {} up", show_mac(mac(0, 0))))?;
    let (own, client) = (addresses(0, 0)[0], client_addresses(0)[0]);
    guest.run(&format!("ip address add {own}/24 dev eth0"))?;
    let known = format!("ip neigh replace {client} lladdr {} dev eth0 nud permanent", show_mac(CLIENT_MAC));
    guest.run(&known)?;
    Ok(())
}

/// Copies what comes from the bridge, compares what comes from the guest, lets the rest of the world
/// have what the comparer lets go.
fn primary(notify: &Path, compared: &Path, released: &Path) -> Vec<String> {
    let unix = |path: &PathBuf| path.display().to_string();
    let [notify, compared, released] = [notify, compared, released].map(|path| unix(&path.to_owned()));
    let listen = |port: u16| format!("host={},port={port},server=on,wait=off,nodelay=on", FORWARD[0]);
    options(&[
        ("-chardev", format!("socket,id=mirror,{}", listen(PORTS[0]))),
        ("-chardev", format!("socket,id=secondary,{}", listen(PORTS[1]))),
        ("-chardev", format!("socket,id=primary,path={compared},server=on,wait=off")),
        ("-chardev", format!("socket,id=to-primary,path={compared},reconnect=1")),
        ("-chardev", format!("socket,id=out,path={released},server=on,wait=off")),
        ("-chardev", format!("socket,id=from-out,path={released},reconnect=1")),
        ("-chardev", format!("socket,id=notify,path={notify},server=on,wait=off")),
        ("-object", "filter-mirror,id=copy,netdev=net0,queue=tx,outdev=mirror".into()),
        ("-object", "filter-redirector,id=release,netdev=net0,queue=rx,indev=from-out".into()),
        ("-object", "filter-redirector,id=capture,netdev=net0,queue=rx,outdev=to-primary".into()),
        ("-object", "iothread,id=thread".into()),
        (
            "-object",
            "colo-compare,id=compare,primary_in=primary,secondary_in=secondary,outdev=out,notify_dev=notify,\
             iothread=thread"
                .into(),
        ),
    ])
}

/// Gives the guest what the primary's got, and the comparer what the guest says, in the primary's
/// numbers.
fn secondary() -> Vec<String> {
    let connect = |port: u16| format!("host={},port={port},reconnect=1,nodelay=on", FORWARD[0]);
    options(&[
        ("-chardev", format!("socket,id=mirrored,{}", connect(PORTS[0]))),
        ("-chardev", format!("socket,id=compare,{}", connect(PORTS[1]))),
        ("-object", "filter-redirector,id=input,netdev=net0,queue=tx,indev=mirrored".into()),
        ("-object", "filter-redirector,id=output,netdev=net0,queue=rx,outdev=compare".into()),
        ("-object", "filter-rewriter,id=rewrite,netdev=net0,queue=all".into()),
    ])
}

fn options(pairs: &[(&str, String)]) -> Vec<String> {
    pairs.iter().flat_map(|(name, value)| [(*name).to_owned(), value.clone()]).collect()
}
