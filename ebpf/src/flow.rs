//! Translating a frame: finds its connection, asks [`translate`] for the new numbers, writes them
//! and mends the checksum.

use crate::headers;
pub use crate::headers::Direction;
use crate::maps::{ADDRESSES, FLOWS, count};
use crate::skb::Skb;
use crate::tcp::{self, EDGES, Header};
use colo_ebpf_shared::layout::{Address, AddressKey, Counter, FlowKey, Nic, Role};
use colo_ebpf_shared::translate::{self, Flow, Outcome, Segment, flags, tcp as bits};

/// Translates a frame where it needs it. False if it needs it and it cannot be done: the frame must
/// go nowhere.
#[inline(always)]
pub fn translate(skb: &Skb, index: u32, nic: &Nic, direction: Direction) -> bool {
    let mut key =
        FlowKey { guest: [0; 16], peer: [0; 16], guest_port: [0; 2], peer_port: [0; 2], vlans: [0; 2] };
    let Some(place) = headers::packet(skb, direction, &mut key) else { return true };
    if place == 0 {
        // What the guest says without TCP is from its own address.
        if direction == Direction::Out {
            remember(skb, &AddressKey { address: key.guest, vlans: key.vlans });
        }
        return true;
    }
    let Some(header) = Header::read(skb, place) else { return true };
    // So is what it connects from or answers from.
    if direction == Direction::Out && header.flags() & bits::SYN != 0 {
        remember(skb, &AddressKey { address: key.guest, vlans: key.vlans });
    }
    let [source, destination] = header.ports();
    [key.guest_port, key.peer_port] = match direction {
        Direction::Out => [source, destination],
        Direction::In => [destination, source],
    };
    segment(skb, index, nic, direction, place, &header, &key)
}

/// Remembers an address of the guest's for its announcements.
#[inline(always)]
fn remember(skb: &Skb, key: &AddressKey) {
    // SAFETY: the value is only looked at for whether it is there.
    if unsafe { ADDRESSES.get(key) }.is_some() {
        return;
    }
    let Some(mac) = skb.read::<[u8; 6]>(6) else { return };
    // Full, or raced by another CPU: one announcement less.
    let _ = ADDRESSES.insert(key, Address { mac, reserved: [0; 2] }, 0);
}

/// The connection's entry, if it is of this generation.
#[inline(always)]
fn known(key: &FlowKey, generation: u32) -> Option<&'static mut Flow> {
    let flow = FLOWS.get_ptr_mut(key)?;
    // SAFETY: the kernel keeps the entry until the program ends. Another CPU may write a word of it
    // meanwhile; every word is valid by itself, and a connection's frames come one after the other.
    let flow = unsafe { &mut *flow };
    (flow.generation == generation).then_some(flow)
}

#[inline(always)]
fn segment(
    skb: &Skb,
    index: u32,
    nic: &Nic,
    direction: Direction,
    at: u32,
    header: &Header,
    key: &FlowKey,
) -> bool {
    let flow = known(key, nic.generation);
    let syn_out = direction == Direction::Out && header.flags() & bits::SYN != 0;
    if flow.is_none() && !syn_out {
        return true;
    }
    let options = header.options(skb, at);
    let old = header.segment(&options);
    let mut new = old;
    let mut outcome = Outcome::Another;
    let mut offset = 0;
    if let Some(flow) = flow {
        let learned = flow.flags & flags::LEARNED != 0;
        outcome = match direction {
            Direction::Out => translate::outwards(flow, &mut new),
            Direction::In => translate::inwards(flow, &mut new),
        };
        if direction == Direction::In && !learned && matches!(outcome, Outcome::Translated) {
            count(index, Counter::Learned);
        }
        offset = flow.offset;
    }
    match outcome {
        Outcome::Untouched => return true,
        Outcome::Another => return begin(nic, key, &old),
        Outcome::Translated => {}
    }
    let mut edit = Edit { skb, difference: 0, done: true };
    let times = options.timestamps;
    match direction {
        Direction::Out => {
            edit.word(at + tcp::SEQ, old.seq, new.seq);
            edit.word(at + times, old.tsval, new.tsval);
        }
        Direction::In => {
            edit.word(at + tcp::ACK, old.ack, new.ack);
            edit.word(at + times + 4, old.tsecr, new.tsecr);
            if options.sack_length != 0 && offset != 0 {
                edit.sack(at + options.sack, options.sack_length, offset);
            }
        }
    }
    if edit.difference == 0 {
        return edit.done;
    }
    count(index, Counter::Translated);
    edit.done && skb.mend_checksum(at + tcp::CHECKSUM, edit.difference)
}

/// Remembers a connection that begins. What begins when the guest serves is in its own numbers.
#[inline(always)]
fn begin(nic: &Nic, key: &FlowKey, syn: &Segment) -> bool {
    if matches!(Role::from_u32(nic.role), Role::Promoted) {
        let _ = FLOWS.remove(key);
        return true;
    }
    FLOWS.insert(key, translate::begin(nic.generation, syn), 0).is_ok()
}

/// Changes to a segment, with the change of its checksum.
struct Edit<'a> {
    skb: &'a Skb,
    difference: u32,
    done: bool,
}

impl Edit<'_> {
    #[inline(always)]
    fn word(&mut self, at: u32, old: u32, new: u32) {
        if old == new {
            return;
        }
        let (old, new) = (old.to_be(), new.to_be());
        self.difference = translate::difference(self.difference, at, old, new);
        self.done &= self.skb.write(at, new);
    }

    /// Lowers the edges of SACK blocks.
    #[inline(always)]
    fn sack(&mut self, at: u32, length: u32, offset: u32) {
        let mut edges = [0; EDGES];
        // A number that the compiler knows nothing of, so that its bounds are looked at where the
        // verifier sees them.
        let length = core::hint::black_box(length);
        if length == 0 || length > EDGES as u32 * 4 || !self.skb.load_into(at, &mut edges, length) {
            self.done = false;
            return;
        }
        let mut changes = 0;
        for (place, edge) in edges.iter_mut().enumerate() {
            let old = *edge;
            *edge = u32::from_be(old).wrapping_sub(offset).to_be();
            // Those behind the last are in no frame.
            if (place as u32) * 4 < length {
                changes += translate::change(old, *edge);
            }
        }
        self.difference = translate::differences(self.difference, at, changes);
        self.done &= self.skb.store(at, &edges, length);
    }
}
