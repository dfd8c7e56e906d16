//! One side of a pair: from what is configured to threads that keep two guests level.
//!
//! ```text
//!   Colo ── names, certificates, sockets ──► Opened ── (the process is confined) ── machine ──► Side
//! ```

use super::Failure;
use crate::checkpoint;
use crate::checkpoint::disks::Disks;
use crate::checkpoint::link::{Rhythm, Terms, Tls, Trust, socket};
use crate::checkpoint::orders::Orders;
use crate::checkpoint::output::Unheld;
use crate::checkpoint::primary::{self, Ahead, Copier, Source};
use crate::checkpoint::protocol::Patience;
use crate::checkpoint::protocol::hello::{
    Answer, Block, Capabilities, Held, Hello, Role as Connection, Side,
};
use crate::checkpoint::ram::{Blocks, PAGE, Spill, Staged};
use crate::checkpoint::secondary::{self, OnLoss, Quit, Sink};
use crate::checkpoint::status::{Board, Role};
use crate::checkpoint::turns::Turns;
use crate::checkpoint::{Handle, Now, Told};
use crate::config::{self, Background, Colo, Config, Peer};
use crate::dirty;
use crate::machine::Machine;
use crate::replication as disks;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a primary may take to tell its secondary that the guest has ended.
const FAREWELL: Duration = Duration::from_secs(1);

/// What has to be opened before the process is confined.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) place: Place,
    tls: Option<Tls>,
    /// What both sides must have alike.
    machine: String,
}

#[derive(Debug)]
pub(super) enum Place {
    Primary {
        peer: Peer,
        addresses: Vec<SocketAddr>,
        settings: disks::primary::Settings,
        disks: Vec<disks::primary::Opened>,
    },
    Secondary {
        listener: TcpListener,
        spill: Option<Spill>,
        /// Where disks spill to.
        directory: Option<PathBuf>,
        disks: Vec<disks::secondary::Opened>,
    },
}

impl Opened {
    pub(super) fn new(colo: &Colo, config: &Config) -> Result<Self, Failure> {
        let tls = colo.tls.as_ref().map(|tls| {
            let trust = match &tls.trust {
                config::Trust::Peer(file) => Trust::Peer(file.clone()),
                config::Trust::Authority(file) => Trust::Authority(file.clone()),
            };
            Tls::new(&tls.cert, &tls.key, &trust)
        });
        let tls = tls.transpose()?;
        let place = match &colo.side {
            config::Side::Primary { peer, sync, force } => Place::Primary {
                addresses: peer.resolve()?,
                peer: peer.clone(),
                settings: disks::primary::Settings {
                    peer: peer.clone(),
                    tls: tls.clone(),
                    how: (*sync).into(),
                    word: *force,
                },
                disks: Vec::new(),
            },
            config::Side::Secondary { listen, spill, .. } => Place::Secondary {
                listener: socket::listen(listen.address())?,
                spill: spill.as_deref().map(Spill::new).transpose()?,
                directory: spill.clone(),
                disks: Vec::new(),
            },
        };
        Ok(Self { place, tls, machine: machine(colo, config)? })
    }
}

/// A side that works.
#[derive(Debug)]
pub(super) struct Working {
    /// Who asks and commands it.
    pub(super) handle: Handle,
    /// Whether it may be saved.
    pub(super) turns: Turns,
    thread: JoinHandle<()>,
    disks: Arc<dyn Disks>,
}

impl Working {
    /// Lets it go to work. The machine runs after.
    /// A primary begins after a guest that is restored is there.
    pub(super) fn start(
        colo: &Colo,
        opened: Opened,
        machine: &Machine,
        after: Option<Receiver<()>>,
    ) -> Result<Self, Failure> {
        let Opened { place, tls, machine: words } = opened;
        let vm = machine.vm();
        let ram = vm.ram().clone();
        let blocks = Arc::new(Blocks::of(&ram));
        let delay = Duration::from_millis(colo.delay.get().into());
        let role = colo.role();
        let board = Arc::new(Board::new(role, colo.mode.into(), delay));
        let (orders, post) = Orders::new();
        let now = Now::default();
        let turns = Turns::default();
        let told = Told::new(role, machine.teller());
        let tracker = dirty::choose(&vm)?;
        let millis = |millis: config::Millis| Duration::from_millis(millis.get().into());
        let rhythm = Rhythm { interval: millis(colo.heartbeat), timeout: millis(colo.peer_timeout) };
        // Between checkpoints the heartbeat alone says that the peer lives.
        let patience =
            Patience { step: millis(colo.phase_timeout), idle: Duration::MAX, ..Patience::default() };
        let hello = hello(colo, words, &blocks)?;
        let sandbox = machine.sandbox();
        let (handle, disks, thread): (_, Arc<dyn Disks>, _) = match place {
            Place::Primary { peer, addresses, settings, disks } => {
                let disks = Arc::new(disks::primary::Disks::new(disks, settings));
                let handle = Handle::new(board.clone(), post, now.clone(), disks.clone());
                // A tenth: with what is written until it is seen the secondary stays below its eighth.
                let most = blocks.bytes() / PAGE as u64 / 10;
                let source = Source::new(primary::Parts {
                    freezer: machine.freezer(),
                    copier: Copier::new(tracker, &ram, &blocks, colo.packing.into())?,
                    ram,
                    blocks,
                    packing: colo.packing.into(),
                    board: board.clone(),
                    output: Arc::new(Unheld),
                    disks: disks.clone(),
                    now,
                    step: patience.step,
                });
                let settings = primary::Settings {
                    peer,
                    addresses,
                    tls,
                    hello,
                    patience,
                    rhythm,
                    delay,
                    ahead: match colo.background {
                        Background::Off => Ahead::Off,
                        Background::Auto => Ahead::Auto,
                    },
                    most,
                    again: true,
                    turns: turns.clone(),
                    after,
                };
                let thread = primary::start(settings, source, orders, board, told, &sandbox)?;
                (handle, disks, thread)
            }
            Place::Secondary { listener, spill, disks, .. } => {
                let disks = Arc::new(disks::secondary::Disks::new(disks, tls.clone()));
                let handle = Handle::new(board.clone(), post, now, disks.clone());
                let staged = Staged::new(blocks, spill)?;
                let (mode, freezer) = (colo.mode.into(), machine.freezer());
                let sink = Sink::new(freezer, ram, staged, tracker, mode, board.clone(), disks.clone());
                let holding = sink.holding();
                let control = machine.control();
                let on_loss = match colo.side {
                    config::Side::Secondary { takes_over: true, .. } => OnLoss::TakeOver,
                    _ => OnLoss::Wait,
                };
                let parts = secondary::Parts {
                    settings: secondary::Settings { patience, rhythm, on_loss },
                    sink,
                    listener,
                    terms: Terms::new(hello, holding, disks.clone(), tls),
                    orders,
                    board,
                    told,
                    quit: Quit::new(move || control.quit()),
                };
                (handle, disks, secondary::start(parts, &sandbox)?)
            }
        };
        Ok(Self { handle, turns, thread, disks })
    }

    /// The guest has ended in order: a primary says so to its secondary. If a machine fails this is not called, and
    /// the secondary finds its primary lost.
    pub(super) fn end(self) {
        self.handle.ended();
        let until = Instant::now() + FAREWELL;
        while !self.thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.thread.is_finished() && self.thread.join().is_err() {
            tracing::error!("the thread of the pair has died of a bug");
        }
        self.disks.close();
    }
}

/// What the guest is, in words: what a take-over, or a reboot after it, would stumble over if the two differed. Disks
/// and taps may have other names on the other host.
fn machine(colo: &Colo, config: &Config) -> Result<String, Failure> {
    let mut parts = vec![format!("vCPUs {}", config.cpus)];
    // A peer that beats less often than it is listened for would be taken for dead.
    parts.push(format!("a heartbeat each {} ms", colo.heartbeat.get()));
    parts.extend((!config.rng).then(|| "no rng".to_owned()));
    for disk in &config.disks {
        parts.push(if disk.readonly { "a disk, read-only" } else { "a disk" }.to_owned());
    }
    parts.extend(config.nets.iter().map(|net| format!("a card {}", net.mac)));
    let size = |path: &Path| {
        let file = path.metadata().map_err(|error| format!("cannot look at {}: {error}", path.display()))?;
        Ok::<_, Failure>(file.len())
    };
    parts.push(format!("a kernel of {} bytes", size(&config.kernel)?));
    if let Some(initrd) = &config.initrd {
        parts.push(format!("an initrd of {} bytes", size(initrd)?));
    }
    let cmdline: String = config.cmdline.chars().filter(|letter| !letter.is_control()).collect();
    parts.push(format!("told {cmdline:?}"));
    Ok(parts.join("; "))
}

fn hello(colo: &Colo, machine: String, blocks: &Blocks) -> Result<Hello, Failure> {
    let block = |block: &crate::checkpoint::ram::blocks::Block| {
        Ok::<_, Failure>(Block { name: block.name.parse()?, size: block.len })
    };
    Ok(Hello {
        role: Connection::Main,
        side: match colo.role() {
            Role::Primary => Side::Primary,
            Role::Secondary => Side::Secondary,
        },
        mode: colo.mode.into(),
        answer: Answer::Asked,
        capabilities: Capabilities::LZ4.with(Capabilities::XOR),
        generation: 1,
        session: 0,
        held: Held::default(),
        run: checkpoint::unique(),
        epochs: 0,
        vm: colo.vm_id.clone(),
        machine,
        blocks: blocks.iter().map(block).collect::<Result<_, _>>()?,
        disks: Vec::new(),
    })
}
