//! Acknowledgements as they are rewritten and made (RFC 9293, RFC 7323, RFC 2018).
//!
//! ```text
//!   lower_ack   number and window of a frame that leaves            in place
//!   Stamps      its TSval and TSecr                                  in place
//!   pure_ack    a frame of our own, from the headers of another      NOP NOP TS · NOP NOP SACK
//! ```

use super::checksum::update;
use super::length::fit;
use super::tcp::{NOP, OPTION_SACK, OPTION_TIMESTAMPS, for_each_option};
use super::{Segment, TcpFlags, be16, be32};

/// Writes a lower acknowledgement number and window into a segment and mends its checksum
/// (RFC 1624). With a partial checksum the field covers the pseudo-header alone, which does not
/// change. `frame` must hold the whole TCP header at `header`; if it does not, nothing is written
/// and false comes back.
pub fn lower_ack(frame: &mut [u8], header: u32, ack: u32, window: u16, partial_checksum: bool) -> bool {
    let at = header as usize;
    let Some(tcp) = frame.get_mut(at..at + 20) else { return false };
    let (old_ack, old_window) = (be32(tcp, 8), be16(tcp, 14));
    tcp[8..12].copy_from_slice(&ack.to_be_bytes());
    tcp[14..16].copy_from_slice(&window.to_be_bytes());
    if !partial_checksum {
        let mut sum = be16(tcp, 16);
        sum = update(sum, (old_ack >> 16) as u16, (ack >> 16) as u16);
        sum = update(sum, old_ack as u16, ack as u16);
        sum = update(sum, old_window, window);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    }
    true
}

/// The timestamps of a segment (RFC 7323 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamps {
    /// The sender's clock, TSval.
    pub value: u32,
    /// What it echoes of its peer's, TSecr.
    pub echo: u32,
    /// Where in the TCP header they are.
    at: u8,
}

impl Stamps {
    const BYTES: usize = 8;
    /// Two NOPs, then the option: how nearly every segment's options begin.
    const USUAL: [u8; 4] = [NOP, NOP, OPTION_TIMESTAMPS, 10];

    /// Reads the option of the segment at `header` in `data`.
    #[inline]
    pub fn read(data: &[u8], header: u32) -> Option<Self> {
        let tcp = data.get(header as usize..)?;
        if tcp.get(20..24) == Some(&Self::USUAL) && *tcp.get(12)? >= 8 << 4 {
            return Self::at(tcp, 24);
        }
        Self::find(data, header)
    }

    #[cold]
    fn find(data: &[u8], header: u32) -> Option<Self> {
        let tcp = data.get(header as usize..)?;
        let mut found = None;
        for_each_option(data, header, |kind, body| {
            if kind == OPTION_TIMESTAMPS && body.len() == Self::BYTES {
                // Both are parts of one slice.
                found = Some(body.as_ptr() as usize - tcp.as_ptr() as usize);
            }
        });
        Self::at(tcp, found?)
    }

    fn at(tcp: &[u8], at: usize) -> Option<Self> {
        let there: &[u8; Self::BYTES] = tcp.get(at..)?.first_chunk()?;
        Some(Self { value: be32(there, 0), echo: be32(there, 4), at: at as u8 })
    }

    /// Writes them where they were read, and mends the checksum as [`lower_ack`] does.
    pub fn write(self, frame: &mut [u8], header: u32, partial_checksum: bool) -> bool {
        let at = usize::from(self.at);
        let Some(tcp) = frame.get_mut(header as usize..) else { return false };
        // The words of the checksum that the two numbers touch.
        let words = at & !1..(at + Self::BYTES + 1) & !1;
        if tcp.len() < words.end {
            return false;
        }
        let mut before = [0; Self::BYTES + 2];
        before[..words.len()].copy_from_slice(&tcp[words.clone()]);
        tcp[at..at + 4].copy_from_slice(&self.value.to_be_bytes());
        tcp[at + 4..at + 8].copy_from_slice(&self.echo.to_be_bytes());
        if !partial_checksum {
            let mut sum = be16(tcp, 16);
            for (old, new) in before.chunks_exact(2).zip(tcp[words].chunks_exact(2)) {
                sum = update(sum, be16(old, 0), be16(new, 0));
            }
            tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        }
        true
    }
}

/// Blocks of data that arrived behind a gap (RFC 2018 §3), at most as many as fit a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlocks {
    edges: [(u32, u32); Self::MOST],
    count: usize,
}

impl SackBlocks {
    const MOST: usize = 4;

    /// Reads the option of the segment at `header` in `data`.
    pub fn read(data: &[u8], header: u32) -> Self {
        let mut out = Self::default();
        for_each_option(data, header, |kind, body| {
            if kind == OPTION_SACK {
                body.chunks_exact(8).for_each(|block| out.push(be32(block, 0), be32(block, 4)));
            }
        });
        out
    }

    /// Adds a block, if there is room for it.
    pub fn push(&mut self, left: u32, right: u32) {
        if let Some(place) = self.edges.get_mut(self.count) {
            *place = (left, right);
            self.count += 1;
        }
    }

    /// Left and right edges.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        self.edges[..self.count].iter().copied()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// What an acknowledgement of our own says.
#[derive(Clone, Copy, Debug)]
pub struct PureAck {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window field, unscaled.
    pub window: u16,
    /// Timestamps, if the connection has them.
    pub stamps: Option<Stamps>,
    /// What arrived behind a gap; as many blocks of it as fit.
    pub sack: SackBlocks,
}

/// Builds a pure acknowledgement from a segment of the same stream: the same Ethernet, IP and TCP
/// headers, no payload, no SYN, FIN or PSH, no options but timestamps and SACK blocks, all checksums
/// complete. None if `frame` is not a plain TCP frame.
pub fn pure_ack(frame: &[u8], segment: &Segment, says: &PureAck) -> Option<Box<[u8]>> {
    let at = segment.header as usize;
    let mut out = Vec::with_capacity(at + 60);
    out.extend_from_slice(frame.get(..at + 20)?);
    if let Some(stamps) = says.stamps {
        out.extend(Stamps::USUAL);
        out.extend(stamps.value.to_be_bytes());
        out.extend(stamps.echo.to_be_bytes());
    }
    let room = (at + 60 - out.len() - 4) / 8;
    let blocks = says.sack.count.min(room);
    if blocks > 0 {
        out.extend([NOP, NOP, OPTION_SACK, (2 + 8 * blocks) as u8]);
        for (left, right) in says.sack.iter().take(blocks) {
            out.extend(left.to_be_bytes());
            out.extend(right.to_be_bytes());
        }
    }
    let tcp = &mut out[at..];
    let words = tcp.len() as u8 / 4;
    tcp[4..8].copy_from_slice(&says.seq.to_be_bytes());
    tcp[8..12].copy_from_slice(&says.ack.to_be_bytes());
    tcp[12] = words << 4;
    tcp[13] = TcpFlags::ACK;
    tcp[14..16].copy_from_slice(&says.window.to_be_bytes());
    // No urgent pointer.
    tcp[18..20].fill(0);
    fit(&mut out, at, false)?;
    Some(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Checksum;
    use proptest::prelude::*;

    /// A TCP header with these options, its checksum over itself alone.
    fn header(options: &[u8]) -> Vec<u8> {
        let mut tcp = [&[0; 20], options].concat();
        tcp.resize(20 + options.len().next_multiple_of(4), 0);
        tcp[12] = (tcp.len() as u8 / 4) << 4;
        let sum = Checksum::default().sum(&tcp).finish();
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        tcp
    }

    proptest! {
        #[test]
        fn timestamps_are_written_where_they_were_read(nops in 0usize..8, old: (u32, u32), new: (u32, u32)) {
            let mut options = vec![NOP; nops];
            options.extend([OPTION_TIMESTAMPS, 10]);
            options.extend(old.0.to_be_bytes());
            options.extend(old.1.to_be_bytes());
            let mut tcp = header(&options);
            let read = Stamps::read(&tcp, 0).unwrap();
            prop_assert_eq!((read.value, read.echo), old);
            let written = Stamps { value: new.0, echo: new.1, ..read }.write(&mut tcp, 0, false);
            prop_assert!(written);
            let read = Stamps::read(&tcp, 0).unwrap();
            prop_assert_eq!((read.value, read.echo), new);
            prop_assert_eq!(Checksum::default().sum(&tcp).finish(), 0);
        }
    }

    #[test]
    fn a_segment_without_timestamps_has_none() {
        assert_eq!(Stamps::read(&header(&[2, 4, 5, 0xb4]), 0), None);
        // An option that only looks like one: of another length, or behind the header's end.
        assert_eq!(Stamps::read(&header(&[OPTION_TIMESTAMPS, 6, 0, 0, 0, 0]), 0), None);
        let mut short = header(&[NOP, NOP, OPTION_TIMESTAMPS, 10, 0, 0, 0, 0, 0, 0, 0, 0]);
        short[12] = 5 << 4;
        assert_eq!(Stamps::read(&short, 0), None);
        assert_eq!(Stamps::read(&short[..24], 0), None);
    }

    #[test]
    fn as_many_blocks_are_said_as_fit() {
        let mut sack = SackBlocks::default();
        (0..9).for_each(|n| sack.push(n * 10, n * 10 + 5));
        assert_eq!(sack.iter().count(), 4);
        let frame = [&[0; 12], [8, 0, 0x45, 0].as_slice(), &[0; 18], &header(&[])].concat();
        let segment = Segment {
            seq: 1,
            ack: 2,
            window: 3,
            flags: TcpFlags(0x10),
            header: 34,
            payload: crate::packet::Region::default(),
        };
        for (stamps, blocks) in [(None, 4), (Some(Stamps { value: 1, echo: 2, at: 24 }), 3)] {
            let says = PureAck { seq: 7, ack: 8, window: 9, stamps, sack };
            let ack = pure_ack(&frame, &segment, &says).unwrap();
            assert_eq!(
                SackBlocks::read(&ack, 34).iter().collect::<Vec<_>>(),
                sack.iter().take(blocks).collect::<Vec<_>>()
            );
            assert_eq!(Stamps::read(&ack, 34), stamps);
        }
    }
}
