//! This process's terminal: every key goes to the guest while it lasts, and it is as before afterwards,
//! whatever ends the process and can be heard of.
//!
//! ```text
//!   make_raw ─► modes are kept ─► raw ──► dropped, panic, SIGSYS ──► restore (once)
//! ```
//!
//! Signals that end a process in an orderly way (SIGINT, SIGTERM, SIGHUP) drop the console. After
//! SIGKILL the shell's `reset` is what is left.

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static BEFORE: OnceLock<Termios> = OnceLock::new();
static RAW: AtomicBool = AtomicBool::new(false);

/// The terminal is raw while this lives.
#[derive(Debug)]
pub(super) struct Raw(());

/// Makes standard input raw, if it is a terminal.
pub(super) fn make_raw() -> io::Result<Option<Raw>> {
    let stdin = rustix::stdio::stdin();
    if !isatty(stdin) {
        return Ok(None);
    }
    let now = tcgetattr(stdin)?;
    let mut raw = BEFORE.get_or_init(|| now).clone();
    raw.make_raw();
    // Messages of this process end their lines with a line feed alone.
    raw.output_modes |= rustix::termios::OutputModes::OPOST | rustix::termios::OutputModes::ONLCR;
    restore_at_panic();
    RAW.store(true, Ordering::SeqCst);
    tcsetattr(stdin, OptionalActions::Now, &raw)?;
    Ok(Some(Raw(())))
}

/// Makes the terminal what it was, if this process changed it. It may be called from a signal handler:
/// it reads two statics and makes one system call.
pub fn restore() {
    if RAW.swap(false, Ordering::SeqCst)
        && let Some(before) = BEFORE.get()
    {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
    }
}

/// So that what a panic says can be read, and the shell after it used.
fn restore_at_panic() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            before(panic);
        }));
    });
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}
