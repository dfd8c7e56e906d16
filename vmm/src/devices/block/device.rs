//! The disk that a transport and a machine see.

use super::config::{self, FLUSH, QUEUE_SIZE, SECTOR};
use super::state::BlockState;
use super::worker::{Handle, Worker};
use crate::block::Image;
use crate::block::engine::Choice;
use crate::block::follow::Follower;
use crate::virtio::{Activation, Device, DeviceError, DeviceState, Kind, Mismatch};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use virtio_queue::QueueState;

/// What a disk is made of.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Where its bytes are.
    pub image: Arc<dyn Image>,
    /// Who hears of what the guest changes.
    pub follower: Option<Arc<dyn Follower>>,
    /// What the guest reads as its serial number; 20 bytes at most count.
    pub serial: String,
    /// How many queues the guest may use; an image whose places move has one.
    pub queues: u16,
    /// How bytes are moved.
    pub engine: Choice,
    /// Whether every write is stable before the guest hears that it is done: the disk says that it has no
    /// cache, so no driver flushes it.
    pub write_through: bool,
}

impl Disk {
    /// A disk with one queue.
    pub fn new(image: Arc<dyn Image>, serial: impl Into<String>) -> Self {
        Self {
            image,
            follower: None,
            serial: serial.into(),
            queues: 1,
            engine: Choice::Best,
            write_through: false,
        }
    }
}

/// A virtio disk.
#[derive(Debug)]
pub struct Block {
    disk: Disk,
    config: [u8; 60],
    workers: Vec<Handle>,
    /// Answers that are waited for since [`Device::call`].
    called: Vec<Receiver<(u16, QueueState)>>,
}

impl Block {
    /// A disk that no driver uses yet.
    pub fn new(mut disk: Disk) -> Self {
        disk.queues = if disk.image.moves() { 1 } else { disk.queues.clamp(1, 16) };
        let config = config::layout(&*disk.image, disk.queues, disk.write_through);
        Self { disk, config, workers: Vec::new(), called: Vec::new() }
    }

    /// What it is.
    fn identity(&self) -> BlockState {
        BlockState {
            sectors: self.disk.image.size() / SECTOR,
            block_size: config::block_size(&*self.disk.image),
            read_only: self.disk.image.read_only(),
            queues: self.disk.queues,
            serial: self.disk.serial.clone(),
        }
    }

    /// Its image.
    pub fn image(&self) -> &Arc<dyn Image> {
        &self.disk.image
    }
}

impl Device for Block {
    fn kind(&self) -> Kind {
        Kind::Block
    }

    fn features(&self) -> u64 {
        let features = config::features(&*self.disk.image, self.disk.queues);
        if self.disk.write_through { features & !FLUSH } else { features }
    }

    fn queues(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(self.disk.queues)]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let from =
            usize::try_from(offset).ok().and_then(|offset| self.config.get(offset..)).unwrap_or_default();
        let len = from.len().min(data.len());
        data[..len].copy_from_slice(&from[..len]);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        self.reset();
        // Without FLUSH a driver cannot ask for what is stable, so every write has to be (§5.2.5.2).
        let write_through = activation.features & FLUSH == 0;
        for queue in activation.queues {
            let index = queue.index;
            let worker =
                Worker::new(&self.disk, queue, &activation.ram, &activation.interrupt, write_through);
            match Handle::start(worker, self.disk.engine) {
                Ok(handle) => self.workers.push(handle),
                Err(error) => {
                    self.reset();
                    let what = format!("cannot start the worker of disk queue {index}");
                    return Err(DeviceError { what, reason: Box::new(error) });
                }
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        // Each is told before any is waited for.
        self.workers.iter().for_each(Handle::stop);
        self.workers.clear();
        self.called.clear();
    }

    fn save(&self) -> DeviceState {
        DeviceState::Block(self.identity())
    }

    fn check(&self, state: &DeviceState) -> Result<(), Mismatch> {
        let ours = self.identity();
        match state {
            DeviceState::Block(theirs) => ours.check(theirs),
            theirs => Err(Mismatch::kind(theirs, &DeviceState::Block(ours))),
        }
    }

    fn rewind(&mut self, positions: &[(u16, QueueState)]) -> bool {
        if positions.len() != self.workers.len() {
            return false;
        }
        for worker in &self.workers {
            let Some((_, position)) = positions.iter().find(|(index, _)| *index == worker.index()) else {
                return false;
            };
            worker.rewind(position);
        }
        true
    }

    fn call(&mut self) {
        if self.called.is_empty() {
            self.called = self.workers.iter().map(Handle::pause).collect();
        }
    }

    fn pause(&mut self) -> Vec<(u16, QueueState)> {
        self.call();
        std::mem::take(&mut self.called).into_iter().filter_map(|answer| answer.recv().ok()).collect()
    }

    fn resume(&mut self) {
        self.workers.iter().for_each(Handle::resume);
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.reset();
        if let Err(error) = self.disk.image.flush() {
            tracing::error!(%error, "cannot write back a disk that is closed");
        }
    }
}
