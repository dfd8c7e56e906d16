//! This crate's machine, as the command line knows a guest.
//!
//! ```text
//!   Config ── disks, nets, rng ──► opened ──► Setup ──► Machine::new ──► confined ──► Assembled
//! ```

use super::{Assembled, Ended, Failure, Launch};
use crate::block::{self, Format, Image};
use crate::config::{self, Cache, Config};
use crate::control::{BlockInfo, Controls};
use crate::devices::block::{Block, Disk};
use crate::devices::net::{Net, tap::Tap};
use crate::devices::rng::Rng;
use crate::machine::{Begin, BootFiles, ExitReason, Machine, Setup};
use crate::virtio::Device;
use std::sync::Arc;

/// Makes a machine of what is configured.
pub fn assemble(launch: Launch<'_>) -> Result<Assembled, Failure> {
    let Launch { config, colo, restore, console, confinement } = launch;
    // Better no guest than one that runs unprotected, or boots, where something else was asked for.
    if colo.is_some() || restore.is_some() {
        return Err(
            "this colo-vm cannot go on from a saved state or keep two hosts level; run the guest without"
                .into(),
        );
    }
    let Devices { devices, blocks } = Devices::open(config)?;
    let machine = Machine::new(Setup {
        begin: Begin::Boot(BootFiles {
            kernel: config.kernel.clone(),
            initrd: config.initrd.clone(),
            cmdline: config.cmdline.clone(),
        }),
        memory: config.memory.bytes(),
        cpus: config.cpus.get().into(),
        console: Box::new(console),
        devices,
        blocks,
        on_reset: config.on_reset,
        confine: Box::new(|| confinement.begin()),
    })?;
    let serial = machine.serial();
    Ok(Assembled {
        control: Controls { guest: machine.control(), save: None, colo: None },
        input: Box::new(move |typed| serial.input(typed)),
        sandbox: machine.sandbox(),
        run: Box::new(|| match machine.run()? {
            ExitReason::PowerOff | ExitReason::Quit => Ok(Ended::Done),
            ExitReason::Reset { .. } => Ok(Ended::Reset),
        }),
    })
}

/// What is on the PCI bus: cards, disks, randomness, in this order, so that a disk that is added moves no card.
#[derive(Default)]
struct Devices {
    devices: Vec<Box<dyn Device>>,
    blocks: Vec<BlockInfo>,
}

impl Devices {
    fn open(config: &Config) -> Result<Self, Failure> {
        let mut all = Self::default();
        for net in &config.nets {
            let tap = Tap::attach(net.tap.as_str(), net.queues.into())?;
            all.devices.push(Box::new(Net::new(tap, net.mac.bytes(), None)));
        }
        for (number, disk) in config.disks.iter().enumerate() {
            let image = open(disk)?;
            all.blocks.push(info(number, disk, &image));
            let serial = disk.serial.as_ref().map_or("", config::Serial::as_str);
            let write_through = disk.cache == Cache::Writethrough;
            all.devices.push(Box::new(Block::new(Disk { write_through, ..Disk::new(image, serial) })));
        }
        if config.rng {
            all.devices.push(Box::<Rng>::default());
        }
        Ok(all)
    }
}

fn open(disk: &config::Disk) -> Result<Arc<dyn Image>, block::OpenError> {
    block::open(&block::Options {
        path: disk.path.clone(),
        format: disk.format.map(|format| match format {
            config::Format::Raw => Format::Raw,
            config::Format::Qcow2 => Format::Qcow2,
        }),
        read_only: disk.readonly,
        direct: disk.cache == Cache::None,
    })
}

fn info(number: usize, disk: &config::Disk, image: &Arc<dyn Image>) -> BlockInfo {
    BlockInfo {
        device: name(number),
        file: disk.path.display().to_string(),
        format: image.format().to_string(),
        read_only: image.read_only(),
        size: image.size(),
        write_back: disk.cache != Cache::Writethrough,
        direct: disk.cache == Cache::None,
    }
}

/// What Linux calls a disk: `vda`, after `vdz` comes `vdaa`.
fn name(number: usize) -> String {
    let letter = |digit: usize| char::from(b'a' + (digit % 26) as u8);
    match number.checked_sub(26) {
        None => format!("vd{}", letter(number)),
        Some(rest) => format!("vd{}{}", letter(rest / 26), letter(rest)),
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

    #[test]
    fn disks_are_called_as_the_guest_calls_them() {
        assert_eq!([0, 25, 26, 27].map(name), ["vda", "vdz", "vdaa", "vdab"]);
    }
}
