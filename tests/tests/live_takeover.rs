//! Proof: the primary's host dies and the clients keep their connections.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use colo_tests::netns::desk::{self, Desk, Flaw, Visit, Work};
use colo_tests::netns::lab::{Lab, Options, addresses, client_addresses};
use colo_tests::netns::{Conduct, Live, Proxy, Space, until};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

const MANY: u64 = 48 << 20;

fn lab(wire: bool) -> Lab {
    Lab::new(Options { wire, neighbours: true, ..Options::default() }).unwrap()
}

/// Loss is repaired by TCP, and is no divergence. What is asked for here is not a checkpoint, and none
/// is ever performed: what is open was opened by both.
fn protect(lab: &Lab) -> Live {
    let primary = Proxy::of(lab, 0, "primary").patient();
    Live::of(lab, primary, Proxy::of(lab, 0, "secondary"), Conduct::Wait).unwrap()
}

/// Both runs of the guest open a connection to the client, from the same port, and serve on it.
fn opened_by_the_guest(lab: &Lab, at: usize) -> Visit {
    let to = SocketAddr::from((client_addresses(0)[at], 6000));
    let from = SocketAddr::from((addresses(0, 0)[at], 41_000));
    let listener = lab.client.enter(|| TcpListener::bind(to)).unwrap();
    for guest in lab.twins(0) {
        guest
            .spawn(move || {
                let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                let guest = socket(family, SocketType::STREAM, None).unwrap();
                bind(&guest, &from).unwrap();
                connect(&guest, &to).unwrap();
                desk::serve(&TcpStream::from(guest), Flaw::None, &Work::default())
            })
            .unwrap();
    }
    listener.set_nonblocking(true).unwrap();
    let (socket, _) = until("the guest connects", || Ok(listener.accept().ok())).unwrap();
    socket.set_nonblocking(false).unwrap();
    Visit::on(socket).unwrap()
}

fn open(from: &Space, to: IpAddr, words: &str) -> Visit {
    let mut visit = Visit::open(from, to).unwrap();
    visit.say(words).unwrap();
    visit
}

/// An echo of some bytes: the connection works.
fn speak(visit: &mut Visit, count: u64) {
    let place = visit.offset;
    visit.give(5, count).unwrap();
    visit.offset = place;
    visit.take(5, count).unwrap();
}

#[test]
fn open_connections_of_every_kind_survive_the_primarys_death() {
    let lab = lab(false);
    let desks: Vec<Desk> = lab.twins(0).iter().map(|guest| Desk::open(guest, Flaw::None).unwrap()).collect();
    let mut live = protect(&lab);

    let mut busy: Vec<(String, JoinHandle<()>)> = Vec::new();
    let mut rest: Vec<(&str, Visit)> = Vec::new();
    for (at, address) in addresses(0, 0).into_iter().enumerate() {
        let mut idle = open(&lab.client, address, "echo\n");
        speak(&mut idle, 10_000);
        rest.push(("idle", idle));

        let mut stopped = open(&lab.client, address, &format!("down {MANY} 5\n"));
        stopped.take(5, 1 << 20).unwrap();
        rest.push(("a download that nobody reads at the moment", stopped));

        let mut half = open(&lab.client, address, &format!("down {MANY} 5\n"));
        half.shut().unwrap();
        half.take(5, 1 << 20).unwrap();
        rest.push(("half-closed by the client", half));

        let mut ended = open(&lab.client, address, &format!("end {MANY} 5\n"));
        ended.end().unwrap();
        ended.give(5, 1 << 20).unwrap();
        rest.push(("half-closed by the guest", ended));

        let mut theirs = opened_by_the_guest(&lab, at);
        theirs.say(&format!("down {MANY} 5\n")).unwrap();
        theirs.take(5, 1 << 20).unwrap();
        rest.push(("opened by the guest", theirs));

        let mut down = open(&lab.client, address, &format!("down {} 5\n", 4 * MANY));
        down.take(5, 1 << 20).unwrap();
        let work = move || {
            down.take(5, 4 * MANY - (1 << 20)).unwrap();
            down.end().unwrap();
        };
        busy.push((format!("download from {address}"), std::thread::spawn(work)));

        let mut up = open(&lab.client, address, &format!("up {MANY}\n"));
        up.give(5, 1 << 20).unwrap();
        let work = move || {
            up.give(5, MANY - (1 << 20)).unwrap();
            up.digest(5, MANY).unwrap();
        };
        busy.push((format!("upload to {address}"), std::thread::spawn(work)));
    }
    for address in addresses(0, 0) {
        rest.push(("just established", Visit::open(&lab.client, address).unwrap()));
    }
    assert_eq!(live.toolstack.requests().unwrap(), 0, "all of it agrees");
    for (what, work) in &busy {
        assert!(!work.is_finished(), "{what} is over before the primary's death");
    }
    live.take_over(&lab).unwrap();

    for (what, mut visit) in rest {
        eprintln!("after the take-over: {what}");
        match what {
            "idle" => {
                speak(&mut visit, 100_000);
                visit.shut().unwrap();
                visit.end().unwrap();
            }
            "half-closed by the guest" => {
                visit.give(5, MANY - (1 << 20)).unwrap();
                visit.shut().unwrap();
            }
            "just established" => {
                visit.say("down 1000000 5\n").unwrap();
                visit.take(5, 1_000_000).unwrap();
                visit.end().unwrap();
            }
            _ => {
                visit.take(5, MANY - (1 << 20)).unwrap();
                visit.end().unwrap();
            }
        }
    }
    for (what, work) in busy {
        eprintln!("after the take-over: {what}");
        work.join().unwrap();
    }
    until("uploads behind the guest's own end are whole", || {
        Ok((desks[1].work().read_after_end.load(Ordering::SeqCst) == 2).then_some(()))
    })
    .unwrap();
    // And new ones are served.
    for address in addresses(0, 0) {
        Visit::download(&lab.client, address, 1 << 20, 9).unwrap();
        Visit::upload(&lab.client, address, 1 << 20, 9).unwrap();
    }
    assert!(desks[1].work().accepted.load(Ordering::SeqCst) > 0);
}

#[test]
fn two_hundred_of_two_hundred_connections_survive() {
    let lab = lab(false);
    let _desks: Vec<Desk> = lab.twins(0).iter().map(|guest| Desk::open(guest, Flaw::None).unwrap()).collect();
    let mut live = protect(&lab);
    let mut visits: Vec<Visit> = (0..200)
        .map(|number| {
            let mut visit = open(&lab.client, addresses(0, 0)[number % 2], "echo\n");
            speak(&mut visit, 100 + number as u64);
            visit
        })
        .collect();
    live.take_over(&lab).unwrap();
    let mut survived = 0;
    for visit in &mut visits {
        let place = visit.offset;
        let again = visit.give(5, 1000).and_then(|()| {
            visit.offset = place;
            visit.take(5, 1000)
        });
        match again {
            Ok(()) => survived += 1,
            Err(error) => eprintln!("{error:#}"),
        }
    }
    assert_eq!(survived, 200);
}

#[test]
fn what_was_acknowledged_is_never_lost_on_a_forward_link_that_loses_frames() {
    let lab = lab(true);
    let _desks: Vec<Desk> = lab.twins(0).iter().map(|guest| Desk::open(guest, Flaw::None).unwrap()).collect();
    let mut live = protect(&lab);
    lab.lose(2).unwrap();
    let uploads: Vec<JoinHandle<()>> = (0..8)
        .map(|number| {
            let mut up = open(&lab.client, addresses(0, 0)[number % 2], "sum\n");
            std::thread::spawn(move || {
                up.give(number as u64, 48 << 20).unwrap();
                up.shut().unwrap();
                up.digest(number as u64, 48 << 20).unwrap();
            })
        })
        .collect();
    until("the link has lost some", || Ok((lab.lost()? >= 20).then_some(()))).unwrap();
    let open = uploads.iter().filter(|upload| !upload.is_finished()).count();
    assert!(open > 0, "every upload is over before the primary's death");
    live.take_over(&lab).unwrap();
    for upload in uploads {
        upload.join().unwrap();
    }
}

#[test]
fn a_forward_link_that_loses_frames_only_slows_an_upload_down() {
    let lab = lab(true);
    let _desks: Vec<Desk> = lab.twins(0).iter().map(|guest| Desk::open(guest, Flaw::None).unwrap()).collect();
    let live = protect(&lab);
    lab.lose(2).unwrap();
    let uploads: Vec<JoinHandle<()>> = (0..8)
        .map(|number| {
            let mut up = open(&lab.client, addresses(0, 0)[number % 2], "sum\n");
            std::thread::spawn(move || {
                up.give(number as u64, 16 << 20).unwrap();
                up.shut().unwrap();
                up.digest(number as u64, 16 << 20).unwrap();
            })
        })
        .collect();
    for upload in uploads {
        upload.join().unwrap();
    }
    assert!(lab.lost().unwrap() >= 3, "the link lost next to nothing");
    let engine = live.primary.status(&lab).unwrap().nics[0].engine.clone().unwrap();
    assert!(engine["gaps_told"].as_u64().unwrap() > 0, "{engine}");
    assert_eq!(live.toolstack.requests().unwrap(), 0, "loss is no divergence");
    let late = lab.client.run("nstat -asz TcpExtPAWSEstab").unwrap();
    assert_eq!(late.lines().last().and_then(|line| line.split_whitespace().nth(1)), Some("0"), "{late}");
}

#[test]
fn the_toolstack_can_order_the_take_over() {
    let lab = lab(false);
    let _desks: Vec<Desk> = lab.twins(0).iter().map(|guest| Desk::open(guest, Flaw::None).unwrap()).collect();
    let live = protect(&lab);
    let mut visit = open(&lab.client, addresses(0, 0)[0], "echo\n");
    speak(&mut visit, 1000);
    let Live { mut p, secondary, toolstack, s: _s, .. } = live;
    lab.cut_primary().unwrap();
    p.kill().unwrap();
    drop(toolstack);
    colo_tests::netns::Toolstack::fail_over(&secondary.notify(&lab)).unwrap();
    speak(&mut visit, 1000);
    assert_eq!(secondary.status(&lab).unwrap().role, "promoted");
}
