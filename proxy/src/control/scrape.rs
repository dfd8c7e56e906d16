//! `GET /metrics` over HTTP/1.1: asked for anew on each scrape, of whoever has something to tell.
//!
//! ```text
//!   colo-proxy: the control thread's runtime ── serve ──┐
//!                                                       ├─► Source ─► families ─► text
//!   others:     Server, a thread and runtime of its own ┘
//! ```
//!
//! One request per connection: scrapes are seconds apart, and a connection that is not kept needs
//! no care.

use super::families;
use super::listener::MetricsListener;
use super::server::{StartError, rest};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// Scrapes at once; more are not accepted before one of these ends.
const MAX_SCRAPES: usize = 16;
/// How long a client may take to say what it wants.
const HEADERS: Duration = Duration::from_secs(5);
/// How long a scrape may take in all.
const WHOLE: Duration = Duration::from_secs(30);
/// The longest request.
const MAX_HEAD: usize = 16 << 10;

const TEXT: &str = "text/plain; charset=utf-8";

/// Why there is nothing to tell.
#[derive(Debug)]
pub(super) enum Silence {
    /// Who knows does not answer, or not now.
    Unavailable(String),
    /// A mistake inside.
    Failed(String),
}

impl From<fmt::Error> for Silence {
    fn from(error: fmt::Error) -> Self {
        Self::Failed(format!("cannot write the metrics: {error}"))
    }
}

/// Who has something to tell: the text of one scrape.
pub(super) trait Source: Clone + Send + 'static {
    /// Asked on each scrape.
    fn text(&self) -> impl Future<Output = Result<String, Silence>> + Send;
}

/// One that need not wait for anything.
#[derive(Clone)]
struct Prompt<F>(F);

impl<F: Fn() -> Result<String, fmt::Error> + Clone + Send + Sync + 'static> Source for Prompt<F> {
    async fn text(&self) -> Result<String, Silence> {
        Ok((self.0)()?)
    }
}

/// Serves metrics in a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts. `enter` is the first thing that the thread calls: it is where a sandbox begins. `text` is called
    /// on each scrape, and does not wait.
    pub fn start(
        listener: MetricsListener,
        enter: impl FnOnce() + Send + 'static,
        text: impl Fn() -> Result<String, fmt::Error> + Clone + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let (stop, mut stopped) = watch::channel(false);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener.0)?
        };
        let serve = move || {
            enter();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, Prompt(text)) => {}
                    _ = stopped.wait_for(|&stop| stop) => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("metrics".to_owned()).spawn(serve)?;
        Ok(Self { stop, thread: Some(thread) })
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

/// Answers for ever.
pub(super) async fn serve(listener: TcpListener, source: impl Source + Sync) {
    let places = Arc::new(Semaphore::new(MAX_SCRAPES));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                rest(&error).await;
                continue;
            }
        };
        let source = source.clone();
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(|request| answer(request, source.clone()));
            let mut http = http1::Builder::new();
            http.keep_alive(false)
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS)
                .max_buf_size(MAX_HEAD);
            let connection = http.serve_connection(TokioIo::new(stream), service);
            match timeout(WHOLE, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!("a scrape came to nothing: {error}"),
                Err(_) => tracing::debug!("a scrape took longer than {} s", WHOLE.as_secs()),
            }
        });
    }
}

type Response = hyper::Response<Full<Bytes>>;

async fn answer(
    request: hyper::Request<Incoming>,
    source: impl Source + Sync,
) -> Result<Response, Infallible> {
    Ok(match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => metrics(&source).await,
        (_, "/metrics") => {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
            response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
            response
        }
        _ => plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n".to_owned()),
    })
}

async fn metrics(source: &(impl Source + Sync)) -> Response {
    match source.text().await {
        Ok(text) => typed(StatusCode::OK, families::CONTENT_TYPE, text),
        Err(Silence::Unavailable(why)) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        Err(Silence::Failed(why)) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")),
    }
}

fn plain(status: StatusCode, text: String) -> Response {
    typed(status, TEXT, text)
}

fn typed(status: StatusCode, content: &'static str, text: String) -> Response {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content));
    response
}
