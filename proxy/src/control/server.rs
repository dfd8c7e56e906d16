//! The thread that answers: control connections and scrapes, on one small runtime.
//!
//! ```text
//!   control socket ─► connection (≤ 32) ─► line ≤ 64 KiB, in time ─┐
//!                                                                  ├─► desk (≤ 4 at once) ─► handler
//!   metrics socket ─► scrape     (≤ 16) ─► GET /metrics ───────────┘        may block, has a deadline
//! ```
//!
//! Nothing that a client does or leaves undone holds up the data path or another client.

use super::exposition;
use super::listener::MetricsListener;
use super::protocol::{Answer, Handler, MAX_REQUEST, Refusal, Reply, Request, parse};
use super::scrape::{self, Silence};
use crate::listener::Listener;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Control connections at once.
pub const MAX_CONNECTIONS: usize = 32;
/// Requests that are being answered at once; more wait for their turn.
const MAX_ANSWERING: usize = 4;

/// How long anything may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// A whole line from a client, and a whole answer to it.
    pub read: Duration,
    /// An answer of the handler's.
    pub answer: Duration,
    /// What is under way when the server is to stop.
    pub stop: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { read: seconds(10), answer: seconds(10), stop: seconds(1) }
    }
}

/// A server that cannot be started.
#[derive(Debug, Error)]
#[error("cannot start the control thread: {0}; are there too many threads or open files?")]
pub struct StartError(#[from] io::Error);

/// Calls the handler, a few at once, with a deadline.
#[derive(Clone)]
pub(super) struct Desk {
    handler: Handler,
    places: Arc<Semaphore>,
    deadline: Duration,
}

impl Desk {
    pub(super) async fn ask(&self, request: Request) -> Result<Answer, Refusal> {
        let late = || Refusal::NoAnswer(self.deadline.as_secs());
        timeout(self.deadline, self.call(request)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn call(&self, request: Request) -> Result<Answer, Refusal> {
        let gone = || Refusal::Failed("the process is stopping".to_owned());
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| gone())?;
        let handler = Arc::clone(&self.handler);
        let answer = tokio::task::spawn_blocking(move || {
            // A handler that hangs keeps its place, so that there are never more of them.
            let _place = place;
            handler(request)
        });
        answer.await.unwrap_or_else(|error| {
            tracing::error!("a control request failed inside: {error}");
            Err(Refusal::Failed("an error inside colo-proxy; its log says more".to_owned()))
        })
    }
}

/// A scrape tells the status.
impl scrape::Source for Desk {
    async fn text(&self) -> Result<String, Silence> {
        match self.ask(Request::Status {}).await {
            Ok(Answer::Status(status)) => Ok(exposition::text(*status)?),
            Ok(_) => Err(Silence::Failed("no status".to_owned())),
            Err(refusal) => Err(Silence::Unavailable(refusal.to_string())),
        }
    }
}

/// A running server. Stops when dropped.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts to answer on these sockets.
    pub fn start(
        control: Listener,
        metrics: Option<MetricsListener>,
        handler: Handler,
    ) -> Result<Self, StartError> {
        Self::start_with(control, metrics, handler, Deadlines::default())
    }

    /// The same with other deadlines.
    pub fn start_with(
        control: Listener,
        metrics: Option<MetricsListener>,
        handler: Handler,
        deadlines: Deadlines,
    ) -> Result<Self, StartError> {
        let (stop, stopped) = watch::channel(false);
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(MAX_ANSWERING)
            .thread_name("control-answer")
            .build()?;
        let (socket, metrics) = {
            let _inside = runtime.enter();
            let metrics = metrics.map(|metrics| tokio::net::TcpListener::from_std(metrics.0)).transpose()?;
            (tokio::net::UnixListener::from_std(control.socket().try_clone()?)?, metrics)
        };
        let places = Arc::new(Semaphore::new(MAX_ANSWERING));
        let desk = Desk { handler, places, deadline: deadlines.answer };
        let serve = move || {
            run(&runtime, &socket, metrics, &desk, deadlines, stopped);
            // The file goes before the process does: who finds no file need not try it.
            drop(control);
            runtime.shutdown_timeout(deadlines.stop);
        };
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(serve)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops: what is being answered is answered, within a second.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            // A panic in it was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

fn run(
    runtime: &Runtime,
    control: &tokio::net::UnixListener,
    metrics: Option<tokio::net::TcpListener>,
    desk: &Desk,
    deadlines: Deadlines,
    mut stopped: watch::Receiver<bool>,
) {
    runtime.block_on(async {
        let mut connections = JoinSet::new();
        let scrapes = async {
            match metrics {
                Some(listener) => scrape::serve(listener, desk.clone()).await,
                None => std::future::pending().await,
            }
        };
        let accept = async {
            loop {
                match control.accept().await {
                    Ok((stream, _)) => {
                        while connections.try_join_next().is_some() {}
                        admit(&mut connections, stream, desk, deadlines, stopped.clone());
                    }
                    Err(error) => rest(&error).await,
                }
            }
        };
        let mut ended = stopped.clone();
        tokio::select! {
            _ = ended.wait_for(|&stop| stop) => {}
            () = accept => {}
            () = scrapes => {}
        }
        let _ = stopped.wait_for(|&stop| stop).await;
        let finish = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(deadlines.stop, finish).await;
    });
}

/// After an error that will not be gone at once, such as too many open files.
pub(super) async fn rest(error: &io::Error) {
    tracing::warn!("cannot take a connection on a control or metrics socket: {error}");
    sleep(Duration::from_millis(100)).await;
}

fn admit(
    connections: &mut JoinSet<()>,
    stream: UnixStream,
    desk: &Desk,
    deadlines: Deadlines,
    stopped: watch::Receiver<bool>,
) {
    if connections.len() < MAX_CONNECTIONS {
        connections.spawn(converse(stream, desk.clone(), deadlines, stopped));
        return;
    }
    // The answer fits the socket's buffer; who does not read it is no worse off.
    if let Ok(line) = encode(&Err(Refusal::Crowded(MAX_CONNECTIONS)).into()) {
        let _ = stream.try_write(&line);
    }
}

/// One connection: requests and answers in turn, until the client goes, is silent, or makes no sense.
async fn converse(
    mut stream: UnixStream,
    desk: Desk,
    deadlines: Deadlines,
    mut stopped: watch::Receiver<bool>,
) {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    loop {
        let read = timeout(deadlines.read, read_line(&mut reader));
        let line = tokio::select! {
            line = read => line,
            _ = stopped.wait_for(|&stop| stop) => return,
        };
        let (outcome, last) = match line {
            Err(_) | Ok(Err(_) | Ok(Line::End)) => return,
            Ok(Ok(Line::TooLong)) => (Err(Refusal::TooLong), true),
            Ok(Ok(Line::Whole(line))) => match parse(&line) {
                Ok(request) => (desk.ask(request).await, false),
                Err(refusal) => (Err(refusal), false),
            },
        };
        let Ok(line) = encode(&outcome.into()) else { return };
        if !in_time(deadlines.read, writer.write_all(&line)).await || last {
            return;
        }
    }
}

async fn in_time(deadline: Duration, write: impl Future<Output = io::Result<()>>) -> bool {
    matches!(timeout(deadline, write).await, Ok(Ok(())))
}

fn encode(reply: &Reply) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    Ok(line)
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
    End,
}

async fn read_line(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Line> {
    let mut line = Vec::new();
    let read = reader.take(MAX_REQUEST as u64).read_until(b'\n', &mut line).await?;
    Ok(match line.last() {
        None => Line::End,
        Some(b'\n') => Line::Whole(line),
        Some(_) if read == MAX_REQUEST => Line::TooLong,
        // The client shut its side down behind the last line.
        Some(_) => Line::Whole(line),
    })
}
