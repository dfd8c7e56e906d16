use super::{any, established, is_alone, quick};
use crate::config::SeccompMode;
use crate::replication::connection::{Connection, Outcome, Role, Status, role};
use crate::sandbox::{Kind, Sandbox};
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc::channel;

#[test]
fn confined_threads_find_each_other_again() {
    if !is_alone("confined::confined_threads_find_each_other_again") {
        return;
    }
    let listener = role::bind(&[any()]).unwrap();
    let address = listener.local_addr().unwrap();
    // Nothing gives back what a filter takes: this process ends with the test.
    let sandbox = Sandbox::new(SeccompMode::On, || {}).unwrap();
    sandbox.enter(Kind::Peer).unwrap();
    let pair = || {
        let (tell, told) = channel::<Outcome>();
        let tell = move |_: &_, outcome| drop(tell.send(outcome));
        (Connection::new(quick(vec![address]), tell).unwrap(), told)
    };
    let ((server, at_server), (client, at_client)) = (pair(), pair());
    server.handle().start_on(listener).unwrap();
    client.handle().start(Role::Client).unwrap();
    for round in 0..3u8 {
        let ours = established(&at_client).0;
        let theirs = established(&at_server).0;
        (&*ours).write_all(&[round]).unwrap();
        readable(&theirs);
        let mut byte = [9];
        (&*theirs).read_exact(&mut byte).unwrap();
        assert_eq!(byte, [round]);
        server.handle().restart().unwrap();
        // It hears of it.
        readable(&ours);
        assert_eq!((&*ours).read(&mut byte).unwrap(), 0);
        client.handle().restart().unwrap();
    }
    client.handle().kill();
    assert_eq!(client.handle().report().status, Status::Closed);
}

/// Waits until something can be read.
fn readable(stream: &TcpStream) {
    poll(&mut [PollFd::new(stream, PollFlags::IN)], None).unwrap();
}
