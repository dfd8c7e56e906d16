//! The toolstack: what performs checkpoints. Between namespaces there is no memory to copy, so all
//! it does is to say that one is done, to the secondary first and then to the primary.
//!
//! What that proves is the protocol and the release; a connection that was open at a checkpoint is
//! not made equal by it, as a real guest's would be.

use anyhow::{Context, Result, bail, ensure};
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::wait::until;

const HELLO: &[u8] = b"COLO_USERSPACE_PROXY_INIT";
const HELLO_REPLY: &[u8] = b"COLO_COMPARE_GET_XEN_INIT";
const DO_CHECKPOINT: &[u8] = b"DO_CHECKPOINT";
const CHECKPOINT: &[u8] = b"COLO_CHECKPOINT";
const FAILOVER: &[u8] = b"COLO_FAILOVER";

/// What it does when a checkpoint is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// Performs it at once.
    Perform,
    /// Writes the request down and waits for [`Toolstack::perform`].
    Wait,
}

/// One connection to a node.
#[derive(Debug)]
struct Line(UnixStream);

impl Line {
    fn open(path: &Path) -> Result<Self> {
        let what = format!("somebody listens at {}", path.display());
        let socket = until(&what, || Ok(UnixStream::connect(path).ok()))?;
        socket.set_read_timeout(Some(super::wait::PATIENCE))?;
        let mut line = Self(socket);
        line.say(HELLO)?;
        let reply = line.hear()?;
        ensure!(reply == HELLO_REPLY, "hello was answered by {:?}", String::from_utf8_lossy(&reply));
        line.0.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok(line)
    }

    fn say(&mut self, message: &[u8]) -> Result<()> {
        let length = u32::try_from(message.len())?;
        Ok(self.0.write_all(&[&length.to_be_bytes(), message].concat())?)
    }

    /// The next message.
    fn hear(&mut self) -> Result<Vec<u8>> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).context("no length")?;
        let length = u32::from_be_bytes(length);
        ensure!(length <= 1024, "a message of {length} bytes");
        let mut message = vec![0; length as usize];
        self.0.read_exact(&mut message).context("no message")?;
        Ok(message)
    }

    /// The next message if one begins within a moment. `None` at the end of the line as well, with
    /// `false`.
    fn listen(&mut self) -> Result<(bool, Option<Vec<u8>>)> {
        let mut first = [0];
        match self.0.read(&mut first) {
            Ok(0) => return Ok((false, None)),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok((true, None));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok((false, None)),
            Err(error) => return Err(error.into()),
        }
        self.0.set_read_timeout(Some(super::wait::PATIENCE))?;
        let mut rest = [0; 3];
        self.0.read_exact(&mut rest)?;
        let length = u32::from_be_bytes([first[0], rest[0], rest[1], rest[2]]);
        ensure!(length <= 1024, "a message of {length} bytes");
        let mut message = vec![0; length as usize];
        self.0.read_exact(&mut message)?;
        self.0.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok((true, Some(message)))
    }
}

#[derive(Debug, Default)]
struct State {
    stop: AtomicBool,
    requests: AtomicU64,
    performed: AtomicU64,
    /// Checkpoints that are to be performed without a request.
    wanted: AtomicU64,
    /// Whether requests are answered.
    performs: AtomicBool,
    failure: Mutex<Option<String>>,
}

/// A running toolstack.
#[derive(Debug)]
pub struct Toolstack {
    state: Arc<State>,
}

impl Toolstack {
    /// Connects to the primary's notify socket, and to the secondary's if there is one.
    pub fn start(primary: &Path, secondary: Option<&Path>, conduct: Conduct) -> Result<Self> {
        let line = Line::open(primary).context("the primary's notify socket")?;
        let second = secondary.map(Line::open).transpose().context("the secondary's notify socket")?;
        let state = Arc::new(State::default());
        state.performs.store(conduct == Conduct::Perform, Ordering::SeqCst);
        std::thread::spawn({
            let state = Arc::clone(&state);
            move || {
                if let Err(error) = work(line, second, &state) {
                    let mut failure = state.failure.lock().unwrap_or_else(PoisonError::into_inner);
                    *failure = Some(format!("{error:#}"));
                }
            }
        });
        Ok(Self { state })
    }

    /// Requests so far.
    pub fn requests(&self) -> Result<u64> {
        let failure = self.state.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = &*failure {
            bail!("the toolstack failed: {failure}");
        }
        Ok(self.state.requests.load(Ordering::SeqCst))
    }

    /// Checkpoints said to be done so far.
    pub fn performed(&self) -> u64 {
        self.state.performed.load(Ordering::SeqCst)
    }

    /// Performs one, asked for or not, and waits until the primary has been told.
    pub fn perform(&self) -> Result<()> {
        let before = self.performed();
        self.state.wanted.fetch_add(1, Ordering::SeqCst);
        until("the primary is told that a checkpoint is done", || {
            self.requests()?;
            Ok((self.performed() > before).then_some(()))
        })
    }

    /// Performs one, and from now on every one that is asked for.
    pub fn go_on(&self) -> Result<()> {
        self.state.performs.store(true, Ordering::SeqCst);
        self.perform()
    }

    /// Performs none from now on unless told.
    pub fn hold_on(&self) {
        self.state.performs.store(false, Ordering::SeqCst);
    }

    /// Tells a secondary to take over.
    pub fn fail_over(secondary: &Path) -> Result<()> {
        Line::open(&PathBuf::from(secondary))?.say(FAILOVER)
    }
}

impl Drop for Toolstack {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
    }
}

fn work(mut primary: Line, mut secondary: Option<Line>, state: &State) -> Result<()> {
    while !state.stop.load(Ordering::SeqCst) {
        let (goes_on, message) = primary.listen().context("the primary's line")?;
        let mut due = 0;
        match message.as_deref() {
            Some(DO_CHECKPOINT) => {
                state.requests.fetch_add(1, Ordering::SeqCst);
                due += u64::from(state.performs.load(Ordering::SeqCst));
            }
            Some(HELLO_REPLY) | None => {}
            Some(other) => bail!("the primary said {:?}", String::from_utf8_lossy(other)),
        }
        due += state.wanted.swap(0, Ordering::SeqCst);
        for _ in 0..due {
            if let Some(line) = &mut secondary {
                line.say(CHECKPOINT).context("telling the secondary")?;
            }
            primary.say(CHECKPOINT).context("telling the primary")?;
            state.performed.fetch_add(1, Ordering::SeqCst);
        }
        if !goes_on {
            // It was killed or stopped, and that may be what the test is about.
            return Ok(());
        }
    }
    Ok(())
}
