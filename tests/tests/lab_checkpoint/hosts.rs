//! Two lab machines, of which a test may kill one.

use colo_tests::lab::{Host, Lab, Link, Options};
use std::time::Duration;

/// Both machines; they end with this.
pub(super) struct Hosts(Lab);

impl Hosts {
    /// Starts both.
    pub(super) fn start() -> Self {
        let options = Options {
            hosts: 2,
            memory_mib: 1024,
            lifetime: Duration::from_hours(1),
            name: "lab_checkpoint".to_owned(),
            ..Options::default()
        };
        Self(Lab::start(&options).unwrap())
    }

    pub(super) fn a(&self) -> &Host {
        self.0.a()
    }

    pub(super) fn b(&self) -> &Host {
        self.0.b()
    }

    /// What carries checkpoints from one to the other.
    pub(super) fn replication(&self) -> &Link {
        &self.0.replication
    }
}
