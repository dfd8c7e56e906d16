//! A checkpoint peer whose bytes are the input: it says them, and hangs up.

use colo_vmm::checkpoint::protocol::hello::Block;
use colo_vmm::checkpoint::protocol::{Buffer, Channel, Code, Header, Limits};
use std::io::{self, IoSlice};
use std::time::Instant;

/// What it still says, and what it was told.
#[derive(Debug)]
pub struct Peer<'a> {
    pub says: &'a [u8],
    pub heard: Vec<(Code, u64)>,
}

impl<'a> Peer<'a> {
    pub fn new(says: &'a [u8]) -> Self {
        Self { says, heard: Vec::new() }
    }
}

/// Those of a guest of 1 MiB.
pub fn limits() -> Limits {
    Limits::of(&[Block { name: "pc.ram".parse().expect("a name"), size: 1 << 20 }])
}

impl Channel for Peer<'_> {
    fn send(&mut self, parts: &mut [IoSlice<'_>], _: Instant) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let header = Header::from_bytes(*bytes.first_chunk().expect("a header"));
        assert_eq!(bytes.len(), Header::SIZE + header.len as usize, "one message in one write");
        self.heard.push((Code::from_number(header.code).expect("a code"), header.epoch));
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8], _: Instant) -> io::Result<usize> {
        assert!(buffer.len() <= 2 * Buffer::STEP, "memory comes as bytes do");
        let count = self.says.len().min(buffer.len());
        let (now, rest) = self.says.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.says = rest;
        Ok(count)
    }
}
