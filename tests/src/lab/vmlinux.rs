//! The uncompressed kernel inside a bzImage: an ELF file that starts by its PVH note.
//!
//! ```text
//!   bzImage: ┌ setup sectors ┬ code that decompresses ┬ payload ┬ …  ┐
//!            0               (setup_sects + 1) · 512  + payload_offset, payload_length long
//!   payload: ┌ magic ┬ size, block ┬ size, block ┬ … ┬ size of the kernel ┐
//! ```
//!
//! The header is that of `Documentation/x86/boot.rst`; the payload is an LZ4 legacy frame
//! (`lz4_Frame_format.md`, "Legacy frame"), as Debian's cloud kernel has it.

use super::store::{self, Kernel};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::PathBuf;

const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
const LEGACY_LZ4: u32 = 0x184c_2102;
/// What a block of a legacy frame holds at most.
const BLOCK: usize = 8 << 20;

/// Debian's cloud kernel as an ELF file, unpacked unless it is there.
pub fn cloud() -> Result<PathBuf> {
    let kernel = store::kernel(Kernel::Cloud)?;
    let dir = store::once(&format!("images/vmlinux-{}", kernel.release), |dir| {
        let image = fs::read(&kernel.image)
            .with_context(|| format!("cannot read the kernel {}", kernel.image.display()))?;
        let elf = unpack(&image).with_context(|| format!("cannot unpack {}", kernel.image.display()))?;
        fs::write(dir.join("vmlinux"), elf)?;
        Ok(kernel.release.clone())
    })?;
    Ok(dir.join("vmlinux"))
}

fn number(bytes: &[u8], at: usize) -> Result<u32> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk()).context("it ends too soon")?;
    Ok(u32::from_le_bytes(*bytes))
}

fn unpack(image: &[u8]) -> Result<Vec<u8>> {
    let sectors = usize::from(*image.get(SETUP_SECTORS).context("it ends too soon")?);
    let begin = (sectors + 1) * SECTOR + number(image, PAYLOAD_OFFSET)? as usize;
    let end = begin + number(image, PAYLOAD_LENGTH)? as usize;
    let payload = image.get(begin..end).context("its payload lies outside")?;
    ensure!(number(payload, 0)? == LEGACY_LZ4, "its payload is not in LZ4's legacy format");
    // The build of the kernel writes its size after the last block.
    let end = payload.len() - 4;
    let size = number(payload, end)? as usize;
    let (mut elf, mut at) = (Vec::with_capacity(size), 4);
    while at < end {
        let packed = number(payload, at)? as usize;
        let block = payload.get(at + 4..at + 4 + packed).context("a block is cut short")?;
        elf.extend(lz4_flex::block::decompress(block, BLOCK.min(size - elf.len()))?);
        at += 4 + packed;
    }
    ensure!(elf.len() == size && elf.starts_with(b"\x7fELF"), "what comes out is not the ELF file it names");
    Ok(elf)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage with this payload.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * SECTOR];
        image[SETUP_SECTORS] = 1;
        image[PAYLOAD_OFFSET] = 0xff;
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.truncate(2 * SECTOR);
        image.resize(2 * SECTOR + 0xff, 0);
        image.extend(payload);
        image.extend(b"the rest");
        image
    }

    /// Blocks that hold literals only: a token, and the bytes themselves.
    fn frame(blocks: &[&[u8]], size: u32) -> Vec<u8> {
        let mut frame = LEGACY_LZ4.to_le_bytes().to_vec();
        for block in blocks {
            assert!(block.len() < 15, "longer ones need more than a token");
            frame.extend((block.len() as u32 + 1).to_le_bytes());
            frame.push((block.len() as u8) << 4);
            frame.extend(*block);
        }
        frame.extend(size.to_le_bytes());
        frame
    }

    #[test]
    fn blocks_are_put_together() {
        let image = image(&frame(&[b"\x7fELF and ", b"the rest"], 17));
        assert_eq!(unpack(&image).unwrap(), b"\x7fELF and the rest");
    }

    #[test]
    fn another_size_another_format_and_an_end_too_soon_are_errors() {
        for (image, what) in [
            (image(&frame(&[b"\x7fELF"], 5)), "not the ELF file"),
            (image(&frame(&[b"nothing"], 7)), "not the ELF file"),
            (image(b"\xfd7zXZ\0\0\0"), "not in LZ4's"),
            (image(&frame(&[b"\x7fELF"], 4))[..1290].to_vec(), "lies outside"),
            (vec![0; 16], "ends too soon"),
        ] {
            let error = unpack(&image).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
