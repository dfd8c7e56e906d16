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
//! * [`machine`]: assembles, and decides what is done next.
//! * [`memory`]: the guest's RAM, and what is where in its address space.
//! * [`boot`], [`acpi`]: what a guest finds when it begins.
//! * [`block`]: disk images, and what moves their bytes.
//! * [`bus`]: who answers an exit.
//! * [`checkpoint`]: a secondary kept level with its primary.
//! * [`cli`]: the command line, from its words to the exit code.
//! * [`config`]: what is to be run.
//! * [`console`]: where its serial port leads.
//! * [`control`]: what can be done to a running guest.
//! * [`dirty`]: which pages of RAM were written.
//! * [`devices`]: what the machine has: those of a PC, and virtio's.
//! * [`irq`]: how a device interrupts.
//! * [`metrics`]: a guest and its checkpoints, for Prometheus.
//! * [`nbd`]: disks to and from other hosts.
//! * [`outlet`]: where a state is written to.
//! * [`qmp`]: how programs control it.
//! * [`replication`]: a disk that follows another, on another host.
//! * [`sandbox`]: what a broken process can still do.
//! * [`spill`]: files for what has no room in memory.
//! * [`state`]: plain states to bytes and back, with a description of every field.
//! * [`stream`]: a saved machine, as QEMU's migration stream.
//! * [`kvm`]: the host's KVM, a VM in it.
//! * [`vcpu`]: a thread per vCPU, its exits, its state.
//! * [`pci`]: the bus that devices are found on.
//! * [`virtio`]: what a virtio device is, whatever carries it.
//!
//! A device is a folder: the device, its plain state, its tests. A state is saved and loaded by code that
//! knows nothing of threads; a worker that is paused has nothing in flight.

pub mod acpi;
pub mod block;
pub mod boot;
pub mod bus;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod console;
pub mod control;
pub mod devices;
pub mod dirty;
pub mod irq;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod metrics;
pub mod nbd;
pub mod outlet;
pub mod pci;
pub mod qmp;
pub mod replication;
pub mod sandbox;
pub mod spill;
pub mod state;
pub mod stream;
pub mod vcpu;
pub mod virtio;
