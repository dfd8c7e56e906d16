//! Two machines that are kept level: the primary in this process, the secondary in one of its own.
//!
//! ```text
//!   this process: guest ─ checkpoints ──── loopback, TCP ────► this program again: waits, follows
//!                    ▲ writes, freezes                            │ its standard input closes: it ends
//! ```

use super::guest;
use anyhow::{Context as _, Result, anyhow, ensure};
use colo_vmm::checkpoint::disks::NoDisks;
use colo_vmm::checkpoint::link::{Rhythm, Terms, socket};
use colo_vmm::checkpoint::orders::Orders;
use colo_vmm::checkpoint::output::Unheld;
use colo_vmm::checkpoint::primary::{self, Ahead, Copier, Source};
use colo_vmm::checkpoint::protocol::Patience;
use colo_vmm::checkpoint::protocol::hello::{
    Answer, Block, Capabilities, Held, Hello, Mode, Role as Connection, Side,
};
use colo_vmm::checkpoint::ram::pack::Packing;
use colo_vmm::checkpoint::ram::{Blocks, Spill, Staged};
use colo_vmm::checkpoint::secondary::{self, OnLoss, Quit, Sink};
use colo_vmm::checkpoint::status::{Board, Cause, Epoch, Phase, Role};
use colo_vmm::checkpoint::turns::Turns;
use colo_vmm::checkpoint::{Handle, Now, Told};
use colo_vmm::config::OnReset;
use colo_vmm::config::Peer;
use colo_vmm::control::{Colo as _, Control};
use colo_vmm::dirty;
use colo_vmm::kvm::Tracking;
use colo_vmm::machine::{Begin, BootFiles, ExitReason, Freezer, Machine, MachineError, Setup};
use colo_vmm::memory::GuestRam;
use colo_vmm::sandbox::Sandbox;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The word that makes this program a secondary.
pub const FOLLOW: &str = "--follow";
/// How long anything may take.
const LONG: Duration = Duration::from_mins(2);
const RHYTHM: Rhythm = Rhythm { interval: Duration::from_millis(500), timeout: Duration::from_secs(10) };

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What is done to pages before they are sent.
    pub packing: Packing,
    /// Whether they are sent while the guest runs.
    pub ahead: Ahead,
    /// From one checkpoint to the next one, if nobody asks for one.
    pub delay: Duration,
    /// How many pages that wait are reason for one.
    pub most: u64,
    /// Whether its pages cannot be packed at all; else half of each can.
    pub noise: bool,
    /// Whether the secondary has a file for what waits.
    pub spill: bool,
}

/// A primary whose secondary is level.
pub(super) struct Pair {
    pub(super) freezer: Freezer,
    pub(super) ram: Arc<GuestRam>,
    handle: Handle,
    control: Arc<dyn Control>,
    machine: Option<JoinHandle<Result<ExitReason, MachineError>>>,
    session: Option<JoinHandle<()>>,
    secondary: Child,
}

fn machine(begin: Begin) -> Result<Machine> {
    let setup = Setup {
        begin,
        memory: guest::MEMORY,
        cpus: 1,
        console: Box::new(io::sink()),
        devices: Vec::new(),
        blocks: Vec::new(),
        on_reset: OnReset::Exit,
        tracking: Tracking::Auto,
        confine: Box::new(|| Ok(Sandbox::default())),
    };
    Ok(Machine::new(setup)?)
}

fn hello(side: Side, blocks: &Blocks) -> Result<Hello> {
    let block = |block: &colo_vmm::checkpoint::ram::blocks::Block| {
        Ok(Block { name: block.name.parse()?, size: block.len })
    };
    Ok(Hello {
        role: Connection::Main,
        side,
        mode: Mode::Periodic,
        answer: Answer::Asked,
        capabilities: Capabilities::LZ4.with(Capabilities::XOR),
        generation: 1,
        session: 0,
        held: Held::default(),
        run: 1,
        epochs: 0,
        vm: "bench".parse()?,
        machine: String::new(),
        blocks: blocks.iter().map(block).collect::<Result<_>>()?,
        disks: Vec::new(),
    })
}

fn patience() -> Patience {
    Patience { idle: Duration::MAX, ..Patience::default() }
}

/// Is the secondary until standard input ends, or the primary's guest does.
pub fn follow() -> Result<()> {
    let machine = machine(Begin::Wait(None))?;
    let vm = machine.vm();
    let ram = vm.ram().clone();
    let blocks = Arc::new(Blocks::of(&ram));
    let board = Arc::new(Board::new(Role::Secondary, Mode::Periodic, Duration::ZERO));
    let (orders, _post) = Orders::new();
    let (tracker, hello) = (dirty::choose(&vm)?, hello(Side::Secondary, &blocks)?);
    let spill = std::env::args_os().nth(2).map(|directory| Spill::new(directory.as_ref())).transpose()?;
    let staged = Staged::new(blocks, spill)?;
    let sink =
        Sink::new(machine.freezer(), ram, staged, tracker, Mode::Periodic, board.clone(), Arc::new(NoDisks));
    let terms = Terms::new(hello, sink.holding(), Arc::new(NoDisks), None);
    let listener = socket::listen(([127, 0, 0, 1], 0).into())?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    let (control, at_end) = (machine.control(), machine.control());
    let parts = secondary::Parts {
        settings: secondary::Settings { patience: patience(), rhythm: RHYTHM, on_loss: OnLoss::Wait },
        sink,
        listener,
        terms,
        orders,
        board,
        told: Told::new(Role::Secondary, machine.teller()),
        quit: Quit::new(move || control.quit()),
    };
    secondary::start(parts, &machine.sandbox())?;
    std::thread::spawn(move || {
        let _ = io::stdin().read(&mut [0]);
        at_end.quit();
    });
    machine.run()?;
    Ok(())
}

impl Pair {
    pub(super) fn start(plan: Plan) -> Result<Self> {
        let mut secondary = Command::new(std::env::current_exe()?);
        if plan.spill {
            // Beside the program: that is no file system in memory.
            let program = std::env::current_exe()?;
            secondary.args([FOLLOW.as_ref(), program.parent().context("no directory")?.as_os_str()]);
        } else {
            secondary.arg(FOLLOW);
        }
        let secondary = secondary.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut secondary = secondary.spawn()?;
        let mut line = String::new();
        let output = secondary.stdout.take().context("the secondary has no output")?;
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().parse().context("the secondary says no address")?;

        let kernel = guest::kernel()?;
        let files = BootFiles { kernel: kernel.path().to_owned(), initrd: None, cmdline: String::new() };
        let machine = machine(Begin::Boot(files))?;
        let vm = machine.vm();
        let ram = vm.ram().clone();
        guest::fill(&ram, plan.noise)?;
        let blocks = Arc::new(Blocks::of(&ram));
        let board = Arc::new(Board::new(Role::Primary, Mode::Periodic, plan.delay));
        let (orders, post) = Orders::new();
        let now = Now::default();
        let handle = Handle::new(board.clone(), post, now.clone(), Arc::new(NoDisks));
        let source = Source::new(primary::Parts {
            freezer: machine.freezer(),
            copier: Copier::new(dirty::choose(&vm)?, &ram, &blocks, plan.packing)?,
            ram: ram.clone(),
            blocks: blocks.clone(),
            packing: plan.packing,
            board: board.clone(),
            output: Arc::new(Unheld),
            disks: Arc::new(NoDisks),
            now,
            step: patience().step,
        });
        let settings = primary::Settings {
            peer: Peer::from(address),
            addresses: vec![address],
            tls: None,
            hello: hello(Side::Primary, &blocks)?,
            patience: patience(),
            rhythm: RHYTHM,
            delay: plan.delay,
            ahead: plan.ahead,
            most: plan.most,
            again: false,
            turns: Turns::default(),
            after: None,
        };
        let told = Told::new(Role::Primary, machine.teller());
        let session = primary::start(settings, source, orders, board, told, &machine.sandbox())?;
        let (freezer, control) = (machine.freezer(), machine.control());
        let machine = std::thread::Builder::new().name("machine".into()).spawn(|| machine.run())?;
        let (machine, session) = (Some(machine), Some(session));
        let pair = Self { freezer, ram, handle, control, machine, session, secondary };
        pair.until(1)?;
        Ok(pair)
    }

    /// Waits for so many checkpoints, and gives the last.
    fn until(&self, checkpoints: u64) -> Result<Epoch> {
        let until = Instant::now() + LONG;
        loop {
            let status = self.handle.status();
            let level = status.phase == Phase::Level;
            if let Some(epoch) = status.last.filter(|_| level && status.checkpoints >= checkpoints) {
                return Ok(epoch);
            }
            let error = || anyhow!("no checkpoint: {}", status.error.clone().unwrap_or_default());
            ensure!(status.error.is_none() && Instant::now() < until, error());
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    /// Asks for a checkpoint, and waits for it.
    pub(super) fn checkpoint(&self) -> Result<Epoch> {
        let before = self.handle.status().checkpoints;
        ensure!(self.handle.trigger(Cause::Operator), "the session is over");
        self.until(before + 1)
    }

    /// The last one that is done, and how many there were.
    pub(super) fn last(&self) -> (u64, Option<Epoch>) {
        let status = self.handle.status();
        (status.checkpoints, status.last)
    }

    /// What the secondary's process has in memory at most, without files, of the guest's memory.
    pub(super) fn memory_of_secondary(&self) -> Result<f64> {
        let said = std::fs::read_to_string(format!("/proc/{}/status", self.secondary.id()))?;
        let kib = |key: &str| -> f64 {
            let line = said.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
        };
        Ok((kib("VmHWM:") - kib("RssFile:")) * 1024.0 / guest::MEMORY as f64)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.handle.ended();
        let until = Instant::now() + Duration::from_secs(2);
        while self.session.as_ref().is_some_and(|session| !session.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.control.quit();
        // It has nothing to say any more.
        let _ = self.machine.take().map(JoinHandle::join);
        drop(self.secondary.stdin.take());
        let _ = self.secondary.wait();
    }
}
