//! `bank`: a database of `sqlite3` under load, whose contents are known without having been remembered.
//!
//! ```text
//!   transfer: one account gets what another gives, and the journal says so: one transaction
//!   check:    the sum of all accounts is what it was in the beginning; each is what the journal makes of it;
//!             transfers are numbered without a gap; no answered transfer is missing; PRAGMA integrity_check
//! ```
//!
//! `sqlite3` does the work, as a process of its own that lives as long as the load.

use crate::control::Control;
use crate::random::Random;
use crate::{Report, say};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const ACCOUNTS: u64 = 100;
const BALANCE: u64 = 1000;
/// Transfers between two checks, each a transaction with its fsync.
const BATCH: u64 = 20;
/// The integrity check reads the whole file, so it comes less often.
const INTEGRITY: u64 = 10;

const CHECK: &str = "\
SELECT 'sum '||sum(balance) FROM account;
SELECT 'astray '||count(*) FROM account WHERE balance !=
  1000 + (SELECT coalesce(sum(amount),0) FROM journal WHERE taker=account.id)
       - (SELECT coalesce(sum(amount),0) FROM journal WHERE giver=account.id);
SELECT 'journal '||count(*)||' '||coalesce(max(id),0) FROM journal;
";

/// One `sqlite3`, which answers line by line.
struct Database {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Database {
    fn open(dir: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
        let mut command = Command::new("sqlite3");
        command.arg("-batch").arg(dir.join("bank.db")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("cannot start sqlite3: {error}"))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("sqlite3 has no pipes".to_owned());
        };
        Ok(Self { child, to, from: BufReader::new(from) })
    }

    /// Says something, and what it answers until it has done it all.
    fn ask(&mut self, sql: &str) -> Result<Vec<String>, String> {
        let gone = |error| format!("sqlite3 is gone: {error}");
        self.to.write_all(sql.as_bytes()).map_err(gone)?;
        self.to.write_all(b"SELECT 'done';\n").map_err(gone)?;
        self.to.flush().map_err(gone)?;
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.from.read_line(&mut line).map_err(gone)? == 0 {
                return Err(format!("sqlite3 ended; it had said {lines:?}"));
            }
            match line.trim() {
                "done" => return Ok(lines),
                line => lines.push(line.to_owned()),
            }
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A batch of transfers.
fn transfers(random: &mut Random) -> String {
    let mut sql = String::new();
    for _ in 0..BATCH {
        let (giver, amount) = (random.below(ACCOUNTS), random.below(50) + 1);
        let taker = (giver + 1 + random.below(ACCOUNTS - 1)) % ACCOUNTS;
        // Writing into a String does not fail.
        let _ = writeln!(
            sql,
            "BEGIN IMMEDIATE; UPDATE account SET balance=balance-{amount} WHERE id={giver};
             UPDATE account SET balance=balance+{amount} WHERE id={taker};
             INSERT INTO journal(giver,taker,amount) VALUES({giver},{taker},{amount}); COMMIT;"
        );
    }
    sql
}

/// What a check should answer when so many transfers have been answered.
fn right(transfers: u64, integrity: bool) -> Vec<String> {
    let mut lines = vec![
        format!("sum {}", ACCOUNTS * BALANCE),
        "astray 0".to_owned(),
        format!("journal {transfers} {transfers}"),
    ];
    lines.extend(integrity.then(|| "ok".to_owned()));
    lines
}

pub(crate) fn bank(dir: &Path, control: &mut Control) -> Result<Report, String> {
    let mut database = Database::open(dir)?;
    // A bank that is there already goes on where it is, so that it can be looked at after a crash.
    let before = database.ask(&format!(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
         BEGIN; CREATE TABLE IF NOT EXISTS account(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
         CREATE TABLE IF NOT EXISTS journal(id INTEGER PRIMARY KEY AUTOINCREMENT, giver INTEGER, taker INTEGER, amount INTEGER);
         CREATE INDEX IF NOT EXISTS takers ON journal(taker); CREATE INDEX IF NOT EXISTS givers ON journal(giver);
         WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n WHERE i<{})
           INSERT OR IGNORE INTO account SELECT i,{BALANCE} FROM n; COMMIT;
         SELECT count(*) FROM journal;\n",
        ACCOUNTS - 1
    ))?;
    let mut done: u64 =
        before.last().and_then(|line| line.parse().ok()).ok_or("the database has no journal")?;
    let (mut random, mut checks, mut errors) = (Random::new(done + 1), 0_u64, 0_u64);
    loop {
        let integrity = checks % INTEGRITY == 0;
        let sql = transfers(&mut random) + CHECK + if integrity { "PRAGMA integrity_check;\n" } else { "" };
        let said = database.ask(&sql)?;
        (done, checks) = (done + BATCH, checks + 1);
        let expected = right(done, integrity);
        if said != expected {
            errors += 1;
            say(&format!("bank: WRONG: {said:?}, not {expected:?}"));
        }
        let report =
            || Report { line: format!("bank: {done} transfers, {checks} checks, {errors} errors"), errors };
        if control.is_over(report) {
            return Ok(report());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_is_between_two_accounts_and_whole() {
        let sql = transfers(&mut Random::new(1));
        for lines in sql.lines().collect::<Vec<_>>().chunks(3) {
            let text = lines.join(" ");
            let part = |from: &str, to: &str| {
                text.split_once(from).unwrap().1.split_once(to).unwrap().0.parse::<u64>().unwrap()
            };
            let (giver, amount) = (part("WHERE id=", ";"), part("balance-", " "));
            assert_eq!(part("balance+", " "), amount);
            let taker = part(&format!("balance+{amount} WHERE id="), ";");
            assert!(giver != taker && giver.max(taker) < ACCOUNTS && (1..=50).contains(&amount), "{text}");
            assert!(text.ends_with(&format!("VALUES({giver},{taker},{amount}); COMMIT;")), "{text}");
        }
    }

    #[test]
    fn what_is_right_is_known_beforehand() {
        assert_eq!(right(40, false), ["sum 100000", "astray 0", "journal 40 40"]);
        assert_eq!(right(40, true)[3], "ok");
    }
}
