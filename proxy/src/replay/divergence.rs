//! The frames of each divergence as a pcapng that Wireshark opens: two interfaces, `primary` and
//! `secondary`, and on each frame a comment that says what is wrong with it.

use super::ReplayError;
use super::capture::{ETHERNET, Record};
use super::merge::index;
use super::report::{Exhibit, Finding, hex};
use crate::engine::Side;
use crate::packet::{FlowKey, Proto};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file that is being written.
pub(super) struct DivergenceFile {
    path: PathBuf,
    writer: PcapNgWriter<BufWriter<File>>,
    /// The first write that failed; nothing is written after it.
    failed: Option<io::Error>,
}

impl DivergenceFile {
    /// Makes the file and describes both interfaces.
    pub(super) fn create(path: &Path) -> Result<Self, ReplayError> {
        let fail = |source| ReplayError::Output { path: path.to_owned(), source };
        let file = BufWriter::new(File::create(path).map_err(fail)?);
        let mut writer = PcapNgWriter::new(file).map_err(|error| fail(io_error(error)))?;
        for side in [Side::Primary, Side::Secondary] {
            let interface = InterfaceDescriptionBlock {
                linktype: DataLink::from(u32::from(ETHERNET)),
                snaplen: 0,
                options: vec![
                    InterfaceDescriptionOption::IfName(side.to_string().into()),
                    InterfaceDescriptionOption::IfTsResol(9),
                ],
            };
            writer.write_pcapng_block(interface).map_err(|error| fail(io_error(error)))?;
        }
        Ok(Self { path: path.to_owned(), writer, failed: None })
    }

    /// Writes the frames of a divergence. A failure shows in [`finish`](Self::finish).
    pub(super) fn write<'a>(
        &mut self,
        flow: &FlowKey,
        finding: &Finding,
        frames: impl Iterator<Item = &'a Record>,
    ) {
        let comment = comment(flow, finding);
        for frame in frames {
            if self.failed.is_some() {
                return;
            }
            let block = EnhancedPacketBlock {
                interface_id: index(frame.side) as u32,
                timestamp: Duration::from_nanos(frame.time),
                original_len: frame.data.len() as u32,
                data: frame.data.as_slice().into(),
                options: vec![EnhancedPacketOption::Comment(comment.as_str().into())],
            };
            self.failed = self.writer.write_pcapng_block(block).err().map(io_error);
        }
    }

    /// Everything is on its way to the disk, or why not.
    pub(super) fn finish(mut self) -> Result<(), ReplayError> {
        let result = self.failed.map_or_else(|| self.writer.get_mut().flush(), Err);
        result.map_err(|source| ReplayError::Output { path: self.path, source })
    }
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

/// Where a flow diverged, in words: `payload at stream offset 7`.
pub(super) fn place(flow: &FlowKey, finding: &Finding) -> String {
    let unit = if flow.proto() == Proto::Tcp { "stream" } else { "message" };
    format!("{} at {unit} offset {}", finding.cause, finding.offset)
}

fn comment(flow: &FlowKey, finding: &Finding) -> String {
    let frame = |exhibit: &Option<Exhibit>, side: &str| match exhibit {
        Some(exhibit) => format!("{} frame {}", exhibit.side, exhibit.frame),
        None => format!("no {side} frame"),
    };
    let bytes =
        |exhibit: &Option<Exhibit>| match exhibit.as_ref().map(|it| (&it.bytes[it.mark..], it.what.as_str()))
        {
            None => "nothing".to_owned(),
            Some(([], "")) => "none".to_owned(),
            Some(([], what)) => what.to_owned(),
            Some((bytes, _)) => hex(bytes),
        };
    format!(
        "diverged: {} of {flow}; {} / {}; bytes {} vs {}",
        place(flow, finding),
        frame(&finding.primary, "primary"),
        frame(&finding.secondary, "secondary"),
        bytes(&finding.primary),
        bytes(&finding.secondary),
    )
}
