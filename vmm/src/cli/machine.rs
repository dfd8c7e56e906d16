//! This crate's machine, as the command line knows a guest.

use super::{Assembled, Ended, Failure, Launch};
use crate::machine::{ExitReason, Machine, Setup};

/// Makes a machine of what is configured.
pub fn assemble(launch: Launch<'_>) -> Result<Assembled, Failure> {
    let Launch { config, console, confinement } = launch;
    let machine = Machine::new(Setup {
        kernel: config.kernel.clone(),
        initrd: config.initrd.clone(),
        cmdline: config.cmdline.clone(),
        memory: config.memory.bytes(),
        cpus: config.cpus.get().into(),
        console: Box::new(console),
        devices: Vec::new(),
        confine: Box::new(|| confinement.begin()),
    })?;
    let serial = machine.serial();
    Ok(Assembled {
        control: machine.control(),
        input: Box::new(move |typed| serial.input(typed)),
        sandbox: machine.sandbox(),
        run: Box::new(|| match machine.run()? {
            ExitReason::PowerOff | ExitReason::Quit => Ok(Ended::Done),
            ExitReason::Reset { .. } => Ok(Ended::Reset),
        }),
    })
}
