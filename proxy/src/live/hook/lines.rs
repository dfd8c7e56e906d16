//! What a command says on standard error, as lines for the log: of bounded length, so many in a
//! second, and nothing in them that a terminal would obey.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// The longest line, in bytes; the rest of a longer one is dropped.
const LONGEST: usize = 500;

/// Lines that are shown in a second.
const PER_SECOND: u32 = 20;

const SECOND: Duration = Duration::from_secs(1);

/// Bytes on their way to the log.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    /// The second that is being counted in.
    until: Option<Instant>,
    shown: u32,
    hidden: u64,
}

impl Lines {
    /// Takes bytes in and shows the lines that they complete.
    pub(super) fn feed(&mut self, bytes: &[u8], now: Instant, show: &mut dyn FnMut(&str)) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            let room = LONGEST - self.line.len();
            self.line.extend(&text[..text.len().min(room)]);
            if text.len() < piece.len() {
                self.show(now, show);
            }
        }
    }

    /// Nothing more comes: shows what has no end, and how much was not shown.
    pub(super) fn finish(&mut self, now: Instant, show: &mut dyn FnMut(&str)) {
        if !self.line.is_empty() {
            self.show(now, show);
        }
        if self.hidden > 0 {
            show(&format!("(and {} more lines)", self.hidden));
            self.hidden = 0;
        }
    }

    fn show(&mut self, now: Instant, show: &mut dyn FnMut(&str)) {
        let line = std::mem::take(&mut self.line);
        if self.until.is_none_or(|until| until <= now) {
            self.until = Some(now + SECOND);
            self.shown = 0;
        }
        if self.shown == PER_SECOND {
            self.hidden += 1;
            return;
        }
        self.shown += 1;
        let mut text = String::new();
        for character in String::from_utf8_lossy(&line).trim_end_matches('\r').chars() {
            if character.is_control() && character != '\t' {
                // Writing to a string does not fail.
                let _ = write!(text, "{}", character.escape_default());
            } else {
                text.push(character);
            }
        }
        if self.hidden > 0 {
            let _ = write!(text, " (and {} lines before it)", self.hidden);
            self.hidden = 0;
        }
        show(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut shown, now) = (Lines::default(), Vec::new(), Instant::now());
        let mut show = |line: &str| shown.push(line.to_owned());
        pieces.iter().for_each(|piece| lines.feed(piece, now, &mut show));
        lines.finish(now, &mut show);
        shown
    }

    #[test]
    fn lines_are_put_together_from_pieces_and_the_last_needs_no_end() {
        assert_eq!(lines(&[b"on", b"e\ntwo\r\n", b"\nthree"]), ["one", "two", "", "three"]);
        assert!(lines(&[]).is_empty());
    }

    #[test]
    fn a_line_has_a_limit_and_no_control_characters() {
        let long = [b"x".repeat(300), b"y".repeat(300), b"\nnext".to_vec()].concat();
        let shown = lines(&[&long[..250], &long[250..]]);
        assert_eq!(shown, ["x".repeat(300) + &"y".repeat(200), "next".into()]);
        assert_eq!(lines(&[b"\x1b[31mred\x07\t\xff"]), ["\\u{1b}[31mred\\u{7}\t\u{fffd}"]);
    }

    #[test]
    fn so_many_in_a_second_and_the_others_are_counted() {
        let (mut lines, mut shown, now) = (Lines::default(), Vec::new(), Instant::now());
        lines.feed(&b"x\n".repeat(50), now, &mut |line| shown.push(line.to_owned()));
        assert_eq!(shown.len(), PER_SECOND as usize);
        lines.feed(b"y\n", now + SECOND, &mut |line| shown.push(line.to_owned()));
        assert_eq!(shown.last().unwrap(), "y (and 30 lines before it)");
        assert_eq!(self::lines(&[&b"x\n".repeat(50)]).last().unwrap(), "(and 30 more lines)");
    }
}
