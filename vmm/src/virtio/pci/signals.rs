//! How a device's worker reaches the driver, past the transport's lock.

use crate::irq::Interrupt;
use crate::pci::msix::Msix;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};

/// No interrupt, please (`VIRTIO_MSI_NO_VECTOR`).
pub(super) const NO_VECTOR: u16 = 0xffff;

const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// What of the registers a worker changes.
#[derive(Debug)]
pub(super) struct Signals {
    pub(super) msix: Msix,
    pub(super) queues: Box<[AtomicU16]>,
    pub(super) config: AtomicU16,
    pub(super) isr: AtomicU8,
    pub(super) generation: AtomicU8,
    pub(super) needs_reset: AtomicBool,
}

impl Signals {
    pub(super) fn new(msix: Msix, queues: usize) -> Arc<Self> {
        Arc::new(Self {
            msix,
            queues: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            config: AtomicU16::new(NO_VECTOR),
            isr: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            needs_reset: AtomicBool::new(false),
        })
    }

    /// A vector as the driver may choose it: one that is there, or none.
    pub(super) fn vector(&self, wanted: u16) -> u16 {
        if wanted < self.msix.len() { wanted } else { NO_VECTOR }
    }

    /// As after power-on; the configuration's generation goes on.
    pub(super) fn reset(&self) {
        for vector in self.queues.iter().chain([&self.config]) {
            vector.store(NO_VECTOR, Ordering::Relaxed);
        }
        self.isr.store(0, Ordering::Relaxed);
        self.needs_reset.store(false, Ordering::Relaxed);
    }
}

impl Interrupt for Signals {
    fn queue(&self, queue: u16) {
        if let Some(vector) = self.queues.get(usize::from(queue)) {
            self.isr.fetch_or(ISR_QUEUE, Ordering::Relaxed);
            self.msix.signal(vector.load(Ordering::Relaxed));
        }
    }

    fn config(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        self.isr.fetch_or(ISR_CONFIG, Ordering::Relaxed);
        self.msix.signal(self.config.load(Ordering::Relaxed));
    }

    fn needs_reset(&self) {
        self.needs_reset.store(true, Ordering::Release);
        self.config();
    }
}
