//! Frames, captures, and the binary.

use etherparse::PacketBuilder;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, Endianness, TsResolution};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;

pub(crate) const GUEST: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];
pub(crate) const CLIENT: [u8; 6] = [0x52, 0x54, 0, 0, 0, 9];
pub(crate) const GUEST_MAC: &str = "52:54:00:00:00:02";
const TAKES: &str = "a Vec takes everything";
/// When the captures of these tests begin, in nanoseconds since 1970.
pub(crate) const START: u64 = 1_700_000_000_000_000_000;
pub(crate) const MS: u64 = 1_000_000;

/// A frame and its time in nanoseconds since 1970.
pub(crate) type Shot = (u64, Vec<u8>);

/// A frame of the guest's UDP port 53 to `port` of the client.
pub(crate) fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let step = PacketBuilder::ethernet2(GUEST, CLIENT).ipv4([10, 0, 0, 2], [10, 0, 0, 9], 64).udp(53, port);
    let mut out = Vec::new();
    step.write(&mut out, payload).expect(TAKES);
    out
}

/// An IPv4 datagram in two pieces. (Header checksums are nothing that is compared.)
pub(crate) fn fragments(frame: &[u8]) -> [Vec<u8>; 2] {
    const HEADER: usize = 14 + 20;
    const CUT: usize = 16;
    let piece = |payload: &[u8], field: u16| {
        let mut out = [&frame[..HEADER], payload].concat();
        out[16..18].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
        out[20..22].copy_from_slice(&field.to_be_bytes());
        out
    };
    [piece(&frame[HEADER..HEADER + CUT], 0x2000), piece(&frame[HEADER + CUT..], CUT as u16 / 8)]
}

/// A TCP connection that the guest's port 80 serves.
#[derive(Clone, Copy)]
pub(crate) struct Server {
    pub(crate) client_port: u16,
    pub(crate) isn: u32,
    pub(crate) segment: usize,
}

impl Server {
    pub(crate) fn new(client_port: u16) -> Self {
        Self { client_port, isn: 1000, segment: 10 }
    }

    pub(crate) fn segment(&self, flags: &str, at: u32, payload: &[u8]) -> Vec<u8> {
        let ends = PacketBuilder::ethernet2(GUEST, CLIENT).ipv4([10, 0, 0, 2], [10, 0, 0, 9], 64);
        let mut step = ends.tcp(80, self.client_port, self.isn.wrapping_add(at), 64_000);
        for flag in flags.chars() {
            step = match flag {
                'S' => step.syn(),
                'F' => step.fin(),
                'R' => step.rst(),
                'A' => step.ack(5001),
                other => panic!("no such flag: {other}"),
            };
        }
        let mut out = Vec::new();
        step.write(&mut out, payload).expect(TAKES);
        out
    }

    /// What the guest sends: SYN and ACK, the answer in segments, FIN.
    pub(crate) fn answer(&self, answer: &[u8]) -> Vec<Vec<u8>> {
        let mut out = vec![self.segment("SA", 0, b"")];
        let mut at = 1;
        for payload in answer.chunks(self.segment) {
            out.push(self.segment("A", at, payload));
            at += payload.len() as u32;
        }
        out.push(self.segment("FA", at, b""));
        out
    }

    /// What the client sends: SYN, and a request.
    pub(crate) fn request(&self) -> Vec<Vec<u8>> {
        let segment = |seq, syn: bool, payload: &[u8]| {
            let ends = PacketBuilder::ethernet2(CLIENT, GUEST).ipv4([10, 0, 0, 9], [10, 0, 0, 2], 64);
            let step = ends.tcp(self.client_port, 80, seq, 64_000);
            let step = if syn { step.syn() } else { step.ack(self.isn + 1) };
            let mut out = Vec::new();
            step.write(&mut out, payload).expect(TAKES);
            out
        };
        vec![segment(5000, true, b""), segment(5001, false, b"GET / HTTP/1.1\r\n\r\n")]
    }
}

/// Frames one millisecond apart, the first at `from` nanoseconds after the start.
pub(crate) fn spaced(from: u64, frames: Vec<Vec<u8>>) -> Vec<Shot> {
    (0..).zip(frames).map(|(nr, frame)| (START + from + nr * MS, frame)).collect()
}

/// A directory with captures in it.
pub(crate) struct Bench {
    dir: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("the directory can be written");
        path
    }

    pub(crate) fn pcap(&self, name: &str, shots: &[Shot]) -> PathBuf {
        self.file(name, &pcap(TsResolution::MicroSecond, Endianness::Little, shots))
    }

    /// Compares what both sides sent, after writing it as pcaps.
    pub(crate) fn replay(&self, primary: &[Shot], secondary: &[Shot], args: &[&str]) -> Run {
        run(&self.pcap("p.pcap", primary), &self.pcap("s.pcap", secondary), args)
    }
}

pub(crate) fn pcap(ts_resolution: TsResolution, endianness: Endianness, shots: &[Shot]) -> Vec<u8> {
    let header =
        PcapHeader { ts_resolution, endianness, datalink: DataLink::ETHERNET, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(Vec::new(), header).expect(TAKES);
    for (time, frame) in shots {
        let packet = PcapPacket::new(Duration::from_nanos(*time), frame.len() as u32, frame);
        writer.write_packet(&packet).expect(TAKES);
    }
    writer.into_writer()
}

/// A pcapng whose frames alternate between two interfaces, both counting nanoseconds.
pub(crate) fn pcapng(shots: &[Shot]) -> Vec<u8> {
    let mut writer = PcapNgWriter::new(Vec::new()).expect(TAKES);
    for _ in 0..2 {
        let options = vec![InterfaceDescriptionOption::IfTsResol(9)];
        let block = InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: 0, options };
        writer.write_pcapng_block(block).expect(TAKES);
    }
    for (nr, (time, frame)) in (0..).zip(shots) {
        let block = EnhancedPacketBlock {
            interface_id: nr % 2,
            timestamp: Duration::from_nanos(*time),
            original_len: frame.len() as u32,
            data: frame.into(),
            options: vec![],
        };
        writer.write_pcapng_block(block).expect(TAKES);
    }
    writer.into_inner()
}

/// How a run of the binary ended.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("it writes UTF-8");
        let code = output.status.code().expect("it was not killed");
        Self { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

pub(crate) fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_colo-proxy"))
}

pub(crate) fn run(primary: &Path, secondary: &Path, args: &[&str]) -> Run {
    let files = [OsStr::new("--primary"), primary.as_ref(), OsStr::new("--secondary"), secondary.as_ref()];
    binary().arg("replay").args(files).args(args).output().expect("the binary runs").into()
}
