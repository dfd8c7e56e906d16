//! A frame in the kernel: the few things that are done to one.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_l4_csum_replace, bpf_redirect, bpf_skb_load_bytes, bpf_skb_pull_data,
    bpf_skb_store_bytes, bpf_skb_vlan_pop, bpf_skb_vlan_push,
};
use aya_ebpf::programs::TcContext;
use colo_ebpf_shared::tag;

/// What is to become of a frame.
#[derive(Clone, Copy)]
pub enum Action {
    /// It goes its way; programs behind ours see it as well.
    Next,
    /// It is dropped.
    Drop,
    /// It goes where `redirect` said.
    Redirected,
}

impl Action {
    /// The verdict for the kernel.
    #[inline(always)]
    pub fn code(self) -> i32 {
        match self {
            Self::Next => TC_ACT_UNSPEC,
            Self::Drop => TC_ACT_SHOT as i32,
            Self::Redirected => TC_ACT_REDIRECT as i32,
        }
    }
}

/// No header that we look at begins behind this.
const FARTHEST: u32 = 4095;

/// A frame.
///
/// Its headers are read and written where they are: [`Skb::read`] and [`Skb::write`] check that they
/// are in the linear part, and have the kernel pull them there where they are not. Only checksums,
/// tags and what has a length of its own go through the kernel's helpers: whether a checksum is
/// partial, and does not cover the header yet, is known to those alone.
pub struct Skb(TcContext);

impl Skb {
    #[inline(always)]
    pub fn new(context: TcContext) -> Self {
        Self(context)
    }

    #[inline(always)]
    fn raw(&self) -> &aya_ebpf::bindings::__sk_buff {
        // SAFETY: the kernel hands a valid context to the program for as long as it runs.
        unsafe { &*self.0.as_ptr().cast() }
    }

    /// Its length from the Ethernet header on.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        self.raw().len
    }

    /// Whether it is to be segmented on its way out.
    #[inline(always)]
    pub fn is_gso(&self) -> bool {
        self.raw().gso_size != 0
    }

    #[inline(always)]
    pub fn mark(&self) -> u32 {
        self.raw().mark
    }

    #[inline(always)]
    pub fn set_mark(&self, mark: u32) {
        self.0.skb.set_mark(mark);
    }

    /// The outermost VLAN tag, if the kernel keeps it beside the frame: ethertype and TCI.
    #[inline(always)]
    pub fn tag_beside(&self) -> Option<(u16, u16)> {
        let raw = self.raw();
        (raw.vlan_present != 0).then(|| (u16::from_be(raw.vlan_proto as u16), raw.vlan_tci as u16))
    }

    /// The bytes at `at`, in the frame itself. None if it ends before they do.
    #[inline(always)]
    pub fn read<T: Copy>(&self, at: u32) -> Option<T> {
        let place = self.place::<T>(at)?;
        // SAFETY: `place` compared both ends with the packet's, and the verifier proves that it did. A
        // word may be at any place: the verifier refuses that where the machine could not do it, and
        // byte by byte it would cost more than the helper.
        Some(unsafe { *place })
    }

    /// Overwrites the bytes at `at`. False if the frame ends before they do.
    ///
    /// Where the frame is a clone, the verifier has had its header copied before the program began.
    #[inline(always)]
    pub fn write<T: Copy>(&self, at: u32, value: T) -> bool {
        let Some(place) = self.place::<T>(at) else { return false };
        // SAFETY: as above.
        unsafe { *place = value };
        true
    }

    /// Where the bytes at `at` are in the frame's linear part, once they are there.
    #[inline(always)]
    fn place<T>(&self, at: u32) -> Option<*mut T> {
        if at > FARTHEST {
            return None;
        }
        let at = opaque(at) & FARTHEST;
        self.linear(at).or_else(|| self.pull(at + size_of::<T>() as u32).then(|| self.linear(at))?)
    }

    #[inline(always)]
    fn linear<T>(&self, at: u32) -> Option<*mut T> {
        let begin = self.0.data() + at as usize;
        (begin + size_of::<T>() <= self.0.data_end()).then_some(begin as *mut T)
    }

    /// Makes the first `length` bytes linear, for the few frames where headers are not: large ones
    /// that a VMM hands to a tap without saying how long their headers are.
    #[inline(always)]
    fn pull(&self, length: u32) -> bool {
        // SAFETY: numbers only.
        length <= self.len() && unsafe { bpf_skb_pull_data(self.0.as_ptr().cast(), length) == 0 }
    }

    /// The bytes at `at`, copied by the kernel: for walks, where the verifier must not follow a place.
    #[inline(always)]
    pub fn load<T>(&self, at: u32) -> Option<T> {
        self.0.load(at as usize).ok()
    }

    /// The `length` bytes at `at`, which the words have room for. There is at least one.
    #[inline(always)]
    pub fn load_into<const N: usize>(&self, at: u32, into: &mut [u32; N], length: u32) -> bool {
        let length = some_of::<N>(length);
        // SAFETY: the verifier proves of each call that the length is not more than the room.
        unsafe { bpf_skb_load_bytes(self.0.as_ptr().cast(), at, into.as_mut_ptr().cast(), length) == 0 }
    }

    /// Overwrites `length` bytes at `at`. There is at least one.
    #[inline(always)]
    pub fn store<const N: usize>(&self, at: u32, from: &[u32; N], length: u32) -> bool {
        let length = some_of::<N>(length);
        // SAFETY: as above; the kernel checks the place in the frame.
        unsafe { bpf_skb_store_bytes(self.0.as_ptr().cast(), at, from.as_ptr().cast(), length, 0) == 0 }
    }

    /// Changes the L4 checksum at `at` by a difference of sums. A partial checksum does not cover
    /// the header, and the kernel leaves it alone.
    #[inline(always)]
    pub fn mend_checksum(&self, at: u32, difference: u32) -> bool {
        // SAFETY: numbers only; the kernel checks the place in the frame.
        unsafe { bpf_l4_csum_replace(self.0.as_ptr().cast(), at, 0, u64::from(difference), 0) == 0 }
    }

    /// Puts a forward tag round it.
    #[inline(always)]
    pub fn push_tag(&self, tag: tag::Tag) -> bool {
        // SAFETY: numbers only.
        unsafe { bpf_skb_vlan_push(self.0.as_ptr().cast(), tag::TPID.to_be(), tag.tci()) == 0 }
    }

    /// Takes the outermost tag off.
    #[inline(always)]
    pub fn pop_tag(&self) -> bool {
        // SAFETY: numbers only.
        unsafe { bpf_skb_vlan_pop(self.0.as_ptr().cast()) == 0 }
    }

    /// Sends it out of an interface.
    #[inline(always)]
    pub fn redirect(&self, interface: u32) -> Action {
        // SAFETY: numbers only.
        unsafe { bpf_redirect(interface, 0) };
        Action::Redirected
    }

    /// Lets it arrive on an interface.
    #[inline(always)]
    pub fn arrive(&self, interface: u32) -> Action {
        // SAFETY: numbers only.
        unsafe { bpf_redirect(interface, u64::from(BPF_F_INGRESS)) };
        Action::Redirected
    }

    /// Sends a copy of it out of an interface.
    #[inline(always)]
    pub fn copy_to(&self, interface: u32) -> bool {
        // SAFETY: numbers only.
        unsafe { bpf_clone_redirect(self.0.as_ptr().cast(), interface, 0) == 0 }
    }
}

/// A length between 1 and what is a power of two and fits `N` words, in a way that verifiers before
/// Linux 6.8 follow: they do not learn from "not 0" that there is at least one.
#[inline(always)]
fn some_of<const N: usize>(length: u32) -> u32 {
    let most = if N * 4 < 64 { N * 4 } else { 64 };
    (opaque(length.wrapping_sub(1)) & (most as u32 - 1)) + 1
}

/// A number of which neither the compiler nor the verifier knows anything. The compiler often knows that
/// a mask changes nothing and would leave it out, where the verifier needs it: verifiers before Linux
/// 6.8 follow ways that cannot be gone, and lose what they knew of a number there.
#[inline(always)]
fn opaque(number: u32) -> u32 {
    // SAFETY: a local.
    unsafe { core::ptr::read_volatile(&raw const number) }
}
