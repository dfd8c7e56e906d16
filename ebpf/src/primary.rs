//! The primary's two directions, and what the comparator lets go.

use crate::maps::count;
use crate::skb::{Action, Skb};
use colo_ebpf_shared::layout::{Counter, Nic};
use colo_ebpf_shared::tag::Tag;

/// A frame for the guest: it goes on untouched, and a copy goes to the secondary.
///
/// The tag is put round the original and taken off again: both are a few words beside the frame,
/// where tagging the copy would copy its bytes.
#[inline(always)]
pub fn input(skb: &Skb, index: u32, nic: &Nic) -> Action {
    if !fits(skb, nic) {
        count(index, Counter::TooLong);
        return Action::Next;
    }
    if !skb.push_tag(Tag::new(index as u8, nic.epoch)) {
        count(index, Counter::MirrorFailed);
        return Action::Next;
    }
    let copied = skb.copy_to(nic.forward);
    count(index, if copied { Counter::Mirrored } else { Counter::MirrorFailed });
    // A frame that the guest would see with our tag on is worse than one that it does not see.
    if skb.pop_tag() { Action::Next } else { Action::Drop }
}

/// A frame of the guest's: it goes to the comparator, unless it comes from there.
#[inline(always)]
pub fn output(skb: &Skb, index: u32, nic: &Nic) -> Action {
    if skb.mark() == nic.mark {
        skb.set_mark(0);
        return Action::Next;
    }
    count(index, Counter::Captured);
    if !skb.push_tag(Tag::captured(index as u8, nic.epoch)) {
        return Action::Drop;
    }
    skb.redirect(nic.capture)
}

/// A frame that the comparator lets go: it goes on as the vif's own.
#[inline(always)]
pub fn release(skb: &Skb, index: u32, nic: &Nic) -> Action {
    count(index, Counter::Released);
    skb.set_mark(nic.mark);
    skb.arrive(nic.vif)
}

/// Whether a frame fits the forward device. What is segmented on the way out does.
#[inline(always)]
pub fn fits(skb: &Skb, nic: &Nic) -> bool {
    let beside = if skb.tag_beside().is_some() { 4 } else { 0 };
    skb.is_gso() || skb.len() + beside <= nic.forward_frame
}
