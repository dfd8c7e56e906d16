//! What a primary can say to a secondary: no epoch is taken for whole that is not, whatever is said costs what
//! was sent, and the secondary answers in turn. What begins like a hello is read as one.
#![no_main]

use colo_fuzz::peer::{Peer, limits};
use colo_vmm::checkpoint::protocol::hello::{HEAD, Hello};
use colo_vmm::checkpoint::protocol::secondary::{FirstSync, Next, Pages, Syncing};
use colo_vmm::checkpoint::protocol::{Buffer, Code, Error, Patience};
use libfuzzer_sys::fuzz_target;

fn session(peer: &mut Peer<'_>, completed: &mut u64) -> Result<(), Error> {
    let mut buffer = Buffer::new();
    let mut syncing = Syncing::new(peer, limits(), Patience::default());
    let mut level = loop {
        match syncing.next(&mut buffer)? {
            FirstSync::Ram(more) => syncing = more,
            FirstSync::Synced(synced) | FirstSync::Resume(synced) => break synced.ready()?,
            FirstSync::Ended => return Ok(()),
        }
    };
    loop {
        assert_eq!(level.epoch(), *completed + 1);
        level = match level.next(&mut buffer)? {
            Next::Ram(more) => more,
            Next::Ended => return Ok(()),
            Next::Request(requested) => {
                let mut replied = requested.reply(&[])?;
                let sent = loop {
                    let got = replied.pages(&mut buffer)?;
                    assert!(buffer.bytes().len() as u64 <= limits().piece);
                    match got {
                        Pages::More(more) => replied = more,
                        Pages::All(sent) => break sent,
                    }
                };
                let shipped = sent.package(&mut buffer)?;
                assert!(buffer.bytes().len() as u64 <= limits().package);
                let level = shipped.received()?.loaded()?;
                *completed += 1;
                level
            }
        }
    }
}

fn hello(input: &[u8]) {
    let Some((head, body)) = input.split_first_chunk::<HEAD>() else { return };
    let Ok(len) = Hello::body_len(*head) else { return };
    let Some(body) = body.get(..len) else { return };
    if let Ok(hello) = Hello::from_body(body) {
        assert_eq!(&hello.to_bytes()[HEAD..], body, "there is one way to write it");
        // Nobody fits to itself: both would be the same side.
        assert!(hello.compare(&hello).is_err());
    }
}

fuzz_target!(|input: &[u8]| {
    hello(input);
    let (mut peer, mut completed) = (Peer::new(input), 0);
    if let Err(error) = session(&mut peer, &mut completed) {
        assert!(!matches!(error, Error::Send { .. } | Error::Stuck { .. } | Error::Broken(_)), "{error}");
    }
    // Synced is a header, and a checkpoint is three.
    assert!(completed == 0 || input.len() as u64 >= 20 + 60 * completed);
    let mut turn = [Code::CheckpointReply, Code::VmstateReceived, Code::VmstateLoaded].iter().cycle();
    let Some((first, rest)) = peer.heard.split_first() else { return };
    assert_eq!(*first, (Code::CheckpointReady, 0));
    for (at, (code, epoch)) in rest.iter().enumerate() {
        assert_eq!(Some(code), turn.next());
        assert_eq!(*epoch, at as u64 / 3 + 1);
    }
});
