//! A KVM VMM for guests that run on two hosts.
//!
//! ```text
//!   machine ── assembles ──► memory   kvm   vcpu (a thread each)   devices (a worker each)
//!      ▲                        ▲                │ exits                  │
//!      │ Control                │                ▼                        │
//!   qmp, checkpoints            │       bus: port I/O, memory-mapped I/O ─┤
//!                               │                                         │ interrupts
//!                               └───────── virtio queues ◄────────────────┘──► irq
//! ```
//!
//! * [`memory`]: the guest's RAM, and what is where in its address space.
//! * [`block`]: disk images, and what moves their bytes.
//! * [`bus`]: who answers an exit.
//! * [`control`]: what can be done to a running guest.
//! * [`devices`]: what the machine has.
//! * [`irq`]: how a device interrupts.
//! * [`virtio`]: what a virtio device is, whatever carries it.
//!
//! A device is a folder: the device, its plain state, its tests. A state is saved and loaded by code that
//! knows nothing of threads; a worker that is paused has nothing in flight.

pub mod block;
pub mod bus;
pub mod control;
pub mod devices;
pub mod irq;
pub mod memory;
pub mod virtio;
