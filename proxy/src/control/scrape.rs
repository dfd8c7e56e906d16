//! `GET /metrics` over HTTP/1.1: the status, asked for anew on each scrape, as metrics.
//!
//! One request per connection: scrapes are seconds apart, and a connection that is not kept needs
//! no care.

use super::exposition;
use super::protocol::{Answer, Request};
use super::server::{Desk, rest};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
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

/// Answers for ever.
pub(super) async fn serve(listener: TcpListener, desk: Desk) {
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
        let desk = desk.clone();
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(|request| answer(request, desk.clone()));
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

async fn answer(request: hyper::Request<Incoming>, desk: Desk) -> Result<Response, Infallible> {
    Ok(match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => metrics(&desk).await,
        (_, "/metrics") => {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
            response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
            response
        }
        _ => plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n".to_owned()),
    })
}

async fn metrics(desk: &Desk) -> Response {
    let status = match desk.ask(Request::Status {}).await {
        Ok(Answer::Status(status)) => *status,
        Ok(_) => return plain(StatusCode::INTERNAL_SERVER_ERROR, "no status\n".to_owned()),
        Err(refusal) => return plain(StatusCode::SERVICE_UNAVAILABLE, format!("{refusal}\n")),
    };
    match exposition::text(status) {
        Ok(text) => typed(StatusCode::OK, exposition::CONTENT_TYPE, text),
        Err(error) => {
            plain(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the metrics: {error}\n"))
        }
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
