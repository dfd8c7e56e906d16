//! The comparator's limits, with the same names, defaults and ranges in `compare`, in `run` and in
//! the file.

use super::Whole;
use crate::engine::{Config, Limit, Nanos, Neighbours, PassRules, RuleError};
use serde::Deserialize;
use std::fmt;
use std::str::FromStr;

/// What to do with ARP or neighbour discovery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Compare its fields
    #[default]
    Compare,
    /// Release the primary's, discard the secondary's
    Ignore,
    /// Hold the primary's and ask for a checkpoint
    Checkpoint,
}

impl From<Policy> for Neighbours {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Compare => Self::Compare,
            Policy::Ignore => Self::Ignore,
            Policy::Checkpoint => Self::Checkpoint,
        }
    }
}

/// A rule that can be read; they are put together later.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PassRule(String);

impl FromStr for PassRule {
    type Err = RuleError;
    fn from_str(text: &str) -> Result<Self, RuleError> {
        PassRules::parse(&[text]).map(|_| Self(text.to_owned()))
    }
}

impl TryFrom<String> for PassRule {
    type Error = RuleError;
    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse()
    }
}

impl AsRef<str> for PassRule {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PassRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A number that cannot be 0.
type Positive = Whole<1, { u64::MAX }>;

/// Every limit of the comparator.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args, Deserialize)]
#[command(next_help_heading = "Limits of the comparator")]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct EngineArgs {
    /// Longest that output may wait for its twin before a checkpoint is asked for; each connection
    /// adapts below it
    #[arg(long, value_name = "MS", default_value_t = DEFAULT.compare_timeout)]
    pub compare_timeout: Positive,
    /// Shortest such time a connection can adapt to; never above --compare-timeout
    #[arg(long, value_name = "MS", default_value_t = DEFAULT.age_floor)]
    pub age_floor: u64,
    /// How long unequal datagrams may wait for their twins to come in another order
    #[arg(long, value_name = "MS", default_value_t = DEFAULT.reorder_wait)]
    pub reorder_wait: u64,
    /// How many datagrams the secondary may be ahead of one that has no twin
    #[arg(long, value_name = "N", default_value_t = DEFAULT.reorder_window)]
    pub reorder_window: usize,
    /// Shortest time between two requests for a checkpoint
    #[arg(long, value_name = "MS", default_value_t = DEFAULT.trigger_interval)]
    pub trigger_interval: u64,

    /// Frames held of one connection and side before a checkpoint is asked for
    #[arg(long, value_name = "N", default_value_t = DEFAULT.max_queue_size)]
    pub max_queue_size: Positive,
    /// Bytes held of one connection and side before a checkpoint is asked for
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT.max_queue_bytes)]
    pub max_queue_bytes: Positive,
    /// Frames held of one side before a checkpoint is asked for; at twice this it is not read
    #[arg(long, value_name = "N", default_value_t = DEFAULT.total_frames)]
    pub total_frames: Positive,
    /// Bytes held of one side before a checkpoint is asked for; at twice this it is not read
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT.total_bytes)]
    pub total_bytes: Positive,
    /// Connections remembered; of more, those that are idle longest are forgotten
    #[arg(long, value_name = "N", default_value_t = DEFAULT.max_flows)]
    pub max_flows: Positive,
    /// Datagrams being put together from fragments, on each side
    #[arg(long, value_name = "N", default_value_t = DEFAULT.max_reassemblies)]
    pub max_reassemblies: Positive,
    /// How long fragments wait for their rest
    #[arg(long, value_name = "MS", default_value_t = DEFAULT.reassembly_timeout)]
    pub reassembly_timeout: Positive,

    /// What to do with ARP
    #[arg(long, value_name = "POLICY", default_value = "compare")]
    pub arp: Policy,
    /// What to do with IPv6 neighbour discovery
    #[arg(long, value_name = "POLICY", default_value = "compare")]
    pub nd: Policy,
    /// Leave connections uncompared, first match wins:
    /// (pass|compare) PROTO [guest ADDR[/LEN][:PORT[-PORT]]] [peer …]
    #[arg(long = "pass", value_name = "RULE")]
    #[serde(rename = "pass")]
    pub rules: Vec<PassRule>,
}

/// What [`Config::default`] is, in the units of the options; a test holds them together.
const DEFAULT: EngineArgs = EngineArgs {
    compare_timeout: Whole::constant::<3000>(),
    age_floor: 100,
    reorder_wait: 20,
    reorder_window: 32,
    trigger_interval: 10,
    max_queue_size: Whole::constant::<1024>(),
    max_queue_bytes: Whole::constant::<{ 4 << 20 }>(),
    total_frames: Whole::constant::<16_384>(),
    total_bytes: Whole::constant::<{ 64 << 20 }>(),
    max_flows: Whole::constant::<65_536>(),
    max_reassemblies: Whole::constant::<64>(),
    reassembly_timeout: Whole::constant::<3000>(),
    arp: Policy::Compare,
    nd: Policy::Compare,
    rules: Vec::new(),
};

impl Default for EngineArgs {
    fn default() -> Self {
        DEFAULT
    }
}

impl EngineArgs {
    /// The engine's settings. Each rule was read once already, so none is refused now.
    pub fn config(&self) -> Result<Config, RuleError> {
        let ceiling = self.compare_timeout.get();
        Ok(Config {
            flow_limit: Limit { frames: self.max_queue_size.size(), bytes: self.max_queue_bytes.size() },
            total_limit: Limit { frames: self.total_frames.size(), bytes: self.total_bytes.size() },
            max_flows: self.max_flows.size(),
            age_floor: Nanos::from_millis(self.age_floor.min(ceiling)),
            age_ceiling: Nanos::from_millis(ceiling),
            reorder_wait: Nanos::from_millis(self.reorder_wait),
            reorder_window: self.reorder_window,
            trigger_interval: Nanos::from_millis(self.trigger_interval),
            max_reassemblies: self.max_reassemblies.size(),
            reassembly_timeout: Nanos::from_millis(self.reassembly_timeout.get()),
            arp: self.arp.into(),
            nd: self.nd.into(),
            pass: PassRules::parse(&self.rules)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: EngineArgs,
    }

    fn parse(more: &[&str]) -> Result<EngineArgs, String> {
        Only::try_parse_from([&["x"], more].concat()).map(|only| only.args).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_the_engines_on_the_command_line_and_in_the_file() {
        let engine = format!("{:?}", Config::default());
        assert_eq!(format!("{:?}", parse(&[]).unwrap().config().unwrap()), engine);
        let file: EngineArgs = toml::from_str("").unwrap();
        assert_eq!(format!("{:?}", file.config().unwrap()), engine);
    }

    #[test]
    fn every_option_reaches_the_engine_by_the_same_name_from_both() {
        let numbers = [
            "compare-timeout",
            "age-floor",
            "reorder-wait",
            "reorder-window",
            "trigger-interval",
            "max-queue-size",
            "max-queue-bytes",
            "total-frames",
            "total-bytes",
            "max-flows",
            "max-reassemblies",
            "reassembly-timeout",
        ];
        let default = format!("{:?}", Config::default());
        for name in numbers {
            let line = parse(&[&format!("--{name}"), "7"]).unwrap();
            let file: EngineArgs = toml::from_str(&format!("{name} = 7")).unwrap();
            assert_eq!(line, file);
            assert_ne!(format!("{:?}", file.config().unwrap()), default, "{name} is heeded");
        }
        for (name, value) in [("arp", "ignore"), ("nd", "checkpoint"), ("pass", "pass udp guest :3389")] {
            let line = parse(&[&format!("--{name}"), value]).unwrap();
            let list = if name == "pass" { format!("[{value:?}]") } else { format!("{value:?}") };
            let file: EngineArgs = toml::from_str(&format!("{name} = {list}")).unwrap();
            assert_eq!(line, file);
            assert_ne!(format!("{:?}", file.config().unwrap()), default, "{name} is heeded");
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        let error = parse(&["--max-queue-size", "0"]).unwrap_err();
        assert!(error.contains("--max-queue-size") && error.contains("1 or more"), "{error}");
        assert!(parse(&["--pass", "pass nothing"]).unwrap_err().contains("pass nothing"));
        let file = |text: &str| toml::from_str::<EngineArgs>(text).unwrap_err().to_string();
        assert!(file("\nmax-flows = 0").contains("line 2, column 13"), "{}", file("\nmax-flows = 0"));
        assert!(file("pass = ['pass nothing']").contains("pass nothing"));
        assert!(file("max-flow = 1").contains("unknown field `max-flow`"));
    }
}
