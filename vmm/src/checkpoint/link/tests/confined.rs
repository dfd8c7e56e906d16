use super::super::heartbeat::{Heartbeat, Lost, Rhythm};
use super::super::{Arrival, Door, socket};
use super::host::{LONG, hello, knock, main_of, pinned, terms};
use crate::checkpoint::protocol::Channel as _;
use crate::checkpoint::protocol::hello::{Hello, Role, Side};
use crate::config::SeccompMode;
use crate::sandbox::{Kind, Sandbox};
use std::io::IoSlice;
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Set in the process that the test starts to run itself in, as nothing gives back what a filter takes.
const CHILD: &str = "COLO_TEST_LINK_CHILD";

#[test]
fn a_confined_thread_lets_in_talks_and_beats() {
    if std::env::var_os(CHILD).is_none() {
        let test = "checkpoint::link::tests::confined::a_confined_thread_lets_in_talks_and_beats";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(CHILD, "1");
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(output.status.success() && text.contains("1 passed"), "{}: {text}", output.status);
        return;
    }
    let (client, server) = pinned();
    let listener = socket::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let sandbox = Sandbox::new(SeccompMode::On, || {}).unwrap();
    let secondary = std::thread::spawn(move || {
        sandbox.enter(Kind::Control).unwrap();
        let (door, arrivals) = Door::open(listener, terms(Some(server))).unwrap();
        let (mut stream, _, _seat) = main_of(&arrivals);
        let mut bytes = [0; 5];
        assert_eq!(stream.receive(&mut bytes, Instant::now() + LONG).unwrap(), 5);
        stream.send(&mut [IoSlice::new(&bytes)], Instant::now() + LONG).unwrap();
        let Arrival::Heartbeat { stream: beat, .. } = arrivals.recv_timeout(LONG).unwrap() else {
            panic!("a heartbeat")
        };
        let (send, lost) = channel();
        let rhythm = Rhythm { timeout: LONG, ..Rhythm::default() };
        let heart = Heartbeat::start(beat, rhythm, move |lost| drop(send.send(lost))).unwrap();
        let lost = lost.recv_timeout(LONG).unwrap();
        assert!(matches!(lost, Lost::Farewell), "{lost}");
        drop((heart, door));
    });
    let ours = hello(Side::Primary);
    let (mut stream, _) = knock(address, Some(&client), &ours).unwrap();
    stream.send(&mut [IoSlice::new(b"level")], Instant::now() + LONG).unwrap();
    let mut bytes = [0; 5];
    assert_eq!(stream.receive(&mut bytes, Instant::now() + LONG).unwrap(), 5);
    let (beat, _) = knock(address, Some(&client), &Hello { role: Role::Heartbeat, ..ours }).unwrap();
    let heart = Heartbeat::start(beat, Rhythm { timeout: LONG, ..Rhythm::default() }, drop).unwrap();
    while heart.beats().heard() < 3 {
        std::thread::sleep(Duration::from_millis(1));
    }
    heart.farewell();
    secondary.join().unwrap();
}
