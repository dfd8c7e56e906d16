//! A client of the guest's `PostgreSQL`, outside, which knows what was answered with COMMIT.
//!
//! ```text
//!   Client: transaction i (pgbench's own, with `c i` in its history) ─► COMMIT ─► i is noted; and the next
//!   Postgres: start-up ─► Query ─► rows, COMMAND COMPLETE or an error ─► READY FOR QUERY
//! ```
//!
//! Version 3.0 of the protocol, simple queries only, no password. A transaction is one query, so that no server waits
//! in the middle of one for a client that is gone. A number whose answer did not come is never used again.

use super::super::PATIENCE;
use super::super::boot::GUEST;
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::BTreeSet;
use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PORT: u16 = 5432;
/// The longest message that is taken.
const LONGEST: usize = 1 << 20;
/// Between two transactions: the guest's own loads want its CPU, too.
const PAUSE: Duration = Duration::from_millis(10);
/// How long an answer may take before the client tries a new connection.
const ANSWER: Duration = Duration::from_secs(20);

/// A connection.
#[derive(Debug)]
pub(super) struct Postgres {
    stream: BufReader<TcpStream>,
}

/// What a query came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    /// The first column of each row.
    rows: Vec<String>,
    /// What each command said of itself, such as `COMMIT`.
    tags: Vec<String>,
    error: Option<String>,
}

impl Answer {
    /// Takes a message; whether it is the last.
    fn take(&mut self, kind: u8, body: &[u8]) -> Result<bool> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
        match kind {
            b'Z' => return Ok(true),
            b'C' => self.tags.push(text(body)),
            b'D' => {
                let length = body.get(2..6).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes);
                let length = usize::try_from(length.context("a row without a column")?).unwrap_or(0);
                self.rows.push(text(body.get(6..6 + length).context("a row that is too short")?));
            }
            // Fields of a byte and a text each.
            b'E' => self.error = Some(text(body).replace('\0', ", ")),
            b'R' => ensure!(body == [0; 4], "the server wants a password"),
            // Notices, parameters, keys, descriptions of rows.
            _ => {}
        }
        Ok(false)
    }
}

impl Postgres {
    pub(super) fn connect() -> Result<Self> {
        let stream = TcpStream::connect_timeout(&(GUEST, PORT).into(), Duration::from_secs(2))?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        stream.set_nodelay(true)?;
        let mut connection = Self { stream: BufReader::new(stream) };
        let words = b"user\0postgres\0database\0postgres\0\0";
        let mut hello = (8 + words.len() as u32).to_be_bytes().to_vec();
        hello.extend((3_u32 << 16).to_be_bytes());
        hello.extend(words);
        connection.stream.get_mut().write_all(&hello)?;
        connection.answer()?;
        Ok(connection)
    }

    fn answer(&mut self) -> Result<Answer> {
        let mut answer = Answer::default();
        loop {
            let mut head = [0; 5];
            self.stream.read_exact(&mut head)?;
            let [kind, length @ ..] = head;
            let length = (u32::from_be_bytes(length) as usize).checked_sub(4);
            let length = length.filter(|length| *length <= LONGEST).context("a message longer than any")?;
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body)?;
            // A server that refuses says why, and is gone.
            let is_over = answer.take(kind, &body)?;
            if let Some(error) = answer.error.as_ref().filter(|error| is_over || error.starts_with("SFATAL"))
            {
                bail!("the server says {error}");
            }
            if is_over {
                return Ok(answer);
            }
        }
    }

    fn query(&mut self, sql: &str) -> Result<Answer> {
        let mut query = vec![b'Q'];
        query.extend((sql.len() as u32 + 5).to_be_bytes());
        query.extend(sql.as_bytes());
        query.push(0);
        self.stream.get_mut().write_all(&query)?;
        self.answer()
    }

    /// The numbers of transactions that are there, each once.
    pub(super) fn transactions(&mut self) -> Result<BTreeSet<u64>> {
        let rows = self.query("SELECT filler FROM pgbench_history WHERE filler IS NOT NULL")?.rows;
        let mut all = BTreeSet::new();
        for row in rows {
            let number = row.trim().strip_prefix("c ").and_then(|number| number.parse().ok());
            let number = number.with_context(|| format!("the history has {row:?}"))?;
            ensure!(all.insert(number), "transaction {number} is there twice");
        }
        Ok(all)
    }
}

/// Connects as soon as there is a server.
pub(super) fn connect() -> Result<Postgres> {
    let begun = Instant::now();
    loop {
        match Postgres::connect() {
            Ok(connection) => return Ok(connection),
            Err(_) if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(100)),
            Err(error) => return Err(error.context("the guest's database does not answer")),
        }
    }
}

/// pgbench's transaction, with a number. Scale 1 has one branch, ten tellers and 100 000 accounts.
fn transaction(number: u64, random: &mut fastrand::Rng) -> String {
    let (account, teller, delta) = (random.u32(1..=100_000), random.u32(1..=10), random.i32(-5000..=5000));
    format!(
        "BEGIN; UPDATE pgbench_accounts SET abalance = abalance + {delta} WHERE aid = {account};
         UPDATE pgbench_tellers SET tbalance = tbalance + {delta} WHERE tid = {teller};
         UPDATE pgbench_branches SET bbalance = bbalance + {delta} WHERE bid = 1;
         INSERT INTO pgbench_history (tid, bid, aid, delta, mtime, filler)
         VALUES ({teller}, 1, {account}, {delta}, CURRENT_TIMESTAMP, 'c {number}'); COMMIT;"
    )
}

/// A client that makes one transaction after the other until it is ended.
#[derive(Debug)]
pub(super) struct Client {
    committed: Arc<Mutex<Vec<u64>>>,
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Client {
    pub(super) fn begin(seed: u64) -> Self {
        let (committed, over) = (Arc::<Mutex<Vec<u64>>>::default(), Arc::new(AtomicBool::new(false)));
        let (notes, ended) = (committed.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            let (mut random, mut number, mut connection) = (fastrand::Rng::with_seed(seed), 0, None);
            while !ended.load(SeqCst) {
                let Some(server) = &mut connection else {
                    connection = Postgres::connect().ok();
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                };
                number += 1;
                match server.query(&transaction(number, &mut random)) {
                    Ok(answer) if answer.tags.last().is_some_and(|tag| tag == "COMMIT") => {
                        lock(&notes).push(number);
                        std::thread::sleep(PAUSE);
                    }
                    _ => connection = None,
                }
            }
        });
        Self { committed, over, thread }
    }

    /// How many were committed so far.
    pub(super) fn commits(&self) -> usize {
        lock(&self.committed).len()
    }

    /// Ends it: the numbers of the committed ones, in their order.
    pub(super) fn end(self) -> Result<Vec<u64>> {
        self.over.store(true, SeqCst);
        ensure!(self.thread.join().is_ok(), "the thread of the database's client panicked");
        Ok(std::mem::take(&mut lock(&self.committed)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_to_its_end() {
        let mut answer = Answer::default();
        for (kind, body) in [
            (b'R', &[0, 0, 0, 0][..]),
            (b'S', b"server_version\x0015\0"),
            (b'C', b"BEGIN\0"),
            (b'T', &[0, 1]),
            (b'D', b"\0\x01\0\0\0\x03c 7"),
            (b'D', b"\0\x01\xff\xff\xff\xff"),
            (b'C', b"COMMIT\0"),
        ] {
            assert!(!answer.take(kind, body).unwrap());
        }
        assert!(answer.take(b'Z', b"I").unwrap());
        assert_eq!((answer.rows, answer.error), (vec!["c 7".to_owned(), String::new()], None));
        assert_eq!(answer.tags, ["BEGIN", "COMMIT"]);
    }

    #[test]
    fn what_is_no_row_and_a_server_that_wants_a_password_are_errors() {
        for (kind, body) in [(b'D', &b"\0\x01\0\0\0\x09c 7"[..]), (b'D', b"\0"), (b'R', &[0, 0, 0, 3])] {
            assert!(Answer::default().take(kind, body).is_err());
        }
        let mut answer = Answer::default();
        answer.take(b'E', b"SERROR\0C23505\0Mduplicate\0\0").unwrap();
        assert_eq!(answer.error.unwrap(), "SERROR, C23505, Mduplicate");
    }

    #[test]
    fn a_transaction_balances() {
        let sql = transaction(3, &mut fastrand::Rng::with_seed(1));
        let deltas: BTreeSet<&str> =
            sql.split("balance + ").skip(1).filter_map(|part| part.split(' ').next()).collect();
        assert_eq!(deltas.len(), 1, "{sql}");
        assert!(sql.ends_with("'c 3'); COMMIT;"), "{sql}");
    }
}
