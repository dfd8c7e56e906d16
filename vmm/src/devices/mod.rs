//! What the machine has: a folder for each device, with its plain state and its tests.

pub mod block;
