//! Opens the image that a path names, with all that is below it.
//!
//! **The format is named, not guessed.** A guest that has a raw disk can write a qcow2 header into its
//! first sector, with a backing file of its choice; a VMM that guesses would then give it any file of the
//! host. So without a named format, the content and the file's name have to agree: a file that begins like
//! qcow2 is qcow2 only if it is called `*.qcow2`, and one that does not is raw only if it is not. A guest
//! can change its disk's content, but not its name, so what it forges is refused. (Whoever calls a raw
//! disk `*.qcow2` has to name the format each time.) The same goes for backing images whose format the
//! header does not say.

use super::lock::{self, LockError};
use super::qcow2::{self, Header, LEN, MAGIC, Qcow2, Qcow2Error};
use super::raw::Raw;
use super::{Format, Image, read_at};
use rustix::fs::OFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// The longest chain of backing images.
const MAX_CHAIN: usize = 16;

/// What is to be opened, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The file or block device.
    pub path: PathBuf,
    /// How it is laid out; `None` only if name and content agree.
    pub format: Option<Format>,
    /// Whether the guest cannot write it.
    pub read_only: bool,
    /// Whether it goes round the host's page cache (`O_DIRECT`).
    pub direct: bool,
}

impl Options {
    /// A disk that is written, through the page cache, in the format that its name and content say.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), format: None, read_only: false, direct: false }
    }
}

/// A disk that cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// No such file, no right to it, not a file …
    #[error("cannot open disk {} for {}: {source}{}", path.display(), if *write { "writing" } else { "reading" }, hint(source, *write))]
    Open {
        /// The file.
        path: PathBuf,
        /// Whether for writing.
        write: bool,
        /// Why not.
        source: io::Error,
    },
    /// What is below a disk cannot be opened.
    #[error(
        "cannot open {}, the backing image of disk {}: {source}; bring it back, or say where it is with \
         `qemu-img rebase -u -b BACKING -F FORMAT DISK`", path.display(), top.display()
    )]
    Backing {
        /// The backing image.
        path: PathBuf,
        /// The disk.
        top: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// In use.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Content and name disagree.
    #[error(
        "disk {} begins {} but is called otherwise; a guest could have forged that, so name its format: \
         format=raw or format=qcow2", path.display(), if *magic { "like qcow2" } else { "unlike qcow2" }
    )]
    Ambiguous {
        /// The file.
        path: PathBuf,
        /// Whether it begins like qcow2.
        magic: bool,
    },
    /// Not one that can be served.
    #[error("cannot use qcow2 disk {}: {source}", path.display())]
    Qcow2 {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Qcow2Error,
    },
    /// Not a number of sectors.
    #[error("disk {} is {size} bytes large, which is no whole number of 512-byte sectors; use `truncate -s %512`", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// How large.
        size: u64,
    },
    /// A format without a meaning here.
    #[error("the backing image of {} has format {format}; raw and qcow2 are supported", path.display())]
    BackingFormat {
        /// The image over it.
        path: PathBuf,
        /// What it says.
        format: String,
    },
    /// Too many, or a circle.
    #[error("disk {} has more than {MAX_CHAIN} images below it, or is below itself; use `qemu-img rebase` or `commit`", path.display())]
    Chain {
        /// The top.
        path: PathBuf,
    },
}

fn hint(source: &io::Error, write: bool) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "; make one with `qemu-img create -f qcow2 disk.qcow2 10G`",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if write => {
            "; give it `readonly` if the guest need not write"
        }
        _ => "",
    }
}

/// Opens a disk, locks it, and opens and locks what is below it.
pub fn open(options: &Options) -> Result<Arc<dyn Image>, OpenError> {
    let mut seen = Vec::new();
    let image = layer(options, &mut seen)?;
    if image.size() % 512 != 0 {
        return Err(OpenError::Size { path: options.path.clone(), size: image.size() });
    }
    Ok(image)
}

fn layer(options: &Options, seen: &mut Vec<(u64, u64)>) -> Result<Arc<dyn Image>, OpenError> {
    let Options { path, format, read_only, direct } = options;
    let failed = |source| OpenError::Open { path: path.clone(), write: !read_only, source };
    let mut how = File::options();
    // A FIFO would wait for its other end.
    let flags = OFlags::NONBLOCK | if *direct { OFlags::DIRECT } else { OFlags::empty() };
    how.read(true).write(!read_only).custom_flags(flags.bits() as i32);
    let file = how.open(path).map_err(failed)?;
    // With it, io_uring would give up where another file system has to wait.
    let later = flags.difference(OFlags::NONBLOCK);
    rustix::fs::fcntl_setfl(&file, later).map_err(|errno| failed(errno.into()))?;
    let metadata = file.metadata().map_err(failed)?;
    let kind = metadata.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is neither a file nor a block device",
        )));
    }
    let identity = (metadata.dev(), metadata.ino());
    if seen.contains(&identity) || seen.len() >= MAX_CHAIN {
        return Err(OpenError::Chain { path: path.clone() });
    }
    seen.push(identity);
    lock::lock(&file, path, !read_only)?;
    let raw: Arc<dyn Image> = Arc::new(Raw::new(file, *read_only, *direct).map_err(failed)?);
    let mut head = [0; LEN];
    read_at(&*raw, &mut head, 0).map_err(failed)?;
    let format = match format {
        Some(format) => *format,
        None => guess(path, head[..4] == MAGIC)?,
    };
    tracing::info!(path = %path.display(), %format, read_only, direct, "disk image opened");
    if format == Format::Raw {
        return Ok(raw);
    }
    let refused = |source| OpenError::Qcow2 { path: path.clone(), source };
    let header = Header::parse(&head, !read_only).map_err(|refusal| refused(refusal.into()))?;
    let below = qcow2::backing(&*raw, &header).map_err(|error| refused(error.into()))?;
    let below = below.map(|(name, format)| backing(options, &name, format.as_deref(), seen)).transpose()?;
    Ok(Arc::new(Qcow2::new(raw, below, *read_only).map_err(refused)?))
}

/// Opens the image below another.
fn backing(
    top: &Options,
    name: &str,
    format: Option<&str>,
    seen: &mut Vec<(u64, u64)>,
) -> Result<Arc<dyn Image>, OpenError> {
    let format = match format {
        None => None,
        Some("raw" | "file" | "host_device") => Some(Format::Raw),
        Some("qcow2") => Some(Format::Qcow2),
        Some(other) => {
            return Err(OpenError::BackingFormat { path: top.path.clone(), format: other.to_owned() });
        }
    };
    // A relative name is relative to the image that says it.
    let path = top.path.parent().unwrap_or(Path::new("")).join(name);
    let below = Options { path, format, read_only: true, direct: top.direct };
    layer(&below, seen).map_err(|error| match error {
        OpenError::Open { path, source, .. } => OpenError::Backing { path, top: top.path.clone(), source },
        error => error,
    })
}

/// The format of a file whose name and content agree.
fn guess(path: &Path, magic: bool) -> Result<Format, OpenError> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match (magic, extension.eq_ignore_ascii_case("qcow2")) {
        (true, true) => Ok(Format::Qcow2),
        (false, false) => Ok(Format::Raw),
        (magic, _) => Err(OpenError::Ambiguous { path: path.to_owned(), magic }),
    }
}
