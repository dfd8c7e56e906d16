//! What was done, written down before it was done.

use super::{Owner, SetupError};
use crate::datapath::Place;
use crate::live::spec::{IfName, Index, Mode, Places};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// An interface: its number is what counts, its name is for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name at the time.
    pub name: IfName,
    /// Its number.
    pub number: u32,
}

/// Something that was done to a NIC, and can be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// A folder for pins was made.
    Folder(PathBuf),
    /// A slot of the forward device was taken.
    Slot,
    /// A program was pinned.
    Pinned(PathBuf),
    /// A filter was added.
    Filter {
        /// The device.
        device: String,
        /// The place on it.
        place: Place,
        /// The filter's priority.
        priority: u16,
        /// The filter's handle.
        handle: u32,
    },
    /// A `clsact` qdisc was added to the vif.
    Qdisc,
    /// The vif was made a port of a bridge; before that it was one of this.
    Port {
        /// The bridge's number.
        before: Option<u32>,
    },
}

/// The journal of one protected NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The process in charge; none where programs were left to themselves.
    pub owner: Option<Owner>,
    /// The guest's name.
    pub guest: String,
    /// What this node is to it.
    pub mode: Mode,
    /// The guest's interface.
    pub vif: Device,
    /// The device to the other node.
    pub forward: Device,
    /// The NIC's number there.
    pub index: Index,
    /// The bridge that was named.
    pub bridge: Option<IfName>,
    /// The pins of the forward device.
    pub forward_folder: PathBuf,
    /// The pins of this NIC.
    pub nic_folder: PathBuf,
    /// What was done, in order.
    pub steps: Vec<Step>,
    /// The set-up of a process that died, until this one is in its place. Who undoes this one before
    /// that undoes both.
    pub replaces: Option<Box<Journal>>,
    /// Why the process in charge has given the NIC up, if it has while it goes on with others.
    #[serde(default)]
    pub abandoned: Option<String>,
}

impl Journal {
    /// The process that looks after the NIC; none if there is none any more, or never was.
    pub fn keeper(&self) -> Option<Owner> {
        self.owner.filter(|owner| self.abandoned.is_none() && owner.is_alive())
    }
}

/// The journal of a forward device that at least one NIC uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ForwardJournal {
    /// The device.
    pub(super) device: Device,
    /// The pins.
    pub(super) folder: PathBuf,
    /// Whether it was up before.
    pub(super) was_up: bool,
    /// Whether it took in all frames before.
    pub(super) was_promiscuous: bool,
    /// How its program is attached; none if not yet.
    pub(super) program: Option<Step>,
    /// Whether a `clsact` qdisc was added for it.
    #[serde(default)]
    pub(super) qdisc: bool,
}

/// The journals of this network namespace.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

/// All journals of NICs there are, by vif.
#[derive(Debug, Default)]
pub struct Journals {
    /// Those that can be read.
    pub readable: Vec<Journal>,
    /// The others, with what is wrong with each.
    pub unreadable: Vec<(PathBuf, SetupError)>,
}

impl Journals {
    /// Those that can be read, and a warning for each of the others.
    pub fn with_warnings(self) -> Vec<Journal> {
        self.unreadable.iter().for_each(|(_, error)| tracing::warn!("{error}"));
        self.readable
    }
}

/// Held while a command sets up or tears down. Who leaves nothing else behind takes it along, and the
/// folder too.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
    path: PathBuf,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let Some(folder) = self.path.parent() else { return };
        let is_lock = |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.path() == self.path);
        if fs::read_dir(folder).is_ok_and(|mut entries| entries.all(is_lock)) {
            // Where one of these fails, a file or a folder stays that bothers nobody.
            let _ = fs::remove_file(&self.path);
            let _ = fs::remove_dir(folder);
        }
    }
}

impl Store {
    /// Whether there is a folder for them.
    pub fn exists(places: &Places) -> Result<bool, SetupError> {
        Ok(Self::place(places)?.is_dir())
    }

    fn place(places: &Places) -> Result<PathBuf, SetupError> {
        let netns = crate::datapath::netns().map_err(|error| SetupError::File {
            what: "look at",
            path: "/proc/thread-self/ns/net".into(),
            error,
        })?;
        Ok(places.run.join(netns.to_string()))
    }

    /// Opens them; the folder is made if need be.
    pub fn open(places: &Places) -> Result<Self, SetupError> {
        let folder = Self::place(places)?;
        fs::create_dir_all(&folder).map_err(file("make the folder", &folder))?;
        Ok(Self { folder })
    }

    /// The folder, in which control sockets are as well.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes the folder if nothing is in it. Who has the lock at the moment does so in the end.
    pub(crate) fn tidy(&self) -> Result<(), SetupError> {
        self.try_lock().map(drop)
    }

    /// Waits until no other command changes anything.
    pub(super) fn lock(&self) -> Result<Lock, SetupError> {
        loop {
            if let Some(lock) = self.lock_as(FlockOperation::LockExclusive)? {
                return Ok(lock);
            }
        }
    }

    /// The lock, if no other command has it.
    pub(super) fn try_lock(&self) -> Result<Option<Lock>, SetupError> {
        self.lock_as(FlockOperation::NonBlockingLockExclusive)
    }

    fn lock_as(&self, operation: FlockOperation) -> Result<Option<Lock>, SetupError> {
        let path = self.folder.join("lock");
        loop {
            fs::create_dir_all(&self.folder).map_err(file("make the folder", &self.folder))?;
            let file_of_lock = match File::options().create(true).append(true).open(&path) {
                // Who held it has just taken the folder along.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(file("open", &path))?,
            };
            match flock(&file_of_lock, operation) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(file("lock", &path)(error.into())),
            }
            // A lock that was taken along while we waited for it locks nothing.
            let ours = file_of_lock.metadata().map_err(file("look at", &path))?;
            if fs::metadata(&path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
                return Ok(Some(Lock { _file: file_of_lock, path }));
            }
        }
    }

    /// All journals, by vif.
    pub fn all(&self) -> Result<Journals, SetupError> {
        let entries = fs::read_dir(&self.folder).map_err(file("read", &self.folder))?;
        let mut names: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let is_nic = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b"nic-");
                path.file_name().is_some_and(is_nic) && path.extension().is_some_and(|end| end == "json")
            })
            .collect();
        names.sort();
        let mut all = Journals::default();
        for path in names {
            match read(&path) {
                Ok(journal) => all.readable.extend(journal),
                Err(error) => all.unreadable.push((path, error)),
            }
        }
        Ok(all)
    }

    /// Whether a NIC other than this one uses a forward device. A journal that cannot be read may be
    /// one that does.
    pub(super) fn is_shared(&self, forward: u32, vif: &Device) -> bool {
        let all = match self.all() {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!("{error}; the forward device is left as it is");
                return true;
            }
        };
        let shared = all.readable.iter().any(|other| other.forward.number == forward && other.vif != *vif);
        for (_, error) in all.unreadable.iter().filter(|_| !shared) {
            tracing::warn!("{error}; until then the forward device is left as it is");
        }
        shared || !all.unreadable.is_empty()
    }

    /// The journal of a vif.
    pub fn get(&self, vif: &IfName) -> Result<Option<Journal>, SetupError> {
        read(&self.nic(vif))
    }

    pub(super) fn put(&self, journal: &Journal) -> Result<(), SetupError> {
        write(&self.nic(&journal.vif.name), journal)
    }

    pub(super) fn remove(&self, vif: &IfName) -> Result<(), SetupError> {
        delete(&self.nic(vif))
    }

    pub(super) fn forward(&self, number: u32) -> Result<Option<ForwardJournal>, SetupError> {
        read(&self.forward_file(number))
    }

    pub(super) fn put_forward(&self, journal: &ForwardJournal) -> Result<(), SetupError> {
        write(&self.forward_file(journal.device.number), journal)
    }

    /// The journals of all forward devices. One that cannot be read counts as none.
    pub(super) fn forwards(&self) -> Vec<ForwardJournal> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let number = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            name.strip_prefix("forward-")?.strip_suffix(".json")?.parse().ok()
        };
        entries.filter_map(number).filter_map(|number| self.forward(number).ok()?).collect()
    }

    pub(super) fn remove_forward(&self, number: u32) -> Result<(), SetupError> {
        delete(&self.forward_file(number))
    }

    fn nic(&self, vif: &IfName) -> PathBuf {
        self.folder.join(format!("nic-{vif}.json"))
    }

    fn forward_file(&self, number: u32) -> PathBuf {
        self.folder.join(format!("forward-{number}.json"))
    }
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SetupError {
    let path = path.to_owned();
    move |error| SetupError::File { what, path, error }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, SetupError> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(file("read", path))?,
    };
    let journal = serde_json::from_slice(&text)
        .map_err(|error| SetupError::Journal { path: path.to_owned(), why: error.to_string() })?;
    Ok(Some(journal))
}

/// Writes the whole file or none of it.
fn write<T: Serialize>(path: &Path, journal: &T) -> Result<(), SetupError> {
    let draft = path.with_extension("draft");
    let text = serde_json::to_vec_pretty(journal).map_err(|error| file("write", path)(error.into()))?;
    fs::write(&draft, text).and_then(|()| fs::rename(&draft, path)).map_err(file("write", path))
}

fn delete(path: &Path) -> Result<(), SetupError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", path)(error)),
        _ => Ok(()),
    }
}
