//! What a guest finds in its machine. A device is a folder: the device, its plain state, its tests.

pub mod net;
pub mod rng;
