//! The control socket, the metrics and `status`, against a real server.

#![allow(clippy::unwrap_used, reason = "in helpers of tests")]

mod control {
    mod clients;
    mod hostile;
    mod metrics;
    mod support;
}
