//! `colo-proxy`.
fn main() {}
