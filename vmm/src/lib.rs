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
//! * [`bus`]: who answers an exit.
//! * [`cli`]: the command line, from its words to the exit code.
//! * [`config`]: what is to be run.
//! * [`console`]: where its serial port leads.
//! * [`control`]: what can be done to a running guest.
//! * [`irq`]: how a device interrupts.
//! * [`qmp`]: how programs control it, on a [`listener`].
//! * [`sandbox`]: what a broken process can still do.
//! * [`virtio`]: what a virtio device is, whatever carries it.
//!
//! A device is a folder: the device, its plain state, its tests. A state is saved and loaded by code that
//! knows nothing of threads; a worker that is paused has nothing in flight.

pub mod bus;
pub mod cli;
pub mod config;
pub mod console;
pub mod control;
pub mod irq;
pub mod listener;
pub mod memory;
pub mod qmp;
pub mod sandbox;
pub mod virtio;
