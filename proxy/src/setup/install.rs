//! Setting one NIC up, step by step.

use super::journal::{Device, ForwardJournal, Journal, Step, Store};
use super::undo::{release_forward, undo, undo_steps};
use super::{Owner, SetupError, TIME_LIMIT};
use crate::datapath::{Attached, DatapathError, Hook, Hooks, NicMaps, Pins, Place, Programs, Slots};
use crate::link::{Link, Netlink, Tap};
use crate::live::spec::{Guest, IfName, Mode, Nic, OnCrash, Places, Start};
use aya::programs::links::FdLink;
use colo_ebpf_shared::layout::{self, Role, nic_flags};
use std::time::Instant;

/// Bytes of the Ethernet header.
const ETHERNET: u32 = 14;

/// A NIC that is set up. Dropping it takes off what is not pinned; the rest is
/// [`teardown`](super::teardown())'s.
#[derive(Debug)]
pub struct Installed {
    /// What was done.
    pub journal: Journal,
    /// The slots of the forward device.
    pub slots: Slots,
    /// The maps of this NIC.
    pub maps: NicMaps,
    /// Links that end with this process. They go before the tap that they send to: in between,
    /// frames would be lost.
    held: Vec<FdLink>,
    /// Where the comparator reads and writes, queue by queue; a secondary has none.
    pub capture: Vec<Tap>,
}

/// Who is in charge of a NIC that is being set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// This process, until it ends.
    This,
    /// Nobody: it is left to itself.
    Nobody,
}

/// Something that is asked before each step, and can say no: for the time limit, and for tests that
/// want to see each step fail.
pub type BeforeStep<'a> = &'a mut dyn FnMut(&str) -> Result<(), SetupError>;

/// Sets one NIC up: all of it, or nothing of it.
pub fn install(
    guest: &Guest,
    nic: &Nic,
    places: &Places,
    charge: Charge,
    before_step: BeforeStep<'_>,
) -> Result<Installed, SetupError> {
    let store = Store::open(places)?;
    let _lock = store.lock()?;
    let pins = Pins::open(&places.bpffs)?;
    let begun = Instant::now();
    let mut before_step = |step: &str| {
        tracing::debug!("{}: {step}", nic.vif);
        if begun.elapsed() > TIME_LIMIT {
            return Err(SetupError::TooSlow { step: step.into() });
        }
        before_step(step)
    };
    let mut netlink = Netlink::open()?;
    let devices = Devices::find(nic, &mut netlink)?;
    let left = take_over(&store, guest, nic, &devices)?;
    let journal = Journal {
        owner: (charge == Charge::This).then(Owner::this),
        guest: guest.name.clone(),
        mode: guest.mode,
        vif: Device { name: nic.vif.clone(), number: devices.vif.index },
        forward: Device { name: nic.forward.clone(), number: devices.forward.index },
        index: nic.index,
        bridge: nic.bridge.clone(),
        forward_folder: pins.forward(devices.forward.index)?,
        nic_folder: pins.nic(devices.vif.index)?,
        steps: left.iter().flat_map(|left| &left.steps).filter(|step| is_kept(step)).cloned().collect(),
        replaces: left.clone().map(Box::new),
        abandoned: None,
    };
    let mut work =
        Work { store: &store, netlink: &mut netlink, guest, nic, devices: &devices, journal, slot: None };
    match work.all(&mut before_step, left.as_ref()) {
        Ok(installed) => Ok(installed),
        Err(error) => {
            let Work { journal, slot, .. } = work;
            if let Err(again) = give_up(&store, journal, left, slot, &mut netlink) {
                tracing::error!("{}: what was set up cannot be undone: {again}", nic.vif);
            }
            pins.tidy();
            Err(error)
        }
    }
}

/// What the vif was a port of before all this is what it goes back to, and a qdisc that was added for
/// the one who died is not needed by anybody else.
fn is_kept(step: &Step) -> bool {
    matches!(step, Step::Port { .. } | Step::Qdisc)
}

/// Undoes a set-up that failed. What it was to take over stays as it was: closed, if it was closed.
fn give_up(
    store: &Store,
    mut journal: Journal,
    left: Option<Journal>,
    slot: Option<layout::Nic>,
    netlink: &mut Netlink,
) -> Result<(), SetupError> {
    let Some(left) = left else { return undo(store, &journal, netlink) };
    journal.replaces = None;
    let inherited = left.steps.iter().filter(|step| is_kept(step)).count();
    journal.steps.drain(..inherited.min(journal.steps.len()));
    // A slot that was the dead one's is its again. One that was not is freed like any other: it may
    // have the same number, where somebody else had it in between.
    if let Some(slot) = slot {
        journal.steps.retain(|step| *step != Step::Slot);
        Slots::open(&journal.forward_folder)?.set(journal.index.get(), &slot)?;
    }
    let mut first = undo_steps(&journal, netlink);
    store.put(&left)?;
    if left.forward != journal.forward {
        first = first.and(release_forward(store, &journal, netlink));
    }
    first
}

/// The interfaces that are involved.
#[derive(Debug)]
struct Devices {
    vif: Link,
    forward: Link,
    bridge: Option<Link>,
}

impl Devices {
    fn find(nic: &Nic, netlink: &mut Netlink) -> Result<Self, SetupError> {
        let vif = netlink.get(nic.vif.as_str())?;
        let forward = netlink.get(nic.forward.as_str())?;
        let bridge = nic.bridge.as_ref().map(|bridge| netlink.get(bridge.as_str())).transpose()?;
        let is_bridge = bridge.as_ref().is_some_and(|bridge| bridge.index == forward.index);
        if is_bridge || forward.master.is_some() || vif.master == Some(forward.index) {
            return Err(SetupError::NotALinkOfItsOwn { forward: nic.forward.clone() });
        }
        for (name, link) in [(&nic.vif, &vif), (&nic.forward, &forward)] {
            if link.mac.is_none_or(|mac| mac == [0; 6]) {
                return Err(SetupError::NotEthernet { device: name.clone() });
            }
        }
        if forward.mtu < vif.mtu {
            return Err(SetupError::MtuTooSmall {
                forward: nic.forward.clone(),
                forward_mtu: forward.mtu,
                vif: nic.vif.clone(),
                vif_mtu: vif.mtu,
            });
        }
        Ok(Self { vif, forward, bridge })
    }
}

/// What a process that died left of the same NIC: it is taken over without a gap, and undone only
/// after ours is in its place. Something that is alive is left alone.
fn take_over(
    store: &Store,
    guest: &Guest,
    nic: &Nic,
    devices: &Devices,
) -> Result<Option<Journal>, SetupError> {
    let Some(left) = store.get(&nic.vif)? else { return Ok(None) };
    let same_device = left.vif.number == devices.vif.index;
    match left.keeper() {
        Some(owner) if owner != Owner::this() => {
            return Err(SetupError::Busy { vif: nic.vif.clone(), pid: owner.pid });
        }
        Some(_) => return Err(SetupError::SetUpAlready { vif: nic.vif.clone() }),
        None if left.owner.is_none() && same_device => {
            return Err(SetupError::SetUpAlready { vif: nic.vif.clone() });
        }
        None => {}
    }
    let who = left.owner.map_or("nobody".to_owned(), |owner| format!("process {}", owner.pid));
    tracing::info!("{}: taking over what {who} left ({})", nic.vif, guest.name);
    Ok(Some(left))
}

struct Work<'a> {
    store: &'a Store,
    netlink: &'a mut Netlink,
    guest: &'a Guest,
    nic: &'a Nic,
    devices: &'a Devices,
    journal: Journal,
    /// What was in the slot that is taken over.
    slot: Option<layout::Nic>,
}

impl Work<'_> {
    fn all(&mut self, before: BeforeStep<'_>, left: Option<&Journal>) -> Result<Installed, SetupError> {
        before("make the folders for pins")?;
        self.note(Step::Folder(self.journal.nic_folder.clone()))?;

        before("load the programs")?;
        let forward_folder = self.journal.forward_folder.clone();
        let nic_folder = self.journal.nic_folder.clone();
        let mut programs =
            Programs::load(self.nic.index.get(), self.guest.flows, &forward_folder, &nic_folder)?;
        let mut slots = Slots::open(&forward_folder)?;

        before("prepare the forward device")?;
        self.prepare_forward(&mut programs)?;

        before("make the capture tap")?;
        let capture = self.make_capture(&mut programs)?;

        before("take a slot of the forward device")?;
        self.take_slot(&mut slots, capture.as_ref().map(|(_, link)| link), left)?;

        before("attach the program to the capture tap")?;
        let mut held = Vec::new();
        match &capture {
            Some((_, link)) => self.attach(&mut programs, Place::CaptureIngress, &link.name, &mut held)?,
            // A secondary speaks through one when it is promoted.
            None => programs.pin(Place::CaptureIngress, &nic_folder)?,
        }
        before("attach the program for the guest's input")?;
        self.attach(&mut programs, Place::VifEgress, self.nic.vif.as_str(), &mut held)?;
        before("attach the program for the guest's output")?;
        self.attach(&mut programs, Place::VifIngress, self.nic.vif.as_str(), &mut held)?;

        before("make the vif a port of its bridge")?;
        self.join_bridge()?;

        before("begin")?;
        let role = self.role() as u32;
        slots.update(self.nic.index.get(), self.devices.vif.index, |slot| slot.role = role)?;
        if let Some(left) = left {
            self.replace(left);
        }
        Ok(Installed {
            journal: self.journal.clone(),
            slots,
            maps: programs.maps()?,
            capture: capture.map(|(queues, _)| queues).unwrap_or_default(),
            held,
        })
    }

    fn role(&self) -> Role {
        match self.guest.mode {
            Mode::Secondary => Role::Secondary,
            Mode::Primary => match self.guest.start {
                Start::Protected => Role::Primary,
                Start::Mirrored => Role::Mirrored,
                Start::Unprotected => Role::Unprotected,
            },
        }
    }

    /// Writes a step down before it is done.
    fn note(&mut self, step: Step) -> Result<(), SetupError> {
        self.journal.steps.push(step);
        self.store.put(&self.journal)
    }

    /// The forward device is up and takes in frames for guests, and our program is attached to it.
    fn prepare_forward(&mut self, programs: &mut Programs) -> Result<(), SetupError> {
        let forward = &self.devices.forward;
        let pin = self.journal.forward_folder.join("ingress");
        let known = self.store.forward(forward.index)?;
        let mut shared = known.unwrap_or_else(|| ForwardJournal {
            device: self.journal.forward.clone(),
            folder: self.journal.forward_folder.clone(),
            was_up: forward.up,
            was_promiscuous: forward.promiscuous,
            program: None,
            qdisc: false,
        });
        self.store.put_forward(&shared)?;
        if !forward.up {
            self.netlink.set_up(forward, true)?;
        }
        if !forward.promiscuous {
            self.netlink.set_promiscuous(forward, true)?;
        }
        let lost = matches!(&shared.program, Some(Step::Pinned(pin)) if !Hooks::is_alive(pin));
        if shared.program.is_none() || lost {
            let hook = Hook::of(self.guest.attach);
            match hook {
                Hook::Tcx => shared.program = Some(Step::Pinned(pin.clone())),
                Hook::Clsact => shared.qdisc |= Hooks::add_clsact(&forward.name)?,
            }
            self.store.put_forward(&shared)?;
            let attached = programs.attach(Place::ForwardIngress, &forward.name, hook, Some(&pin))?;
            if let Attached::Filter { device, place, priority, handle } = attached {
                shared.program = Some(Step::Filter { device, place, priority, handle });
                self.store.put_forward(&shared)?;
            }
        }
        Ok(())
    }

    /// The tap that the primary's and the secondary's output goes to.
    fn make_capture(&mut self, programs: &mut Programs) -> Result<Option<(Vec<Tap>, Link)>, SetupError> {
        if self.guest.mode == Mode::Secondary {
            return Ok(None);
        }
        let queues = Tap::with_queues("colo%d", self.guest.queues.get())?;
        let Some(first) = queues.first() else { return Ok(None) };
        if queues.len() > 1 {
            first.steer(programs.steering()?)?;
        }
        let link = self.netlink.get(first.name())?;
        // The tag comes on top of the longest frame; each queue takes so many.
        let length = self.guest.queue_frames.div_ceil(u32::from(self.guest.queues.get()));
        self.netlink.set_carrier_only(&link, self.devices.vif.mtu.max(1280) + 64, length)?;
        self.netlink.set_up(&link, true)?;
        Ok(Some((queues, link)))
    }

    fn take_slot(
        &mut self,
        slots: &mut Slots,
        capture: Option<&Link>,
        left: Option<&Journal>,
    ) -> Result<(), SetupError> {
        let index = self.nic.index.get();
        let slot = slots.get(index)?;
        let ours = left.is_some_and(|left| {
            left.index == self.nic.index
                && left.forward == self.journal.forward
                && slot.vif == left.vif.number
        });
        let taken = Role::from_u32(slot.role) != Role::None && !ours;
        if taken && self.netlink.get_by_index(slot.vif).is_ok() {
            return Err(SetupError::IndexInUse { index: self.nic.index, forward: self.nic.forward.clone() });
        }
        self.slot = ours.then_some(slot);
        self.note(Step::Slot)?;
        slots.reset_counters(index)?;
        // A secondary's guest must not be heard from the first moment on; a primary's is let alone
        // until everything is in its place, unless a set-up that holds it is taken over.
        let role = match self.guest.mode {
            Mode::Secondary => Role::Secondary,
            Mode::Primary if ours && self.guest.start == Start::Protected => Role::Primary,
            Mode::Primary => Role::Unprotected,
        };
        slots.set(
            index,
            &layout::Nic {
                role: role as u32,
                // What is taken over goes on where it was.
                epoch: if ours { slot.oldest } else { 1 },
                oldest: if ours { slot.oldest } else { 1 },
                generation: if ours { slot.generation } else { 1 },
                mark: mark()?,
                vif: self.devices.vif.index,
                forward: self.devices.forward.index,
                capture: capture.map_or(0, |link| link.index),
                forward_frame: self.devices.forward.mtu + ETHERNET,
                flags: self.flags(),
                stale_since: 0,
                reserved: 0,
            },
        )?;
        Ok(())
    }

    /// How a secondary keeps up with the primary's epochs.
    fn flags(&self) -> u32 {
        match (self.guest.mode, &self.guest.checkpoints.notify) {
            (Mode::Primary, _) => 0,
            (Mode::Secondary, Some(_)) => nic_flags::JOINING,
            (Mode::Secondary, None) => nic_flags::JOINING | nic_flags::FOLLOWS,
        }
    }

    fn attach(
        &mut self,
        programs: &mut Programs,
        place: Place,
        device: &str,
        held: &mut Vec<FdLink>,
    ) -> Result<(), SetupError> {
        let hook = Hook::of(self.guest.attach);
        // The capture tap goes with this process, and so may its program.
        // A secondary's guest that was let go would answer beside the primary's.
        let outlives = self.guest.on_crash == OnCrash::Closed
            || self.guest.mode == Mode::Secondary
            || self.journal.owner.is_none();
        let pinned = place != Place::CaptureIngress && outlives;
        let pin = pinned.then(|| self.journal.nic_folder.join(place.program()));
        if let (Some(pin), Hook::Tcx) = (&pin, hook) {
            self.note(Step::Pinned(pin.clone()))?;
        }
        if hook == Hook::Clsact && !pinned && place != Place::CaptureIngress {
            return Err(SetupError::Datapath(DatapathError::Attach {
                program: place.program(),
                device: device.into(),
                why: "--on-crash open needs TCX: Linux 6.6, and not --attach clsact".into(),
            }));
        }
        if hook == Hook::Clsact && pinned && Hooks::add_clsact(device)? {
            self.note(Step::Qdisc)?;
        }
        match programs.attach(place, device, hook, pin.as_deref())? {
            Attached::Held(link) => held.push(link),
            // The filter goes with the tap, and another tap may have its name by the time this is undone.
            Attached::Pinned(_) | Attached::Filter { place: Place::CaptureIngress, .. } => {}
            Attached::Filter { device, place, priority, handle } => {
                self.note(Step::Filter { device, place, priority, handle })?;
            }
        }
        Ok(())
    }

    /// Undoes the set-up that ours has replaced, but for what ours goes on with. Nothing depends on
    /// it any more: what cannot be undone now is undone with ours.
    fn replace(&mut self, left: &Journal) {
        let mut old = left.clone();
        let ours = &self.journal;
        let same_slot = old.forward == ours.forward && old.index == ours.index;
        old.steps.retain(|step| !(is_kept(step) || same_slot && *step == Step::Slot));
        let forward = ours.forward.clone();
        let mut outcome = undo_steps(&old, self.netlink);
        let mut of = Some(&old);
        while let Some(one) = of {
            if one.forward != forward {
                outcome = outcome.and(release_forward(self.store, one, self.netlink));
            }
            of = one.replaces.as_deref();
        }
        let outcome = outcome.and_then(|()| {
            self.journal.replaces = None;
            self.store.put(&self.journal)
        });
        if let Err(error) = outcome {
            tracing::warn!("{}: what was left before cannot be removed yet: {error}", self.nic.vif);
        }
    }

    fn join_bridge(&mut self) -> Result<(), SetupError> {
        let Some(bridge) = &self.devices.bridge else { return Ok(()) };
        let before = self.devices.vif.master;
        if before == Some(bridge.index) {
            return Ok(());
        }
        self.note(Step::Port { before })?;
        Ok(self.netlink.set_master(&self.devices.vif, Some(bridge))?)
    }
}

/// A mark that nobody guesses, so that nobody else's frames have it by chance.
fn mark() -> Result<u32, SetupError> {
    let mut bytes = [0; 4];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(|error| SetupError::File { what: "read", path: "/dev/urandom".into(), error })?;
    Ok(u32::from_ne_bytes(bytes) | 1)
}

impl Installed {
    /// Takes everything off again and leaves the devices as they were.
    pub fn remove(self, places: &Places) -> Result<(), SetupError> {
        let Self { journal, capture, held, slots, maps } = self;
        let store = Store::open(places)?;
        let _lock = store.lock()?;
        let mut netlink = Netlink::open()?;
        // First the programs, then the tap that they send to: in between, frames would be dropped.
        drop(held);
        undo(&store, &journal, &mut netlink)?;
        drop((capture, slots, maps));
        Pins::open(&places.bpffs)?.tidy();
        Ok(())
    }

    /// Changes this NIC's slot.
    pub fn update(&mut self, change: impl FnOnce(&mut layout::Nic)) -> Result<(), DatapathError> {
        self.slots.update(self.journal.index.get(), self.journal.vif.number, change).map(drop)
    }

    /// The guest's interface.
    pub fn vif(&self) -> &IfName {
        &self.journal.vif.name
    }
}
