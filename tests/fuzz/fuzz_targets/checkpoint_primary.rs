//! What a secondary can say to a primary: every wait ends, a checkpoint is counted only when all four answers to
//! it were right, and the primary never says anything out of turn.
#![no_main]

use colo_fuzz::peer::{Peer, limits};
use colo_vmm::checkpoint::protocol::primary::Syncing;
use colo_vmm::checkpoint::protocol::{Buffer, Code, Error, Patience};
use libfuzzer_sys::fuzz_target;
use std::io::IoSlice;

fn session(peer: &mut Peer<'_>, completed: &mut u64) -> Result<(), Error> {
    let (mut ranges, bytes) = (Buffer::new(), [IoSlice::new(b"bytes")]);
    let mut level = Syncing::new(peer, limits(), Patience::default()).synced()?.ready()?;
    loop {
        assert_eq!(level.epoch(), *completed + 1);
        level.ram(&bytes)?;
        let mut replied = level.request()?.reply(&mut ranges)?;
        assert!(ranges.bytes().len() as u64 <= limits().reply);
        replied.ram(&bytes)?;
        level = replied.pages(&bytes)?.package(&bytes)?.received()?.loaded()?;
        *completed += 1;
    }
}

fuzz_target!(|input: &[u8]| {
    let (mut peer, mut completed) = (Peer::new(input), 0);
    let error = session(&mut peer, &mut completed).expect_err("the input ends");
    assert!(!matches!(error, Error::Send { .. } | Error::Stuck { .. } | Error::Broken(_)), "{error}");
    // Ready is a header, and a checkpoint is three.
    assert!(completed == 0 || input.len() as u64 >= 20 + 60 * completed);
    let turn = [Code::Ram, Code::CheckpointRequest, Code::Ram, Code::VmstateSend, Code::VmstateSize];
    let mut turn = turn.iter().cycle();
    let (first, rest) = peer.heard.split_first().expect("it began");
    assert_eq!(*first, (Code::Synced, 0));
    for (at, (code, epoch)) in rest.iter().enumerate() {
        assert_eq!(Some(code), turn.next());
        assert_eq!(*epoch, at as u64 / 5 + 1);
    }
});
