//! The commands, and what each does to a guest.

use super::request::Refusal;
use crate::control::{Control, ControlError, RunState};
use serde_json::{Value, json};

macro_rules! commands {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Something to be done or said.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Command { $($(#[$doc])* $variant,)* }

        impl Command {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// As it is asked for.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            pub(super) fn of_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

commands! {
    /// Stands the guest still.
    Stop = "stop",
    /// Lets it go on.
    Cont = "cont",
    /// Presses its power button.
    Powerdown = "system_powerdown",
    /// Presses its reset button.
    Reset = "system_reset",
    /// Ends it.
    Quit = "quit",
    /// Which program this is.
    QueryVersion = "query-version",
    /// What can be asked for.
    QueryCommands = "query-commands",
    /// What the guest does.
    QueryStatus = "query-status",
    /// Its vCPUs.
    QueryCpusFast = "query-cpus-fast",
    /// Its disks.
    QueryBlock = "query-block",
    /// What it is called.
    QueryName = "query-name",
    /// Whether KVM runs it.
    QueryKvm = "query-kvm",
}

/// Performs a command. `Quit` is merely agreed to: the caller ends the guest once the reply has gone out.
pub fn run(command: Command, control: &dyn Control, name: &str) -> Result<Value, ControlError> {
    let done = |()| json!({});
    match command {
        Command::Stop => control.stop().map(done),
        Command::Cont => control.cont().map(done),
        Command::Powerdown => control.powerdown().map(done),
        Command::Reset => control.reset().map(done),
        Command::Quit => Ok(json!({})),
        Command::QueryVersion => Ok(version()),
        Command::QueryCommands => Ok(names()),
        Command::QueryStatus => Ok(status(control.state())),
        Command::QueryCpusFast => Ok(cpus(control)),
        Command::QueryBlock => Ok(blocks(control)),
        Command::QueryName => Ok(json!({"name": name})),
        Command::QueryKvm => Ok(json!({"enabled": true, "present": true})),
    }
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        Self::generic(error.to_string())
    }
}

/// This program's version. The member is called "qemu" because that is where clients look.
pub(super) fn version() -> Value {
    let part = |text: &str| text.parse::<u32>().unwrap_or_default();
    json!({
        "qemu": {
            "major": part(env!("CARGO_PKG_VERSION_MAJOR")),
            "minor": part(env!("CARGO_PKG_VERSION_MINOR")),
            "micro": part(env!("CARGO_PKG_VERSION_PATCH")),
        },
        "package": concat!("colo-vm ", env!("CARGO_PKG_VERSION")),
    })
}

fn names() -> Value {
    let all = Command::ALL.iter().map(|command| command.name()).chain(["qmp_capabilities"]);
    all.map(|name| json!({"name": name})).collect()
}

fn status(state: RunState) -> Value {
    let word = match state {
        RunState::Running => "running",
        RunState::Paused => "paused",
        RunState::InMigrate => "inmigrate",
        RunState::Colo => "colo",
        RunState::Shutdown => "shutdown",
    };
    json!({"status": word, "running": state == RunState::Running})
}

fn cpus(control: &dyn Control) -> Value {
    let cpu = |cpu: crate::control::CpuInfo| {
        json!({
            "cpu-index": cpu.index,
            "thread-id": cpu.thread,
            "qom-path": format!("/machine/cpu[{}]", cpu.index),
            "props": {"core-id": cpu.index, "thread-id": 0, "socket-id": 0},
            "target": "x86_64",
        })
    };
    control.cpus().into_iter().map(cpu).collect()
}

/// With the members that QEMU's schema says are always there: no throttling, no encryption.
fn blocks(control: &dyn Control) -> Value {
    let block = |block: crate::control::BlockInfo| {
        let mut inserted = json!({
            "file": block.file,
            "drv": block.format,
            "ro": block.read_only,
            "encrypted": false,
            "detect_zeroes": "off",
            "write_threshold": 0,
            "backing_file_depth": 0,
            "cache": {"writeback": block.write_back, "direct": block.direct, "no-flush": false},
            "image": {"filename": block.file, "format": block.format, "virtual-size": block.size},
        });
        for limit in ["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"] {
            inserted[limit] = json!(0);
        }
        json!({
            "device": block.device,
            "type": "unknown",
            "removable": false,
            "locked": false,
            "inserted": inserted,
        })
    };
    control.blocks().into_iter().map(block).collect()
}
