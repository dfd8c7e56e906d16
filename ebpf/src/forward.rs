//! The forward link's end: which NIC a frame is for, and whether it is of this epoch.

use crate::maps::{count, nic, nic_mut};
use crate::skb::{Action, Skb};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use colo_ebpf_shared::layout::{Counter, Nic, Role, STALE_MS, nic_flags};
use colo_ebpf_shared::tag::{self, Tag};

/// A frame arrived. One without a tag of ours, or for a NIC that nobody protects, is none of ours.
#[inline(always)]
pub fn arrived(skb: &Skb) -> Action {
    let Some((tag::TPID, tci)) = skb.tag_beside() else { return Action::Next };
    let Some(tag) = Tag::parse(tci) else { return Action::Next };
    let index = u32::from(tag.index);
    let Some(nic) = nic(index) else { return Action::Next };
    let role = Role::from_u32(nic.role);
    if matches!(role, Role::None) {
        return Action::Next;
    }
    if tag.captured || matches!(role, Role::Unprotected | Role::Mirrored | Role::Promoted) {
        count(index, Counter::Unwanted);
        return Action::Drop;
    }
    if matches!(role, Role::Secondary) {
        keep_up(index, nic, tag.epoch);
    }
    if tag::ahead(tag.epoch, nic.oldest) < 0 {
        count(index, Counter::Stale);
        return Action::Drop;
    }
    if matches!(role, Role::Primary) { to_comparator(skb, index, nic) } else { to_guest(skb, index, nic) }
}

/// A secondary's epoch follows the primary's where nobody tells it, and where the primary has begun
/// anew.
#[inline(always)]
fn keep_up(index: u32, nic: &Nic, epoch: u8) {
    let ahead = tag::ahead(epoch, nic.oldest);
    let joining = nic.flags & nic_flags::JOINING != 0;
    let checkpoint = ahead > 0 && nic.flags & nic_flags::FOLLOWS != 0;
    let anew = ahead < 0 && nic.stale_since != 0 && since(nic.stale_since) >= STALE_MS as i32;
    let same = ahead == 0 && nic.stale_since == 0;
    if same && !joining {
        return;
    }
    let Some(slot) = nic_mut(index) else { return };
    // SAFETY: a value of the map, which stays where it is. Words are written one by one, and each is
    // right by itself.
    unsafe {
        if joining || checkpoint || anew {
            (*slot).epoch = u32::from(epoch);
            (*slot).oldest = u32::from(epoch);
            (*slot).flags = nic.flags & !nic_flags::JOINING;
            if !joining {
                (*slot).generation = nic.generation.wrapping_add(1);
            }
        }
        (*slot).stale_since = match nic.stale_since {
            _ if ahead >= 0 || anew => 0,
            // Never 0, which says that there is none.
            0 => milliseconds().max(1),
            since => since,
        };
    }
}

#[inline(always)]
fn since(then: u32) -> i32 {
    milliseconds().wrapping_sub(then) as i32
}

#[inline(always)]
fn milliseconds() -> u32 {
    // SAFETY: it reads a clock.
    (unsafe { bpf_ktime_get_ns() } / 1_000_000) as u32
}

/// The secondary's output keeps its tag: the comparator reads the epoch off it.
#[inline(always)]
fn to_comparator(skb: &Skb, index: u32, nic: &Nic) -> Action {
    count(index, Counter::Received);
    skb.redirect(nic.capture)
}

/// Input for the secondary; the mark lets it through the vif's door.
#[inline(always)]
fn to_guest(skb: &Skb, index: u32, nic: &Nic) -> Action {
    if !skb.pop_tag() {
        count(index, Counter::Unwanted);
        return Action::Drop;
    }
    skb.set_mark(nic.mark);
    skb.redirect(nic.vif)
}
