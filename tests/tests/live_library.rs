//! Proof: a program that embeds the library, as a VMM does, protects and follows a guest, is asked for
//! checkpoints and reports them through handles.
//!
//! The checkpoints are empty ones, as everywhere in the lab; what is proved is who hears what, and
//! what leaves when.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use colo_proxy::control::status::GuestStatus;
use colo_proxy::engine::Cause;
use colo_proxy::live::spec::{Mode, Spec};
use colo_proxy::live::{AskError, Handle, Node, Request};
use colo_tests::netns::desk::Visit;
use colo_tests::netns::lab::addresses;
use colo_tests::netns::live::{embedded, node_of};
use colo_tests::netns::wait::PATIENCE;
use colo_tests::netns::{Desk, Flaw, Lab, Options, Snapshot, Space, until};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

/// The size of an answer that leaves a guest at once: no acknowledgement has to come back for it, which
/// an empty checkpoint would spoil.
const SIZE: u64 = 10_000;

/// The byte that the secondary's guest gets wrong.
const WRONG: u64 = 5000;

fn spec(lab: &Lab, mode: Mode) -> Spec {
    node_of(lab, embedded(mode, "7").unwrap())
}

fn embed(lab: &Lab, host: &Space, mode: Mode, listener: Option<&SyncSender<Request>>) -> (Node, Handle) {
    let node = host.enter(|| Node::prepare(&spec(lab, mode), listener)?.launch()).unwrap();
    let handle = node.guests().next().unwrap().clone();
    (node, handle)
}

/// A client that fetches an answer, and how much of it has come.
fn fetch(lab: &Lab, seed: u64) -> (JoinHandle<anyhow::Result<()>>, Arc<AtomicU64>) {
    let mut visit = Visit::open(&lab.client, addresses(0, 0)[0]).unwrap();
    let came = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&came);
    let client = std::thread::spawn(move || {
        visit.say(&format!("down {SIZE} {seed}\n"))?;
        for _ in 0..SIZE / 100 {
            visit.take(seed, 100)?;
            counted.fetch_add(100, Ordering::SeqCst);
        }
        Ok(())
    });
    (client, came)
}

fn next(requests: &Receiver<Request>) -> Request {
    requests.recv_timeout(PATIENCE).expect("the listener is asked")
}

/// Waits until the primary's says this of itself.
fn stands(handle: &Handle, what: &str, so: impl Fn(&GuestStatus) -> bool) -> GuestStatus {
    until(what, || {
        let status = handle.status()?;
        Ok(so(&status).then_some(status))
    })
    .unwrap()
}

#[test]
fn a_program_that_embeds_it_is_asked_once_and_its_word_decides_what_leaves() {
    let lab = Lab::new(Options { neighbours: true, ..Options::default() }).unwrap();
    let before = lab.hosts().map(|host| Snapshot::of(&lab, host).unwrap());
    let _desks =
        [Desk::open(&lab.pg[0], Flaw::None).unwrap(), Desk::open(&lab.sg[0], Flaw::Byte(WRONG)).unwrap()];
    let (ask, requests) = sync_channel(16);
    let (secondary, follower) = embed(&lab, &lab.s, Mode::Secondary, None);
    let (primary, server) = embed(&lab, &lab.p, Mode::Primary, Some(&ask));
    assert_eq!((server.name(), follower.name()), ("vm0", "vm0"));
    assert_eq!(server.status().unwrap().checkpoints.performer.as_deref(), Some("VMM"));

    // Both answers differ from the secondary's, and that is one request.
    let clients = [fetch(&lab, 1), fetch(&lab, 2)];
    let first = next(&requests);
    assert_eq!((first.guest.as_str(), first.trigger.cause), ("vm0", Cause::Payload));
    assert!(first.trigger.flow.is_some());
    let held = stands(&server, "both answers are held", |status| status.nics[0].held_flows.len() >= 2);
    assert_eq!(held.checkpoints.outstanding.as_deref(), Some("payload"));
    assert!(matches!(requests.try_recv(), Err(TryRecvError::Empty)), "one request for both");

    // A checkpoint that comes to nothing releases nothing, and what waits asks again.
    server.checkpoint_begin().unwrap();
    server.checkpoint_failed().unwrap();
    let second = next(&requests);
    assert_eq!(second.trigger.epoch, first.trigger.epoch, "the epoch has not ended");
    let status = server.status().unwrap();
    assert_eq!((status.checkpoints.completed, status.checkpoints.failed), (0, 1));
    for (client, came) in &clients {
        assert!(!client.is_finished() && came.load(Ordering::SeqCst) <= WRONG, "{came:?}");
    }

    // One that is complete lets go of the primary's bytes, and nobody's else.
    server.checkpoint_begin().unwrap();
    follower.checkpoint_done().unwrap();
    server.checkpoint_done().unwrap();
    for (client, _) in clients {
        client.join().unwrap().unwrap();
    }
    let status = server.status().unwrap();
    assert_eq!((status.checkpoints.completed, status.checkpoints.failed), (1, 1));
    let follows =
        stands(&follower, "the secondary has heard of it", |status| status.checkpoints.completed == 1);
    assert_eq!(follows.state, "following");

    // An operator's wish reaches the listener like a difference.
    while requests.try_recv().is_ok() {}
    stands(&server, "what was open is settled", |status| {
        if status.checkpoints.outstanding.is_some() {
            server.checkpoint_done().unwrap();
        }
        status.checkpoints.outstanding.is_none()
    });
    while requests.try_recv().is_ok() {}
    server.request_checkpoint(Cause::Operator).unwrap();
    assert_eq!(next(&requests).trigger.cause, Cause::Operator);

    // The primary's host dies, and the secondary serves on.
    lab.cut_primary().unwrap();
    assert!(server.promote().unwrap().is_err(), "a primary serves already");
    let said = follower.promote().unwrap().unwrap();
    assert!(said.contains("vif00: serves"), "{said}");
    Visit::download(&lab.client, addresses(0, 0)[0], WRONG, 3).unwrap();

    lab.p.run("ip link set dev fwd up").unwrap();
    lab.p.enter(|| primary.stop()).unwrap();
    lab.s.enter(|| secondary.stop()).unwrap();
    assert_eq!(server.status(), Err(AskError::Gone));
    // The links that were cut stay so; nothing else is different.
    let [_, after] = lab.hosts().map(|host| Snapshot::of(&lab, host).unwrap());
    assert_eq!(before[1].difference(&after), [""; 0]);
    assert!(matches!(requests.try_recv(), Err(TryRecvError::Empty)));
    drop(ask);
    assert!(matches!(requests.try_recv(), Err(TryRecvError::Disconnected)), "nobody is left who would ask");
}
