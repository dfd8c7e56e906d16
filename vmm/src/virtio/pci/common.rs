//! The common configuration: features, status, queues (virtio 1.3 §4.1.4.3).
//!
//! ```text
//!   0x00 device features: select, half │ 0x08 driver features: select, half
//!   0x10 config vector │ queues │ status │ generation │ 0x16 queue select
//!   0x18 of that queue: size, vector, enable, notify offset, 0x20 descriptors, driver area, device area
//! ```

use super::signals::{NO_VECTOR, Signals};
use super::state::{LoadError, QueueRegisters, TransportState};
use super::status::{NEEDS_RESET, Stage};
use crate::irq::Interrupt as _;
use crate::memory::GuestRam;
use crate::virtio::throttle::Throttle;
use crate::virtio::{Activation, ActiveQueue, Device, DeviceError, DeviceState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use virtio_queue::{Queue, QueueState};
use vmm_sys_util::eventfd::EventFd;

/// Bytes of the common configuration.
pub(super) const LEN: usize = 0x40;

/// Buffers may be described in tables of their own.
pub const RING_INDIRECT_DESC: u64 = 1 << 28;
/// Both sides say by index when they want to hear of the other.
pub const RING_EVENT_IDX: u64 = 1 << 29;
/// The device is one of the standard, not of what was before.
pub const VERSION_1: u64 = 1 << 32;
const TRANSPORT: u64 = RING_INDIRECT_DESC | RING_EVENT_IDX | VERSION_1;

/// A device, what its driver has set up of it, and whether it works.
#[derive(Debug)]
pub(super) struct Common {
    device: Box<dyn Device>,
    ram: Arc<GuestRam>,
    signals: Arc<Signals>,
    kicks: Arc<[EventFd]>,
    offered: u64,
    stage: Stage,
    features: u64,
    device_select: u32,
    driver_select: u32,
    queue_select: u16,
    queues: Vec<QueueState>,
    /// Between activate and reset.
    active: bool,
    /// Since a state was loaded, until it goes on.
    loaded: bool,
    throttle: Throttle,
}

impl Common {
    pub(super) fn new(
        device: Box<dyn Device>,
        ram: Arc<GuestRam>,
        signals: Arc<Signals>,
        kicks: Arc<[EventFd]>,
    ) -> Self {
        let queues = device.queues().into_iter().map(idle).collect();
        let offered = device.features() | TRANSPORT;
        Self {
            device,
            ram,
            signals,
            kicks,
            offered,
            stage: Stage::Reset,
            features: 0,
            device_select: 0,
            driver_select: 0,
            queue_select: 0,
            queues,
            active: false,
            loaded: false,
            throttle: Throttle::default(),
        }
    }

    pub(super) fn device(&mut self) -> &mut dyn Device {
        &mut *self.device
    }

    /// Reads registers.
    pub(super) fn read(&self, offset: usize, data: &mut [u8]) {
        // A driver reads a few registers at its start and none while it works: an image of all is cheap.
        let image = self.image();
        for (byte, value) in data.iter_mut().zip(image.iter().skip(offset)) {
            *byte = *value;
        }
    }

    fn image(&self) -> [u8; LEN] {
        let mut image = [0; LEN];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x00, &self.device_select.to_le_bytes());
        put(0x04, &half(self.offered, self.device_select).to_le_bytes());
        put(0x08, &self.driver_select.to_le_bytes());
        put(0x0c, &half(self.features, self.driver_select).to_le_bytes());
        put(0x10, &self.signals.config.load(Ordering::Relaxed).to_le_bytes());
        put(0x12, &(self.queues.len() as u16).to_le_bytes());
        put(0x14, &[self.status(), self.signals.generation.load(Ordering::Acquire)]);
        put(0x16, &self.queue_select.to_le_bytes());
        let number = usize::from(self.queue_select);
        // A queue that is not there has size 0, and a vector that cannot be.
        let Some(queue) = self.queues.get(number) else {
            put(0x1a, &NO_VECTOR.to_le_bytes());
            return image;
        };
        put(0x18, &queue.size.to_le_bytes());
        let vector =
            self.signals.queues.get(number).map_or(NO_VECTOR, |vector| vector.load(Ordering::Relaxed));
        put(0x1a, &vector.to_le_bytes());
        put(0x1c, &u16::from(queue.ready).to_le_bytes());
        put(0x1e, &self.queue_select.to_le_bytes());
        put(0x20, &queue.desc_table.to_le_bytes());
        put(0x28, &queue.avail_ring.to_le_bytes());
        put(0x30, &queue.used_ring.to_le_bytes());
        image
    }

    fn status(&self) -> u8 {
        let needs_reset = self.signals.needs_reset.load(Ordering::Acquire);
        self.stage.bits() | if needs_reset { NEEDS_RESET } else { 0 }
    }

    /// Writes a register; eight bytes are two registers of four. Accesses of other widths than the
    /// register's are lost.
    pub(super) fn write(&mut self, offset: usize, data: &[u8]) {
        match *data {
            [byte] if offset == 0x14 => self.write_status(byte),
            [a, b] => self.write_half(offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write_word(offset, u32::from_le_bytes([a, b, c, d])),
            [..] if data.len() == 8 && offset >= 0x20 => {
                let (low, high) = data.split_at(4);
                self.write(offset, low);
                self.write(offset + 4, high);
            }
            _ => {}
        }
    }

    fn write_word(&mut self, offset: usize, value: u32) {
        match offset {
            0x00 => self.device_select = value,
            0x08 => self.driver_select = value,
            0x0c if self.stage == Stage::Driver => set_half(&mut self.features, self.driver_select, value),
            0x20..0x38 if offset.is_multiple_of(4) => {
                if let Some(queue) = self.set_up() {
                    let address = match offset & !7 {
                        0x20 => &mut queue.desc_table,
                        0x28 => &mut queue.avail_ring,
                        _ => &mut queue.used_ring,
                    };
                    set_half(address, (offset as u32 & 4) / 4, value);
                }
            }
            _ => {}
        }
    }

    fn write_half(&mut self, offset: usize, value: u16) {
        let vector = self.signals.vector(value);
        match offset {
            0x10 => self.signals.config.store(vector, Ordering::Relaxed),
            0x16 => self.queue_select = value,
            0x18 => {
                if let Some(queue) = self.set_up()
                    && value.is_power_of_two()
                    && value <= queue.max_size
                {
                    queue.size = value;
                }
            }
            0x1a => {
                if let Some(place) = self.signals.queues.get(usize::from(self.queue_select)) {
                    place.store(vector, Ordering::Relaxed);
                }
            }
            0x1c if value == 1 => {
                if let Some(queue) = self.set_up() {
                    queue.ready = true;
                }
            }
            _ => {}
        }
    }

    /// The queue that is selected, if it can still be set up.
    fn set_up(&mut self) -> Option<&mut QueueState> {
        if !matches!(self.stage, Stage::Driver | Stage::Negotiated) {
            return None;
        }
        self.queues.get_mut(usize::from(self.queue_select)).filter(|queue| !queue.ready)
    }

    fn write_status(&mut self, bits: u8) {
        if bits == 0 {
            self.reset();
            return;
        }
        let agreed = self.features & !self.offered == 0 && self.features & VERSION_1 != 0;
        let before = self.stage;
        self.stage = before.write(bits, agreed);
        if self.stage != before {
            match self.stage {
                Stage::Running => self.activate(),
                Stage::Failed(_) => self.stop(),
                _ => {}
            }
        }
    }

    fn activate(&mut self) {
        let activated = self.activation().and_then(|activation| self.device.activate(activation));
        self.active = activated.is_ok();
        if let Err(error) = activated {
            self.signals.needs_reset.store(true, Ordering::Release);
            if let Some(silenced) = self.throttle.admit(Instant::now()) {
                tracing::warn!(%error, silenced, "a virtio device cannot begin, and asks for a reset");
            }
        }
    }

    fn activation(&self) -> Result<Activation, DeviceError> {
        let failed = |index: usize, reason: Box<dyn std::error::Error + Send + Sync>| DeviceError {
            what: format!("cannot begin queue {index} of the {:?} device", self.device.kind()),
            reason,
        };
        let event_idx_enabled = self.features & RING_EVENT_IDX != 0;
        let mut queues = Vec::new();
        for (index, state) in self.queues.iter().enumerate().filter(|(_, queue)| queue.ready) {
            let queue = Queue::try_from(QueueState { event_idx_enabled, ..*state })
                .map_err(|error| failed(index, error.into()))?;
            let kick = self.kicks[index].try_clone().map_err(|error| failed(index, error.into()))?;
            queues.push(ActiveQueue { index: index as u16, queue, kick });
        }
        let interrupt = self.signals.clone();
        Ok(Activation { ram: self.ram.clone(), queues, features: self.features, interrupt })
    }

    fn stop(&mut self) {
        if std::mem::take(&mut self.active) {
            self.device.reset();
        }
    }

    /// As after power-on.
    pub(super) fn reset(&mut self) {
        self.stop();
        self.signals.reset();
        self.stage = Stage::Reset;
        self.features = 0;
        (self.device_select, self.driver_select, self.queue_select) = (0, 0, 0);
        for queue in &mut self.queues {
            *queue = idle(queue.max_size);
        }
    }

    /// Begins to pause.
    pub(super) fn call(&mut self) {
        if self.active {
            self.device.call();
        }
    }

    /// Nothing is in flight when this returns.
    pub(super) fn pause(&mut self) {
        if self.active {
            for (index, state) in self.device.pause() {
                if let Some(queue) = self.queues.get_mut(usize::from(index)) {
                    (queue.next_avail, queue.next_used) = (state.next_avail, state.next_used);
                }
            }
        }
    }

    /// Goes on, or begins if what was loaded did work.
    pub(super) fn resume(&mut self) {
        if self.active {
            self.device.resume();
        } else if self.stage == Stage::Running && !self.signals.needs_reset.load(Ordering::Acquire) {
            self.activate();
        }
        if std::mem::take(&mut self.loaded) && self.active {
            // An interrupt that was on its way when the state was saved is nowhere in it. One too many is
            // nothing to a driver; a kick that was on its way needs nothing, as workers look first.
            for (index, _) in self.queues.iter().enumerate().filter(|(_, queue)| queue.ready) {
                self.signals.queue(index as u16);
            }
        }
    }

    /// The state; configuration space and messages are the caller's to add.
    pub(super) fn save(&self, mut state: TransportState) -> TransportState {
        let signals = &self.signals;
        state.status = self.stage.bits();
        state.needs_reset = signals.needs_reset.load(Ordering::Acquire);
        state.features = self.features;
        state.device_select = self.device_select;
        state.driver_select = self.driver_select;
        state.queue_select = self.queue_select;
        state.isr = signals.isr.load(Ordering::Relaxed);
        state.generation = signals.generation.load(Ordering::Acquire);
        state.config_vector = signals.config.load(Ordering::Relaxed);
        let vectors = signals.queues.iter().map(|vector| vector.load(Ordering::Relaxed));
        let queues = self.queues.iter().zip(vectors);
        state.queues = queues.map(|(queue, vector)| QueueRegisters::new(queue, vector)).collect();
        state
    }

    /// Looks whether a state can be taken.
    pub(super) fn check(&self, state: &TransportState) -> Result<Stage, LoadError> {
        let (theirs, ours) = (state.queues.len(), self.queues.len());
        if theirs != ours {
            return Err(LoadError::Queues { theirs, ours });
        }
        for (queue, (saved, own)) in state.queues.iter().zip(&self.queues).enumerate() {
            let (size, most) = (saved.size, own.max_size);
            if !size.is_power_of_two() || size > most {
                return Err(LoadError::Size { queue, size, most });
            }
        }
        let stage = Stage::from_bits(state.status).ok_or(LoadError::Status(state.status))?;
        let missing = state.features & !self.offered;
        if missing != 0 && matches!(stage, Stage::Negotiated | Stage::Running) {
            return Err(LoadError::Features(missing));
        }
        Ok(stage)
    }

    /// Whether a device that works can go on working with a state: it was set up in the same way.
    fn set_up_alike(&self, state: &TransportState, stage: Stage) -> bool {
        stage == Stage::Running
            && self.stage == Stage::Running
            && self.features == state.features
            && !state.needs_reset
            && self.queues.iter().zip(&state.queues).all(|(ours, theirs)| {
                let theirs = theirs.queue(ours.max_size);
                let (next_avail, next_used) = (ours.next_avail, ours.next_used);
                QueueState { next_avail, next_used, event_idx_enabled: ours.event_idx_enabled, ..theirs }
                    == QueueState { next_avail, next_used, ..*ours }
            })
    }

    /// Gives the device its new positions; false if it does not take them.
    fn rewind(&mut self, state: &TransportState) -> bool {
        let ready = state.queues.iter().zip(&self.queues).enumerate().filter(|(_, (_, ours))| ours.ready);
        let positions: Vec<_> =
            ready.map(|(index, (saved, ours))| (index as u16, saved.queue(ours.max_size))).collect();
        self.device.rewind(&positions)
    }

    /// Takes a state that was checked; [`resume`](Self::resume) makes it work.
    pub(super) fn load(&mut self, state: &TransportState, stage: Stage, device: &DeviceState) {
        let stays = self.active && self.set_up_alike(state, stage) && self.rewind(state);
        if !stays {
            self.stop();
        }
        self.loaded = true;
        self.stage = stage;
        self.features = state.features;
        self.device_select = state.device_select;
        self.driver_select = state.driver_select;
        self.queue_select = state.queue_select;
        let signals = &self.signals;
        signals.needs_reset.store(state.needs_reset, Ordering::Release);
        signals.isr.store(state.isr, Ordering::Relaxed);
        signals.generation.store(state.generation, Ordering::Release);
        signals.config.store(signals.vector(state.config_vector), Ordering::Relaxed);
        let queues = self.queues.iter_mut().zip(signals.queues.iter());
        for (saved, (queue, vector)) in state.queues.iter().zip(queues) {
            *queue = saved.queue(queue.max_size);
            vector.store(signals.vector(saved.vector), Ordering::Relaxed);
        }
        self.device.load(device);
    }
}

impl Drop for Common {
    fn drop(&mut self) {
        self.stop();
    }
}

fn idle(max_size: u16) -> QueueState {
    QueueState { max_size, size: max_size, ..QueueState::default() }
}

fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_half(value: &mut u64, select: u32, half: u32) {
    match select {
        0 => *value = *value & !0xffff_ffff | u64::from(half),
        1 => *value = *value & 0xffff_ffff | u64::from(half) << 32,
        // Features that do not exist yet cannot be had.
        _ => {}
    }
}
