//! What runs in the kernel.
//!
//! ```text
//!            primary node                                         secondary node
//!
//!   bridge ─► vif egress ──► guest                        forward ingress ─ marked ─► vif egress ─► guest
//!                 └ copy, tagged ─► forward device  ═══►        tag read, taken off      translated
//!   bridge ◄─ vif ingress ◄─┐                             forward device ◄─ tagged ◄─ vif ingress ◄─ guest
//!               │ tagged    │ marked                                                   translated
//!               ▼           │
//!            capture tap ◄──┼─ forward ingress ◄═══════════════════════════════
//!               │       capture ingress
//!               ▼           ▲
//!            comparator ────┘ released
//! ```
//!
//! Four programs, all TC classifiers: `vif_ingress`, `vif_egress`, `capture_ingress` and
//! `forward_ingress`. What a NIC is at the moment is one word in the map `NICS`; every program reads
//! it for each frame, so changing it is what protects, lets go and promotes. A fifth, `capture_queue`,
//! is called by a capture tap with several queues and chooses one for each frame.
//!
//! In doubt a frame is dropped and counted; only what is not ours is passed on untouched.
#![no_std]
#![no_main]

mod flow;
mod forward;
mod headers;
mod maps;
mod primary;
mod secondary;
mod skb;
mod steer;
mod tcp;

use aya_ebpf::macros::{classifier, socket_filter};
use aya_ebpf::programs::{SkBuffContext, TcContext};
use colo_ebpf_shared::layout::Role;
use skb::{Action, Skb};

/// The guest's output.
#[classifier]
pub fn vif_ingress(context: TcContext) -> i32 {
    let skb = Skb::new(context);
    let Some((index, nic)) = maps::own_nic() else { return Action::Next.code() };
    match Role::from_u32(nic.role) {
        Role::None | Role::Unprotected | Role::Mirrored => Action::Next,
        Role::Primary => primary::output(&skb, index, nic),
        role @ (Role::Secondary | Role::Promoted) => secondary::output(&skb, index, nic, role),
    }
    .code()
}

/// What goes to the guest.
#[classifier]
pub fn vif_egress(context: TcContext) -> i32 {
    let skb = Skb::new(context);
    let Some((index, nic)) = maps::own_nic() else { return Action::Next.code() };
    match Role::from_u32(nic.role) {
        Role::None | Role::Unprotected => Action::Next,
        Role::Primary | Role::Mirrored => primary::input(&skb, index, nic),
        role @ (Role::Secondary | Role::Promoted) => secondary::input(&skb, index, nic, role),
    }
    .code()
}

/// What the comparator lets go.
#[classifier]
pub fn capture_ingress(context: TcContext) -> i32 {
    let skb = Skb::new(context);
    let Some((index, nic)) = maps::own_nic() else { return Action::Drop.code() };
    primary::release(&skb, index, nic).code()
}

/// What comes over the forward link.
#[classifier]
pub fn forward_ingress(context: TcContext) -> i32 {
    forward::arrived(&Skb::new(context)).code()
}

/// Which queue of the capture tap a frame goes to.
#[socket_filter]
pub fn capture_queue(context: SkBuffContext) -> i64 {
    i64::from(steer::queue(&Skb::new(TcContext::new(context.skb.skb))))
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers that are GPL-only are not used; the kernel asks for a licence all the same.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
