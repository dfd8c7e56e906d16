//! A server with a handler that knows two guests, in a run directory of its own.

use colo_proxy::control::protocol::{Answer, Handler, Refusal, Request};
use colo_proxy::control::server::Deadlines;
use colo_proxy::control::status::{
    CheckpointStatus, DelayStatus, FlowStatus, GuestStatus, HeldStatus, NicStatus, NodeStatus,
};
use colo_proxy::control::{MetricsListener, Server, client, listen};
use colo_proxy::engine::{Config, Engine};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct Node {
    pub(crate) run: tempfile::TempDir,
    pub(crate) socket: PathBuf,
    pub(crate) metrics: SocketAddr,
    pub(crate) server: Server,
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::with(Arc::new(handle), Deadlines::default())
    }

    pub(crate) fn with(handler: Handler, deadlines: Deadlines) -> Self {
        let run = tempfile::tempdir().unwrap();
        let socket = client::directory(run.path()).unwrap().join("node.sock");
        let listener = listen(&socket).unwrap();
        let metrics = MetricsListener::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = metrics.address().unwrap();
        let server = Server::start_with(listener, Some(metrics), handler, deadlines).unwrap();
        Self { run, socket, metrics: address, server }
    }
}

/// Answers as a node with these guests does.
pub(crate) fn handle(request: Request) -> Result<Answer, Refusal> {
    let known = ["web", "db"];
    Ok(match request {
        Request::Status {} => Answer::Status(Box::new(status())),
        Request::Promote { guest } => {
            let guest = Refusal::choose(guest.as_deref(), &known)?.to_owned();
            if guest == "web" {
                return Err(Refusal::NotNow { guest, why: "it serves here already".to_owned() });
            }
            Answer::Promoted(vec![guest])
        }
        Request::Checkpoint { guest } => {
            Answer::Checkpoint(vec![Refusal::choose(guest.as_deref(), &known)?.to_owned()])
        }
        Request::Stop {} => Answer::Stopping,
    })
}

/// A node with a primary that holds something and a secondary.
pub(crate) fn status() -> NodeStatus {
    // The comparator's object is the real one's, so that a field that is renamed is noticed.
    let engine = Engine::<Vec<u8>>::new(Config::default());
    let mut counted = serde_json::to_value(engine.stats()).unwrap();
    counted["primary"]["frames"] = 1203.into();
    counted["primary"]["discards"]["ack-superseded"] = 5.into();
    counted["released"] = 1200.into();
    counted["released_by_checkpoint"] = 20.into();
    counted["verified_bytes"] = 4_000_000.into();
    counted["triggers"]["payload"] = 12.into();
    let flow = |port: u64, ms| FlowStatus {
        flow: format!("tcp 10.77.0.2:80 > 10.77.0.1:{port}"),
        held: [HeldStatus { frames: 3, bytes: 4242 }, HeldStatus::default()],
        oldest_ms: ms,
        limit_ms: (port == 40_000).then_some(3000),
        why: "waits for the secondary's output".to_owned(),
    };
    let nic = NicStatus {
        vif: "vif1".to_owned(),
        forward: "eth1".to_owned(),
        bridge: Some("br0".to_owned()),
        kernel: [("captured".to_owned(), 1203), ("stale".to_owned(), 2), ("too-long".to_owned(), 0)].into(),
        capture_dropped: 7,
        flows: 12,
        engine: Some(counted),
        held: Some([HeldStatus { frames: 6, bytes: 8484 }, HeldStatus { frames: 1, bytes: 60 }]),
        match_delay: Some(DelayStatus {
            count: 1200,
            p50_us: 120,
            p90_us: 300,
            p99_us: 1200,
            max_us: 15_000,
        }),
        held_flows: vec![flow(40_000, 2500), flow(40_001, 12)],
        ..NicStatus::default()
    };
    let web = GuestStatus {
        failure: None,
        name: "web".to_owned(),
        role: "primary".to_owned(),
        state: "protected".to_owned(),
        waiting_for: Some("a VMM on unix:/run/notify.sock".to_owned()),
        epoch: 17,
        checkpoints: CheckpointStatus {
            completed: 16,
            failed: 1,
            triggers: [("payload".to_owned(), 12), ("age".to_owned(), 5)].into(),
            outstanding: Some("payload of tcp 10.77.0.2:80 > 10.77.0.1:40000".to_owned()),
            outstanding_ms: 12,
            last_ms: Some(83),
            performer: None,
        },
        nics: vec![nic],
    };
    let odd =
        NicStatus { vif: "vif2".to_owned(), forward: "eth1".to_owned(), index: 1, ..NicStatus::default() };
    let db = GuestStatus {
        name: "d\"b\\\n".to_owned(),
        role: "secondary".to_owned(),
        state: "following".to_owned(),
        epoch: 3,
        nics: vec![odd],
        ..GuestStatus::default()
    };
    NodeStatus { version: "0.1.0".to_owned(), pid: 4711, uptime_ms: 7_380_000, guests: vec![web, db] }
}

/// A connection whose waits end in a failure rather than never.
pub(crate) fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    stream
}

/// Sends a line as it is and reads one back; empty if the server closed the connection.
pub(crate) fn exchange(stream: &UnixStream, line: &str) -> String {
    let mut writer = stream;
    writer.write_all(line.as_bytes()).unwrap();
    read(stream)
}

/// The next line; empty if the server closed the connection.
pub(crate) fn read(stream: &UnixStream) -> String {
    let mut answer = String::new();
    match BufReader::new(stream).read_line(&mut answer) {
        Ok(_) => answer,
        // It closed with something of ours unread.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => String::new(),
        Err(error) => panic!("{error}"),
    }
}
