//! qcow2 against a flat model, against crashes, and against QEMU's own tools.

mod checker;
mod crash;
mod damaged;
mod memory;
mod model;
mod qemu;

use super::Qcow2;
use crate::block::{Access, Image, Place, read_at, write_at};
use memory::Memory;
use std::sync::Arc;

/// An empty image in memory.
fn empty(size: u64) -> (Arc<Memory>, Qcow2) {
    let memory = Arc::new(Memory::default());
    let image = Qcow2::create(memory.clone(), size).unwrap();
    (memory, image)
}

#[test]
fn what_was_never_written_is_zeros_and_takes_no_space() {
    let (memory, image) = empty(1 << 30);
    let mut found = vec![7; 100_000];
    read_at(&image, &mut found, 123 << 20).unwrap();
    assert!(found.iter().all(|&byte| byte == 0));
    assert!(matches!(image.find(0, 1 << 30, Access::Read).unwrap().0, Place::Zeroes));
    assert!(matches!(image.find(0, 512, Access::Write).unwrap().0, Place::Elsewhere));
    assert!(memory.bytes().len() < 1 << 20, "{} bytes", memory.bytes().len());
}

#[test]
fn an_image_over_an_image_shows_what_it_does_not_have_itself() {
    let (_, base) = empty(1 << 20);
    write_at(&base, &mut vec![1; 65536 * 2], 65536).unwrap();
    let base: Arc<dyn Image> = Arc::new(base);
    let (memory, empty_overlay) = empty(2 << 20);
    drop(empty_overlay);
    let top = Qcow2::new(memory, Some(base.clone()), false).unwrap();
    write_at(&top, &mut [2; 512], 65536 + 1024).unwrap();
    let mut found = [9; 4096];
    read_at(&top, &mut found, 65536).unwrap();
    assert_eq!(found, *[[1; 1024].as_slice(), &[2; 512], &[1; 2560]].concat(), "copied before written");
    top.discard(131_072, 65536).unwrap();
    read_at(&top, &mut found, 131_072).unwrap();
    assert_eq!(found, [0; 4096], "what is discarded does not shine through");
    read_at(&top, &mut found, 1 << 20).unwrap();
    assert_eq!(found, [0; 4096], "a shorter image goes on with zeros");
    read_at(&*base, &mut found, 65536).unwrap();
    assert_eq!(found, [1; 4096], "the image below stays as it is");
}

#[test]
fn a_read_only_image_is_left_as_it_is() {
    let (memory, image) = empty(1 << 20);
    write_at(&image, &mut [1; 512], 0).unwrap();
    image.flush().unwrap();
    drop(image);
    let before = memory.bytes();
    let image = Qcow2::new(memory.clone(), None, true).unwrap();
    assert!(write_at(&image, &mut [2; 512], 0).is_err());
    assert!(image.discard(0, 65536).is_err());
    assert!(image.write_zeroes(0, 65536, true).is_err());
    image.flush().unwrap();
    drop(image);
    assert_eq!(memory.bytes(), before);
}

#[test]
fn what_is_beyond_the_end_is_refused_or_zeros() {
    let (_, image) = empty(65536);
    assert!(write_at(&image, &mut [1; 512], 65536 - 256).is_err());
    assert!(write_at(&image, &mut [1; 512], u64::MAX - 3).is_err());
    assert!(image.discard(u64::MAX, 2).is_err());
    write_at(&image, &mut [], 512).unwrap();
    read_at(&image, &mut [], 512).unwrap();
    write_at(&image, &mut [1; 512], 65536 - 512).unwrap();
    let mut found = [7; 1024];
    read_at(&image, &mut found, 65536 - 512).unwrap();
    assert_eq!(found, *[[1; 512], [0; 512]].concat());
}
