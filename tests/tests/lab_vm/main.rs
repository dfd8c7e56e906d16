//! `colo-vm` with stock Debian kernels, in a lab machine: what a user does with it.
//!
//! Each guest runs a script and says what comes of it on its console; disks are judged by `qemu-img`,
//! `e2fsck` and fio, the network by ping, curl and iperf3, control by a QMP client of a few lines.
//!
//! Kernels, numbers of vCPUs, users' lands and formats of the first disk meet in pairs:
//!
//! ```text
//!   generic  4 vCPUs  Debian   qcow2   debian::a_generic_kernel_with_four_cpus_reboots_…
//!   generic  1        busybox  raw     busybox::a_generic_kernel_…
//!   cloud    4        busybox  raw     busybox::a_reboot_is_in_place_…
//!   cloud    1        Debian   raw     debian::a_cloud_kernel_serves_…
//!   cloud    1        busybox  qcow2   busybox::a_cloud_kernel_…
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod busybox;
mod debian;
mod guest;
