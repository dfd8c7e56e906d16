//! The processes that are measured: how each is started, reached, and made to end.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::sys;

/// The binary that holds QEMU's comparer.
pub const QEMU: &str = "qemu-system-x86_64";

/// How long a contender may take to listen.
const START: Duration = Duration::from_secs(10);

/// How long it then gets to take up all four connections, so that none of its output finds no reader.
const SETTLE: Duration = Duration::from_millis(150);

/// A comparer that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// QEMU's `colo-compare` object, without a guest.
    Qemu,
    /// Ours.
    ColoProxy,
    /// The bare relay.
    Relay,
    /// The relay that counts frames.
    RelayFramed,
}

impl Contender {
    /// Every contender, in the order of the table.
    pub const ALL: [Self; 4] = [Self::Qemu, Self::ColoProxy, Self::RelayFramed, Self::Relay];

    /// The name it is selected by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::ColoProxy => "colo-proxy",
            Self::Relay => "relay",
            Self::RelayFramed => "relay-framed",
        }
    }

    /// The contender of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|contender| contender.name() == name)
    }
}

/// Where things are, and on which CPUs they run.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Our comparer's binary.
    pub colo_proxy: PathBuf,
    /// What our comparer is given beyond the usual options.
    pub colo_proxy_args: Vec<String>,
    /// The binary that has the relay.
    pub relay: PathBuf,
    /// What the relay is given beyond the usual options.
    pub relay_args: Vec<String>,
    /// The comparer's CPU.
    pub comparer_cpu: usize,
    /// The feeder's CPU.
    pub feeder_cpu: usize,
    /// The nice value of feeder and comparers alike.
    pub nice: i32,
    /// `max_queue_size` of the comparers.
    pub max_queue: usize,
}

impl Setting {
    /// Puts the calling thread where feeders run, with the nice value both sides are to have.
    pub fn pin_feeder(&self) -> Result<()> {
        if self.nice != 0 {
            sys::raise(self.nice).with_context(|| format!("nice {}", self.nice))?;
        }
        sys::pin(self.feeder_cpu).with_context(|| format!("run on CPU {}", self.feeder_cpu))
    }
}

/// The feeder's ends of a contender's four sockets, non-blocking.
#[derive(Debug)]
pub struct Sockets {
    /// To the contender: what the primary sends.
    pub primary: UnixStream,
    /// To the contender: what the secondary sends.
    pub secondary: UnixStream,
    /// From the contender: what may leave.
    pub out: UnixStream,
    /// From the contender: requests for a checkpoint.
    pub notify: UnixStream,
}

/// A started contender; dropping it kills the process.
///
/// The directory of its sockets is gone by the time this exists, and the kernel kills the process should the
/// thread that started it end without dropping this: no way out leaves anything behind.
#[derive(Debug)]
pub struct Running {
    child: Guard,
    /// The CPUs of contender and feeder.
    pub cpus: [usize; 2],
    /// The connections.
    pub sockets: Sockets,
}

#[derive(Debug)]
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts a contender and connects to it.
    pub fn start(contender: Contender, setting: &Setting, vnet: bool) -> Result<Self> {
        let dir =
            tempfile::Builder::new().prefix("bench-compare-").tempdir().context("temporary directory")?;
        let paths = ["pri", "sec", "out", "ntf"].map(|name| dir.path().join(name));
        let mut command = command(contender, setting, &paths, vnet);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let spawned = sys::bind(&mut command, setting.comparer_cpu).spawn();
        let mut child = Guard(spawned.with_context(|| format!("start {}", command.get_program().display()))?);
        let deadline = Instant::now() + START;
        let mut streams = Vec::with_capacity(4);
        for path in &paths {
            streams.push(connect(path, &mut child.0, deadline).with_context(|| contender.name())?);
        }
        let Ok([primary, secondary, out, notify]) = <[UnixStream; 4]>::try_from(streams) else {
            bail!("four sockets");
        };
        sleep(SETTLE);
        dir.close().context("remove the temporary directory")?;
        let cpus = [setting.comparer_cpu, setting.feeder_cpu];
        Ok(Self { child, cpus, sockets: Sockets { primary, secondary, out, notify } })
    }

    /// CPU time, user and system, the process has used so far, in all its threads.
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.0.id())).context("CPU time")?;
        parse_cpu_time(&stat).context("CPU time: unexpected /proc/PID/stat")
    }
}

/// Fields 14 and 15 of `proc_pid_stat(5)`; the second field is in parentheses and may hold anything.
fn parse_cpu_time(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs_f64((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64))
}

fn connect(path: &Path, child: &mut Child, deadline: Instant) -> Result<UnixStream> {
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => {
                stream.set_nonblocking(true)?;
                return Ok(stream);
            }
            Err(error) if Instant::now() >= deadline => return Err(error).context("it does not listen"),
            Err(_) => {}
        }
        if let Some(status) = child.try_wait()? {
            bail!("it ended at once: {status}");
        }
        sleep(Duration::from_millis(5));
    }
}

fn command(contender: Contender, setting: &Setting, paths: &[PathBuf; 4], vnet: bool) -> Command {
    let [primary, secondary, out, notify] = paths.each_ref().map(|path| path.display().to_string());
    let mut args: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(ToString::to_string));
    let unix = |path: &str| format!("unix:{path}");
    let program = match contender {
        Contender::Qemu => {
            add(&[
                "-machine",
                "none",
                "-nodefaults",
                "-display",
                "none",
                "-monitor",
                "none",
                "-serial",
                "none",
            ]);
            for (id, path) in [("pri", &primary), ("sec", &secondary), ("out", &out), ("ntf", &notify)] {
                add(&["-chardev", &format!("socket,id={id},path={path},server=on,wait=off")]);
            }
            let vnet = if vnet { ",vnet_hdr_support=on" } else { "" };
            add(&["-object", "iothread,id=thread"]);
            let object = "colo-compare,id=compare,primary_in=pri,secondary_in=sec,outdev=out,notify_dev=ntf";
            let queue = format!("iothread=thread,compare_timeout=3000,max_queue_size={}", setting.max_queue);
            add(&["-object", &format!("{object},{queue}{vnet}")]);
            PathBuf::from(QEMU)
        }
        Contender::ColoProxy => {
            add(&["compare", "--primary-in", &unix(&primary), "--secondary-in", &unix(&secondary)]);
            add(&["--outdev", &unix(&out), "--notify-dev", &unix(&notify)]);
            add(&["--compare-timeout", "3000", "--max-queue-size", &setting.max_queue.to_string()]);
            args.extend(vnet.then(|| "--vnet-hdr-support".to_owned()));
            args.extend(setting.colo_proxy_args.iter().cloned());
            setting.colo_proxy.clone()
        }
        Contender::Relay | Contender::RelayFramed => {
            add(&["relay", &primary, &secondary, &out, &notify]);
            args.extend((contender == Contender::RelayFramed).then(|| "--framed".to_owned()));
            args.extend(vnet.then(|| "--vnet-hdr-support".to_owned()));
            args.extend(setting.relay_args.iter().cloned());
            setting.relay.clone()
        }
    };
    let mut command = Command::new(program);
    command.args(args);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again() {
        for contender in Contender::ALL {
            assert_eq!(Contender::by_name(contender.name()), Some(contender));
        }
    }

    #[test]
    fn cpu_time_is_read_past_an_odd_name() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0";
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(parse_cpu_time(stat), Some(Duration::from_secs_f64(200.0 / ticks)));
        assert_eq!(parse_cpu_time("nothing"), None);
    }
}
