//! The commands: a name and arguments, read into what they mean.
//!
//! ```text
//!   name ─┬─ Plain, which takes none
//!         └─ Form (its keys, how it is written) ─► a type that holds nothing but what makes sense
//! ```

use super::request::Refusal;
use crate::config::Millis;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

macro_rules! plain {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A command that says everything by its name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Plain { $($(#[$doc])* $variant,)* }

        impl Plain {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// As it is asked for.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            fn of_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

plain! {
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
    /// How the writing of its state is getting on.
    QueryMigrate = "query-migrate",
    /// Ends that.
    MigrateCancel = "migrate_cancel",
    /// What is set for checkpoints.
    QueryMigrateParameters = "query-migrate-parameters",
    /// What of it is on.
    QueryMigrateCapabilities = "query-migrate-capabilities",
    /// Its checkpoints.
    QueryColoStatus = "query-colo-status",
    /// The peer is gone for good: this guest serves.
    LostHeartbeat = "x-colo-lost-heartbeat",
    /// Asks for a checkpoint.
    Checkpoint = "x-colo-checkpoint",
}

/// Something to be done or said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// One without arguments.
    Plain(Plain),
    /// Calls the descriptor that came last by a name.
    GetFd(FdName),
    /// Closes the descriptor of this name.
    CloseFd(FdName),
    /// Writes the guest's state into the descriptor of this name, which is closed after that.
    Migrate(FdName),
    /// Sets what is said, and leaves the rest.
    SetParameters {
        /// The time between two checkpoints that nothing else asks for.
        checkpoint_delay: Option<Millis>,
    },
    /// Agreed to if it is so already.
    SetCapabilities(Vec<Capability>),
}

/// A command with arguments.
#[derive(Clone, Copy, Debug)]
struct Form {
    name: &'static str,
    keys: &'static [&'static str],
    written: &'static str,
}

const GETFD: Form = Form { name: "getfd", keys: &["fdname"], written: r#"{"fdname": NAME}"# };
const CLOSEFD: Form = Form { name: "closefd", ..GETFD };
const MIGRATE: Form = Form { name: "migrate", keys: &["uri", "detach"], written: r#"{"uri": "fd:NAME"}"# };
const SET_PARAMETERS: Form = Form {
    name: "migrate-set-parameters",
    keys: &["x-checkpoint-delay"],
    written: r#"{"x-checkpoint-delay": MILLISECONDS}"#,
};
const SET_CAPABILITIES: Form = Form {
    name: "migrate-set-capabilities",
    keys: &["capabilities"],
    written: r#"{"capabilities": [{"capability": NAME, "state": true}, …]}"#,
};
const FORMS: [Form; 5] = [GETFD, CLOSEFD, MIGRATE, SET_PARAMETERS, SET_CAPABILITIES];

impl Command {
    /// The names of all of them.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Plain::ALL.iter().map(|plain| plain.name()).chain(FORMS.iter().map(|form| form.name))
    }

    /// As it is asked for.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Plain(plain) => plain.name(),
            Self::GetFd(_) => GETFD.name,
            Self::CloseFd(_) => CLOSEFD.name,
            Self::Migrate(_) => MIGRATE.name,
            Self::SetParameters { .. } => SET_PARAMETERS.name,
            Self::SetCapabilities(_) => SET_CAPABILITIES.name,
        }
    }

    pub(super) fn parse(name: &str, arguments: Map<String, Value>) -> Result<Self, Refusal> {
        if let Some(plain) = Plain::of_name(name) {
            return match arguments.keys().next() {
                None => Ok(Self::Plain(plain)),
                Some(other) => Err(Refusal::generic(format!("{name} takes no argument {:?}", short(other)))),
            };
        }
        let Some(form) = FORMS.iter().find(|form| form.name == name) else {
            let name = short(name);
            return Err(Refusal::not_found(format!(
                "there is no command {name:?}; query-commands lists those that are"
            )));
        };
        Ok(match form.name {
            "getfd" => Self::GetFd(form.read::<Named>(arguments)?.fdname),
            "closefd" => Self::CloseFd(form.read::<Named>(arguments)?.fdname),
            "migrate" => Self::Migrate(form.read::<Migrate>(arguments)?.uri.0),
            "migrate-set-parameters" => {
                let Parameters { x_checkpoint_delay } = form.read(arguments)?;
                Self::SetParameters { checkpoint_delay: x_checkpoint_delay }
            }
            _ => Self::SetCapabilities(form.read::<Capabilities>(arguments)?.capabilities),
        })
    }
}

impl Form {
    fn read<T: DeserializeOwned>(self, arguments: Map<String, Value>) -> Result<T, Refusal> {
        let Self { name, keys, written } = self;
        if let Some(other) = arguments.keys().find(|key| !keys.contains(&key.as_str())) {
            let other = short(other);
            return Err(Refusal::generic(format!("{name} takes no argument {other:?}; write {written}")));
        }
        serde_json::from_value(Value::Object(arguments))
            .map_err(|error| Refusal::generic(format!("{name}: {error}; write {written}")))
    }
}

/// So much of a word that it can be shown.
fn short(word: &str) -> String {
    word.chars().take(64).collect()
}

#[derive(Deserialize)]
struct Named {
    fdname: FdName,
}

#[derive(Deserialize)]
struct Migrate {
    uri: Target,
    /// It is the only way, as in QEMU.
    #[serde(rename = "detach")]
    _detach: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Parameters {
    x_checkpoint_delay: Option<Millis>,
}

#[derive(Deserialize)]
struct Capabilities {
    capabilities: Vec<Capability>,
}

/// Something that is on or off.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capability {
    /// What.
    pub capability: String,
    /// Whether it is to be on.
    pub state: bool,
}

/// What a client calls a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct FdName(String);

impl FdName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for FdName {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        // To QEMU, what begins with a digit is a number.
        let letters = (1..=64).contains(&name.len()) && !name.chars().any(char::is_control);
        if letters && !name.starts_with(|first: char| first.is_ascii_digit()) {
            return Ok(Self(name));
        }
        let name = short(&name);
        Err(format!(
            "{name:?} is no name of a descriptor, which has up to 64 letters and begins with no digit"
        ))
    }
}

/// Where a state is written to.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Target(FdName);

impl TryFrom<String> for Target {
    type Error = String;
    fn try_from(uri: String) -> Result<Self, String> {
        match uri.strip_prefix("fd:") {
            Some(name) => FdName::try_from(name.to_owned()).map(Self),
            None => Err(format!(
                "{:?} is nothing that can be written to: once the guest runs, this process opens no file, makes no \
                 connection and starts no program; do that yourself and send the descriptor with getfd",
                short(&uri)
            )),
        }
    }
}
