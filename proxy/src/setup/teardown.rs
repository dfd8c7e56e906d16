//! Ending what a set-up began, whoever did it.

use super::journal::{Journal, Store};
use super::undo::undo;
use super::{SetupError, TIME_LIMIT};
use crate::datapath::Pins;
use crate::link::Netlink;
use crate::live::spec::{IfName, Places, file_of};
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// What is to be torn down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Everything in this network namespace.
    All,
    /// These.
    Vifs(Vec<IfName>),
}

/// Tears down. What was never set up is fine. Gives a line for each NIC.
pub fn teardown(places: &Places, which: &Which) -> Result<Vec<String>, SetupError> {
    let store = Store::open(places)?;
    let journals: Vec<Journal> = match which {
        Which::All => store.all()?,
        Which::Vifs(vifs) => {
            let found: Result<Vec<_>, _> = vifs.iter().map(|vif| store.get(vif)).collect();
            found?.into_iter().flatten().collect()
        }
    };
    let mut lines = Vec::new();
    for journal in &journals {
        stop_owner(journal)?;
        let _lock = store.lock()?;
        // The process in charge has done it, if it could.
        if let Some(journal) = store.get(&journal.vif.name)? {
            undo(&store, &journal, &mut Netlink::open()?)?;
            forget_socket(&store.folder().join(file_of(&journal.guest, "sock")));
        }
        Pins::open(&places.bpffs)?.tidy();
        lines.push(format!(
            "{}: torn down (was the {} of {}, index {} on {})",
            journal.vif.name, journal.mode, journal.guest, journal.index, journal.forward.name
        ));
    }
    Ok(lines)
}

/// Removes the control socket of a process that is gone. One that still answers stays.
fn forget_socket(path: &Path) {
    let refused =
        UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if refused {
        // The next process would replace it anyway.
        let _ = fs::remove_file(path);
    }
}

fn stop_owner(journal: &Journal) -> Result<(), SetupError> {
    match journal.owner {
        Some(owner) if !owner.stop(TIME_LIMIT / 2) => {
            Err(SetupError::Stubborn { pid: owner.pid, vif: journal.vif.name.clone() })
        }
        _ => Ok(()),
    }
}
