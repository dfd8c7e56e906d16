//! Clients that misbehave, and a handler that does.

use super::support::{Node, connect, exchange, handle, read};
use colo_proxy::control::protocol::{Answer, MAX_REQUEST, Request};
use colo_proxy::control::server::{Deadlines, MAX_CONNECTIONS};
use std::io::{ErrorKind, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const CHECKPOINT: &str = "{\"command\":\"checkpoint\",\"guest\":\"db\"}\n";
const DONE: &str = "{\"ok\":{\"checkpoint\":[\"db\"]}}\n";

fn impatient() -> Deadlines {
    Deadlines { read: Duration::from_millis(50), ..Deadlines::default() }
}

#[test]
fn a_line_may_be_this_long_and_no_longer() {
    let node = Node::start();
    let stream = connect(&node.socket);
    let padded = |len: usize| format!("{}{CHECKPOINT}", " ".repeat(len - CHECKPOINT.len()));
    assert_eq!(exchange(&stream, &padded(MAX_REQUEST)), DONE);
    let refused = exchange(&stream, &padded(MAX_REQUEST + 1));
    assert!(refused.contains("longer than 65536 bytes"), "{refused}");
    assert_eq!(read(&stream), "", "what follows is out of step, so the connection ends");
    assert_eq!(exchange(&connect(&node.socket), CHECKPOINT), DONE);
}

#[test]
fn a_line_without_an_end_counts_if_the_client_is_done() {
    let node = Node::start();
    let mut stream = connect(&node.socket);
    stream.write_all(CHECKPOINT.trim_end().as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read(&stream), DONE);
    assert_eq!(read(&stream), "");
}

#[test]
fn binary_noise_is_answered_with_an_error() {
    let node = Node::start();
    let mut stream = connect(&node.socket);
    let noise: Vec<u8> = (0..=255).cycle().filter(|&byte| byte != b'\n').take(5000).collect();
    stream.write_all(&noise).unwrap();
    assert!(exchange(&stream, "\n").starts_with("{\"error\":"));
    assert_eq!(exchange(&stream, CHECKPOINT), DONE);
}

#[test]
fn a_client_that_does_not_end_its_line_is_sent_away() {
    let node = Node::with(Arc::new(handle), impatient());
    let mut stream = connect(&node.socket);
    stream.write_all(b"{\"command\":").unwrap();
    assert_eq!(read(&stream), "");
    assert_eq!(read(&connect(&node.socket)), "", "one that says nothing at all, too");
}

#[test]
fn a_client_that_does_not_read_is_sent_away() {
    let node = Node::with(Arc::new(handle), impatient());
    let mut stream = connect(&node.socket);
    stream.set_write_timeout(Some(Duration::from_mins(1))).unwrap();
    // Answers fill the buffers in the end, and then the server gives up on it.
    let refused = (0..1_000_000).find_map(|_| stream.write_all(b"{\"command\":\"status\"}\n").err());
    let refused = refused.expect("it was sent away").kind();
    assert!(matches!(refused, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{refused}");
    assert_eq!(exchange(&connect(&node.socket), CHECKPOINT), DONE);
}

#[test]
fn one_connection_too_many_is_told_so_and_there_is_room_again_later() {
    let node = Node::start();
    let crowd: Vec<UnixStream> = (0..MAX_CONNECTIONS).map(|_| connect(&node.socket)).collect();
    // All of them are known to be in once the last has an answer.
    assert_eq!(exchange(crowd.last().unwrap(), CHECKPOINT), DONE);
    let refused = read(&connect(&node.socket));
    assert!(refused.contains("32 connections are open already"), "{refused}");
    drop(crowd);
    let one_gets_in = || exchange_if_admitted(&connect(&node.socket));
    assert!(std::iter::repeat_with(one_gets_in).take(10_000).any(|answer| answer == DONE));
}

/// What a connection says that may be refused before it is heard.
fn exchange_if_admitted(stream: &UnixStream) -> String {
    let mut writer = stream;
    let _ = writer.write_all(CHECKPOINT.as_bytes());
    read(stream)
}

#[test]
fn a_handler_that_panics_costs_one_answer() {
    let handler = |request: Request| match request {
        Request::Promote { .. } => panic!("as this test wants it"),
        other => handle(other),
    };
    let node = Node::with(Arc::new(handler), Deadlines::default());
    let stream = connect(&node.socket);
    let answer = exchange(&stream, "{\"command\":\"promote\"}\n");
    assert!(answer.starts_with("{\"error\":\"an error inside colo-proxy"), "{answer}");
    assert_eq!(exchange(&stream, CHECKPOINT), DONE);
}

#[test]
fn a_handler_that_hangs_is_reported_and_stops_nothing() {
    let (release, hang) = channel::<()>();
    let hang = Mutex::new(hang);
    let handler = move |request: Request| match request {
        Request::Promote { .. } => {
            let _ = hang.lock().unwrap().recv();
            Ok(Answer::Promoted(Vec::new()))
        }
        other => handle(other),
    };
    let deadlines = Deadlines {
        answer: Duration::from_millis(50),
        stop: Duration::from_millis(50),
        ..Deadlines::default()
    };
    let node = Node::with(Arc::new(handler), deadlines);
    let promote = "{\"command\":\"promote\"}\n";
    // One more than may be answered at once: the last has no place, and is told the same.
    for _ in 0..3 {
        let answer = exchange(&connect(&node.socket), promote);
        assert!(answer.starts_with("{\"error\":\"no answer within"), "{answer}");
    }
    assert_eq!(exchange(&connect(&node.socket), CHECKPOINT), DONE);
    for _ in 0..2 {
        let answer = exchange(&connect(&node.socket), promote);
        assert!(answer.starts_with("{\"error\":\"no answer within"), "{answer}");
    }
    let answer = exchange(&connect(&node.socket), CHECKPOINT);
    assert!(answer.starts_with("{\"error\":\"no answer within"), "all places are taken: {answer}");
    // And a server whose handler hangs still stops.
    node.server.stop();
    assert!(!node.socket.exists());
    drop(release);
}

#[test]
fn what_is_being_answered_when_it_stops_is_answered() {
    let (asked, was_asked) = channel::<()>();
    let (go_on, may_go_on) = channel::<()>();
    let ends = Mutex::new((asked, may_go_on));
    let handler = move |request: Request| {
        let ends = ends.lock().unwrap();
        ends.0.send(()).unwrap();
        ends.1.recv().unwrap();
        handle(request)
    };
    let long = Duration::from_mins(1);
    let node = Node::with(Arc::new(handler), Deadlines { stop: long, ..Deadlines::default() });
    let mut stream = connect(&node.socket);
    stream.write_all(b"{\"command\":\"stop\"}\n").unwrap();
    was_asked.recv().unwrap();
    let stop = std::thread::spawn(move || node.server.stop());
    go_on.send(()).unwrap();
    assert_eq!(read(&stream), "{\"ok\":\"stopping\"}\n");
    stop.join().unwrap();
}
