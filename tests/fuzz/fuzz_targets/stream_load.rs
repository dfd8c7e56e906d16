//! Any bytes as a saved machine and as a package: an error, or something that is written again as it was
//! read. Memory grows with the bytes that come, not with what they say of themselves.
#![no_main]

use colo_vmm::memory;
use colo_vmm::state::{Section, encode, from_bytes};
use colo_vmm::stream::inspect::inspect;
use colo_vmm::stream::{load, read_devices, read_package, receive_package};
use libfuzzer_sys::fuzz_target;
use serde::{Deserialize, Serialize};
use std::io::Cursor;

/// A state with what can be long in it.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    name: String,
    bytes: Vec<u8>,
    lists: Vec<Vec<Option<u32>>>,
    kind: Kind,
    fixed: [u16; 3],
}

#[derive(Debug, Serialize, Deserialize)]
enum Kind {
    Off,
    On { since: i64 },
    Both(bool, u8),
}

impl Section for State {
    const NAME: &'static str = "state";
    const VERSION: u32 = 1;
}

fuzz_target!(|input: &[u8]| {
    let _ = inspect(Cursor::new(input)).map(|report| report.to_string().len());
    let ram = memory::new(2 << 20).expect("memory");
    if let Ok(devices) = load(input, &ram) {
        let total: usize = devices.iter().map(|device| device.data.len()).sum();
        assert!(total < input.len());
    }
    if let Ok(devices) = read_package(input) {
        let mut rest = input;
        let body = receive_package(&mut rest).expect("what was read is received");
        assert!(rest.is_empty());
        assert_eq!(read_devices(&body).expect("the same"), devices);
    }
    let _ = read_devices(input);
    if let Ok(state) = from_bytes::<State>(input) {
        assert_eq!(encode(&state).expect("what was read is written").bytes, input);
    }
});
