//! What can go wrong with a replay: what was tried, on what, why it failed, and what to do.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// A replay that cannot be done.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// A capture cannot be opened.
    #[error("cannot open the capture '{}': {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A capture cannot be read on.
    #[error("cannot read the capture '{}' at byte {offset}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// A file of no bytes.
    #[error("'{}' is empty (0 bytes), so it is no capture: did the capturing program end properly?", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Something else than a capture.
    #[error("'{}' is not a capture: at byte 0 stands {magic}, which begins neither a pcap nor a pcapng; {hint}", path.display())]
    NotACapture {
        /// The file.
        path: PathBuf,
        /// Its first bytes in hexadecimal.
        magic: String,
        /// What to do.
        hint: &'static str,
    },
    /// The file ends inside a record.
    #[error(
        "'{}' is truncated: the file ends {have} bytes into the {what} at byte {offset}; what is whole of it can be saved with 'editcap {0} OUT'",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Where the incomplete record starts.
        offset: u64,
        /// What it is.
        what: &'static str,
        /// How many bytes of it are there.
        have: u64,
    },
    /// A record contradicts itself or the format.
    #[error("'{}' is damaged at byte {offset}: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the record starts.
        offset: u64,
        /// What is wrong with it.
        why: String,
    },
    /// Frames that do not begin with an Ethernet header.
    #[error(
        "'{}' at byte {offset}: link type {link_type}{} is not supported, only Ethernet (1); capture on the guest's own interface (tap or veth), not on 'any'",
        path.display(),
        link_name(*link_type)
    )]
    LinkType {
        /// The file.
        path: PathBuf,
        /// Where the link type is said.
        offset: u64,
        /// The link type.
        link_type: u16,
    },
    /// A frame that was not captured whole.
    #[error(
        "'{}' at byte {offset}: only {captured} of the {original} bytes of frame {frame} were captured, so it cannot be compared; capture whole frames ('tcpdump -s 0')",
        path.display()
    )]
    Snapped {
        /// The file.
        path: PathBuf,
        /// Where the frame's record starts.
        offset: u64,
        /// The frame's number in the file, from 1.
        frame: u64,
        /// How much of it is there.
        captured: u32,
        /// How long it was.
        original: u32,
    },
    /// The guest's MAC address is the source of no frame.
    #[error("no frame of either capture comes from {mac}, so there is nothing to compare; {hint}")]
    NoGuest {
        /// The address.
        mac: super::Mac,
        /// What to do.
        hint: String,
    },
    /// The output is one of the inputs.
    #[error("'{}' is one of the captures to compare: write the divergences to another file", path.display())]
    OutputIsInput {
        /// The file.
        path: PathBuf,
    },
    /// The file for divergences cannot be written.
    #[error("cannot write the divergences to '{}': {source}", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The usual names of link types that people capture by mistake (tcpdump.org/linktypes.html).
fn link_name(link_type: u16) -> &'static str {
    match link_type {
        0 => " (BSD loopback)",
        101 => " (raw IP)",
        105 => " (802.11)",
        113 => " (Linux cooked)",
        127 => " (802.11 with radiotap)",
        228 => " (raw IPv4)",
        229 => " (raw IPv6)",
        249 => " (USBPcap)",
        276 => " (Linux cooked v2)",
        _ => "",
    }
}
