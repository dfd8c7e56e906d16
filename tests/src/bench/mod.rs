//! Side-by-side benchmark of comparers behind four stream sockets.
//!
//! A comparer (QEMU's, ours, or a bare relay that stands for the machine's limit) runs on one CPU as a
//! process of its own; a feeder on another CPU pushes frame pairs through it and checks what comes out.
//! Feeder, frames and checks are the same for every contender, down to the code.
//!
//! ```text
//!              primary-in                         outdev
//!   feeder ──────────────────►  contender  ──────────────────► feeder
//!   CPU 1  ──────────────────►   CPU 0     ──── notify ──────► (verify, count)
//!              secondary-in
//! ```
//!
//! * [`workload`] says what is fed, [`ring`] holds the frames and keeps their sequence numbers moving.
//! * [`feeder`] measures throughput in lock step, [`latency`] one pair at a time, [`verify`] checks the output.
//! * [`contender`] starts and ends the processes, [`relay`] is the one that lives here.
//! * [`load`] tells what else ran meanwhile, [`machine`] where it was.
//! * [`plan`] interleaves the runs, [`report`] turns them into medians, tables and JSON.

pub mod contender;
pub mod feeder;
pub mod latency;
pub mod load;
pub mod machine;
pub mod plan;
pub mod relay;
pub mod report;
pub mod ring;
pub mod stats;
mod sys;
pub mod verify;
pub mod workload;
