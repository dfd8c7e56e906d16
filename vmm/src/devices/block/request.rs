//! What a driver asks for (virtio 1.3 §5.2.6), read from a chain that may be anything.
//!
//! ```text
//!   readable                                   writable
//!   ├ type, reserved, sector ┼ data to write ┤ ├ room for data ┼ status ┤
//! ```
//!
//! Where descriptors end and begin says nothing (§2.7.4): both halves are treated as one run of bytes.

use crate::block::engine::{MAX_SPANS, Span};
use crate::memory::GuestRam;
use thiserror::Error;
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};
use virtio_queue::DescriptorChain;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};

/// The length of the header.
const HEADER: usize = 16;
/// The most data in one request; Linux stays under 4 MiB unless it is told otherwise.
const MAX_DATA: usize = 128 << 20;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
    GetId,
    Discard,
    WriteZeroes,
    Unknown,
}

/// One request.
#[derive(Debug)]
pub(super) struct Request {
    /// The chain's number.
    pub(super) head: u16,
    pub(super) kind: Kind,
    pub(super) sector: u64,
    /// What the driver has written, or has made room for.
    pub(super) data: Vec<Span>,
    pub(super) len: usize,
    pub(super) status: GuestAddress,
}

/// A chain that is no request.
#[derive(Debug, Error)]
#[error("{reason}")]
pub(super) struct Broken {
    pub(super) head: u16,
    /// Where its status would go, if it has such a place.
    pub(super) status: Option<GuestAddress>,
    pub(super) reason: &'static str,
}

/// A run of bytes in pieces.
#[derive(Debug, Default)]
struct Run {
    spans: Vec<Span>,
    len: usize,
}

impl Run {
    /// Adds a buffer, in as many pieces as there are regions of memory under it.
    fn add(&mut self, ram: &GuestRam, address: GuestAddress, len: usize) -> Result<(), &'static str> {
        let mut at = address;
        for slice in ram.get_slices(address, len) {
            let piece = slice.map_err(|_| "a buffer is not in memory")?.len();
            if self.spans.len() > MAX_SPANS {
                return Err("it has too many buffers");
            }
            self.spans.push(Span { address: at, len: piece });
            self.len += piece;
            at = at.checked_add(piece as u64).ok_or("a buffer is not in memory")?;
        }
        if self.len > MAX_DATA { Err("it has too much data") } else { Ok(()) }
    }

    /// Takes bytes from the front.
    fn take(&mut self, ram: &GuestRam, into: &mut [u8]) -> Result<(), &'static str> {
        if self.len < into.len() {
            return Err("it is too short for its header");
        }
        gather(ram, &self.spans, into);
        let mut left = into.len();
        self.len -= left;
        self.spans.retain_mut(|span| {
            let cut = left.min(span.len);
            left -= cut;
            span.address = span.address.unchecked_add(cut as u64);
            span.len -= cut;
            span.len > 0
        });
        Ok(())
    }

    /// Takes the last byte's place.
    fn last(&mut self) -> Option<GuestAddress> {
        let last = self.spans.last_mut()?;
        last.len -= 1;
        self.len -= 1;
        let address = last.address.unchecked_add(last.len as u64);
        if last.len == 0 {
            self.spans.pop();
        }
        Some(address)
    }
}

/// Copies from memory as many bytes as fit.
pub(super) fn gather(ram: &GuestRam, spans: &[Span], into: &mut [u8]) {
    let mut done = 0;
    for span in spans {
        let piece = span.len.min(into.len() - done);
        // The place was found to be memory when the chain was read.
        let _ = ram.read_slice(&mut into[done..done + piece], span.address);
        done += piece;
    }
}

/// Copies into memory as many bytes as there is room for.
pub(super) fn scatter(ram: &GuestRam, spans: &[Span], from: &[u8]) -> usize {
    let mut done = 0;
    for span in spans {
        let piece = span.len.min(from.len() - done);
        let _ = ram.write_slice(&from[done..done + piece], span.address);
        done += piece;
    }
    done
}

impl Request {
    pub(super) fn parse(ram: &GuestRam, chain: DescriptorChain<&GuestRam>) -> Result<Self, Broken> {
        let head = chain.head_index();
        let (mut readable, mut writable) = (Run::default(), Run::default());
        let read = |chain: DescriptorChain<&GuestRam>, readable: &mut Run, writable: &mut Run| {
            let mut more = true;
            for descriptor in chain {
                more = descriptor.has_next();
                if descriptor.len() == 0 {
                    continue;
                }
                let (address, len) = (descriptor.addr(), descriptor.len() as usize);
                if descriptor.is_write_only() {
                    writable.add(ram, address, len)?;
                } else if writable.spans.is_empty() {
                    readable.add(ram, address, len)?;
                } else {
                    return Err("a readable buffer follows a writable one");
                }
            }
            // An end that is not the last link: a circle, a link or a table that is nowhere.
            if more { Err("its chain does not end") } else { Ok(()) }
        };
        let outcome = read(chain, &mut readable, &mut writable);
        let mut header = [0; HEADER];
        let outcome = outcome.and_then(|()| readable.take(ram, &mut header));
        let status = writable.last();
        let broken = |reason| Broken { head, status, reason };
        outcome.map_err(broken)?;
        let Some(status) = status else { return Err(broken("it has no room for its status")) };
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap_or_default());
        let kind = match word(0) {
            VIRTIO_BLK_T_IN => Kind::Read,
            VIRTIO_BLK_T_OUT => Kind::Write,
            VIRTIO_BLK_T_FLUSH => Kind::Flush,
            VIRTIO_BLK_T_GET_ID => Kind::GetId,
            VIRTIO_BLK_T_DISCARD => Kind::Discard,
            VIRTIO_BLK_T_WRITE_ZEROES => Kind::WriteZeroes,
            _ => Kind::Unknown,
        };
        let sector = u64::from(word(8)) | u64::from(word(12)) << 32;
        let run = if matches!(kind, Kind::Read | Kind::GetId) { writable } else { readable };
        if run.spans.len() > MAX_SPANS {
            return Err(broken("it has too many buffers"));
        }
        Ok(Self { head, kind, sector, data: run.spans, len: run.len, status })
    }
}

/// A part of a run of bytes.
pub(super) fn part(spans: &[Span], mut skip: usize, mut len: usize) -> Vec<Span> {
    let mut out = Vec::with_capacity(spans.len());
    for span in spans {
        let cut = skip.min(span.len);
        skip -= cut;
        let piece = (span.len - cut).min(len);
        if piece > 0 {
            out.push(Span { address: span.address.unchecked_add(cut as u64), len: piece });
            len -= piece;
        }
    }
    out
}
