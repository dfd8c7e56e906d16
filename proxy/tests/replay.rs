//! `colo-proxy replay` as people run it: the binary on captures made here.

#[path = "replay/input.rs"]
mod input;
#[path = "replay/output.rs"]
mod output;
#[path = "replay/support.rs"]
mod support;
#[path = "replay/verdicts.rs"]
mod verdicts;
