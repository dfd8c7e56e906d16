mod alone;
mod confined;
mod rules;
mod table;

use super::machine::{Event, Machine};
use super::{Config, Connection, Handle, Outcome};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Longer than anything takes.
const LONG: Duration = Duration::from_mins(1);
/// Set in a process that a test starts to run itself in.
const CHILD: &str = "COLO_TEST_CONNECTION_CHILD";

/// Whether this is a process for this test alone; if not, it is run in one.
fn is_alone(test: &str) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let test = format!("replication::connection::tests::{test}");
    command.args(["--exact", &test, "--nocapture", "--test-threads=1"]).env(CHILD, "1");
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{}: {text}", output.status);
    false
}

/// With times that a test likes.
fn quick(addresses: Vec<SocketAddr>) -> Config {
    let mut config = Config::new(addresses);
    config.backoff.first = Duration::from_millis(2);
    config.backoff.longest = Duration::from_millis(10);
    config.pause = Duration::from_millis(2);
    config
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn connection(config: Config) -> (Connection, Receiver<Outcome>) {
    let (tell, told) = channel();
    let connection = Connection::new(config, move |_, outcome| drop(tell.send(outcome))).unwrap();
    (connection, told)
}

/// A machine after these events.
fn after(config: &Config, events: &[Event]) -> Machine {
    let mut machine = Machine::new(config.clone(), 1);
    for event in events {
        machine.on(*event);
    }
    machine
}

fn established(told: &Receiver<Outcome>) -> (Arc<TcpStream>, SocketAddr) {
    match told.recv_timeout(LONG).unwrap() {
        Outcome::Established { stream, peer, .. } => (stream, peer),
        Outcome::Failed(failure) => panic!("{failure}"),
    }
}

/// A port that is kept, and where nobody listens before it is listened on.
fn deaf() -> (rustix::fd::OwnedFd, SocketAddr) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &any()).unwrap();
    let address = getsockname(&socket).unwrap().try_into().unwrap();
    (socket, address)
}

fn until(handle: &Handle, is: impl Fn(&super::Report) -> bool) -> super::Report {
    loop {
        let report = handle.report();
        if is(&report) {
            return report;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(any()).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// The peer has ended; what it sent before is read.
fn ended(mut stream: &TcpStream) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(std::io::Read::read(&mut stream, &mut [0; 9]).unwrap(), 0);
}
