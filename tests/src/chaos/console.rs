//! What a guest says: heard line by line as it comes.

use super::PATIENCE;
use anyhow::{Context, Result, bail, ensure};
use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What is kept for a complaint.
const KEPT: usize = 40;
/// What no guest says that is well, whatever its loads say.
const BAD: [&str; 6] =
    ["WRONG", "Kernel panic", "Oops", "BUG:", "general protection fault", "I/O error, dev"];

/// The ear at a guest's console.
#[derive(Debug)]
pub(super) struct Console {
    lines: Receiver<String>,
    keys: UnixStream,
    last: VecDeque<String>,
}

impl Console {
    /// Connects; whoever opens the socket may still be about to.
    pub(super) fn connect(path: &Path) -> Result<Self> {
        let begun = Instant::now();
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(_) if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => {
                    return Err(error).with_context(|| format!("nobody is at {}", path.display()));
                }
            }
        };
        let keys = stream.try_clone()?;
        let (say, lines) = channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if say.send(text).is_err() {
                    break;
                }
            }
        });
        Ok(Self { lines, keys, last: VecDeque::new() })
    }

    /// Forgets what was said so far, unless it is bad.
    pub(super) fn skip(&mut self) -> Result<()> {
        while let Ok(line) = self.lines.try_recv() {
            self.heard(&line)?;
        }
        Ok(())
    }

    /// Listens until each of `judges` has said twice that it found nothing wrong: the second time it has worked
    /// since the first. Gives its last words.
    pub(super) fn well(&mut self, judges: impl Iterator<Item = &'static str>) -> Result<Vec<String>> {
        let mut missing: Vec<(String, u8)> = judges.map(|load| (format!("{load}: "), 2)).collect();
        let mut reports = Vec::new();
        let begun = Instant::now();
        while !missing.is_empty() {
            let line = self.next(begun, || format!("{missing:?}"))?;
            let Some(at) = missing.iter().position(|(load, _)| line.starts_with(load.as_str())) else {
                continue;
            };
            if !line.ends_with(" errors") {
                continue;
            }
            ensure!(line.ends_with(" 0 errors"), "{line}; before that: {:#?}", self.last);
            missing[at].1 -= 1;
            if missing[at].1 == 0 {
                missing.remove(at);
                reports.push(line);
            }
        }
        Ok(reports)
    }

    /// Types a line.
    pub(super) fn type_line(&mut self, line: &str) -> Result<()> {
        self.keys.write_all(format!("{line}\n").as_bytes()).context("cannot type on the console")
    }

    /// Listens until a line begins with `mark`: all lines until then.
    pub(super) fn until(&mut self, mark: &str) -> Result<Vec<String>> {
        let (begun, mut lines) = (Instant::now(), Vec::new());
        loop {
            let line = self.next(begun, || mark.to_owned())?;
            let is_it = line.starts_with(mark);
            lines.push(line);
            if is_it {
                return Ok(lines);
            }
        }
    }

    /// The next line, which is not to be bad.
    fn next(&mut self, begun: Instant, wanted: impl Fn() -> String) -> Result<String> {
        let left = PATIENCE.saturating_sub(begun.elapsed());
        let line = match self.lines.recv_timeout(left) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                bail!("nothing is heard of {} within {PATIENCE:?}; last was {:#?}", wanted(), self.last)
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("the console is closed; last was {:#?}", self.last)
            }
        };
        self.heard(&line)?;
        Ok(line)
    }

    fn heard(&mut self, line: &str) -> Result<()> {
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
        ensure!(
            !BAD.iter().any(|bad| line.contains(bad)),
            "the guest says {line:?}; before: {:#?}",
            self.last
        );
        Ok(())
    }
}
