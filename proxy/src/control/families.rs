//! Metrics in the `OpenMetrics` text format that Prometheus reads, family by family.
//!
//! ```text
//!   text(prefix, write) ─► Families ── counter, gauge, seconds … ─► Family ── count, level, time ─► a sample
//! ```

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};
use std::fmt;

/// What the text is, for an HTTP header.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All that `write` writes, each name behind this prefix.
pub fn text(
    prefix: &str,
    write: impl Fn(&mut Families<'_>) -> fmt::Result + Send + Sync + 'static,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(prefix);
    registry.register_collector(Box::new(Written(write)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

struct Written<F>(F);

impl<F> fmt::Debug for Written<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Written")
    }
}

impl<F: Fn(&mut Families<'_>) -> fmt::Result + Send + Sync + 'static> Collector for Written<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.0)(&mut Families(encoder))
    }
}

/// A label's name and value.
pub type Label<'a> = (&'static str, &'a str);

/// Writes families: each sample's labels and value. Names are without the prefix, the unit and `_total`; helps
/// without a full stop.
pub struct Families<'a>(DescriptorEncoder<'a>);

/// One family under way.
pub struct Family<'a>(MetricEncoder<'a>);

impl Families<'_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        kind: MetricType,
        fill: Fill<'_>,
    ) -> fmt::Result {
        // The registry's own metrics end their help with a full stop, a collector's do not.
        let help = format!("{help}.");
        fill(&mut Family(self.0.encode_descriptor(name, &help, unit, kind)?))
    }

    /// What only grows.
    pub fn counter(&mut self, name: &str, help: &str, fill: Fill<'_>) -> fmt::Result {
        self.family(name, help, None, ConstCounter::<u64>::TYPE, fill)
    }

    /// What goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, fill: Fill<'_>) -> fmt::Result {
        self.family(name, help, None, ConstGauge::<u64>::TYPE, fill)
    }

    /// A time.
    pub fn seconds(&mut self, name: &str, help: &str, fill: Fill<'_>) -> fmt::Result {
        self.family(name, help, Some(&Unit::Seconds), ConstGauge::<f64>::TYPE, fill)
    }

    /// A size.
    pub fn bytes(&mut self, name: &str, help: &str, fill: Fill<'_>) -> fmt::Result {
        self.family(name, help, Some(&Unit::Bytes), MetricType::Gauge, fill)
    }

    /// A size that only grows.
    pub fn bytes_counter(&mut self, name: &str, help: &str, fill: Fill<'_>) -> fmt::Result {
        self.family(name, help, Some(&Unit::Bytes), MetricType::Counter, fill)
    }

    /// Texts that do not change.
    pub fn info(&mut self, name: &str, help: &str, texts: &[Label<'_>]) -> fmt::Result {
        self.family(name, help, None, MetricType::Info, &|all| all.0.encode_info(&texts))
    }
}

/// What writes the samples of a family.
pub type Fill<'f> = &'f dyn Fn(&mut Family<'_>) -> fmt::Result;

impl Family<'_> {
    /// A sample of a counter.
    pub fn count(&mut self, labels: &[Label<'_>], value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_family(&labels)?)
    }

    /// A sample of a gauge.
    pub fn level(&mut self, labels: &[Label<'_>], value: u64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_family(&labels)?)
    }

    /// A sample of a time.
    pub fn time(&mut self, labels: &[Label<'_>], seconds: f64) -> fmt::Result {
        ConstGauge::new(seconds).encode(self.0.encode_family(&labels)?)
    }
}
