//! Ending what a set-up began, whoever did it.

use super::journal::{Journal, Journals, Store};
use super::undo::{restore_forward, undo};
use super::{Owner, SetupError, TIME_LIMIT};
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
    let all = store.all()?;
    let journals: Vec<Journal> = match which {
        Which::All => all.readable.clone(),
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
        }
        forget_files(&store, journal, &all.readable);
        Pins::open(&places.bpffs)?.tidy();
        lines.push(format!(
            "{}: torn down (was the {} of {}, index {} on {})",
            journal.vif.name, journal.mode, journal.guest, journal.index, journal.forward.name
        ));
    }
    if *which == Which::All && !all.unreadable.is_empty() {
        lines.extend(clear(&store, places)?);
    }
    if *which == Which::All {
        let _lock = store.lock()?;
        forget_dead(store.folder());
    } else {
        // With the last file the folder goes.
        store.tidy()?;
    }
    Ok(lines)
}

/// Removes sockets and logs of processes that are gone, whatever became of their journals, and what one that was killed
/// had begun to write: who has the lock knows that nobody writes.
fn forget_dead(folder: &Path) {
    let paths = || fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is = |path: &Path, what: &str| path.extension().is_some_and(|end| end == what);
    paths().filter(|path| is(path, "sock")).for_each(|socket| forget_socket(&socket));
    for log in paths().filter(|path| is(path, "log") && !path.with_extension("sock").exists()) {
        let _ = fs::remove_file(log);
    }
    for draft in paths().filter(|path| is(path, "draft")) {
        let _ = fs::remove_file(draft);
    }
}

/// Removes journals that nobody understands, and all that no other journal accounts for: that is
/// what they stood for.
fn clear(store: &Store, places: &Places) -> Result<Vec<String>, SetupError> {
    let _lock = store.lock()?;
    let Journals { readable, unreadable } = store.all()?;
    let mut lines = Vec::new();
    for (path, _) in unreadable {
        fs::remove_file(&path).map_err(|error| SetupError::File {
            what: "remove",
            path: path.clone(),
            error,
        })?;
        lines.push(format!("{}: removed, with what it stood for; it could not be read", path.display()));
    }
    let accounted: Vec<&Path> = readable
        .iter()
        .flat_map(|journal| [journal.nic_folder.as_path(), journal.forward_folder.as_path()])
        .collect();
    let pins = Pins::open(&places.bpffs)?;
    // Programs of NICs first; a forward device is restored when nobody sends to it.
    pins.sweep("nic-", &accounted)?;
    let mut netlink = Netlink::open()?;
    for forward in store.forwards() {
        if !accounted.contains(&forward.folder.as_path()) {
            restore_forward(&forward, &mut netlink)?;
            store.remove_forward(forward.device.number)?;
        }
    }
    pins.sweep("forward-", &accounted)?;
    pins.tidy();
    Ok(lines)
}

/// Removes the socket and the log of the process that was in charge, if it is gone. They are called
/// after its first guest, and it is one of those whose journals named this process.
fn forget_files(store: &Store, journal: &Journal, all: &[Journal]) {
    if journal.owner.is_some_and(Owner::is_alive) {
        return;
    }
    for other in all.iter().filter(|other| other.owner == journal.owner) {
        forget_socket(&store.folder().join(file_of(&other.guest, "sock")));
        // What it said last was for who watched it; after a teardown nobody asks.
        let _ = fs::remove_file(store.folder().join(file_of(&other.guest, "log")));
    }
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
    match journal.keeper() {
        Some(owner) if !owner.stop(TIME_LIMIT / 2) => {
            Err(SetupError::Stubborn { pid: owner.pid, vif: journal.vif.name.clone() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_and_never_written_goes_with_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["nic-vif0.draft", "nic-vif0.json", "web.log"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        forget_dead(folder.path());
        let left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["nic-vif0.json"]);
    }
}
