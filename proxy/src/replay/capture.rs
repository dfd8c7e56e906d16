//! One capture as a stream of frames: pcap here, pcapng next door.
//!
//! ```text
//!   file ─► Source (counts bytes) ─► pcap   │ header │ record: time, lengths │ frame │ …
//!                                 ─► pcapng │ section ─ interfaces ─ packets of three kinds │ …
//!                                              └──► Record { number, time, offset, data }
//! ```
//!
//! The reader is the project's own because neither crate at hand can serve: `pcap-file` 2 takes
//! every pcapng time for nanoseconds whatever `if_tsresol` says, refuses frames above the snap
//! length instead of showing them, and reports no offsets; `pcap-parser` has no base-2
//! resolutions, reads `if_tsoffset` in one byte order only, swallows read errors, and gives up on
//! a bad option in a block that does not matter. Only one frame is in memory at a time.

use super::ReplayError;
use super::pcapng::PcapNg;
use super::source::{Place, Source};
use crate::engine::{Frame, Side};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// The longest frame that is believed in (as libpcap and Wireshark do): more is a damaged length.
pub(super) const FRAME_MAX: u32 = 256 << 10;
/// `LINKTYPE_ETHERNET`.
pub(super) const ETHERNET: u16 = 1;
const BUFFER: usize = 256 << 10;

/// One frame of a capture. It is also the handle that the engine holds.
#[derive(Debug)]
pub(super) struct Record {
    /// Which capture it is from.
    pub(super) side: Side,
    /// Its number in the file, from 1.
    pub(super) number: u64,
    /// Nanoseconds since 1970.
    pub(super) time: u64,
    /// Where its record starts in the file.
    pub(super) offset: u64,
    /// How long it was on the wire.
    pub(super) original: u32,
    /// What was captured of it.
    pub(super) data: Vec<u8>,
}

impl Frame for Record {
    fn bytes(&self) -> &[u8] {
        &self.data
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }
}

/// A frame as a format hands it over.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) time: u64,
    pub(super) offset: u64,
    pub(super) original: u32,
    pub(super) data: Vec<u8>,
}

#[derive(Debug)]
enum Format {
    Pcap(Pcap),
    PcapNg(PcapNg),
}

/// A capture that is being read.
#[derive(Debug)]
pub(super) struct Capture<R> {
    side: Side,
    source: Source<R>,
    format: Format,
    frames: u64,
}

impl Capture<BufReader<File>> {
    /// Opens a file. Returns its length too.
    pub(super) fn open(side: Side, path: &Path) -> Result<(Self, u64), ReplayError> {
        let fail = |source| ReplayError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(fail)?;
        let len = file.metadata().map_err(fail)?.len();
        Ok((Self::new(side, path, BufReader::with_capacity(BUFFER, file))?, len))
    }
}

impl<R: Read> Capture<R> {
    /// Reads the header of whatever format this is.
    pub(super) fn new(side: Side, path: &Path, reader: R) -> Result<Self, ReplayError> {
        let mut source = Source::new(path, reader);
        let place = source.place("capture header");
        let Some(magic) = source.begin::<4>(place)? else {
            return Err(ReplayError::Empty { path: path.to_owned() });
        };
        let format = if let Some(kind) = Kind::of(magic) {
            Format::Pcap(Pcap::new(kind, &mut source, place)?)
        } else if magic == PcapNg::MAGIC {
            Format::PcapNg(PcapNg::new(&mut source, place)?)
        } else {
            return Err(not_a_capture(path, magic));
        };
        Ok(Self { side, source, format, frames: 0 })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        self.source.path()
    }

    /// How many bytes of it have been read.
    pub(super) fn offset(&self) -> u64 {
        self.source.offset()
    }

    /// The next frame.
    pub(super) fn next(&mut self) -> Result<Option<Record>, ReplayError> {
        let packet = match &mut self.format {
            Format::Pcap(pcap) => pcap.next(&mut self.source)?,
            Format::PcapNg(pcapng) => pcapng.next(&mut self.source)?,
        };
        let Some(Packet { time, offset, original, data }) = packet else { return Ok(None) };
        self.frames += 1;
        Ok(Some(Record { side: self.side, number: self.frames, time, offset, original, data }))
    }
}

fn not_a_capture(path: &Path, magic: [u8; 4]) -> ReplayError {
    let hint = match magic {
        [0x1f, 0x8b, ..] => "it is compressed: unpack it first ('gunzip')",
        [0x28, 0xb5, 0x2f, 0xfd] => "it is compressed: unpack it first ('unzstd')",
        [0xfd, b'7', b'z', b'X'] => "it is compressed: unpack it first ('unxz')",
        _ => "give a file written by tcpdump, dumpcap or Wireshark",
    };
    let magic = magic.map(|byte| format!("{byte:02x}")).join(" ");
    ReplayError::NotACapture { path: path.to_owned(), magic, hint }
}

/// A 32-bit field in the file's byte order.
pub(super) fn u32_at(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
    if big_endian { u32::from_be_bytes(field) } else { u32::from_le_bytes(field) }
}

/// What the magic number of a pcap says.
#[derive(Clone, Copy, Debug)]
struct Kind {
    big_endian: bool,
    nanoseconds: bool,
    /// The record header: 16 bytes, or 24 in the variant with interface and protocol.
    header: usize,
}

impl Kind {
    fn of(magic: [u8; 4]) -> Option<Self> {
        let kind = |big_endian, nanoseconds, header| Some(Self { big_endian, nanoseconds, header });
        for (big_endian, number) in [(true, u32::from_be_bytes(magic)), (false, u32::from_le_bytes(magic))] {
            match number {
                0xa1b2_c3d4 => return kind(big_endian, false, 16),
                0xa1b2_3c4d => return kind(big_endian, true, 16),
                0xa1b2_cd34 => return kind(big_endian, false, 24),
                _ => {}
            }
        }
        None
    }
}

/// The classic format.
#[derive(Debug)]
struct Pcap(Kind);

impl Pcap {
    fn new<R: Read>(kind: Kind, source: &mut Source<R>, place: Place) -> Result<Self, ReplayError> {
        let rest = source.array::<20>(place)?;
        // The upper half tells of frame check sequences, which no comparison looks at.
        let link_type = u32_at(&rest, 16, kind.big_endian) as u16;
        if link_type != ETHERNET {
            let path = source.path().to_owned();
            return Err(ReplayError::LinkType { path, offset: 20, link_type });
        }
        Ok(Self(kind))
    }

    fn next<R: Read>(&mut self, source: &mut Source<R>) -> Result<Option<Packet>, ReplayError> {
        let Kind { big_endian, nanoseconds, header } = self.0;
        let place = source.place("pcap record");
        let Some(fields) = source.begin::<16>(place)? else { return Ok(None) };
        source.skip(place, header as u64 - 16)?;
        let field = |at| u32_at(&fields, at, big_endian);
        let (seconds, fraction, captured, original) = (field(0), field(4), field(8), field(12));
        let data = frame(source, place, captured)?;
        let fraction = u64::from(fraction) * if nanoseconds { 1 } else { 1000 };
        let time = u64::from(seconds) * 1_000_000_000 + fraction;
        Ok(Some(Packet { time, offset: place.offset, original, data }))
    }
}

/// The bytes of a frame.
pub(super) fn frame<R: Read>(
    source: &mut Source<R>,
    place: Place,
    captured: u32,
) -> Result<Vec<u8>, ReplayError> {
    if captured > FRAME_MAX {
        let why = format!("claims a frame of {captured} bytes, and none is longer than {FRAME_MAX}");
        return Err(source.damaged(place, why));
    }
    source.bytes(place, captured as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pcap with these frames as (seconds, fraction, captured, original).
    fn pcap(magic: u32, big_endian: bool, link: u32, records: &[(u32, u32, &[u8], u32)]) -> Vec<u8> {
        let word = |word: u32| if big_endian { word.to_be_bytes() } else { word.to_le_bytes() };
        let mut out = Vec::new();
        out.extend(
            [magic, if big_endian { 0x0002_0004 } else { 0x0004_0002 }, 0, 0, 65535, link].map(word).concat(),
        );
        for &(seconds, fraction, data, original) in records {
            out.extend([seconds, fraction, data.len() as u32, original].map(word).concat());
            if magic == 0xa1b2_cd34 {
                out.extend([0; 8]);
            }
            out.extend(data);
        }
        out
    }

    fn read(bytes: &[u8]) -> Result<Vec<Record>, ReplayError> {
        let mut capture = Capture::new(Side::Primary, Path::new("x.pcap"), bytes)?;
        let mut out = Vec::new();
        while let Some(record) = capture.next()? {
            out.push(record);
        }
        assert_eq!(capture.offset(), bytes.len() as u64);
        Ok(out)
    }

    #[test]
    fn both_resolutions_and_both_byte_orders_are_read() {
        for (magic, nanos) in [(0xa1b2_c3d4, 7_000), (0xa1b2_3c4d, 7), (0xa1b2_cd34, 7_000)] {
            for big_endian in [false, true] {
                let file = pcap(magic, big_endian, 1, &[(3, 7, b"abc", 3), (4, 0, b"", 9)]);
                let records = read(&file).unwrap();
                assert_eq!(records[0].time, 3_000_000_000 + nanos, "{magic:x} {big_endian}");
                assert_eq!((records[0].number, records[0].offset), (1, 24));
                assert_eq!(records[0].data, b"abc");
                assert_eq!((records[1].number, records[1].original, records[1].data.len()), (2, 9, 0));
            }
        }
    }

    #[test]
    fn the_upper_half_of_the_link_type_says_nothing_of_the_link() {
        assert!(read(&pcap(0xa1b2_c3d4, false, 0x2400_0001, &[])).is_ok());
        let error = read(&pcap(0xa1b2_c3d4, true, 113, &[])).unwrap_err().to_string();
        assert!(error.contains("byte 20: link type 113 (Linux cooked) is not supported"), "{error}");
    }

    #[test]
    fn every_cut_is_named_with_its_place() {
        let file = pcap(0xa1b2_c3d4, false, 1, &[(3, 7, b"abc", 3), (4, 0, b"defg", 4)]);
        for len in 0..file.len() {
            let place = match read(&file[..len]) {
                Ok(_) => None,
                Err(ReplayError::Empty { .. }) => Some(0),
                Err(ReplayError::Truncated { offset, .. }) => Some(offset),
                Err(error) => panic!("{len}: {error}"),
            };
            let expected = match len {
                0..24 => Some(0),
                24 | 43 => None,
                25..43 => Some(24),
                _ => Some(43),
            };
            assert_eq!(place, expected, "{len}");
        }
        let error = read(&file[..45]).unwrap_err().to_string();
        assert!(
            error.contains("'x.pcap' is truncated: the file ends 2 bytes into the pcap record at byte 43"),
            "{error}"
        );
    }

    #[test]
    fn an_impossible_length_is_damage_not_an_allocation() {
        let mut file = pcap(0xa1b2_c3d4, false, 1, &[(3, 7, b"abc", 3)]);
        file[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = read(&file).unwrap_err().to_string();
        assert!(
            error.contains("damaged at byte 24: the pcap record claims a frame of 4294967295 bytes"),
            "{error}"
        );
    }

    #[test]
    fn other_files_are_refused_with_a_hint() {
        for (bytes, hint) in [
            (&b"\x1f\x8b\x08\x00"[..], "gunzip"),
            (b"\x28\xb5\x2f\xfd", "unzstd"),
            (b"\xfd7zXZ\x00", "unxz"),
            (b"GET / HTTP/1.1", "47 45 54 20"),
        ] {
            let error = read(bytes).unwrap_err().to_string();
            assert!(error.contains("not a capture") && error.contains(hint), "{error}");
        }
    }
}
