//! The secondary's two directions, before and after its promotion.

use crate::flow::{self, Direction};
use crate::maps::count;
use crate::primary::fits;
use crate::skb::{Action, Skb};
use colo_ebpf_shared::layout::{Counter, Nic, Role};
use colo_ebpf_shared::tag::Tag;

/// A frame of the guest's. Translated, it goes to the comparator on the other node and nowhere else;
/// once the guest serves, it goes its way.
#[inline(always)]
pub fn output(skb: &Skb, index: u32, nic: &Nic, role: Role) -> Action {
    let serves = matches!(role, Role::Promoted);
    // An announcement of the node's own, on the guest's behalf.
    if serves && skb.mark() == nic.mark {
        skb.set_mark(0);
        return Action::Next;
    }
    if !flow::translate(skb, index, nic, Direction::Out) {
        count(index, Counter::Untranslatable);
        return Action::Drop;
    }
    if serves {
        count(index, Counter::Served);
        return Action::Next;
    }
    if !fits(skb, nic) {
        count(index, Counter::TooLong);
        return Action::Drop;
    }
    if !skb.push_tag(Tag::new(index as u8, nic.epoch)) {
        return Action::Drop;
    }
    count(index, Counter::Forwarded);
    skb.redirect(nic.forward)
}

/// A frame for the guest, which gets it in its own numbers. Until it serves, only what came over
/// the forward link may go in.
#[inline(always)]
pub fn input(skb: &Skb, index: u32, nic: &Nic, role: Role) -> Action {
    if matches!(role, Role::Secondary) {
        if skb.mark() != nic.mark {
            count(index, Counter::NotForwarded);
            return Action::Drop;
        }
        skb.set_mark(0);
        count(index, Counter::Delivered);
    }
    if flow::translate(skb, index, nic, Direction::In) {
        return Action::Next;
    }
    count(index, Counter::Untranslatable);
    Action::Drop
}
