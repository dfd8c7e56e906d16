//! What else ran on the CPUs of a measurement: the reason to believe or repeat a figure.

use std::fs;
use std::time::Duration;

use rustix::param::clock_ticks_per_second;

/// Time two CPUs together spent on anything but idling, up to some moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Busy(Duration);

impl Busy {
    /// Looks at two CPUs now; zero where the kernel does not say.
    pub fn now(cpus: [usize; 2]) -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let ticks: u64 = cpus.iter().filter_map(|cpu| parse(&stat, *cpu)).sum();
        Self(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
    }

    /// Which part of both CPUs, from 0 to 1, others have had since then beyond what is one's own.
    pub fn foreign(self, since: Self, own: Duration, elapsed: Duration) -> f64 {
        let others = self.0.saturating_sub(since.0).saturating_sub(own);
        (others.as_secs_f64() / (2.0 * elapsed.as_secs_f64()).max(1e-9)).min(1.0)
    }
}

/// User, nice, system, irq, softirq and steal of `proc_stat(5)`; idle and iowait are left out.
fn parse(stat: &str, cpu: usize) -> Option<u64> {
    let name = format!("cpu{cpu} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(&name))?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = fields[..] else { return None };
    Some(user + nice + system + irq + softirq + steal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_leaves_idling_out() {
        let stat =
            "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 100 200 4 5 6 0 0\ncpu1 1 1 1 9 9 1 1 1 0 0\nintr 7\n";
        assert_eq!(parse(stat, 0), Some(21));
        assert_eq!(parse(stat, 1), Some(6));
        assert_eq!(parse(stat, 2), None);
    }
}
