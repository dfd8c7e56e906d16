//! The pcapng format (draft-ietf-opsawg-pcapng), as far as frames need it.
//!
//! ```text
//!   section header ─► byte order; forgets the interfaces
//!   interface      ─► link type, snap length, if_tsresol, if_tsoffset
//!   enhanced, simple, obsolete packet ─► Packet
//!   anything else  ─► passed over unread, however long
//! ```

use super::ReplayError;
use super::capture::{ETHERNET, Packet, frame, u32_at};
use super::source::{Place, Source};
use std::io::Read;

const INTERFACE: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
const OPTION_RESOLUTION: u16 = 9;
const OPTION_OFFSET: u16 = 14;
/// More options than this are damage.
const OPTIONS_MAX: u64 = 1 << 20;
/// More interfaces than this are damage: they are all kept.
const INTERFACES_MAX: usize = 1 << 16;

/// What a section says so far.
#[derive(Debug)]
pub(super) struct PcapNg {
    big_endian: bool,
    interfaces: Vec<Interface>,
    /// The time of the latest frame, for simple packets, which have none.
    latest: u64,
}

#[derive(Debug)]
struct Interface {
    /// Where its block starts.
    offset: u64,
    link_type: u16,
    snaplen: u32,
    clock: Clock,
}

/// How an interface counts time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Clock {
    /// Ticks in a second: a power of ten, or of two with the top bit set.
    resolution: u8,
    /// Seconds to be added.
    offset: i64,
}

impl Clock {
    /// Nanoseconds since 1970, stopping at both ends of what can be said.
    fn nanos(self, ticks: u64) -> u64 {
        const SECOND: u128 = 1_000_000_000;
        let (ticks, power) = (u128::from(ticks), u32::from(self.resolution & 0x7f));
        let nanos = if self.resolution & 0x80 != 0 {
            (ticks * SECOND) >> power
        } else if power <= 9 {
            ticks * 10_u128.pow(9 - power)
        } else {
            10_u128.checked_pow(power - 9).map_or(0, |divisor| ticks / divisor)
        };
        let shifted = nanos as i128 + i128::from(self.offset) * SECOND as i128;
        u64::try_from(shifted.max(0)).unwrap_or(u64::MAX)
    }
}

/// A block that is being read, and how much of it has been.
#[derive(Debug)]
struct Block {
    place: Place,
    length: u64,
    used: u64,
}

impl Block {
    /// What is left before the trailing length.
    fn room(&self) -> u64 {
        self.length.saturating_sub(self.used + 4)
    }

    fn take<R>(&mut self, source: &Source<R>, len: u64) -> Result<(), ReplayError>
    where
        R: Read,
    {
        if self.length < self.used + len + 4 {
            let why = format!("is {} bytes long, too short for what it says it holds", self.length);
            return Err(source.damaged(self.place, why));
        }
        self.used += len;
        Ok(())
    }

    fn array<const N: usize, R: Read>(&mut self, source: &mut Source<R>) -> Result<[u8; N], ReplayError> {
        self.take(source, N as u64)?;
        source.array(self.place)
    }

    /// Passes over the rest.
    fn end<R: Read>(mut self, source: &mut Source<R>, big_endian: bool) -> Result<(), ReplayError> {
        self.take(source, 0)?;
        source.skip(self.place, self.room())?;
        let again = u64::from(u32_at(&source.array::<4>(self.place)?, 0, big_endian));
        if again != self.length {
            let why = format!("is {} bytes long by its head and {again} by its end", self.length);
            return Err(source.damaged(self.place, why));
        }
        Ok(())
    }
}

impl PcapNg {
    /// The type of a section header block, the same in both byte orders.
    pub(super) const MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

    /// Reads the first section header, after its magic.
    pub(super) fn new<R: Read>(source: &mut Source<R>, place: Place) -> Result<Self, ReplayError> {
        let mut this = Self { big_endian: false, interfaces: Vec::new(), latest: 0 };
        this.section(source, place)?;
        Ok(this)
    }

    fn section<R: Read>(&mut self, source: &mut Source<R>, place: Place) -> Result<(), ReplayError> {
        let fields = source.array::<12>(place)?;
        self.big_endian = match u32_at(&fields, 4, true) {
            0x1a2b_3c4d => true,
            0x4d3c_2b1a => false,
            other => return Err(source.damaged(place, format!("has the byte-order magic {other:08x}"))),
        };
        self.interfaces.clear();
        let major = self.u16_at(&fields, 8);
        if major != 1 {
            return Err(source.damaged(place, format!("is of pcapng version {major}; only 1 is known")));
        }
        let length = u64::from(u32_at(&fields, 0, self.big_endian));
        Block { place, length, used: 16 }.end(source, self.big_endian)
    }

    fn u16_at(&self, bytes: &[u8], at: usize) -> u16 {
        let field = bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        if self.big_endian { u16::from_be_bytes(field) } else { u16::from_le_bytes(field) }
    }

    /// The next frame.
    pub(super) fn next<R: Read>(&mut self, source: &mut Source<R>) -> Result<Option<Packet>, ReplayError> {
        loop {
            let place = source.place("pcapng block");
            let Some(kind) = source.begin::<4>(place)? else { return Ok(None) };
            if kind == Self::MAGIC {
                self.section(source, place)?;
                continue;
            }
            let length = u64::from(u32_at(&source.array::<4>(place)?, 0, self.big_endian));
            let mut block = Block { place, length, used: 8 };
            let packet = match u32_at(&kind, 0, self.big_endian) {
                INTERFACE => {
                    self.interface(source, &mut block)?;
                    None
                }
                ENHANCED_PACKET => Some(self.packet(source, &mut block, true)?),
                OBSOLETE_PACKET => Some(self.packet(source, &mut block, false)?),
                SIMPLE_PACKET => Some(self.simple(source, &mut block)?),
                _ => None,
            };
            block.end(source, self.big_endian)?;
            if packet.is_some() {
                return Ok(packet);
            }
        }
    }

    fn interface<R: Read>(&mut self, source: &mut Source<R>, block: &mut Block) -> Result<(), ReplayError> {
        let fields = block.array::<8, R>(source)?;
        let len = block.room();
        if len > OPTIONS_MAX || self.interfaces.len() >= INTERFACES_MAX {
            return Err(source.damaged(block.place, "describes an interface at impossible length"));
        }
        block.take(source, len)?;
        let options = source.bytes(block.place, len as usize)?;
        self.interfaces.push(Interface {
            offset: block.place.offset,
            link_type: self.u16_at(&fields, 0),
            snaplen: u32_at(&fields, 4, self.big_endian),
            clock: self.clock(&options),
        });
        Ok(())
    }

    /// The options that say how time is counted; unreadable ones end the list.
    fn clock(&self, mut options: &[u8]) -> Clock {
        let mut clock = Clock { resolution: 6, offset: 0 };
        while options.len() >= 4 {
            let (code, len) = (self.u16_at(options, 0), usize::from(self.u16_at(options, 2)));
            let Some(value) = options.get(4..4 + len) else { break };
            match (code, value) {
                (0, _) => break,
                (OPTION_RESOLUTION, &[resolution]) => clock.resolution = resolution,
                (OPTION_OFFSET, value) => {
                    if let Ok(value) = <[u8; 8]>::try_from(value) {
                        let of = if self.big_endian { i64::from_be_bytes } else { i64::from_le_bytes };
                        clock.offset = of(value);
                    }
                }
                _ => {}
            }
            options = options.get(4 + len.next_multiple_of(4)..).unwrap_or_default();
        }
        clock
    }

    /// The interface of a packet, which must be an Ethernet.
    fn of<R: Read>(&self, id: u32, source: &Source<R>, place: Place) -> Result<&Interface, ReplayError> {
        let Some(interface) = self.interfaces.get(id as usize) else {
            return Err(source.damaged(place, format!("is of interface {id}, which no block describes")));
        };
        if interface.link_type != ETHERNET {
            let (path, offset) = (source.path().to_owned(), interface.offset);
            return Err(ReplayError::LinkType { path, offset, link_type: interface.link_type });
        }
        Ok(interface)
    }

    fn packet<R: Read>(
        &mut self,
        source: &mut Source<R>,
        block: &mut Block,
        enhanced: bool,
    ) -> Result<Packet, ReplayError> {
        let fields = block.array::<20, R>(source)?;
        let field = |at| u32_at(&fields, at, self.big_endian);
        let id = if enhanced { field(0) } else { u32::from(self.u16_at(&fields, 0)) };
        let (ticks, captured) = (u64::from(field(4)) << 32 | u64::from(field(8)), field(12));
        let time = self.of(id, source, block.place)?.clock.nanos(ticks);
        self.latest = time;
        let original = field(16);
        block.take(source, u64::from(captured))?;
        let data = frame(source, block.place, captured)?;
        Ok(Packet { time, offset: block.place.offset, original, data })
    }

    fn simple<R: Read>(&self, source: &mut Source<R>, block: &mut Block) -> Result<Packet, ReplayError> {
        let original = u32_at(&block.array::<4, R>(source)?, 0, self.big_endian);
        let snaplen = self.of(0, source, block.place)?.snaplen;
        let captured = if snaplen == 0 { original } else { original.min(snaplen) };
        block.take(source, u64::from(captured))?;
        let data = frame(source, block.place, captured)?;
        Ok(Packet { time: self.latest, offset: block.place.offset, original, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Side;
    use crate::replay::capture::{Capture, Record};
    use std::path::Path;

    struct Maker(bool);

    impl Maker {
        fn u16(&self, value: u16) -> [u8; 2] {
            if self.0 { value.to_be_bytes() } else { value.to_le_bytes() }
        }
        fn u32(&self, value: u32) -> [u8; 4] {
            if self.0 { value.to_be_bytes() } else { value.to_le_bytes() }
        }
        fn block(&self, kind: u32, body: &[&[u8]]) -> Vec<u8> {
            let mut body = body.concat();
            body.resize(body.len().next_multiple_of(4), 0);
            let length = self.u32(body.len() as u32 + 12);
            [&self.u32(kind)[..], &length, &body, &length].concat()
        }
        fn section(&self) -> Vec<u8> {
            let version = [self.u16(1), self.u16(0)].concat();
            self.block(0x0a0d_0d0a, &[&self.u32(0x1a2b_3c4d), &version, &[0xff; 8]])
        }
        fn interface(&self, link: u16, snaplen: u32, options: &[(u16, &[u8])]) -> Vec<u8> {
            let mut list = Vec::new();
            for (code, value) in options {
                list.extend([self.u16(*code), self.u16(value.len() as u16)].concat());
                list.extend(*value);
                list.resize(list.len().next_multiple_of(4), 0);
            }
            self.block(1, &[&self.u16(link), &[0, 0], &self.u32(snaplen), &list])
        }
        fn enhanced(&self, id: u32, ticks: u64, data: &[u8]) -> Vec<u8> {
            let fields = [id, (ticks >> 32) as u32, ticks as u32, data.len() as u32, data.len() as u32];
            self.block(6, &[&fields.map(|field| self.u32(field)).concat(), data])
        }
    }

    fn read(blocks: &[Vec<u8>]) -> Result<Vec<Record>, ReplayError> {
        let bytes = blocks.concat();
        let mut capture = Capture::new(Side::Primary, Path::new("x.pcapng"), &bytes[..])?;
        let mut out = Vec::new();
        while let Some(record) = capture.next()? {
            out.push(record);
        }
        Ok(out)
    }

    #[test]
    fn three_kinds_of_packets_in_both_byte_orders() {
        for make in [Maker(false), Maker(true)] {
            let obsolete =
                [&make.u16(1)[..], &make.u16(9), &[0; 4], &make.u32(5), &make.u32(3), &make.u32(3)];
            let records = read(&[
                make.section(),
                make.block(0xbad, &[b"some other block"]),
                make.interface(1, 4, &[(9, &[9]), (2, b"eth0")]),
                make.interface(
                    1,
                    0,
                    &[(14, &if make.0 { 7_i64.to_be_bytes() } else { 7_i64.to_le_bytes() })],
                ),
                make.enhanced(0, (1 << 32) + 2, b"abc"),
                make.block(3, &[&make.u32(9), b"defg"]),
                make.block(2, &[&obsolete.concat(), b"hij"]),
                make.section(),
                make.interface(1, 0, &[]),
                make.enhanced(0, 1, b"klmno"),
            ])
            .unwrap();
            let seen: Vec<_> =
                records.iter().map(|r| (r.time, r.number, r.original, r.data.as_slice())).collect();
            let first = (1 << 32) + 2;
            assert_eq!(
                seen,
                [
                    (first, 1, 3, &b"abc"[..]),
                    (first, 2, 9, b"defg"),
                    (7_000_005_000, 3, 3, b"hij"),
                    (1_000, 4, 5, b"klmno")
                ]
            );
        }
    }

    #[test]
    fn clocks_count_in_powers_of_ten_and_of_two_without_overflow() {
        let nanos = |resolution, offset, ticks| Clock { resolution, offset }.nanos(ticks);
        assert_eq!(nanos(6, 0, 3), 3_000);
        assert_eq!(nanos(0, 0, 3), 3_000_000_000);
        assert_eq!(nanos(12, 0, 3_999), 3);
        assert_eq!(nanos(0x8a, 0, 1536), 1_500_000_000);
        assert_eq!(nanos(9, -1, 999_999_999), 0);
        assert_eq!(nanos(9, i64::MIN, u64::MAX), 0);
        assert_eq!(nanos(0, i64::MAX, u64::MAX), u64::MAX);
        assert_eq!(nanos(0xff, 0, u64::MAX), 0);
        assert_eq!(nanos(0x7f, 0, u64::MAX), 0);
    }

    #[test]
    fn damage_is_named_with_its_place() {
        let make = Maker(false);
        let head = [make.section(), make.interface(1, 0, &[])];
        let at = head.concat().len();
        let mut no_such = make.enhanced(3, 0, b"abc");
        let mut long = make.enhanced(0, 0, b"abc");
        long[20] = 200;
        let mut ends = make.enhanced(0, 0, b"abc");
        *ends.last_mut().unwrap() = 1;
        let mut short = make.block(6, &[]);
        short[4] = 8;
        for (block, why) in [
            (&mut no_such, "is of interface 3, which no block describes"),
            (&mut long, "is 36 bytes long, too short for what it says it holds"),
            (&mut ends, "is 36 bytes long by its head and 16777252 by its end"),
            (&mut short, "is 8 bytes long, too short for what it says it holds"),
        ] {
            let error = read(&[head.concat(), block.clone()]).unwrap_err().to_string();
            assert!(error.contains(&format!("damaged at byte {at}: the pcapng block {why}")), "{error}");
        }
        let cut = make.enhanced(0, 0, b"abc");
        let error = read(&[head.concat(), cut[..30].to_vec()]).unwrap_err();
        assert!(matches!(error, ReplayError::Truncated { have: 30, .. }), "{error:?}");
    }

    #[test]
    fn only_an_interface_that_has_frames_must_be_ethernet() {
        let make = Maker(false);
        let head = [make.section(), make.interface(113, 0, &[]), make.interface(1, 0, &[])].concat();
        assert_eq!(read(&[head.clone(), make.enhanced(1, 0, b"abc")]).unwrap().len(), 1);
        let error = read(&[head, make.enhanced(0, 0, b"abc")]).unwrap_err();
        assert!(matches!(error, ReplayError::LinkType { offset: 28, link_type: 113, .. }), "{error:?}");
    }
}
