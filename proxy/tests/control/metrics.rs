//! Scrapes over a bare TCP stream, read by a parser of our own.

use super::support::{Node, handle};
use colo_proxy::control::protocol::{Refusal, Request};
use colo_proxy::control::server::Deadlines;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

struct Response {
    status: u16,
    head: String,
    body: String,
}

fn send(address: SocketAddr, request: &str) -> Response {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    let (head, body) = all.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Response { status, head: head.to_lowercase(), body: body.to_owned() }
}

fn get(address: SocketAddr, path: &str) -> Response {
    send(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n"))
}

/// One family: what it is, and its samples by suffix and labels.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    unit: Option<String>,
    samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

/// Reads `OpenMetrics` text strictly: declared before use, no sample twice, an end and nothing behind it.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let text = text.strip_suffix("# EOF\n").expect("it ends where it should");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (what, name, value) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            match what {
                "HELP" => assert!(helped.insert(name.to_owned()) && value.ends_with('.'), "{line}"),
                "TYPE" => {
                    let family = Family { kind: value.to_owned(), ..Family::default() };
                    assert!(families.insert(name.to_owned(), family).is_none(), "{line}");
                }
                "UNIT" => {
                    assert!(name.ends_with(&format!("_{value}")), "{line}");
                    families.get_mut(name).unwrap().unit = Some(value.to_owned());
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let end = line.find(['{', ' ']).unwrap();
        let (name, rest) = line.split_at(end);
        let (labels, value) = labels(rest);
        let owner = families.iter_mut().filter(|(family, _)| name.starts_with(family.as_str()));
        let (family_name, family) = owner.max_by_key(|(family, _)| family.len()).expect(line);
        let suffix = &name[family_name.len()..];
        let fits = match family.kind.as_str() {
            "counter" => suffix == "_total",
            "info" => suffix == "_info",
            "gauge" => suffix.is_empty(),
            _ => false,
        };
        assert!(fits, "{line} in a {}", family.kind);
        let value: f64 = value.parse().unwrap();
        assert!(family.samples.insert((suffix.to_owned(), labels), value).is_none(), "twice: {line}");
    }
    assert_eq!(helped, families.keys().cloned().collect());
    families
}

/// `{name="value",…}`, if there is one, and what stands behind it.
fn labels(text: &str) -> (BTreeMap<String, String>, &str) {
    let mut labels = BTreeMap::new();
    let Some(mut rest) = text.strip_prefix('{') else { return (labels, text.trim_start()) };
    loop {
        if let Some(value) = rest.strip_prefix("} ") {
            return (labels, value);
        }
        rest = rest.strip_prefix(',').unwrap_or(rest);
        let (name, behind) = rest.split_once("=\"").unwrap();
        let (mut value, mut chars) = (String::new(), behind.char_indices());
        let end = loop {
            match chars.next().unwrap() {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next().unwrap().1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        rest = &behind[end + 1..];
        assert!(labels.insert(name.to_owned(), value).is_none(), "{text}");
    }
}

fn sample(families: &BTreeMap<String, Family>, name: &str, wanted: &[(&str, &str)]) -> f64 {
    let wanted: BTreeMap<String, String> =
        wanted.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let family = &families[name];
    let found = family.samples.iter().find(|((_, labels), _)| *labels == wanted);
    *found.unwrap_or_else(|| panic!("{name} {wanted:?} in {family:?}")).1
}

#[test]
#[expect(
    clippy::float_cmp,
    reason = "these numbers are exact in binary, or written and read back the same way"
)]
fn a_scrape_has_what_the_status_has() {
    let node = Node::start();
    let response = get(node.metrics, "/metrics");
    assert_eq!(response.status, 200);
    assert!(
        response.head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{}",
        response.head
    );
    let all = parse(&response.body);
    assert!(all.keys().all(|name| name.starts_with("colo_")), "{:?}", all.keys());
    let nic = [("guest", "web"), ("vif", "vif1")];
    let with = |more: (&'static str, &'static str)| [nic[0], nic[1], more];
    for (name, labels, value) in [
        ("colo_build", &[("version", "0.1.0")][..], 1.0),
        ("colo_uptime_seconds", &[], 7380.0),
        ("colo_guest_state", &[("guest", "web"), ("role", "primary"), ("state", "protected")], 1.0),
        ("colo_guest_waiting", &[("guest", "web")], 1.0),
        ("colo_guest_waiting", &[("guest", "d\"b\\\n")], 0.0),
        ("colo_epoch", &[("guest", "web")], 17.0),
        ("colo_checkpoints", &[("guest", "web"), ("outcome", "completed")], 16.0),
        ("colo_checkpoint_requests", &[("guest", "web"), ("cause", "age")], 5.0),
        ("colo_checkpoint_outstanding_seconds", &[("guest", "web")], 0.012),
        ("colo_checkpoint_last_seconds", &[("guest", "web")], 0.083),
        ("colo_checkpoint_performer", &[("guest", "web")], 0.0),
        ("colo_kernel_events", &with(("event", "captured")), 1203.0),
        ("colo_kernel_events", &with(("event", "too-long")), 0.0),
        ("colo_capture_dropped_frames", &nic, 7.0),
        ("colo_flows", &nic, 12.0),
        ("colo_held_flows", &nic, 2.0),
        ("colo_held_frames", &with(("side", "secondary")), 1.0),
        ("colo_held_bytes", &with(("side", "primary")), 8484.0),
        ("colo_held_oldest_seconds", &nic, 2.5),
        ("colo_match_delay_seconds", &with(("quantile", "0.99")), 0.0012),
        ("colo_match_delay_seconds", &with(("quantile", "1")), 0.015),
        ("colo_match_delay_frames", &nic, 1200.0),
        ("colo_frames", &with(("side", "primary")), 1203.0),
        ("colo_received_bytes", &with(("side", "secondary")), 0.0),
        ("colo_released_frames", &with(("by", "comparison")), 1180.0),
        ("colo_released_frames", &with(("by", "checkpoint")), 20.0),
        ("colo_verified_bytes", &nic, 4_000_000.0),
        ("colo_triggers", &with(("cause", "payload")), 12.0),
    ] {
        assert_eq!(sample(&all, name, labels), value, "{name} {labels:?}");
    }
    let discarded = [nic[0], nic[1], ("side", "primary"), ("cause", "ack-superseded")];
    assert_eq!(sample(&all, "colo_discarded_frames", &discarded), 5.0);
    // Every counter of the comparator's has found its place: none is empty for a misspelt name.
    for (name, family) in &all {
        assert!(!family.samples.is_empty(), "{name} has no sample");
        assert!(!name.ends_with("_seconds") || family.unit.as_deref() == Some("seconds"), "{name}");
    }
}

#[test]
fn other_paths_and_methods_are_refused() {
    let node = Node::start();
    assert_eq!(get(node.metrics, "/").status, 404);
    assert_eq!(get(node.metrics, "/metrics/x").status, 404);
    assert_eq!(get(node.metrics, "/metrics?x=1").status, 200);
    let post = send(node.metrics, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(post.status, 405);
    assert!(post.head.contains("allow: get"), "{}", post.head);
    assert_eq!(send(node.metrics, "rubbish\r\n\r\n").status, 400);
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    assert_eq!(send(node.metrics, &long).status, 431);
}

#[test]
fn a_node_that_cannot_tell_is_unavailable() {
    let handler = |request: Request| match request {
        Request::Status {} => Err(Refusal::Failed("no data thread".to_owned())),
        other => handle(other),
    };
    let node = Node::with(Arc::new(handler), Deadlines::default());
    let response = get(node.metrics, "/metrics");
    assert_eq!((response.status, response.body.as_str()), (503, "no data thread\n"));
}

#[test]
fn clients_that_say_nothing_keep_nobody_out_for_good() {
    let node = Node::start();
    // More than may be served at once; the last waits until the silent ones were sent away.
    let _silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(node.metrics).unwrap()).collect();
    assert_eq!(get(node.metrics, "/metrics").status, 200);
    node.server.stop();
}
