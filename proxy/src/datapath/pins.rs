//! Where things are pinned.

use super::DatapathError;
use rustix::fs::{FsWord, statfs};
use rustix::mount::{MountFlags, mount};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The kind of a BPF file system (`BPF_FS_MAGIC`).
const BPF_FS: FsWord = 0xcafe_4a11;

/// The number of this process's network namespace.
pub fn netns() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// The pins of one network namespace.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Finds the place, and mounts a BPF file system there if there is none.
    pub fn open(bpffs: &Path) -> Result<Self, DatapathError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| DatapathError::Place { what, path, error }
        };
        fs::create_dir_all(bpffs).map_err(failed("make the folder", bpffs))?;
        let kind = statfs(bpffs).map_err(|errno| failed("look at", bpffs)(errno.into()))?.f_type;
        if kind != BPF_FS {
            mount("bpf", bpffs, "bpf", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
                .map_err(|errno| failed("mount a BPF file system at", bpffs)(errno.into()))?;
        }
        let netns = netns().map_err(failed("look at", Path::new("/proc/thread-self/ns/net")))?;
        let version = format!("v{}", colo_ebpf_shared::layout::VERSION);
        let root = bpffs.join("colo-proxy").join(version).join(netns.to_string());
        fs::create_dir_all(&root).map_err(failed("make the folder", &root))?;
        Ok(Self { root })
    }

    /// The folder of a forward device, made if need be.
    pub fn forward(&self, number: u32) -> Result<PathBuf, DatapathError> {
        self.folder(format!("forward-{number}"))
    }

    /// The folder of a NIC that this process sets up, made if need be.
    pub fn nic(&self, number: u32) -> Result<PathBuf, DatapathError> {
        self.folder(format!("nic-{number}-{}", std::process::id()))
    }

    fn folder(&self, name: String) -> Result<PathBuf, DatapathError> {
        let path = self.root.join(name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(DatapathError::Place { what: "make the folder", path, error })
            }
            _ => Ok(path),
        }
    }

    /// Removes the folders whose name begins like this, but for some.
    pub(crate) fn sweep(&self, prefix: &str, but: &[&Path]) -> Result<(), DatapathError> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let ours =
            entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()));
        let left = ours.map(|entry| entry.path()).filter(|path| !but.contains(&path.as_path()));
        left.map(|path| remove(&path)).fold(Ok(()), Result::and)
    }

    /// Removes the namespace's folder, and those above it, if nothing is left in them.
    pub fn tidy(&self) {
        let mut folder = Some(self.root.as_path());
        for _ in 0..3 {
            // What is not empty stays.
            let Some(path) = folder.filter(|path| fs::remove_dir(path).is_ok()) else { break };
            folder = path.parent();
        }
    }
}

/// Removes a folder with its pins. That it is gone already is fine.
pub(crate) fn remove(folder: &Path) -> Result<(), DatapathError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DatapathError::Place { what: "remove", path: folder.to_owned(), error })
        }
        _ => Ok(()),
    }
}
