//! Puts a kernel into the guest's memory, and the first vCPU at its entry.
//!
//! ```text
//!   bzImage ──► 64-bit entry: page tables, zero page ─┐
//!   ELF ──────► PVH entry: start info                 ├─► Entry ──► registers of vCPU 0
//!   initrd ───► the top of low RAM                    │
//!   command line, map of memory (E820) ───────────────┘
//!
//!   0x500 GDT   0x6000 start info   0x7000 zero page   0x9000–0xefff page tables   0x2_0000 command line
//! ```
//!
//! Kernels and initrds are files from anywhere: whatever is in them, [`load`] gives an entry or an error.

mod bzimage;
mod initrd;
mod map;
mod pvh;
mod registers;

pub use map::{Kind, Range, memory_map};
pub use registers::Entry;

use crate::memory::GuestRam;
use linux_loader::loader::Error as LoaderError;
use std::io::{self, Read, Seek, SeekFrom};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion, ReadVolatile};

/// The command line, ended by a zero.
const CMDLINE: u64 = 0x2_0000;
/// Where kernels are loaded at the lowest.
const HIGH_MEMORY: u64 = 1 << 20;

/// A guest that cannot be booted.
#[derive(Debug, Error)]
pub enum BootError {
    /// The file cannot be read.
    #[error("cannot read the {what}: {source}")]
    Read {
        /// Which file.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel is nothing that can be booted.
    #[error("the kernel is neither a bzImage nor an ELF file{hint}")]
    NotAKernel {
        /// What it is instead, if that is known.
        hint: &'static str,
    },
    /// A bzImage from before 64-bit entries.
    #[error("the bzImage has no 64-bit entry: a kernel for x86-64, 3.8 or newer, is needed")]
    No64BitEntry,
    /// An ELF file that knows nothing of PVH.
    #[error("the ELF kernel has no PVH entry: build it with CONFIG_PVH=y, or use its bzImage")]
    NoPvhEntry,
    /// It is damaged, or too large.
    #[error("cannot load the kernel: {0}; is the file whole, and --memory large enough?")]
    Kernel(#[from] LoaderError),
    /// It does not fit.
    #[error(
        "the kernel needs memory up to {end:#x}, and the guest has only {low:#x} below 4 GiB: raise --memory"
    )]
    KernelTooLarge {
        /// Where it would end.
        end: u64,
        /// What there is.
        low: u64,
    },
    /// The initrd does not fit.
    #[error(
        "the initrd ({size} bytes) does not fit between the kernel's end ({from:#x}) and {to:#x}: raise --memory"
    )]
    InitrdTooLarge {
        /// Its size.
        size: u64,
        /// Where the kernel ends.
        from: u64,
        /// What the kernel can reach, or has.
        to: u64,
    },
    /// There is nothing in the initrd.
    #[error("the initrd is empty")]
    InitrdEmpty,
    /// The command line is too long.
    #[error("the kernel command line has {len} bytes, and this kernel takes {most}")]
    CmdlineTooLong {
        /// Its length.
        len: usize,
        /// What the kernel takes.
        most: usize,
    },
    /// A byte of zero ends a command line.
    #[error("the kernel command line has a zero byte in it")]
    CmdlineZero,
    /// The guest's memory is too small for the boot tables.
    #[error("cannot write boot tables: {0}")]
    Memory(#[from] GuestMemoryError),
    /// KVM refuses the registers.
    #[error(transparent)]
    Kvm(#[from] crate::kvm::Error),
}

/// Puts a kernel, an initrd and a command line into `ram`. `rsdp` is where the ACPI tables begin.
pub fn load<K, I>(
    ram: &GuestRam,
    kernel: &mut K,
    initrd: Option<&mut I>,
    cmdline: &[u8],
    rsdp: u64,
) -> Result<Entry, BootError>
where
    K: Read + ReadVolatile + Seek,
    I: ReadVolatile + Seek,
{
    match kind(kernel)? {
        Format::BzImage => bzimage::load(ram, kernel, initrd, cmdline, rsdp),
        Format::Elf => pvh::load(ram, kernel, initrd, cmdline, rsdp),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    BzImage,
    Elf,
}

fn kind(kernel: &mut (impl Read + Seek)) -> Result<Format, BootError> {
    let read = |source| BootError::Read { what: "kernel", source };
    kernel.rewind().map_err(read)?;
    let mut head = Vec::with_capacity(0x206);
    kernel.take(0x206).read_to_end(&mut head).map_err(read)?;
    match &head[..] {
        [0x7f, b'E', b'L', b'F', ..] => Ok(Format::Elf),
        _ if head.get(0x202..0x206) == Some(b"HdrS") => Ok(Format::BzImage),
        [0x1f, 0x8b, ..] => {
            Err(BootError::NotAKernel { hint: ": it is compressed by gzip; unpack it first" })
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            Err(BootError::NotAKernel { hint: ": it is compressed by zstd; unpack it first" })
        }
        [0xfd, b'7', b'z', ..] => {
            Err(BootError::NotAKernel { hint: ": it is compressed by xz; unpack it first" })
        }
        [] => Err(BootError::NotAKernel { hint: ": it is empty" }),
        _ => Err(BootError::NotAKernel { hint: "" }),
    }
}

/// How much RAM is below 4 GiB.
fn low_end(ram: &GuestRam) -> u64 {
    ram.iter().next().map_or(0, GuestMemoryRegion::len)
}

fn write_cmdline(ram: &GuestRam, cmdline: &[u8], most: usize) -> Result<(), BootError> {
    if cmdline.contains(&0) {
        return Err(BootError::CmdlineZero);
    }
    if cmdline.len() > most {
        return Err(BootError::CmdlineTooLong { len: cmdline.len(), most });
    }
    ram.write_slice(cmdline, GuestAddress(CMDLINE))?;
    ram.write_obj(0_u8, GuestAddress(CMDLINE + cmdline.len() as u64))?;
    Ok(())
}

fn size_of(file: &mut impl Seek, what: &'static str) -> Result<u64, BootError> {
    let read = |source| BootError::Read { what, source };
    let size = file.seek(SeekFrom::End(0)).map_err(read)?;
    file.rewind().map_err(read)?;
    Ok(size)
}

#[cfg(test)]
mod tests;
