//! What an NBD client can say to our server: whatever it is, and however it is cut, the session goes on, waits or
//! ends; the disk changes by nothing but whole requests inside of it; memory is bounded by what came.
#![no_main]

use arbitrary::Unstructured;
use colo_fuzz::disk::Disk;
use colo_vmm::nbd::server::{Offer, Session, Step, Terms};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

/// What a connection may hold besides twice what came: room to read into, a read of the disk, answers.
const BASE: usize = 4 << 20;

fn session(tls: bool, bytes: &[u8], cut: usize) -> (Vec<u8>, bool, Vec<u8>) {
    let disk = Arc::new(Disk::new());
    let offer =
        Offer { name: "disk".to_owned(), description: "a disk".to_owned(), export: Arc::clone(&disk) as _ };
    let mut session = Session::new(Arc::new(Terms { tls, ..Terms::new(vec![offer]) }));
    let (mut said, mut pieces, mut came) = (Vec::new(), bytes.chunks(cut), 0);
    let good = loop {
        let step = session.step();
        assert!(session.memory() <= 2 * came + BASE, "memory without bytes");
        said.extend(session.output());
        session.sent(session.output().len());
        match step {
            Ok(Step::Again | Step::Send) => {}
            Ok(Step::Secure) => session.secured(),
            Ok(Step::Receive) => match pieces.next() {
                Some(piece) => {
                    session.feed(piece);
                    came += piece.len();
                }
                None => break true,
            },
            Ok(Step::End) => break true,
            Err(_) => break false,
        }
        // A short request can ask for long replies; how many does not matter here.
        if said.len() > 64 << 20 {
            break true;
        }
    };
    (said, good, disk.bytes())
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Unstructured::new(bytes);
    let (Ok(tls), Ok(chosen), Ok(cut)) = (input.arbitrary(), input.arbitrary(), input.int_in_range(1..=4096))
    else {
        return;
    };
    let mut all = vec![0, 0, 0, 3];
    if chosen {
        all.extend(b"IHAVEOPT\0\0\0\x08\0\0\0\0");
        all.extend(b"IHAVEOPT\0\0\0\x0a\0\0\0\x28\0\0\0\x04disk\0\0\0\x02");
        all.extend(b"\0\0\0\x0acolo:epoch\0\0\0\x0acolo:sum-2");
        all.extend(b"IHAVEOPT\0\0\0\x07\0\0\0\x0a\0\0\0\x04disk\0\0");
    }
    all.extend(input.take_rest());
    let one = session(tls, &all, cut);
    // STARTTLS is the one place where a cut decides: what is behind it came before TLS, or after.
    if !tls {
        assert!(one == session(false, &all, usize::MAX), "a cut changes what is said");
    }
});
