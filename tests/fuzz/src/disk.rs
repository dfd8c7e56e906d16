//! A disk in memory, for who serves disks.

use colo_vmm::nbd::export::{Export, Range, Tag, Zeroing};
use std::io;
use std::sync::{Mutex, MutexGuard};

const SIZE: usize = 64 << 10;

/// 64 KiB that know of epochs. A request beyond its end ends the program: nobody may make one.
#[derive(Debug)]
pub struct Disk(Mutex<Vec<u8>>);

impl Disk {
    /// Of zeros.
    pub fn new() -> Self {
        Self(Mutex::new(vec![0; SIZE]))
    }

    /// What is on it.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().expect("nobody panics with it")
    }

    fn fill(&self, offset: u64, len: u64, with: impl Fn(usize) -> u8) {
        let (offset, len) = (offset as usize, len as usize);
        self.lock()[offset..offset + len].iter_mut().enumerate().for_each(|(at, byte)| *byte = with(at));
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self::new()
    }
}

impl Export for Disk {
    fn size(&self) -> u64 {
        SIZE as u64
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let offset = offset as usize;
        buffer.copy_from_slice(&self.lock()[offset..offset + buffer.len()]);
        Ok(())
    }

    fn write(&self, _: Tag, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = &*bytes;
        self.fill(offset, bytes.len() as u64, |at| bytes[at]);
        Ok(())
    }

    fn zero(&self, _: Tag, offset: u64, len: u64, _: Zeroing) -> io::Result<()> {
        self.fill(offset, len, |_| 0);
        Ok(())
    }

    fn trim(&self, _: Tag, offset: u64, len: u64) -> io::Result<()> {
        self.fill(offset, len, |_| 0);
        Ok(())
    }

    fn flush(&self, _: Tag) -> io::Result<()> {
        Ok(())
    }

    fn status(&self, offset: u64, len: u64) -> io::Result<Range> {
        let (offset, len) = (offset as usize, len as usize);
        let bytes = self.lock();
        let range = &bytes[offset..offset + len];
        let zero = range[0] == 0;
        let alike = range.iter().take_while(|byte| (**byte == 0) == zero).count() as u64;
        Ok(if zero { Range::hole(alike) } else { Range::data(alike) })
    }

    fn epochs(&self) -> bool {
        true
    }

    fn sums(&self) -> bool {
        true
    }
}
