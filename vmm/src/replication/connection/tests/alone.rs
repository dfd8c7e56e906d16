//! What needs a process of its own: its descriptors are counted, or run out.

use super::{any, ended, is_alone, listener, quick};
use crate::replication::connection::backoff::Dice;
use crate::replication::connection::{Connection, Handle, Outcome, Role, Side, Status};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// What was handed out and is held yet.
type Held = Arc<Mutex<Vec<Arc<TcpStream>>>>;

/// A connection whose callback does something else each time.
fn restless(config: super::Config, seed: u64) -> (Connection, Held) {
    let held = Held::default();
    let keep = Arc::clone(&held);
    let mut dice = Dice::new(seed);
    let told = move |handle: &Handle, outcome: Outcome| {
        let stream = match outcome {
            Outcome::Established { stream, .. } => Some(stream),
            Outcome::Failed(_) => None,
        };
        match dice.roll() % 5 {
            0 => handle.kill(),
            // It may have been killed meanwhile.
            1 => drop(handle.restart()),
            2 => drop(handle.start(Role::Client)),
            _ => {}
        }
        if dice.roll().is_multiple_of(2) {
            keep.lock().unwrap().extend(stream);
        }
    };
    (Connection::new(config, told).unwrap(), held)
}

#[test]
fn r_003_13_no_descriptor_is_lost_in_ten_thousand_operations() {
    if !is_alone("alone::r_003_13_no_descriptor_is_lost_in_ten_thousand_operations") {
        return;
    }
    // Where the others listen, and where nobody does.
    let (other, reachable) = listener();
    let silent = super::deaf();
    let own: SocketAddr = super::deaf().1;
    let before = descriptors();
    let mut strangers = Vec::new();
    let mut dice = Dice::new(7);
    let (mut connections, mut held) = (Vec::new(), Vec::new());
    for seed in 0..4 {
        let mut config = quick(match seed {
            0 => vec![silent.1, reachable],
            1 => vec![silent.1],
            _ => vec![own],
        });
        config.rounds = Some(3);
        let (connection, keeps) = restless(config, seed);
        connections.push(connection);
        held.push(keeps);
    }
    let running = descriptors();
    for _ in 0..10_000 {
        let at = dice.roll() as usize % connections.len();
        let handle = connections[at].handle();
        match dice.roll() % 8 {
            0 | 1 => handle.kill(),
            2 => drop(handle.start(Role::Client)),
            3 => drop(handle.start(Role::Server)),
            4 => drop(handle.restart()),
            5 => held[at].lock().unwrap().clear(),
            6 => strangers.extend(TcpStream::connect(own)),
            _ => std::thread::yield_now(),
        }
        if strangers.len() > 8 {
            strangers.clear();
        }
    }
    strangers.clear();
    // A callback may be at work, and start it anew: it has an end, as this has.
    let quiet = |connection: &Connection| {
        connection.handle().kill();
        connection.handle().report().status
    };
    let clear = || held.iter().for_each(|held| held.lock().unwrap().clear());
    loop {
        let rested = connections.iter().all(|each| matches!(quiet(each), Status::Closed | Status::None));
        clear();
        if rested && descriptors() == running {
            break;
        }
        assert!(descriptors() < running + 64, "descriptors are lost");
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(connections);
    drop(held);
    assert_eq!(descriptors(), before);
    drop((other, silent));
}

#[test]
fn r_003_6_too_many_open_files_pause_and_then_the_peer_is_let_in() {
    if !is_alone("alone::r_003_6_too_many_open_files_pause_and_then_the_peer_is_let_in") {
        return;
    }
    let (server, told) = super::connection(quick(vec![any()]));
    assert_eq!(server.handle().start(Role::Server).unwrap(), Side::Server);
    let address = server.handle().report().listens.unwrap();
    let socket = crate::checkpoint::link::socket::new(&address).unwrap();
    let limit = getrlimit(Resource::Nofile);
    // No descriptor is free below the limit: accept has none to give.
    let filler: Vec<_> = (0..64).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
    let highest = filler.iter().map(std::os::fd::AsRawFd::as_raw_fd).max().unwrap();
    setrlimit(Resource::Nofile, Rlimit { current: Some(highest as u64 + 1), maximum: limit.maximum })
        .unwrap();
    let begun = Instant::now();
    let stream = TcpStream::from(socket);
    crate::checkpoint::link::socket::begin(&stream, &address).unwrap();
    let report = super::until(server.handle(), |report| report.counts.accept_failures >= 3);
    // It does not spin: between two failures there is a pause.
    let most = begun.elapsed().as_millis() / 2 + 2;
    assert!(u128::from(report.counts.accept_failures) <= most, "{report:?} in {most} pauses");
    assert_eq!((report.status, report.last), (Status::InProgress, Some(rustix::io::Errno::MFILE)));
    setrlimit(Resource::Nofile, limit).unwrap();
    drop(filler);
    let (peer, _) = super::established(&told);
    server.handle().kill();
    ended(&stream);
    drop(peer);
}
