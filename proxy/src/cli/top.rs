//! `colo-proxy top`: a live view on the whole terminal.
//!
//! ```text
//!   sampler (a thread) ── a sample each second ──► Top ── draw ──► terminal
//!   keys, signals      ───────────────────────────►┘
//! ```

mod view;

use clap::Args as ClapArgs;
use colo_proxy::control::client::Orphans;
use colo_proxy::control::status::NodeStatus;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};
use view::Top;

/// Options of `top`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Keys: q quits; Tab changes the table; up, down, PageUp, PageDown, Home and End move in it.

Examples:
  colo-proxy top               every guest of this network namespace
  colo-proxy top --name web    one of them")]
pub(super) struct Args {
    #[command(flatten)]
    which: super::status::Which,
}

/// What there was at one time, or why nothing is known.
#[derive(Debug)]
struct Sample {
    at: Instant,
    nodes: Result<Vec<NodeStatus>, String>,
}

const PERIOD: Duration = Duration::from_secs(1);
/// How long a key or a signal may go unseen.
const LOOK: Duration = Duration::from_millis(100);

impl Args {
    /// Shows what happens until it is stopped.
    pub(super) fn run(self, orphans: impl Fn(&Path) -> Vec<NodeStatus> + Send + 'static) -> ExitCode {
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            let _ =
                writeln!(io::stderr(), "error: top needs a terminal; 'colo-proxy status' writes to anything");
            return ExitCode::from(2);
        }
        let (send, samples) = sync_channel(1);
        // It ends with the process: it may be waiting for an answer, and nothing is lost with it.
        thread::spawn(move || self.sample(&orphans, &send));
        match show(&samples) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(io::stderr(), "error: cannot go on: {error}");
                ExitCode::from(1)
            }
        }
    }

    fn sample(&self, orphans: Orphans<'_>, send: &SyncSender<Sample>) {
        loop {
            let began = Instant::now();
            let nodes = self.which.look(orphans).map(|(nodes, _)| nodes).map_err(|error| error.to_string());
            if send.send(Sample { at: Instant::now(), nodes }).is_err() {
                return;
            }
            thread::sleep(PERIOD.saturating_sub(began.elapsed()));
        }
    }
}

/// Owns the screen from `try_init` on; gives it back however it is left. A panic gives it back too:
/// `try_init` sees to that.
struct Screen(DefaultTerminal);

impl Screen {
    fn take() -> io::Result<Self> {
        ratatui::try_init().map(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn show(samples: &Receiver<Sample>) -> io::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut screen = Screen::take()?;
    let mut top = Top::default();
    let mut stale = true;
    while !stop.load(Ordering::Relaxed) {
        match samples.try_recv() {
            Ok(sample) => {
                top.take(sample.at, sample.nodes);
                stale = true;
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Err(io::Error::other("nothing asks any more")),
        }
        if stale {
            screen.0.draw(|frame| top.draw(frame))?;
            stale = false;
        }
        if event::poll(LOOK)? {
            stale = true;
            match event::read()? {
                Event::Key(key) if quits(key) => break,
                Event::Key(key) if key.kind != KeyEventKind::Release => top.key(key.code),
                _ => {}
            }
        }
    }
    Ok(())
}

fn quits(key: KeyEvent) -> bool {
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    control_c || matches!(key.code, KeyCode::Char('q' | 'Q') | KeyCode::Esc)
}
