//! Capture files: pcap with microseconds or nanoseconds, and pcapng.
//!
//! `pcap-file` 2.0 hands out the raw time of a pcapng packet as if its unit were always the nanosecond, and writes it the same way;
//! the interface's `if_tsresol` is applied here instead.

use super::{Capture, Packet};
use anyhow::{Context, Result, bail, ensure};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgBlock, PcapNgReader, PcapNgWriter};
use pcap_file::{DataLink, Endianness, TsResolution};
use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

/// More than any frame, GSO super-frames included.
const SNAPLEN: u32 = 262_144;

/// How a capture is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// pcapng instead of classic pcap.
    pub ng: bool,
    /// Nanoseconds instead of microseconds.
    pub nano: bool,
}

impl Format {
    /// The container that a file name asks for; nanoseconds if `nano`.
    pub fn of(path: &Path, nano: bool) -> Self {
        Self { ng: path.extension().is_some_and(|e| e == "pcapng"), nano }
    }
}

/// Reads a capture of either kind, told by its first bytes.
pub fn read(path: &Path) -> Result<(Capture, Format)> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    decode(&bytes).with_context(|| path.display().to_string())
}

/// [`read`] from memory.
pub fn decode(bytes: &[u8]) -> Result<(Capture, Format)> {
    if bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) { decode_ng(bytes) } else { decode_classic(bytes) }
}

fn decode_classic(bytes: &[u8]) -> Result<(Capture, Format)> {
    let mut reader = PcapReader::new(bytes)?;
    let header = reader.header();
    ensure!(header.datalink == DataLink::ETHERNET, "link type {:?}, not Ethernet", header.datalink);
    let mut capture = Capture::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet?;
        ensure!(packet.data.len() == packet.orig_len as usize, "frame {} is cut short", capture.len() + 1);
        capture.push(Packet { time: packet.timestamp.as_nanos() as u64, data: packet.data.into_owned() });
    }
    Ok((capture, Format { ng: false, nano: header.ts_resolution == TsResolution::NanoSecond }))
}

fn decode_ng(bytes: &[u8]) -> Result<(Capture, Format)> {
    let mut reader = PcapNgReader::new(bytes)?;
    let mut capture = Capture::new();
    let mut unit: Option<u64> = None;
    while let Some(block) = reader.next_block() {
        match block? {
            Block::InterfaceDescription(interface) => {
                ensure!(unit.is_none(), "more than one interface");
                ensure!(interface.linktype == DataLink::ETHERNET, "link type {:?}", interface.linktype);
                unit = Some(nanoseconds_per_unit(&interface)?);
            }
            Block::EnhancedPacket(packet) => {
                let unit = unit.context("a packet before its interface")?;
                ensure!(
                    packet.data.len() == packet.original_len as usize,
                    "frame {} is cut short",
                    capture.len() + 1
                );
                let time = (packet.timestamp.as_nanos() as u64).saturating_mul(unit);
                capture.push(Packet { time, data: packet.data.into_owned() });
            }
            _ => {}
        }
    }
    Ok((capture, Format { ng: true, nano: unit == Some(1) }))
}

fn nanoseconds_per_unit(interface: &InterfaceDescriptionBlock<'_>) -> Result<u64> {
    let resolution = interface.options.iter().find_map(|option| match option {
        InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
        _ => None,
    });
    match resolution.unwrap_or(6) {
        power @ 0..=9 => Ok(10_u64.pow(9 - u32::from(power))),
        other => bail!("unsupported if_tsresol {other}"),
    }
}

/// Writes a capture.
pub fn write(path: &Path, capture: &[Packet], format: Format) -> Result<()> {
    let bytes = encode(capture, format)?;
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}

/// [`write()`] to memory; the same capture always gives the same bytes.
pub fn encode(capture: &[Packet], format: Format) -> Result<Vec<u8>> {
    if format.ng { encode_ng(capture, format) } else { encode_classic(capture, format) }
}

fn encode_classic(capture: &[Packet], format: Format) -> Result<Vec<u8>> {
    let header = PcapHeader {
        snaplen: SNAPLEN,
        datalink: DataLink::ETHERNET,
        ts_resolution: if format.nano { TsResolution::NanoSecond } else { TsResolution::MicroSecond },
        endianness: Endianness::Little,
        ..PcapHeader::default()
    };
    let mut writer = PcapWriter::with_header(Vec::new(), header)?;
    for packet in capture {
        let time = Duration::from_nanos(packet.time);
        writer.write_packet(&PcapPacket::new(time, packet.data.len() as u32, &packet.data))?;
    }
    Ok(writer.into_writer())
}

fn encode_ng(capture: &[Packet], format: Format) -> Result<Vec<u8>> {
    let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, SNAPLEN);
    interface.options.push(InterfaceDescriptionOption::IfTsResol(if format.nano { 9 } else { 6 }));
    let mut writer = PcapNgWriter::with_endianness(Vec::new(), Endianness::Little)?;
    writer.write_block(&interface.into_block())?;
    for packet in capture {
        let units = if format.nano { packet.time } else { packet.time / 1000 };
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_nanos(units),
            original_len: packet.data.len() as u32,
            data: Cow::Borrowed(&packet.data),
            options: Vec::new(),
        };
        writer.write_block(&block.into_block())?;
    }
    Ok(writer.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_gives_back_what_it_was_given() {
        let capture: Capture = (0..5_u64)
            .map(|i| Packet {
                time: 1_700_000_000_123_456_000 + i * 1000,
                data: vec![i as u8; 60 + i as usize],
            })
            .collect();
        for ng in [false, true] {
            for nano in [false, true] {
                let format = Format { ng, nano };
                let bytes = encode(&capture, format).unwrap();
                assert_eq!(decode(&bytes).unwrap(), (capture.clone(), format), "{format:?}");
            }
        }
    }

    #[test]
    fn microseconds_lose_only_the_nanoseconds() {
        let capture = vec![Packet { time: 1_700_000_000_123_456_789, data: vec![0; 60] }];
        for ng in [false, true] {
            let bytes = encode(&capture, Format { ng, nano: false }).unwrap();
            assert_eq!(decode(&bytes).unwrap().0[0].time, 1_700_000_000_123_456_000);
        }
    }

    #[test]
    fn a_pcapng_interface_without_a_resolution_counts_microseconds() {
        let interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, SNAPLEN);
        assert_eq!(nanoseconds_per_unit(&interface).unwrap(), 1000);
    }
}
