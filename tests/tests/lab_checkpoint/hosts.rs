//! Two lab machines, which the tests of this program take in turns.

use colo_tests::lab::{Host, Lab, Link, Options};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

static LAB: Mutex<Option<Lab>> = Mutex::new(None);

/// Both machines; nobody else uses them meanwhile.
pub(super) struct Hosts(MutexGuard<'static, Option<Lab>>);

impl Hosts {
    /// Both, running: a machine that a test has killed is started anew, and the other with it.
    pub(super) fn both() -> Self {
        Self::take(|lab| lab.hosts().iter().all(Host::is_alive))
    }

    /// For a test that needs one only, [`Hosts::b`], which no test kills.
    pub(super) fn one() -> Self {
        Self::take(|lab| lab.b().is_alive())
    }

    fn take(will_do: impl FnOnce(&Lab) -> bool) -> Self {
        let mut lab = LAB.lock().unwrap_or_else(PoisonError::into_inner);
        if !lab.as_ref().is_some_and(will_do) {
            // The old machines are gone before there are new ones.
            drop(lab.take());
            let options = Options {
                hosts: 2,
                memory_mib: 1024,
                lifetime: Duration::from_hours(1),
                name: "lab_checkpoint".to_owned(),
                ..Options::default()
            };
            *lab = Some(Lab::start(&options).unwrap());
        }
        Self(lab)
    }

    fn lab(&self) -> &Lab {
        self.0.as_ref().unwrap()
    }

    pub(super) fn a(&self) -> &Host {
        self.lab().a()
    }

    pub(super) fn b(&self) -> &Host {
        self.lab().b()
    }

    /// What carries checkpoints from one to the other.
    pub(super) fn replication(&self) -> &Link {
        &self.lab().replication
    }
}
