//! The numbers of the stream: QEMU's migration stream, version 3. All are big-endian.

/// "QEVM", how a stream begins.
pub const MAGIC: u32 = 0x5145_564d;
/// The version of the stream, after the magic.
pub const VERSION: u32 = 3;

/// What comes next: the end of the sections.
pub const EOF: u8 = 0x00;
/// The first part of a section that comes in parts.
pub const SECTION_START: u8 = 0x01;
/// One more part.
pub const SECTION_PART: u8 = 0x02;
/// The last part.
pub const SECTION_END: u8 = 0x03;
/// A section in one piece.
pub const SECTION_FULL: u8 = 0x04;
/// A part of a device that may be missing.
pub const SUBSECTION: u8 = 0x05;
/// After the end: what the fields of all devices are.
pub const DESCRIPTION: u8 = 0x06;
/// The machine's name.
pub const CONFIGURATION: u8 = 0x07;
/// A command, and its data.
pub const COMMAND: u8 = 0x08;
/// What follows each section: its id once more.
pub const FOOTER: u8 = 0x7e;

/// The command whose data is a stream of its own.
pub const PACKAGED: u16 = 7;

/// What our machines are called.
pub const MACHINE: &str = "colo-vm";
/// The section that the guest's memory is in.
pub const RAM: &str = "ram";
/// Its version.
pub const RAM_VERSION: u32 = 4;
/// Its id.
pub const RAM_ID: u32 = 2;
/// The id of the first device; the others count on.
pub const DEVICE_ID: u32 = 3;

/// A page of memory.
pub const PAGE_SIZE: usize = 4096;
/// A page's bytes.
pub type Page = [u8; PAGE_SIZE];

/// The longest name that fits its byte of length.
pub const NAME_LIMIT: usize = 255;
/// The most blocks of memory. Ours have two, QEMU's machines about twenty.
pub const BLOCK_LIMIT: usize = 256;
/// The most bytes of a device, and of a package of all of them. A vCPU takes about 20 KiB.
pub const PACKAGE_LIMIT: u32 = 16 << 20;
/// The most bytes of a description. QEMU's script looks for it in the last 10 MiB of a file.
pub const DESCRIPTION_LIMIT: u32 = 8 << 20;
