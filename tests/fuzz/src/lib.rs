//! What the fuzz targets share.
//!
//! * [`disk`] is a disk in memory, to be served.
//! * [`frames`] builds valid frames of a few flows, which an input then cuts, mixes and bends.
//! * [`guest`] is a guest's view of a virtio device on a PCI bus.
//! * [`model`] says what translation between two kernels' numbers comes to.
//! * [`peer`] is the other side of a checkpoint session.
//! * [`script`] turns an input into what happens to an engine.
//! * [`tables`] reads ACPI tables as an operating system does.
//! * [`watch`] is a sink that knows what must never come out of the engine.

pub mod disk;
pub mod frames;
pub mod guest;
pub mod model;
pub mod peer;
pub mod script;
pub mod tables;
pub mod watch;
