//! From options to a [`Spec`]: what is right by itself has to be right together.
//!
//! ```text
//!   one vif, one NIC · one index, one NIC of a forward device · one name, one guest
//! ```

use super::{COMMAND_TIMEOUT, GuestOptions, NicOptions, Whole};
use crate::engine::RuleError;
use crate::live::spec::{Checkpoints, Guest, IfName, Index, Nic, Places, Queues, Spec};
use crate::socket::endpoint::Address;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use thiserror::Error;

/// Options that contradict each other, and which guest and NIC that is about.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{problem}")]
pub struct SpecError {
    /// The guest, counted from 0.
    pub guest: usize,
    /// Its NIC, if one alone is meant.
    pub nic: Option<usize>,
    /// What is wrong.
    pub problem: Problem,
}

/// What can be wrong with options that are right one by one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Problem {
    /// There is nothing to do.
    #[error("no guest is described; add [[guest]], and [[guest.nic]] with vif and forward")]
    NoGuest,
    /// A guest that nothing is known of.
    #[error("the guest has no NIC; add [[guest.nic]] with vif and forward")]
    NoNic,
    /// Two NICs are one interface.
    #[error("vif {0} is given twice; an interface is one NIC of one guest: name another, or leave one out")]
    VifTwice(IfName),
    /// What a guest sends would come back.
    #[error(
        "forward {0} is given as a vif too; vif is the host end of the guest's NIC, and forward the device to the other host"
    )]
    ForwardIsVif(IfName),
    /// A bridge that is something else.
    #[error(
        "bridge {0} is given as a vif or a forward device too; name the bridge that the vif is a port of, or none"
    )]
    BridgeIsNoBridge(IfName),
    /// Two NICs would get each other's frames.
    #[error(
        "index {index} is given twice on forward {forward}; number its NICs differently, from 0 to 100, and alike on both hosts"
    )]
    IndexTwice {
        /// The number.
        index: Index,
        /// The device.
        forward: IfName,
    },
    /// All numbers are taken.
    #[error("forward {0} has all the 101 NICs that its indexes 0 to 100 allow; give this one another device")]
    NoIndexLeft(IfName),
    /// Two guests cannot be told apart.
    #[error(
        "two guests have the name {0}; give each its own (without name, a guest has that of its first vif)"
    )]
    NameTwice(String),
    /// Two guests would listen at one place.
    #[error("notify {0} is given to two guests; each needs a socket of its own")]
    NotifyTwice(String),
    /// A limit of nothing.
    #[error("command-timeout is given without checkpoint-command; add the command, or leave it out")]
    TimeoutWithoutCommand,
    /// A command that would do nothing and report success.
    #[error(
        "checkpoint-command is {0}; give a command for /bin/sh that exits with 0 when a checkpoint is complete"
    )]
    NoCommand(&'static str),
    /// A rule that cannot be read.
    #[error("pass: {0}")]
    Rule(#[from] RuleError),
}

impl Problem {
    const fn of_guest(self, guest: usize) -> SpecError {
        SpecError { guest, nic: None, problem: self }
    }

    const fn of_nic(self, guest: usize, nic: usize) -> SpecError {
        SpecError { guest, nic: Some(nic), problem: self }
    }
}

/// Puts a [`Spec`] together.
pub fn build<'a>(
    guests: impl IntoIterator<Item = &'a GuestOptions>,
    places: Places,
    metrics: Option<SocketAddr>,
) -> Result<Spec, SpecError> {
    let given: Vec<&GuestOptions> = guests.into_iter().collect();
    if given.is_empty() {
        return Err(Problem::NoGuest.of_guest(0));
    }
    interfaces(&given)?;
    let mut indexes = Indexes::given(&given)?;
    let mut guests = Vec::with_capacity(given.len());
    for (number, options) in given.iter().enumerate() {
        let nics = nics(options).map(|(at, nic)| {
            let index = match nic.index {
                Some(index) => index,
                None => indexes.free(&nic.forward).map_err(|problem| problem.of_nic(number, at))?,
            };
            let vif = nic.vif.interface().clone();
            Ok(Nic { vif, forward: nic.forward.clone(), index, bridge: nic.bridge.clone() })
        });
        let nics = nics.collect::<Result<Vec<Nic>, SpecError>>()?;
        guests.push(guest(options, nics).map_err(|problem| problem.of_guest(number))?);
    }
    told_apart(&guests)?;
    Ok(Spec { guests, places, metrics })
}

fn nics(guest: &GuestOptions) -> impl Iterator<Item = (usize, &NicOptions)> {
    guest.nics.iter().map(toml::Spanned::get_ref).enumerate()
}

/// All NICs, with the number of the guest and of the NIC.
fn all_nics<'a>(given: &'a [&GuestOptions]) -> impl Iterator<Item = (usize, usize, &'a NicOptions)> {
    given.iter().enumerate().flat_map(|(number, guest)| nics(guest).map(move |(at, nic)| (number, at, nic)))
}

/// Every interface has one part to play.
fn interfaces(given: &[&GuestOptions]) -> Result<(), SpecError> {
    let mut vifs = BTreeSet::new();
    for (guest, at, nic) in all_nics(given) {
        if !vifs.insert(nic.vif.interface()) {
            return Err(Problem::VifTwice(nic.vif.interface().clone()).of_nic(guest, at));
        }
    }
    let forwards: BTreeSet<&IfName> = all_nics(given).map(|(_, _, nic)| &nic.forward).collect();
    for (guest, at, nic) in all_nics(given) {
        if vifs.contains(&nic.forward) {
            return Err(Problem::ForwardIsVif(nic.forward.clone()).of_nic(guest, at));
        }
        if let Some(bridge) =
            nic.bridge.as_ref().filter(|name| vifs.contains(name) || forwards.contains(name))
        {
            return Err(Problem::BridgeIsNoBridge(bridge.clone()).of_nic(guest, at));
        }
    }
    Ok(())
}

/// Which indexes are taken on each forward device.
struct Indexes(BTreeMap<IfName, BTreeSet<Index>>);

impl Indexes {
    /// Those that were asked for.
    fn given(given: &[&GuestOptions]) -> Result<Self, SpecError> {
        let mut taken = Self(BTreeMap::new());
        for (guest, at, nic) in all_nics(given) {
            if let Some(index) = nic.index
                && !taken.0.entry(nic.forward.clone()).or_default().insert(index)
            {
                return Err(Problem::IndexTwice { index, forward: nic.forward.clone() }.of_nic(guest, at));
            }
        }
        Ok(taken)
    }

    /// The lowest that nobody has.
    fn free(&mut self, forward: &IfName) -> Result<Index, Problem> {
        let taken = self.0.entry(forward.clone()).or_default();
        let mut numbers = (0..).map_while(|number: u64| Index::try_from(number).ok());
        let index = numbers
            .find(|index| !taken.contains(index))
            .ok_or_else(|| Problem::NoIndexLeft(forward.clone()))?;
        taken.insert(index);
        Ok(index)
    }
}

fn guest(options: &GuestOptions, nics: Vec<Nic>) -> Result<Guest, Problem> {
    let first = nics.first().ok_or(Problem::NoNic)?;
    let name = options.name.as_ref().map_or_else(|| first.vif.to_string(), ToString::to_string);
    Ok(Guest {
        name,
        mode: options.mode.into(),
        checkpoints: checkpoints(options)?,
        start: options.start.into(),
        on_crash: options.on_crash.into(),
        attach: options.attach.into(),
        queues: options
            .queues
            .and_then(|number| Queues::new(number.get() as u8))
            .unwrap_or_else(Queues::of_this_machine),
        queue_frames: options.queue_frames.get() as u32,
        flows: options.flows.get() as u32,
        busy_poll: Duration::from_micros(options.busy_poll.get()),
        engine: options.engine.config()?,
        nics,
    })
}

fn checkpoints(options: &GuestOptions) -> Result<Checkpoints, Problem> {
    match options.checkpoint_command.as_deref() {
        None if options.command_timeout.is_some() => return Err(Problem::TimeoutWithoutCommand),
        Some(command) if command.trim().is_empty() => return Err(Problem::NoCommand("empty")),
        Some(command) if command.contains('\0') => {
            return Err(Problem::NoCommand("a text with a zero byte, which no command can have"));
        }
        _ => {}
    }
    Ok(Checkpoints {
        notify: options.notify.clone(),
        command: options.checkpoint_command.clone(),
        command_timeout: options.command_timeout.map(Whole::get).map_or(COMMAND_TIMEOUT, Duration::from_secs),
    })
}

/// Guests differ in their names and sockets.
fn told_apart(guests: &[Guest]) -> Result<(), SpecError> {
    let (mut names, mut sockets) = (BTreeSet::new(), BTreeSet::new());
    for (number, guest) in guests.iter().enumerate() {
        if !names.insert(guest.name.as_str()) {
            return Err(Problem::NameTwice(guest.name.clone()).of_guest(number));
        }
        if let Some(notify) = &guest.checkpoints.notify {
            let address = notify.address.to_string();
            // Port 0 is a different port each time.
            let any = matches!(&notify.address, Address::Tcp(host) if host.ends_with(":0"));
            if !any && !sockets.insert(address.clone()) {
                return Err(Problem::NotifyTwice(address).of_guest(number));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `vif>forward`, with `#index` or `@bridge` behind it.
    fn nic(text: &str) -> toml::Spanned<NicOptions> {
        let (rest, bridge) = text.split_once('@').map_or((text, None), |(rest, name)| (rest, Some(name)));
        let (rest, index) = rest.split_once('#').map_or((rest, None), |(rest, index)| (rest, Some(index)));
        let (vif, forward) = rest.split_once('>').unwrap();
        let nic = NicOptions {
            vif: vif.parse().unwrap(),
            forward: forward.parse().unwrap(),
            index: index.map(|index| index.parse().unwrap()),
            bridge: bridge.map(|name| name.parse().unwrap()),
        };
        toml::Spanned::new(0..0, nic)
    }

    fn guest(nics: &[&str]) -> GuestOptions {
        GuestOptions { nics: nics.iter().map(|text| nic(text)).collect(), ..GuestOptions::default() }
    }

    fn spec(guests: &[GuestOptions]) -> Result<Spec, SpecError> {
        build(guests, Places::default(), None)
    }

    fn indexes(spec: &Spec) -> Vec<u8> {
        spec.guests.iter().flat_map(|guest| &guest.nics).map(|nic| nic.index.get()).collect()
    }

    #[test]
    fn indexes_count_on_each_forward_device_around_those_that_are_given() {
        let count = |nics: &[&str]| indexes(&spec(&[guest(nics)]).unwrap());
        assert_eq!(count(&["a>f", "b>f", "c>g", "d>f"]), [0, 1, 0, 2]);
        assert_eq!(count(&["a>f", "b>f#0", "c>f#2", "d>f"]), [1, 0, 2, 3]);
        let two = spec(&[guest(&["a>f"]), guest(&["b>f", "c>g"])]).unwrap();
        assert_eq!(indexes(&two), [0, 1, 0]);

        let many: Vec<String> = (0..=101).map(|n| format!("v{n}>f")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(count(&many[..101]).last(), Some(&100));
        let error = spec(&[guest(&many)]).unwrap_err();
        assert_eq!((error.guest, error.nic), (0, Some(101)));
        assert!(matches!(error.problem, Problem::NoIndexLeft(_)));
    }

    #[test]
    fn what_contradicts_itself_is_refused_where_it_is() {
        let at = |guests: &[GuestOptions]| {
            let error = spec(guests).unwrap_err();
            (error.guest, error.nic, error.to_string())
        };
        let cases = [
            (vec![guest(&["a>f", "a>g"])], 0, Some(1), "vif a is given twice"),
            (vec![guest(&["a>f"]), guest(&["a>g"])], 1, Some(0), "vif a is given twice"),
            (vec![guest(&["a>a"])], 0, Some(0), "forward a is given as a vif"),
            (vec![guest(&["a>f"]), guest(&["b>a"])], 1, Some(0), "forward a is given as a vif"),
            (vec![guest(&["a>f@a"])], 0, Some(0), "bridge a is given as a vif"),
            (vec![guest(&["a>f", "b>g@f"])], 0, Some(1), "bridge f is given as"),
            (vec![guest(&["a>f#3", "b>f#3"])], 0, Some(1), "index 3 is given twice on forward f"),
            (vec![guest(&["a>f#0"]), guest(&["b>f#0"])], 1, Some(0), "index 0 is given twice"),
            (vec![guest(&["a>f"]), guest(&[])], 1, None, "has no NIC"),
            (vec![], 0, None, "no guest is described"),
        ];
        for (guests, guest, nic, text) in cases {
            let error = at(&guests);
            assert_eq!((error.0, error.1), (guest, nic), "{}", error.2);
            assert!(error.2.contains(text), "{} is not about '{text}'", error.2);
        }
        // The same index on two devices, and one bridge for both, are fine.
        assert_eq!(indexes(&spec(&[guest(&["a>f#3@br0", "b>g#3@br0"])]).unwrap()), [3, 3]);
    }

    #[test]
    fn guests_are_told_apart() {
        let named = |name: &str, nics: &[&str]| GuestOptions { name: name.parse().ok(), ..guest(nics) };
        let spec_of = |second: &str| spec(&[guest(&["a>f"]), named(second, &["b>f"])]);
        let names: Vec<String> = spec_of("c").unwrap().guests.into_iter().map(|guest| guest.name).collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(spec_of("a").unwrap_err(), Problem::NameTwice("a".into()).of_guest(1));

        let asks = |socket: &str, nics: &[&str]| GuestOptions { notify: socket.parse().ok(), ..guest(nics) };
        let both = |socket: &str| spec(&[asks(socket, &["a>f"]), asks(socket, &["b>f"])]);
        assert_eq!(both("unix:/n").unwrap_err(), Problem::NotifyTwice("unix:/n".into()).of_guest(1));
        assert!(both("tcp:localhost:0").is_ok());
    }

    #[test]
    fn a_command_is_one_and_its_limit_belongs_to_it() {
        let with = |command: Option<&str>, timeout: Option<u64>| {
            let options = GuestOptions {
                checkpoint_command: command.map(str::to_owned),
                command_timeout: timeout.map(|seconds| seconds.try_into().unwrap()),
                ..guest(&["a>f"])
            };
            spec(&[options]).map(|spec| spec.guests[0].checkpoints.clone()).map_err(|error| error.problem)
        };
        assert_eq!(with(Some("true"), None).unwrap().command_timeout, COMMAND_TIMEOUT);
        assert_eq!(with(Some("true"), Some(7)).unwrap().command_timeout, Duration::from_secs(7));
        assert_eq!(with(None, Some(7)), Err(Problem::TimeoutWithoutCommand));
        assert!(matches!(with(Some(" "), None), Err(Problem::NoCommand("empty"))));
        assert!(matches!(with(Some("a\0b"), None), Err(Problem::NoCommand(_))));
    }
}
