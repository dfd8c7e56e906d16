//! A side of a pair without the other: what is asked of it is on its board.

use colo_vmm::checkpoint::status::{Board, Cause, Epoch, Phase, Reason, Status, Stood};
use colo_vmm::config;
use colo_vmm::control::{Colo, ControlError};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
struct Lone(Board);

pub(super) fn of(colo: Option<&config::Colo>) -> Option<Arc<dyn Colo>> {
    let colo = colo?;
    let board = Board::new(colo.role(), colo.mode.into(), colo.delay.duration());
    board.write(|status| {
        status.phase = Phase::Level;
        status.peer = Some("192.0.2.7:9000".to_owned());
    });
    Some(Arc::new(Lone(board)))
}

impl Colo for Lone {
    fn status(&self) -> Status {
        self.0.read()
    }

    fn set_delay(&self, delay: Duration) -> Result<(), ControlError> {
        self.0.write(|status| status.delay = delay);
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), ControlError> {
        let status = self.status();
        if status.phase == Phase::Alone {
            return Err(ControlError {
                what: "make a checkpoint",
                reason: "there is no peer any more".to_owned(),
            });
        }
        self.0.write(|status| *status.causes.entry(Cause::Operator).or_default() += 1);
        let stood = Stood { total: Duration::from_micros(1500), ..Stood::default() };
        self.0.complete(Epoch {
            epoch: status.epoch + 1,
            cause: Cause::Operator,
            ahead: 0,
            pages: 3,
            foreign: 0,
            ram_bytes: 12_300,
            state_bytes: 700,
            stood,
            transfer: Duration::from_millis(2),
            load: Duration::from_millis(1),
        });
        Ok(())
    }

    fn lost_heartbeat(&self) -> Result<(), ControlError> {
        self.0.write(|status| (status.phase, status.reason) = (Phase::Alone, Reason::Request));
        Ok(())
    }
}
