//! The command queue: how many queue pairs a driver uses (virtio 1.3 §5.1.6.5).

use super::Shared;
use crate::memory::GuestRam;
use crate::virtio::answers::Answer;
use crate::virtio::gather::Gather;
use crate::virtio::ring::{Broken, Segment};
use std::sync::Arc;

const CLASS_MQ: u8 = 4;
const PAIRS_SET: u8 = 0;
const OK: u8 = 0;
const ERROR: u8 = 1;

/// What carries commands out.
#[derive(Debug)]
pub(super) struct Commands {
    pub(super) shared: Arc<Shared>,
}

impl Commands {
    fn execute(&self, command: &Gather) -> u8 {
        let mut bytes = [0; 4];
        let whole = command.read_at(0, &mut bytes) == bytes.len();
        match bytes {
            [CLASS_MQ, PAIRS_SET, low, high] if whole => {
                let pairs = u16::from_le_bytes([low, high]);
                if self.shared.use_pairs(pairs) { OK } else { ERROR }
            }
            _ => ERROR,
        }
    }
}

impl Answer for Commands {
    const NAME: &'static str = "net";

    fn answer(&mut self, ram: &Arc<GuestRam>, request: &[Segment]) -> Result<u32, Broken> {
        let mut command = Gather::new(ram.clone(), 0);
        let mut answer = Gather::new(ram.clone(), 0);
        for &segment in request {
            if segment.writable { &mut answer } else { &mut command }.push(segment);
        }
        let status = self.execute(&command);
        Ok(answer.write_at(0, &[status]) as u32)
    }
}
