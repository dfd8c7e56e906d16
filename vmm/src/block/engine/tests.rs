use super::*;
use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use vm_memory::Bytes;

const PAGE: usize = 4096;

fn ram() -> Arc<GuestRam> {
    Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap())
}

fn file(len: usize) -> Arc<File> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&(0..len).map(|n| (n / PAGE) as u8 + 1).collect::<Vec<_>>(), 0).unwrap();
    Arc::new(file)
}

fn all(engine: &mut dyn Engine) -> HashMap<u64, io::Result<usize>> {
    let mut done = Vec::new();
    engine.submit().unwrap();
    while engine.in_flight() > 0 {
        engine.wait().unwrap();
        engine.reap(&mut done);
    }
    done.into_iter().collect()
}

fn every(act: impl Fn(&mut dyn Engine, &Arc<File>, &Arc<GuestRam>)) {
    for (choice, registered) in [(Choice::Uring, true), (Choice::Uring, false), (Choice::Threads, false)] {
        let (file, ram) = (file(64 * PAGE), ram());
        let files = if registered { vec![file.clone()] } else { Vec::new() };
        act(&mut *start(choice, 64, &files).unwrap(), &file, &ram);
    }
}

fn operation(
    act: Act,
    file: &Arc<File>,
    ram: &Arc<GuestRam>,
    page: u64,
    spans: &[(u64, usize)],
) -> Operation {
    let span = |&(address, len)| Span { address: GuestAddress(address), len };
    let (file, ram) = (file.clone(), ram.clone());
    Operation {
        act,
        file,
        offset: page * PAGE as u64,
        ram,
        spans: spans.iter().map(span).collect(),
        token: page,
    }
}

#[test]
fn many_reads_at_once_go_where_they_belong_and_are_marked() {
    every(|engine, file, ram| {
        for page in 0..64 {
            // Half of them in two pieces.
            let at = page * PAGE as u64;
            let spans =
                if page % 2 == 0 { vec![(at, PAGE)] } else { vec![(at, 1000), (at + 1000, PAGE - 1000)] };
            engine.push(operation(Act::Read, file, ram, page, &spans)).unwrap();
        }
        let full = engine.push(operation(Act::Read, file, ram, 0, &[(0, PAGE)])).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let done = all(engine);
        assert_eq!(done.len(), 64);
        for page in 0..64_u64 {
            assert_eq!(*done[&page].as_ref().unwrap(), PAGE);
            let at = GuestAddress(page * PAGE as u64);
            let mut found = [0; PAGE];
            ram.read_slice(&mut found, at).unwrap();
            assert_eq!(found, [page as u8 + 1; PAGE]);
            assert!(ram.get_slice(at, PAGE).unwrap().bitmap().dirty_at(0));
        }
        assert!(!ram.get_slice(GuestAddress(64 * PAGE as u64), PAGE).unwrap().bitmap().dirty_at(0));
    });
}

#[test]
fn what_is_written_is_in_the_file_and_memory_is_not_marked() {
    every(|engine, file, ram| {
        ram.write_slice(&[0xaa; PAGE], GuestAddress(8192)).unwrap();
        let region = ram.get_slice(GuestAddress(0), 1 << 20).unwrap();
        let marked = |page: usize| region.bitmap().dirty_at(page * PAGE);
        assert!(marked(2) && !marked(3));
        engine.push(operation(Act::Write, file, ram, 5, &[(8192, 100), (12288, 100)])).unwrap();
        engine.push(operation(Act::Sync, file, ram, 6, &[])).unwrap();
        let done = all(engine);
        assert_eq!((*done[&5].as_ref().unwrap(), *done[&6].as_ref().unwrap()), (200, 0));
        let mut found = [9; 201];
        file.read_exact_at(&mut found, 5 * PAGE as u64).unwrap();
        assert_eq!(found, *[[0xaa; 100].as_slice(), &[0; 100], &[6]].concat());
        assert!(!marked(3), "to be read marks nothing");
    });
}

#[test]
fn an_error_is_that_operation_s_alone() {
    every(|engine, file, ram| {
        let written_only = Arc::new(File::options().write(true).open("/dev/null").unwrap());
        engine.push(operation(Act::Read, &written_only, ram, 1, &[(0, PAGE)])).unwrap();
        engine.push(operation(Act::Read, file, ram, 2, &[(PAGE as u64, PAGE)])).unwrap();
        let wild = operation(Act::Read, file, ram, 3, &[(1 << 30, PAGE)]);
        assert!(engine.push(wild).is_err(), "memory that is not there");
        let done = all(engine);
        assert!(done[&1].is_err());
        assert_eq!(*done[&2].as_ref().unwrap(), PAGE);
    });
}

#[test]
fn a_read_ends_with_the_file() {
    every(|engine, file, ram| {
        engine.push(operation(Act::Read, file, ram, 63, &[(0, 2 * PAGE)])).unwrap();
        engine.push(operation(Act::Read, file, ram, 64, &[(0, PAGE)])).unwrap();
        let done = all(engine);
        assert_eq!((*done[&63].as_ref().unwrap(), *done[&64].as_ref().unwrap()), (PAGE, 0));
    });
}

#[test]
fn to_be_dropped_waits_for_what_is_in_flight() {
    for choice in [Choice::Uring, Choice::Threads] {
        let (file, ram) = (file(64 * PAGE), ram());
        let mut engine = start(choice, 64, &[]).unwrap();
        for page in 0..64 {
            let one = operation(Act::Read, &file, &ram, page, &[(page * PAGE as u64, PAGE)]);
            engine.push(one).unwrap();
        }
        engine.submit().unwrap();
        drop(engine);
        assert_eq!((Arc::strong_count(&ram), Arc::strong_count(&file)), (1, 1));
        let mut found = vec![0; 64 * PAGE];
        ram.read_slice(&mut found, GuestAddress(0)).unwrap();
        assert!(found.chunks(PAGE).enumerate().all(|(n, page)| page.iter().all(|&byte| byte == n as u8 + 1)));
    }
}
