//! A disk in memory, and bytes that a client sends, written down by hand: what the rest is judged by.

use crate::nbd::export::{Export, Range, Tag, Zeroing};
use crate::nbd::server::{Offer, Session, SessionError, Step, Terms};
use std::io;
use std::sync::{Arc, Mutex};

/// A disk in memory that remembers which epochs it was told.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) bytes: Mutex<Vec<u8>>,
    pub(super) tags: Mutex<Vec<Tag>>,
    pub(super) flushes: Mutex<u32>,
    pub(super) epochs: bool,
    pub(super) read_only: bool,
}

impl Memory {
    pub(super) fn new(size: usize) -> Self {
        Self {
            bytes: Mutex::new(vec![0; size]),
            tags: Mutex::default(),
            flushes: Mutex::default(),
            epochs: false,
            read_only: false,
        }
    }

    pub(super) fn with_epochs(size: usize) -> Self {
        Self { epochs: true, ..Self::new(size) }
    }

    fn fill(&self, tag: Tag, offset: u64, len: u64, with: impl Fn(usize) -> u8) {
        self.tags.lock().unwrap().push(tag);
        let mut bytes = self.bytes.lock().unwrap();
        let range = &mut bytes[offset as usize..(offset + len) as usize];
        range.iter_mut().enumerate().for_each(|(at, byte)| *byte = with(at));
    }
}

impl Export for Memory {
    fn size(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }
    fn read_only(&self) -> bool {
        self.read_only
    }
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        buffer.copy_from_slice(&self.bytes.lock().unwrap()[offset as usize..][..buffer.len()]);
        Ok(())
    }
    fn write(&self, tag: Tag, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        // As a disk that is full at its last byte.
        if bytes.contains(&0xfe) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let bytes = &*bytes;
        self.fill(tag, offset, bytes.len() as u64, |at| bytes[at]);
        Ok(())
    }
    fn zero(&self, tag: Tag, offset: u64, len: u64, how: Zeroing) -> io::Result<()> {
        if how.fast {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.fill(tag, offset, len, |_| 0);
        Ok(())
    }
    fn trim(&self, tag: Tag, offset: u64, len: u64) -> io::Result<()> {
        self.fill(tag, offset, len, |_| 0);
        Ok(())
    }
    fn flush(&self, _: Tag) -> io::Result<()> {
        *self.flushes.lock().unwrap() += 1;
        Ok(())
    }
    fn status(&self, offset: u64, len: u64) -> io::Result<Range> {
        let bytes = self.bytes.lock().unwrap();
        let range = &bytes[offset as usize..(offset + len) as usize];
        let zero = range[0] == 0;
        let alike = range.iter().take_while(|byte| (**byte == 0) == zero).count() as u64;
        Ok(if zero { Range::hole(alike) } else { Range::data(alike) })
    }
    fn epochs(&self) -> bool {
        self.epochs
    }
    fn sums(&self) -> bool {
        self.epochs
    }
    fn stable_epoch(&self) -> u32 {
        77
    }
}

pub(super) fn terms(memory: &Arc<Memory>) -> Terms {
    let export = Arc::clone(memory) as Arc<dyn Export>;
    Terms::new(vec![Offer { name: "disk".to_owned(), description: "a disk".to_owned(), export }])
}

/// A session that is fed in pieces of these lengths, over and over; what it says, and how it ended.
pub(super) fn run(
    terms: Terms,
    mut bytes: &[u8],
    cuts: &[usize],
) -> (Vec<u8>, Result<Step, SessionError>, usize) {
    let mut session = Session::new(Arc::new(terms));
    let (mut said, mut memory) = (Vec::new(), 0);
    let mut cuts = cuts.iter().copied().cycle();
    loop {
        let step = session.step();
        said.extend(session.output());
        memory = memory.max(session.memory());
        session.sent(session.output().len());
        match step {
            Ok(Step::Again | Step::Send) => {}
            Ok(Step::Receive) if !bytes.is_empty() => {
                let cut = cuts.next().unwrap_or(usize::MAX).clamp(1, bytes.len());
                session.feed(&bytes[..cut]);
                bytes = &bytes[cut..];
            }
            Ok(Step::Secure) => session.secured(),
            ended => return (said, ended, memory),
        }
    }
}

/// What a client says, byte by byte.
#[derive(Debug, Default)]
pub(super) struct Says(pub(super) Vec<u8>);

impl Says {
    pub(super) fn flags() -> Self {
        Self(vec![0, 0, 0, 3])
    }
    pub(super) fn option(mut self, option: u8, data: &[u8]) -> Self {
        self.0.extend(b"IHAVEOPT\0\0\0");
        self.0.push(option);
        self.0.extend((data.len() as u32).to_be_bytes());
        self.0.extend(data);
        self
    }
    pub(super) fn structured(self) -> Self {
        self.option(8, b"")
    }
    pub(super) fn context(self, name: &str) -> Self {
        let len = [(name.len() as u32).to_be_bytes().as_slice(), name.as_bytes()].concat();
        self.option(10, &[b"\0\0\0\x04disk\0\0\0\x01".as_slice(), &len].concat())
    }
    pub(super) fn go(self) -> Self {
        self.option(7, b"\0\0\0\x04disk\0\0")
    }
    pub(super) fn request(mut self, command: u8, flags: u8, cookie: u64, offset: u64, len: u32) -> Self {
        self.0.extend([0x25, 0x60, 0x95, 0x13, 0, flags, 0, command]);
        self.0.extend(cookie.to_be_bytes());
        self.0.extend(offset.to_be_bytes());
        self.0.extend(len.to_be_bytes());
        self
    }
    pub(super) fn data(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

/// One message that a server said, taken apart by hand.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Answer { option: u32, answer: u32, data: Vec<u8> },
    Simple { error: u32, cookie: u64, data: Vec<u8> },
    Chunk { done: bool, kind: u16, cookie: u64, data: Vec<u8> },
}

/// Takes apart all that it said behind its greeting. `reads` gives the length of what follows a simple reply.
pub(super) fn said(mut bytes: &[u8], reads: impl Fn(u64) -> usize) -> Vec<Said> {
    fn take<'a>(bytes: &mut &'a [u8], len: usize) -> &'a [u8] {
        let (now, rest) = bytes.split_at(len);
        *bytes = rest;
        now
    }
    fn number(bytes: &mut &[u8], len: usize) -> u64 {
        take(bytes, len).iter().fold(0, |all, byte| all << 8 | u64::from(*byte))
    }
    let mut out = Vec::new();
    assert_eq!(take(&mut bytes, 18), b"NBDMAGICIHAVEOPT\0\x03");
    while !bytes.is_empty() {
        match number(&mut bytes, 4) {
            0x0003_e889 => {
                assert_eq!(number(&mut bytes, 4), 0x0455_65a9);
                let (option, answer) = (number(&mut bytes, 4) as u32, number(&mut bytes, 4) as u32);
                let len = number(&mut bytes, 4) as usize;
                out.push(Said::Answer { option, answer, data: take(&mut bytes, len).to_vec() });
            }
            0x6744_6698 => {
                let (error, cookie) = (number(&mut bytes, 4) as u32, number(&mut bytes, 8));
                let len = if error == 0 { reads(cookie) } else { 0 };
                out.push(Said::Simple { error, cookie, data: take(&mut bytes, len).to_vec() });
            }
            0x668e_33ef => {
                let (flags, kind) = (number(&mut bytes, 2), number(&mut bytes, 2) as u16);
                let cookie = number(&mut bytes, 8);
                let len = number(&mut bytes, 4) as usize;
                let data = take(&mut bytes, len).to_vec();
                out.push(Said::Chunk { done: flags == 1, kind, cookie, data });
            }
            other => panic!("no message begins with {other:08x}"),
        }
    }
    out
}
