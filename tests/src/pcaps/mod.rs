//! Captures of real programs: recording them, deriving pairs from them, and the table that says what each shows.
//!
//! * [`io`] reads and writes capture files; everything else works on a [`Capture`] in memory.
//! * [`wire`] finds and edits the fields of one frame.
//! * [`derive`](mod@derive) makes a secondary's capture out of a primary's by a documented, seeded transformation.
//! * [`oracle`] says what the difference between two whole captures is, by the simplest means that will do.
//! * [`pairs`] makes and judges the files of one row.
//! * [`rows`] reads `pcaps/README.md`, the one place that says what every pair shows.
//! * [`record`] runs the real programs in network namespaces, [`live`] in two guests that are protected.

pub mod derive;
pub mod io;
pub mod live;
pub mod oracle;
pub mod pairs;
pub mod record;
pub mod rows;
pub mod wire;

/// One captured Ethernet frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Nanoseconds since 1970.
    pub time: u64,
    /// The frame from its destination MAC on, without FCS.
    pub data: Vec<u8>,
}

/// A capture: frames in the order of their time stamps.
pub type Capture = Vec<Packet>;

/// One millisecond in the unit of [`Packet::time`].
pub const MS: u64 = 1_000_000;
