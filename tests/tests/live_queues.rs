//! Proof: a guest whose connections are spread over several queues, each with a thread of its own, is
//! protected like any other.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use colo_proxy::control::status::QueueStatus;
use colo_proxy::engine::Cause;
use colo_proxy::live::spec::{Guest, Mode, Queues, Spec};
use colo_proxy::live::{Node, Request};
use colo_tests::netns::desk::Visit;
use colo_tests::netns::lab::addresses;
use colo_tests::netns::live::{embedded, node_of};
use colo_tests::netns::wait::PATIENCE;
use colo_tests::netns::{
    Conduct, Desk, Flaw, Lab, Live, Options, Proxy, Recorder, Snapshot, Space, released, until,
};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

const SEVERAL: &str = "--queues 3";

fn lab(nics: u8) -> Lab {
    Lab::new(Options { nics, neighbours: true, ..Options::default() }).unwrap()
}

fn desks(lab: &Lab, flaw: Flaw) -> [Desk; 2] {
    [Desk::open(&lab.pg[0], Flaw::None).unwrap(), Desk::open(&lab.sg[0], flaw).unwrap()]
}

fn protect(lab: &Lab, conduct: Conduct) -> Live {
    let primary = Proxy::of(lab, 0, "primary").with(SEVERAL).patient();
    Live::of(lab, primary, Proxy::of(lab, 0, "secondary"), conduct).unwrap()
}

fn queues(lab: &Lab, live: &Live) -> Vec<QueueStatus> {
    let nics = live.primary.status(lab).unwrap().nics;
    nics.into_iter().flat_map(|nic| nic.queues).collect()
}

#[test]
fn connections_of_both_families_and_nics_are_served_whatever_their_queue() {
    let lab = lab(2);
    let _desks = desks(&lab, Flaw::None);
    // One guest leaves segmentation to its NIC, the other one does it itself.
    lab.sg[0].run("ethtool -K eth0 tso off gso off").unwrap();
    let before = Snapshot::of(&lab, &lab.p).unwrap();
    let mut live = protect(&lab, Conduct::Wait);
    let said = Recorder::start(&lab.pg[0], "eth0").unwrap();
    let left = Recorder::start(&lab.p, "uplink").unwrap();
    std::thread::scope(|scope| {
        for seed in 0..16 {
            let lab = &lab;
            scope.spawn(move || {
                let address = addresses(0, 0)[seed as usize % 2];
                Visit::download(&lab.client, address, 300_000, seed).unwrap();
                Visit::upload(&lab.client, address, 300_000, seed).unwrap();
            });
        }
    });
    let (said, left) = (said.stop().unwrap(), left.stop().unwrap());
    let guests = left.outgoing().filter(|frame| frame.source() == Some(colo_tests::netns::lab::mac(0, 0)));
    let compared = released::is_the_primarys(said.outgoing(), guests).unwrap();
    assert!(compared.tcp_bytes >= 16 * 300_000, "{compared:?}");
    for address in addresses(0, 1) {
        Visit::download(&lab.client, address, 300_000, 9).unwrap();
    }
    assert_eq!(live.toolstack.requests().unwrap(), 0, "all of it agrees");
    let all = queues(&lab, &live);
    assert_eq!(all.len(), 6);
    assert!(all[..3].iter().all(|queue| queue.released > 0 && queue.frames[1] > 0), "{all:?}");
    // What the status says of the NIC is the sum.
    let nic = live.primary.status(&lab).unwrap().nics.remove(0);
    let sum: u64 = nic.queues.iter().map(|queue| queue.released).sum();
    assert_eq!(nic.engine.unwrap()["released"], sum);
    assert_eq!(nic.match_delay.unwrap().count, sum);
    assert!(live.p.stop().unwrap().success());
    assert!(live.s.stop().unwrap().success());
    let ours = |line: &String| !line.contains("/run/");
    let left: Vec<String> =
        before.difference(&Snapshot::of(&lab, &lab.p).unwrap()).into_iter().filter(ours).collect();
    assert_eq!(left, [""; 0], "no thread, tap or pin stays");
}

#[test]
fn two_hundred_of_two_hundred_connections_survive_whatever_their_queue() {
    let lab = lab(1);
    let _desks = desks(&lab, Flaw::None);
    let mut live = protect(&lab, Conduct::Wait);
    let speak = |visit: &mut Visit, count: u64| {
        let place = visit.offset;
        visit.give(5, count)?;
        visit.offset = place;
        visit.take(5, count)
    };
    let mut visits: Vec<Visit> = (0..200)
        .map(|number| {
            let mut visit = Visit::open(&lab.client, addresses(0, 0)[number % 2]).unwrap();
            visit.say("echo\n").unwrap();
            speak(&mut visit, 100 + number as u64).unwrap();
            visit
        })
        .collect();
    let spread = queues(&lab, &live);
    assert!(spread.iter().all(|queue| queue.flows > 200 / 6), "{spread:?}");
    assert_eq!(live.toolstack.requests().unwrap(), 0);
    live.take_over(&lab).unwrap();
    let lost = visits.iter_mut().filter_map(|visit| speak(visit, 1000).err());
    let lost: Vec<String> = lost.map(|error| format!("{error:#}")).collect();
    assert_eq!(lost, [""; 0]);
}

/// Downloads until every queue has some that differs at byte 100.
fn differing(lab: &Lab, count: u64) -> Vec<JoinHandle<anyhow::Result<()>>> {
    (0..count)
        .map(|seed| {
            let mut visit = Visit::open(&lab.client, addresses(0, 0)[seed as usize % 2]).unwrap();
            visit.say(&format!("down 10000 {seed}\n")).unwrap();
            std::thread::spawn(move || visit.take(seed, 10_000))
        })
        .collect()
}

#[test]
fn differences_in_all_queues_are_one_request_and_one_checkpoint_lets_all_of_it_go() {
    let lab = lab(1);
    let _desks = desks(&lab, Flaw::Byte(100));
    let live = protect(&lab, Conduct::Wait);
    let clients = differing(&lab, 24);
    let all = until("every queue has differences", || {
        let all = queues(&lab, &live);
        Ok((all.iter().all(|queue| queue.triggers > 0)).then_some(all))
    })
    .unwrap();
    assert!(all.iter().all(|queue| queue.held[0].frames > 0), "{all:?}");
    let status = live.primary.status(&lab).unwrap();
    assert_eq!(status.checkpoints.triggers["payload"], 3, "each thread asked once");
    assert_eq!(live.toolstack.requests().unwrap(), 1, "and that became one request");
    assert!(!clients.iter().any(JoinHandle::is_finished));
    live.toolstack.go_on().unwrap();
    for client in clients {
        client.join().unwrap().unwrap();
    }
    let status = live.primary.status(&lab).unwrap();
    assert!(status.checkpoints.completed >= 1);
    assert_eq!(status.epoch, status.checkpoints.completed + 1, "all are in the same epoch");
}

fn spec(lab: &Lab, mode: Mode) -> Spec {
    node_of(lab, Guest { queues: Queues::new(3).unwrap(), ..embedded(mode, "7").unwrap() })
}

fn embed(lab: &Lab, host: &Space, mode: Mode, listener: Option<&SyncSender<Request>>) -> Node {
    host.enter(|| Node::prepare(&spec(lab, mode), listener)?.launch()).unwrap()
}

fn next(requests: &Receiver<Request>) -> Request {
    requests.recv_timeout(PATIENCE).expect("the listener is asked")
}

#[test]
fn a_checkpoint_that_comes_to_nothing_releases_nothing_from_any_queue_and_what_came_meanwhile_is_compared() {
    let lab = lab(1);
    let _desks = desks(&lab, Flaw::Byte(100));
    let (ask, requests) = sync_channel(16);
    let follower = embed(&lab, &lab.s, Mode::Secondary, None);
    let server = embed(&lab, &lab.p, Mode::Primary, Some(&ask));
    let primary = server.guests().next().unwrap().clone();
    let clients = differing(&lab, 24);
    let first = next(&requests);
    assert_eq!(first.trigger.cause, Cause::Payload);
    until("every queue has differences", || {
        Ok(primary.status()?.nics[0].queues.iter().all(|queue| queue.triggers > 0).then_some(()))
    })
    .unwrap();

    // Connections that begin while the state is captured are of the epoch that is to begin.
    primary.checkpoint_begin().unwrap();
    let opened: Vec<_> = (0..24)
        .map(|number| {
            let to = (addresses(0, 0)[number % 2], colo_tests::netns::desk::PORT);
            lab.client
                .spawn(move || std::net::TcpStream::connect_timeout(&to.into(), PATIENCE).map(drop))
                .unwrap()
        })
        .collect();
    until("every queue has set something aside", || {
        let nic = primary.status()?.nics.remove(0);
        let aside = nic.held_flows.iter().filter(|flow| flow.flow == "(next epoch)").count();
        Ok((aside == 3).then_some(()))
    })
    .unwrap();
    assert!(!opened.iter().any(JoinHandle::is_finished), "none is answered");
    primary.checkpoint_failed().unwrap();
    // They are answered, because both guests agree on that; what differed is still there.
    for connection in opened {
        connection.join().unwrap().unwrap();
    }
    let second = next(&requests);
    assert_eq!(second.trigger.epoch, first.trigger.epoch, "the epoch has not ended");
    let status = primary.status().unwrap();
    assert_eq!((status.checkpoints.completed, status.checkpoints.failed), (0, 1));
    assert!(!clients.iter().any(JoinHandle::is_finished));

    primary.checkpoint_begin().unwrap();
    follower.guests().next().unwrap().checkpoint_done().unwrap();
    primary.checkpoint_done().unwrap();
    for client in clients {
        client.join().unwrap().unwrap();
    }
    assert_eq!(primary.status().unwrap().checkpoints.completed, 1);
    lab.p.enter(|| server.stop()).unwrap();
    lab.s.enter(|| follower.stop()).unwrap();
}

#[test]
fn a_tap_that_is_gone_is_the_guests_failure_whichever_thread_sees_it_and_nothing_leaves() {
    let lab = lab(1);
    let _desks = desks(&lab, Flaw::None);
    let mut live = protect(&lab, Conduct::Wait);
    Visit::download(&lab.client, addresses(0, 0)[0], 1000, 1).unwrap();
    lab.p.run("ip link del colo0").unwrap();
    until("the process ends", || Ok(live.p.must_run().is_err().then_some(()))).unwrap();
    let said = live.p.said();
    assert!(said.contains("cannot read from the capture tap"), "{said}");
    let left = Recorder::start(&lab.p, "uplink").unwrap();
    lab.client.output(&format!("ping -n -c 3 -i 0.05 -W 1 {}", addresses(0, 0)[0])).unwrap();
    let left = left.stop().unwrap();
    let guests = left.outgoing().filter(|frame| frame.source() == Some(colo_tests::netns::lab::mac(0, 0)));
    assert_eq!(guests.count(), 0);
}
