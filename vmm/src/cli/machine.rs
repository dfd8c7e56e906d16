//! This crate's machine, as the command line knows a guest.
//!
//! ```text
//!   Config ── disks, nets, rng ──► opened ──► Setup ──► Machine::new ──► confined ──► Assembled
//! ```

use super::disks::{Ready, open};
use super::level::{Opened, Place, Working};
use super::{Assembled, Ended, Failure, Launch};
use crate::block::{Image, guest_name};
use crate::checkpoint::status::Role;
use crate::checkpoint::turns::InTurn;
use crate::config::{self, Cache, Config, Dirty};
use crate::control::{BlockInfo, Colo, Controls};
use crate::devices::block::{Block, Disk};
use crate::devices::net::{Net, tap::Tap};
use crate::devices::rng::Rng;
use crate::kvm::Tracking;
use crate::machine::files::{self, RestoreError};
use crate::machine::{Begin, BootFiles, ExitReason, Machine, Setup};
use crate::replication::history::History;
use crate::sandbox::Kind;
use crate::virtio::Device;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

/// Makes a machine of what is configured.
pub fn assemble(launch: Launch<'_>) -> Result<Assembled, Failure> {
    let Launch { config, colo, restore, console, confinement } = launch;
    let mut opened = colo.map(|colo| Opened::new(colo, config)).transpose()?;
    let restore = restore.map(open_state).transpose()?;
    let place = opened.as_mut().map(|opened| &mut opened.place);
    let Devices { on_bus: devices, blocks, histories } = Devices::open(config, place)?;
    let boot = BootFiles {
        kernel: config.kernel.clone(),
        initrd: config.initrd.clone(),
        cmdline: config.cmdline.clone(),
    };
    let secondary = colo.is_some_and(|colo| colo.role() == Role::Secondary);
    let machine = Machine::new(Setup {
        begin: if secondary || restore.is_some() { Begin::Wait(Some(boot)) } else { Begin::Boot(boot) },
        memory: config.memory.bytes(),
        cpus: config.cpus.get().into(),
        console: Box::new(console),
        devices,
        blocks,
        on_reset: config.on_reset,
        tracking: colo.map_or(Tracking::Auto, |colo| match colo.dirty {
            Dirty::Auto => Tracking::Auto,
            Dirty::Log => Tracking::Log,
            Dirty::Ring => Tracking::RING,
        }),
        confine: Box::new(|| confinement.begin()),
    })?;
    let (restored, there) = restore.map(|file| Restoring::start(file, &machine)).transpose()?.unzip();
    let pair = match (colo, opened) {
        (Some(colo), Some(opened)) => Some(Working::start(colo, opened, &machine, there)?),
        _ => None,
    };
    let serial = machine.serial();
    Ok(Assembled {
        control: Controls {
            guest: machine.control(),
            save: Some(match &pair {
                Some(pair) => Arc::new(InTurn { save: machine.freezer(), turns: pair.turns.clone() }),
                None => Arc::new(machine.freezer()),
            }),
            colo: pair.as_ref().map(|pair| Arc::new(pair.handle.clone()) as Arc<dyn Colo>),
        },
        input: Box::new(move |typed| serial.input(typed)),
        sandbox: machine.sandbox(),
        run: Box::new(move || {
            let ended = machine.run();
            drop(histories);
            if let Some(restored) = restored {
                restored.outcome()?;
            }
            let ended = ended?;
            if let Some(pair) = pair {
                pair.end();
            }
            match ended {
                ExitReason::PowerOff | ExitReason::Quit => Ok(Ended::Done),
                ExitReason::Reset { .. } => Ok(Ended::Reset),
            }
        }),
    })
}

/// Opened before the process is confined, as everything is.
fn open_state(path: &Path) -> Result<File, Failure> {
    let failed = |error| format!("cannot open the saved state {}: {error}", path.display());
    Ok(File::open(path).map_err(failed)?)
}

/// A saved state on its way into the machine.
#[derive(Debug)]
struct Restoring {
    thread: JoinHandle<()>,
    outcome: Receiver<RestoreError>,
}

impl Restoring {
    /// The machine runs meanwhile, and waits for it. Who waits for the guest hears when it is there, or that it is not.
    fn start(file: File, machine: &Machine) -> Result<(Self, Receiver<()>), Failure> {
        let (freezer, ram, control) = (machine.freezer(), machine.vm().ram().clone(), machine.control());
        let (tell, outcome) = sync_channel(1);
        let (is_there, there) = sync_channel(1);
        let thread = machine.sandbox().spawn("restore", Kind::Control, move || {
            match files::restore(&freezer, &ram, file) {
                // Nobody may wait for it.
                Ok(()) => drop(is_there.send(())),
                Err(error) => {
                    let _ = tell.send(error);
                    control.quit();
                }
            }
        })?;
        Ok((Self { thread, outcome }, there))
    }

    /// What became of it, once the machine has ended.
    fn outcome(self) -> Result<(), Failure> {
        if self.thread.join().is_err() {
            return Err("the saved state was not restored, which is a bug".into());
        }
        match self.outcome.try_recv() {
            Ok(error) => Err(format!("cannot go on from the saved state: {error}").into()),
            Err(_) => Ok(()),
        }
    }
}

/// What is on the PCI bus: cards, disks, randomness, in this order, so that a disk that is added moves no card.
struct Devices {
    on_bus: Vec<Box<dyn Device>>,
    blocks: Vec<BlockInfo>,
    /// Records of disks that nobody follows.
    histories: Vec<History>,
}

impl Devices {
    fn open(config: &Config, mut place: Option<&mut Place>) -> Result<Self, Failure> {
        let mut all = Self { on_bus: Vec::new(), blocks: Vec::new(), histories: Vec::new() };
        for net in &config.nets {
            let tap = Tap::attach(net.tap.as_str(), net.queues.into())?;
            all.on_bus.push(Box::new(Net::new(tap, net.mac.bytes(), None)));
        }
        for (number, disk) in config.disks.iter().enumerate() {
            let image = open(disk)?;
            all.blocks.push(info(number, disk, &image));
            let serial = disk.serial.as_ref().map_or("", config::Serial::as_str);
            let write_through = disk.cache == Cache::Writethrough;
            let Ready { image, follower, history } = Ready::new(number, disk, image, &mut place)?;
            all.histories.extend(history);
            let disk = Disk { follower, write_through, ..Disk::new(image, serial) };
            all.on_bus.push(Box::new(Block::new(disk)));
        }
        if config.rng {
            all.on_bus.push(Box::<Rng>::default());
        }
        Ok(all)
    }
}

fn info(number: usize, disk: &config::Disk, image: &Arc<dyn Image>) -> BlockInfo {
    BlockInfo {
        device: guest_name(number),
        file: disk.path.display().to_string(),
        format: image.format().to_string(),
        read_only: image.read_only(),
        size: image.size(),
        write_back: disk.cache != Cache::Writethrough,
        direct: disk.cache == Cache::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_disk_is_how_it_was_opened() {
        let file = tempfile::Builder::new().suffix(".img").tempfile().unwrap();
        file.as_file().set_len(4096).unwrap();
        let disk = |cache| format!("path={},cache={cache},readonly", file.path().display()).parse().unwrap();
        let image = open(&disk("writeback")).unwrap();
        for (cache, write_back, direct) in
            [("writeback", true, false), ("writethrough", false, false), ("none", true, true)]
        {
            let info = info(0, &disk(cache), &image);
            assert_eq!((info.write_back, info.direct, info.size), (write_back, direct, 4096), "{cache}");
        }
    }
}
