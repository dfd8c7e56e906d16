//! The rules of the connection, R-003-1 … 19. Those that need a process of their own are in `alone`, those of
//! what cannot be seen from outside (11, 12) beside the code.

use super::{LONG, after, any, connection, deaf, ended, established, listener, quick, until};
use crate::config::Peer;
use crate::replication::connection::errno::{of_the_accepted, passes};
use crate::replication::connection::machine::{Action, Event};
use crate::replication::connection::{
    Allow, Config, Connection, Failure, Handle, Outcome, Role, RoleError, Side, StartError, Status, role,
};
use rustix::io::Errno;
use rustix::net::sockopt;
use std::collections::HashSet;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// One that listens, and where.
fn server(config: Config) -> (Connection, std::sync::mpsc::Receiver<Outcome>, SocketAddr) {
    let (server, told) = connection(config);
    assert_eq!(server.handle().start(Role::Server).unwrap(), Side::Server);
    let address = server.handle().report().listens.unwrap();
    (server, told, address)
}

#[test]
fn r_003_1_an_address_is_host_and_port() {
    for good in ["1.2.3.4:9", "h:9", "[::1]:9"] {
        assert_eq!(good.parse::<Peer>().unwrap().to_string(), good);
    }
    for bad in ["::1:9", "h", ":9", "h:", "h:0", "h:65536", "h:abc"] {
        assert!(bad.parse::<Peer>().is_err(), "{bad}");
    }
}

#[test]
fn r_003_2_a_missing_port_is_called_so() {
    for bad in ["h", "h:", "[::1]"] {
        let error = bad.parse::<Peer>().unwrap_err().to_string();
        assert!(error.contains("missing port"), "{error}");
    }
    let error = ":9".parse::<Peer>().unwrap_err().to_string();
    assert!(!error.contains("missing port"), "{error}");
}

#[test]
fn r_003_3_a_status_is_one_of_four() {
    let codes = [Status::None, Status::InProgress, Status::Established, Status::Closed].map(Status::code);
    assert_eq!(codes, [-1, 0, 1, -1]);
}

#[test]
fn r_003_4_a_server_is_not_started_twice() {
    let (server, told, address) = server(quick(vec![any()]));
    for _ in 0..2 {
        let before = server.handle().report();
        let error = server.handle().start(Role::Server).unwrap_err();
        assert!(matches!(error, StartError::Busy) && error.code() == -1, "{error}");
        let after = server.handle().report();
        assert_eq!((after.status, after.listens), (before.status, before.listens));
        if before.status == Status::InProgress {
            drop((TcpStream::connect(address).unwrap(), established(&told)));
        }
    }
    assert_eq!(server.handle().report().status, Status::Established);
}

#[test]
fn r_003_5_whose_address_it_is_decides_the_role() {
    // Of the documentation (RFC 5737): no host has it.
    let foreign: SocketAddr = "192.0.2.1:9".parse().unwrap();
    let error = role::bind(&[foreign]).unwrap_err();
    assert!(matches!(error, RoleError::NotOurs(_)) && error.code() == -2, "{error}");
    let (taken, address) = listener();
    let (one, _told) = connection(quick(vec![address]));
    let error = one.handle().start(Role::ByAddress).unwrap_err();
    assert!(matches!(error, StartError::Role(RoleError::Listen(_))) && error.code() == -1, "{error}");
    assert_eq!(one.handle().report().status, Status::None);
    drop(taken);
    assert_eq!(one.handle().start(Role::ByAddress).unwrap(), Side::Server);
    let (two, _told) = connection(quick(vec![foreign]));
    let error = two.handle().start(Role::Server).unwrap_err();
    assert_eq!((error.code(), two.handle().report().status), (-2, Status::None));
    assert_eq!(two.handle().start(Role::ByAddress).unwrap(), Side::Client);
    for any in ["0.0.0.0:9", "[::]:9", "[::ffff:0.0.0.0]:9"] {
        let (three, _told) = connection(quick(vec![any.parse().unwrap()]));
        let error = three.handle().start(Role::ByAddress).unwrap_err().to_string();
        assert!(error.contains("name the role"), "{error}");
    }
}

#[test]
fn r_003_6_one_is_let_in_and_the_second_is_closed_at_once() {
    let (server, told, address) = server(quick(vec![any()]));
    let first = TcpStream::connect(address).unwrap();
    let (peer, from) = established(&told);
    assert_eq!(from, first.local_addr().unwrap());
    for seconds in 1..4 {
        ended(&TcpStream::connect(address).unwrap());
        assert_eq!(until(server.handle(), |report| report.counts.second >= seconds).counts.second, seconds);
    }
    (&first).write_all(b"yes").unwrap();
    peer.set_nonblocking(false).unwrap();
    std::io::Read::read_exact(&mut &*peer, &mut [0; 3]).unwrap();
    assert!(told.try_recv().is_err());
    // What came and went before it was accepted is nothing; the rest pauses.
    let listening = after(&quick(vec![any()]), &[Event::StartServer, Event::Listening]);
    for (error, pauses) in
        [(Errno::CONNABORTED, false), (Errno::PROTO, false), (Errno::MFILE, true), (Errno::NOMEM, true)]
    {
        let mut machine = listening.clone();
        let actions = machine.on(Event::AcceptFailed(error));
        assert_eq!(actions.iter().any(|action| matches!(action, Action::Pause(_))), pauses, "{error}");
        assert_eq!((machine.status(), machine.is_paused()), (Status::InProgress, pauses));
        assert_eq!(of_the_accepted(error), !pauses);
    }
}

#[test]
fn r_003_7_a_restart_waits_for_the_next_peer_at_the_same_listener() {
    let (server, told) = connection(quick(vec![any()]));
    // Not started: it is.
    server.handle().restart().unwrap();
    let address = server.handle().report().listens.unwrap();
    server.handle().restart().unwrap();
    assert_eq!(server.handle().report().listens, Some(address));
    for _ in 0..3 {
        let client = TcpStream::connect(address).unwrap();
        let (peer, _) = established(&told);
        server.handle().restart().unwrap();
        let report = server.handle().report();
        assert_eq!((report.status, report.listens), (Status::InProgress, Some(address)));
        // Although its owner holds it yet.
        ended(&client);
        drop(peer);
    }
    server.handle().kill();
    server.handle().restart().unwrap();
    assert_eq!(server.handle().report().status, Status::InProgress);
}

#[test]
fn r_003_8_a_client_that_nobody_answers_keeps_nobody_waiting() {
    // Nothing comes back from there: not even that there is nothing.
    let (unroutable, never) = connection(quick(vec!["192.0.2.1:9".parse().unwrap()]));
    assert_eq!(unroutable.handle().start(Role::Client).unwrap(), Side::Client);
    assert_eq!(unroutable.handle().report().status, Status::InProgress);
    for role in [Role::Client, Role::Server] {
        assert_eq!(unroutable.handle().start(role).unwrap_err().code(), -1);
    }
    let (_server, told, address) = server(quick(vec![any()]));
    let (client, ours) = connection(quick(vec![address]));
    client.handle().start(Role::Client).unwrap();
    drop((established(&told), established(&ours)));
    assert_eq!(client.handle().start(Role::Client).unwrap_err().code(), -1);
    assert_eq!(unroutable.handle().report().status, Status::InProgress);
    assert!(never.try_recv().is_err());
}

#[test]
fn r_003_9_errors_that_pass_are_waited_out_and_others_end_it() {
    let pass = [
        libc::ECONNREFUSED,
        libc::ENETUNREACH,
        libc::EAGAIN,
        libc::ECONNABORTED,
        libc::ETIMEDOUT,
        libc::EHOSTUNREACH,
        libc::ENETDOWN,
        libc::EHOSTDOWN,
        libc::ECONNRESET,
        libc::EADDRNOTAVAIL,
        libc::ENOBUFS,
        libc::EINTR,
    ];
    for code in 1..134 {
        let error = Errno::from_raw_os_error(code);
        assert_eq!(passes(error), pass.contains(&code), "{error}");
        let mut machine = after(&quick(vec![any()]), &[Event::StartClient]);
        let actions = machine.on(Event::ConnectFailed(error));
        if pass.contains(&code) {
            assert!(matches!(actions[..], [Action::CloseAttempt, Action::Wait(_)]), "{error}: {actions:?}");
            assert_eq!(machine.status(), Status::InProgress);
        } else {
            let failure = Failure::Connection(error);
            assert_eq!((actions, failure.code()), (vec![Action::CloseAttempt, Action::Fail(failure)], -2));
            assert_eq!(machine.status(), Status::Closed);
        }
    }
    // The server comes later than its client.
    let (socket, address) = deaf();
    let (client, told) = connection(quick(vec![address]));
    client.handle().start(Role::Client).unwrap();
    let report = until(client.handle(), |report| report.counts.rounds >= 3);
    assert_eq!((report.status, report.last), (Status::InProgress, Some(Errno::CONNREFUSED)));
    rustix::net::listen(&socket, 1).unwrap();
    assert_eq!(established(&told).1, address);
}

#[test]
fn r_003_10_each_attempt_has_a_socket_of_its_own() {
    let (socket, address) = deaf();
    let (client, told) = connection(quick(vec![address]));
    client.handle().start(Role::Client).unwrap();
    // Of a socket that is used again after a failure, Linux says once that it was aborted.
    let mut said = HashSet::new();
    while client.handle().report().counts.attempts < 20 {
        said.extend(client.handle().report().last);
    }
    assert_eq!(said.into_iter().collect::<Vec<_>>(), [Errno::CONNREFUSED]);
    rustix::net::listen(&socket, 1).unwrap();
    established(&told);
}

#[test]
fn r_003_13_a_kill_is_safe_in_every_state_and_a_later_start_works() {
    let (one, told) = connection(quick(vec![any()]));
    one.handle().kill();
    assert_eq!(one.handle().report().status, Status::None);
    for _ in 0..3 {
        one.handle().start(Role::Server).unwrap();
        let address = one.handle().report().listens.unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (peer, _) = established(&told);
        one.handle().kill();
        one.handle().kill();
        let report = one.handle().report();
        assert_eq!((report.status, report.listens), (Status::Closed, None));
        ended(&client);
        // It is there yet, but ended: its owner may hold it as long as it likes.
        ended(&peer);
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }
    let (_kept, nobody) = deaf();
    let (client, _told) = connection(quick(vec![nobody]));
    client.handle().start(Role::Client).unwrap();
    client.handle().kill();
    assert_eq!(client.handle().report().status, Status::Closed);
    let handle = client.handle().clone();
    drop(client);
    assert!(matches!(handle.start(Role::Client), Err(StartError::Gone)));
    assert!(matches!(handle.restart(), Err(StartError::Gone)));
}

#[test]
fn r_003_14_both_ends_have_the_options_of_a_link() {
    let (_server, told, address) = server(quick(vec![any()]));
    let (client, ours) = connection(quick(vec![address]));
    client.handle().start(Role::Client).unwrap();
    for socket in [established(&told).0, established(&ours).0] {
        assert!(sockopt::tcp_nodelay(&socket).unwrap());
        assert!(sockopt::socket_keepalive(&socket).unwrap());
        assert_ne!(sockopt::tcp_user_timeout(&socket).unwrap(), 0);
        assert!(rustix::io::fcntl_getfd(&socket).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        assert!(rustix::fs::fcntl_getfl(&socket).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    }
}

#[test]
fn r_003_15_a_stranger_is_refused_and_displaces_nobody() {
    let mut config = quick(vec![any()]);
    config.allow = Allow::Only(vec!["::ffff:127.0.0.1".parse().unwrap()]);
    let (server, told, address) = server(config);
    let stranger = || {
        let socket = crate::checkpoint::link::socket::new(&address).unwrap();
        rustix::net::bind(&socket, &"127.0.0.2:0".parse::<SocketAddr>().unwrap()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(false).unwrap();
        rustix::net::connect(&stream, &address).unwrap();
        stream
    };
    ended(&stranger());
    assert!(told.try_recv().is_err());
    let friend = TcpStream::connect(address).unwrap();
    let (peer, _) = established(&told);
    ended(&stranger());
    let counts = until(server.handle(), |report| report.counts.strangers >= 2).counts;
    assert_eq!((counts.strangers, counts.second, counts.established), (2, 0, 1));
    (&friend).write_all(b"yes").unwrap();
    peer.set_nonblocking(false).unwrap();
    std::io::Read::read_exact(&mut &*peer, &mut [0; 3]).unwrap();
}

#[test]
fn r_003_16_each_outcome_is_told_once_and_never_from_inside_start() {
    let (tell, told) = channel();
    let caller = std::thread::current().id();
    let (_kept, address) = deaf();
    let mut config = quick(vec![address]);
    config.rounds = Some(1);
    // It does from inside what can be done from outside: is started anew, 50 times, then ended.
    let mut times = 0;
    let again = move |handle: &Handle, outcome: Outcome| {
        assert_ne!(std::thread::current().id(), caller);
        times += 1;
        assert_eq!((outcome.code(), handle.report().status), (-2, Status::Closed));
        if times < 50 {
            handle.start(Role::Client).unwrap();
        } else {
            handle.kill();
        }
        tell.send(times).unwrap();
    };
    let client = Connection::new(config, again).unwrap();
    client.handle().start(Role::Client).unwrap();
    for times in 1..=50 {
        assert_eq!(told.recv_timeout(LONG).unwrap(), times);
    }
    drop(client);
    assert_eq!(told.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
    // A kill from inside, on what was just established; and its own end.
    let (tell, told) = channel();
    let holder = std::sync::Arc::new(std::sync::Mutex::new(None::<Connection>));
    let own = std::sync::Arc::clone(&holder);
    let killer = move |handle: &Handle, outcome: Outcome| {
        handle.kill();
        assert_eq!(handle.report().status, Status::Closed);
        drop(own.lock().unwrap().take());
        tell.send(outcome.code()).unwrap();
    };
    let server = Connection::new(quick(vec![any()]), killer).unwrap();
    server.handle().start(Role::Server).unwrap();
    let address = server.handle().report().listens.unwrap();
    *holder.lock().unwrap() = Some(server);
    ended(&TcpStream::connect(address).unwrap());
    assert_eq!(told.recv_timeout(LONG).unwrap(), 0);
    assert_eq!(told.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
}

#[test]
fn r_003_17_attempts_are_counted_apart_in_time_and_limited() {
    let (kept, also) = (deaf(), deaf());
    let mut config = quick(vec![kept.1, also.1]);
    config.rounds = Some(3);
    let (client, told) = connection(config.clone());
    client.handle().start(Role::Client).unwrap();
    let Outcome::Failed(failure) = told.recv_timeout(LONG).unwrap() else { panic!("nobody is there") };
    assert_eq!(failure, Failure::GaveUp { rounds: 3, last: Errno::CONNREFUSED });
    let counts = client.handle().report().counts;
    assert_eq!((counts.attempts, counts.rounds), (6, 3));
    // Two hosts do not wait equally long.
    let delays: HashSet<Duration> = (0..100)
        .map(|seed| {
            let mut machine = super::Machine::new(config.clone(), seed);
            machine.on(Event::StartClient);
            machine.on(Event::ConnectFailed(Errno::CONNREFUSED));
            match machine.on(Event::Timer)[..] {
                [Action::CloseAttempt, Action::Wait(delay)] => delay,
                ref other => panic!("{other:?}"),
            }
        })
        .collect();
    assert!(delays.len() > 50, "{delays:?}");
}

#[test]
fn r_003_18_every_address_is_tried() {
    let ((_listener, good), (_kept, bad)) = (listener(), deaf());
    // The second is of no kind that can be connected to.
    let (client, told) = connection(quick(vec![bad, "[ff02::1]:9".parse().unwrap(), good]));
    client.handle().start(Role::Client).unwrap();
    assert_eq!(established(&told).1, good);
    let config = quick(vec![any(); 3]);
    let mut machine = after(&config, &[Event::StartClient, Event::ConnectFailed(Errno::ACCESS)]);
    // What cannot answer later is left out of the next round; when nothing is left, it is given up.
    let mut tried = Vec::new();
    for _ in 0..3 {
        for action in machine.on(Event::ConnectFailed(Errno::CONNREFUSED)) {
            match action {
                Action::Connect { address, .. } => tried.push(address),
                Action::Wait(_) => {
                    let [Action::Connect { address, .. }] = machine.on(Event::Timer)[..] else {
                        panic!("an attempt")
                    };
                    tried.push(address);
                }
                _ => {}
            }
        }
    }
    assert_eq!(tried, [2, 1, 2]);
    machine.on(Event::ConnectFailed(Errno::PERM));
    machine.on(Event::Timer);
    let actions = machine.on(Event::ConnectFailed(Errno::PERM));
    assert_eq!(actions.last(), Some(&Action::Fail(Failure::Connection(Errno::PERM))));
}

#[test]
fn r_003_19_the_listener_outlives_its_clients_and_ends_with_a_kill() {
    let (server, told, address) = server(quick(vec![any()]));
    for _ in 0..3 {
        let client = TcpStream::connect(address).unwrap();
        let (peer, _) = established(&told);
        drop(client);
        ended(&peer);
        // The loss is for who has the stream to notice.
        assert_eq!(server.handle().report().status, Status::Established);
        server.handle().restart().unwrap();
    }
    server.handle().kill();
    assert!(TcpStream::connect(address).is_err());
}
