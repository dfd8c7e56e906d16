//! An initramfs: an archive in the `newc` format of cpio, as the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst` describes it.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const DEVICE: u32 = 0o020_600;
const LINK: u32 = 0o120_777;

/// An archive that grows.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// Files, and folders that lead to them, as they are on disk at `from`.
    pub(super) fn copy(&mut self, path: &str, from: &Path, program: bool) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(path, &content, program)
    }

    /// A file.
    pub(super) fn file(&mut self, path: &str, content: &[u8], program: bool) -> Result<()> {
        self.parents(path)?;
        self.entry(path, if program { PROGRAM } else { FILE }, (0, 0), content)
    }

    /// A folder.
    pub(super) fn directory(&mut self, path: &str) -> Result<()> {
        self.parents(&format!("{path}/."))
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, to: &str) -> Result<()> {
        self.parents(path)?;
        self.entry(path, LINK, (0, 0), to.as_bytes())
    }

    /// `/dev/console`, without which the kernel gives init no output.
    pub(super) fn console(&mut self) -> Result<()> {
        self.parents("dev/console")?;
        self.entry("dev/console", DEVICE, (5, 1), &[])
    }

    /// The whole.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        Ok(self.bytes)
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        for (end, _) in path.match_indices('/') {
            if self.directories.insert(path[..end].to_owned()) {
                self.entry(&path[..end], DIRECTORY, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        ensure!(!path.starts_with('/') && !path.is_empty(), "an archive holds relative names, not {path:?}");
        let size = u32::try_from(content.len()).with_context(|| format!("{path} is too long"))?;
        self.entries += 1;
        let name_size = path.len() as u32 + 1;
        let fields = [
            self.entries, // inode
            mode,
            0, // user
            0, // group
            1, // links
            0, // time: the same recipe makes the same archive
            size,
            0,
            0, // where it was
            device.0,
            device.1,
            name_size,
            0, // checksum, unused in this format
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_the_format_says() {
        let mut archive = Archive::default();
        archive.file("bin/a", b"hello", true).unwrap();
        archive.link("bin/b", "a").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 512, 0);
        assert_eq!(&bytes[..6], b"070701");
        // The folder comes once, before what is in it: 110 bytes of head and "bin\0", padded to 116.
        assert_eq!(&bytes[14..22], b"000041ed");
        assert_eq!(&bytes[110..114], b"bin\0");
        assert_eq!(&bytes[116..122], b"070701");
        assert_eq!(&bytes[116 + 54..116 + 62], b"00000005", "size");
        assert_eq!(&bytes[226..231], b"bin/a");
        assert_eq!(&bytes[232..237], b"hello");
        assert_eq!(bytes.windows(11).filter(|part| part == b"TRAILER!!!\0").count(), 1);
    }

    #[test]
    fn an_absolute_name_is_refused() {
        assert!(Archive::default().link("/init", "a").is_err());
        assert!(Archive::default().file("", b"", false).is_err());
    }
}
