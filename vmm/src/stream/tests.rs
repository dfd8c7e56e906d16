//! Streams as they should be, and every way in which they should not.

use super::format::PACKAGE_LIMIT;
use super::ram::{
    FLAG_CONTINUE, FLAG_EOS, FLAG_PAGE, FLAG_ZERO, Reading, Record, RecordError, Records, header,
};
use super::source::Slice;
use super::*;
use crate::memory;
use crate::state::{Section, encode};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Mutex;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Timer {
    pub(super) armed: bool,
    pub(super) deadline: i64,
    pub(super) registers: Vec<(u32, u64)>,
}

impl Section for Timer {
    const NAME: &'static str = "timer";
    const VERSION: u32 = 2;
}

pub(super) fn timer(deadline: i64) -> Encoded {
    let registers = vec![(1, 2), (3, u64::MAX)];
    encode(&Timer { armed: true, deadline, registers }).unwrap()
}

pub(super) fn devices() -> Vec<Encoded> {
    vec![timer(-5), timer(7).instance(1)]
}

/// Blocks of pages; a page that nobody wrote is zero.
#[derive(Debug, Default)]
pub(super) struct Pages {
    blocks: Vec<Block>,
    content: Mutex<BTreeMap<(usize, u64), Vec<u8>>>,
}

impl Pages {
    pub(super) fn new(sizes: &[u64]) -> Self {
        let blocks = sizes.iter().enumerate();
        let blocks = blocks.map(|(at, pages)| Block { name: format!("block{at}"), size: pages * 4096 });
        Self { blocks: blocks.collect(), content: Mutex::default() }
    }

    pub(super) fn fill(&self, block: usize, page: u64, with: u8) {
        self.write(block, page * 4096, &[with; PAGE_SIZE]).unwrap();
    }
}

impl Memory for Pages {
    fn blocks(&self) -> Vec<Block> {
        self.blocks.clone()
    }

    fn read(&self, block: usize, offset: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let content = self.content.lock().unwrap();
        for (at, page) in (offset..).step_by(PAGE_SIZE).zip(into.chunks_mut(PAGE_SIZE)) {
            page.copy_from_slice(content.get(&(block, at)).map_or(&[0; PAGE_SIZE], |page| page));
        }
        Ok(())
    }

    fn write(&self, block: usize, offset: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.content.lock().unwrap().insert((block, offset), bytes.to_vec());
        Ok(())
    }
}

/// Three pages with content of six, two devices.
pub(super) fn small() -> Vec<u8> {
    let pages = Pages::new(&[4, 2]);
    pages.fill(0, 1, 0xaa);
    pages.fill(0, 3, 0xbb);
    pages.fill(1, 0, 0xcc);
    let mut file = Vec::new();
    let count = save(&mut file, &pages, &devices()).unwrap();
    assert_eq!((count.pages, count.zero_pages), (3, 3));
    file
}

fn load_small(bytes: &[u8]) -> Result<Vec<RawDevice<'static>>, StreamError> {
    load(bytes, &Pages::new(&[4, 2]))
}

proptest! {
    #[test]
    fn what_is_saved_is_loaded(fills in proptest::collection::vec((0..2_usize, 0..70_u64, any::<u8>()), 0..40)) {
        let (from, to) = (Pages::new(&[70, 70]), Pages::new(&[70, 70]));
        for (block, page, with) in fills {
            from.fill(block, page, with);
            // What was there before is gone.
            to.fill(block, (page + 1) % 70, 0xee);
        }
        let mut file = Vec::new();
        save(&mut file, &from, &devices()).unwrap();
        let loaded = load(&file[..], &to).unwrap();
        let states: Vec<Timer> = loaded.iter().map(|device| device.decode().unwrap()).collect();
        prop_assert_eq!(states[1].deadline, 7);
        let mut again = Vec::new();
        save(&mut again, &to, &devices()).unwrap();
        prop_assert!(again == file);
    }

    #[test]
    fn a_page_is_zero_if_every_byte_is(at in 0..PAGE_SIZE, byte: u8) {
        let mut page = [0; PAGE_SIZE];
        page[at] = byte;
        prop_assert_eq!(ram::is_zero(&page), page.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_guests_memory_goes_through_a_stream() {
    use vm_memory::{Bytes as _, GuestAddress};
    let (from, to) = (memory::new(2 << 20).unwrap(), memory::new(2 << 20).unwrap());
    from.write_obj(0x1122_3344_u32, GuestAddress(0x1_2340)).unwrap();
    to.write_obj(9_u8, GuestAddress(0x5000)).unwrap();
    let mut file = Vec::new();
    let count = save(&mut file, &from, &devices()).unwrap();
    assert_eq!((count.pages, count.zero_pages), (1, 511));
    load(&file[..], &to).unwrap();
    assert_eq!(to.read_obj::<u32>(GuestAddress(0x1_2340)).unwrap(), 0x1122_3344);
    assert_eq!(to.read_obj::<u8>(GuestAddress(0x5000)).unwrap(), 0);
    let error = load(&file[..], &memory::new(4 << 20).unwrap()).unwrap_err();
    assert!(error.to_string().contains("the saved memory is pc.ram of 0x200000"), "{error}");
}

/// A change of a byte of this file is a change of the format: old files are then no longer read.
#[test]
fn the_golden_file_is_what_is_written() {
    let room = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = std::fs::read(room.join("tests/golden/small.vm")).unwrap_or_default();
    if small() != golden {
        let new = std::env::temp_dir().join("colo-small.vm");
        std::fs::write(&new, small()).unwrap();
        panic!("the format has changed, and was to stay: see {}", new.display());
    }
}

#[test]
fn a_stream_that_is_cut_anywhere_is_an_error() {
    let file = small();
    for len in 0..file.len() {
        let error = load_small(&file[..len]).unwrap_err();
        assert!(matches!(error.cause, StreamCause::Short { .. }), "{len}: {error}");
        assert!(error.offset <= len as u64, "{len}: {error}");
    }
    assert!(matches!(load_small(&[&file[..], &[0]].concat()).unwrap_err().cause, StreamCause::Trailing));
}

/// Whatever is changed, nothing panics; what is not content is noticed.
#[test]
fn a_stream_with_any_byte_changed_is_read_or_refused() {
    let file = small();
    let end = file.len() - 1200;
    let refused = (0..end).filter(|at| {
        let mut file = file.clone();
        file[*at] ^= 0x55;
        load_small(&file).is_err()
    });
    assert!(refused.count() > 200);
}

/// Where these bytes are.
fn find(file: &[u8], bytes: &[u8]) -> usize {
    file.windows(bytes.len()).position(|window| window == bytes).unwrap()
}

fn changed(at: usize, to: &[u8]) -> StreamError {
    let mut file = small();
    file[at..at + to.len()].copy_from_slice(to);
    load_small(&file).unwrap_err()
}

#[test]
fn an_error_says_where_in_which_section_and_why() {
    let file = small();
    assert_eq!(
        changed(0, b"ELF!").to_string().split(':').next().unwrap(),
        "the stream is bad at byte 0 (header)"
    );
    assert!(matches!(changed(7, &[4]).cause, StreamCause::Version(4)));
    assert!(matches!(changed(13, b"qemu-vm").cause, StreamCause::Machine(name) if name == "qemu-vm"));
    // Its second page is outside, of an unknown block, or has strange flags.
    let page = find(&file, &header(0x1000, FLAG_PAGE | FLAG_CONTINUE));
    let error = changed(page, &header(0x4000, FLAG_PAGE | FLAG_CONTINUE));
    assert_eq!((error.offset, error.place.clone()), (page as u64, Place::Section("ram".into())));
    assert!(error.to_string().contains("a page at 0x4000 of block0, which has 0x4000 bytes"), "{error}");
    let error = changed(page, &header(0x1000, FLAG_PAGE | FLAG_ZERO));
    assert!(matches!(error.cause, StreamCause::Record(RecordError::Flags(0x0a))), "{error}");
    // A device: twice, with another footer, far too large.
    let device = find(&file, b"\x04\0\0\0\x04\x05timer");
    let error = changed(device + 11, &[0, 0, 0, 0]);
    assert!(matches!(error.cause, StreamCause::Twice(_)), "{error}");
    assert_eq!((error.offset, error.place.to_string()), (device as u64, "section timer (instance 0)".into()));
    assert!(matches!(changed(device + 4, &[3]).cause, StreamCause::Twice(_)));
    assert!(matches!(changed(device + 19, &[0xff]).cause, StreamCause::TooLarge { size: 0xff00_0025, .. }));
    assert!(matches!(changed(device + 60, &[1]).cause, StreamCause::Footer { expected: 4, byte: 1, .. }));
    assert!(matches!(changed(device + 18, &[9]).cause, StreamCause::Description(_)));
    // Sections out of their order: the memory has no end, a device comes first.
    let end = find(&file, b"\x03\0\0\0\x02");
    assert!(matches!(changed(end, &[4]).cause, StreamCause::Order { expected: "a part of section ram", .. }));
    assert!(matches!(
        changed(device, &[1]).cause,
        StreamCause::Order { expected: "a device or the end", .. }
    ));
}

#[test]
fn the_description_can_be_found_from_the_end() {
    for registers in 0..400 {
        let state = Timer { armed: false, deadline: 0, registers: vec![(1, 2); registers] };
        let named: Vec<Encoded> =
            (0..=registers as u32).map(|at| encode(&state).unwrap().instance(at)).collect();
        let json = Description::of(&named).to_json().unwrap();
        let len = (json.len() as u32).to_be_bytes();
        assert!(len[0] == 0 && !len.contains(&b'{'), "{len:?}");
    }
}

#[test]
fn what_a_reader_would_refuse_is_not_written() {
    let pages = Pages::new(&[1]);
    let refused = |devices: &[Encoded]| save(Vec::new(), &pages, devices).unwrap_err().to_string();
    assert!(refused(&[timer(1), timer(2)]).contains("its name is too long, empty or taken"));
    let bare = crate::state::encode_bare(&Timer { armed: true, deadline: 0, registers: vec![] }).unwrap();
    assert!(refused(&[bare]).contains("it is not described"));
    let blocks = |sizes: &[u64]| save(Vec::new(), &Pages::new(sizes), &[]).unwrap_err().to_string();
    assert!(blocks(&[]).contains("there must be blocks"));
    assert!(blocks(&[1, 0]).contains("whole pages"));
}

#[test]
fn records_without_a_stream_are_read_from_a_slice() {
    let blocks = Pages::new(&[2, 1]).blocks();
    let mut bytes = Vec::new();
    let mut records = Records::new(&blocks);
    records.page(&mut bytes, 1, 0, &[7; PAGE_SIZE]).unwrap();
    records.page(&mut bytes, 1, 0, &[0; PAGE_SIZE]).unwrap();
    records.page(&mut bytes, 0, 4096, &[8; PAGE_SIZE]).unwrap();
    records.end(&mut bytes).unwrap();
    let (mut source, mut reading) = (Slice::new(&bytes), Reading::default());
    let mut next = || match reading.next(&mut source, &blocks).unwrap() {
        Record::Page { block, offset, page } => (block, offset, page[4095]),
        Record::Zero { block, offset } => (block, offset, 0),
        Record::End => (9, 9, 9),
    };
    assert_eq!([next(), next(), next(), next()], [(1, 0, 7), (1, 0, 0), (0, 4096, 8), (9, 9, 9)]);
    let first = header(0, FLAG_PAGE | FLAG_CONTINUE);
    let error = Reading::default().next(&mut Slice::new(&first), &blocks).unwrap_err();
    assert!(matches!(error, RecordError::NoBlock));
}

#[test]
fn a_package_is_read_as_it_was_written_and_the_stream_goes_on_behind_it() {
    let mut bytes = write_package(&devices()).unwrap();
    assert_eq!(bytes.capacity(), bytes.len());
    assert_eq!(bytes[..5], [0x08, 0, 7, 0, 4]);
    let read = read_package(&bytes).unwrap();
    assert!(matches!(read[0].data, std::borrow::Cow::Borrowed(_)));
    assert_eq!(read[1].decode::<Timer>().unwrap().deadline, 7);
    bytes.push(0x42);
    let mut rest = &bytes[..];
    let body = receive_package(&mut rest).unwrap();
    assert_eq!(rest, [0x42]);
    assert_eq!(read_devices(&body).unwrap().len(), 2);
    // In a stream, its devices count as if they had come in its place.
    let (file, package) = (small(), &bytes[..bytes.len() - 1]);
    let first = find(&file, b"\x04\0\0\0\x03\x05timer");
    let end = find(&file, b"\0\x06\0\0");
    let packed = [&file[..first], package, &file[end..]].concat();
    assert_eq!(load_small(&packed).unwrap(), load_small(&file).unwrap());
}

#[test]
fn a_package_that_is_cut_anywhere_is_an_error() {
    let bytes = write_package(&devices()).unwrap();
    for len in 0..bytes.len() {
        assert!(matches!(read_package(&bytes[..len]).unwrap_err(), PackageError::Short { .. }), "{len}");
        assert!(
            matches!(receive_package(&mut &bytes[..len]).unwrap_err(), PackageError::Short { .. }),
            "{len}"
        );
        assert!(read_devices(&bytes[9..][..len.min(bytes.len() - 10)]).is_err());
    }
}

#[test]
fn each_wrong_package_has_an_error_of_its_own() {
    let good = write_package(&devices()).unwrap();
    let with = |at: usize, to: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        read_package(&bytes).unwrap_err()
    };
    assert!(matches!(with(0, &[4]), PackageError::NotCommand(4)));
    assert!(matches!(with(1, &[0, 8]), PackageError::NotPackaged(8)));
    assert!(matches!(with(3, &[0, 5]), PackageError::CommandLength(5)));
    assert!(with(3, &[0, 5]).to_string().contains("MIG_CMD_PACKAGED"));
    assert!(matches!(with(5, &[0; 4]), PackageError::Empty));
    assert!(matches!(with(5, &[0xff; 4]), PackageError::TooLarge { size: 0xffff_ffff }));
    let over = (PACKAGE_LIMIT + 1).to_be_bytes();
    assert!(matches!(with(5, &over), PackageError::TooLarge { .. }));
    assert!(matches!(with(9, &[8, 0, 7]), PackageError::Nested(0)));
    assert!(matches!(with(9, &[8, 0, 3]), PackageError::Command { offset: 0, command: 3 }));
    assert!(matches!(with(9, &[0x44]), PackageError::Kind { offset: 0, kind: 0x44 }));
    assert!(matches!(with(9, &[0]), PackageError::Trailing(_)));
    assert!(matches!(with(15, &[0xff]), PackageError::NameText(0)));
    assert!(matches!(with(13, &[9]), PackageError::Footer { offset: 0, .. }));
    let more = [&good[..], &[0]].concat();
    assert!(matches!(read_package(&more).unwrap_err(), PackageError::Trailing(1)));
    assert!(matches!(
        write_package(&[timer(1), timer(2)]).map(|bytes| read_package(&bytes).map(drop)),
        Ok(Err(PackageError::Twice { instance: 0, .. }))
    ));
}

#[test]
fn the_limit_is_looked_at_before_a_byte_is_written() {
    let device = |len: usize| {
        let bytes = vec![0; len];
        [Encoded { name: "x".into(), instance: 0, version: 1, bytes, fields: vec![] }]
    };
    // Around a state there are 23 bytes and its name, and after all of them the end.
    let most = PACKAGE_LIMIT as usize - 23 - 1 - 1;
    let bytes = write_package(&device(most)).unwrap();
    assert_eq!(bytes[5..9], PACKAGE_LIMIT.to_be_bytes());
    assert_eq!(read_package(&bytes).unwrap()[0].data.len(), most);
    let over = PackageError::TooLarge { size: u64::from(PACKAGE_LIMIT) + 1 };
    assert_eq!(Package::new(&device(most + 1)).unwrap_err().to_string(), over.to_string());
}

#[test]
fn the_end_of_records_is_one_word() {
    assert_eq!(header(0, FLAG_EOS), [0, 0, 0, 0, 0, 0, 0, 0x10]);
    assert_eq!(header(0x1_2345_6000, FLAG_ZERO), [0, 0, 0, 1, 0x23, 0x45, 0x60, 0x02]);
}
