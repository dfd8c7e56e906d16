//! The map values of `colo-ebpf-shared` as plain old data.
#![allow(unsafe_code, reason = "aya takes a type's word for it that any bytes are a value of it")]

use colo_ebpf_shared::layout;

macro_rules! pod {
    ($($(#[$doc:meta])* $name:ident = $inner:ty;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            #[repr(transparent)]
            pub(super) struct $name(pub(super) $inner);

            // SAFETY: plain integers and arrays of them without padding, which a test in the shared
            // crate checks; every bit pattern is a value.
            unsafe impl aya::Pod for $name {}
        )*
    };
}

pod! {
    /// A value of the map `NICS`.
    Nic = layout::Nic;
    /// A value of the map `COUNTERS`.
    Counters = layout::Counters;
    /// A key of the map `ADDRESSES`.
    AddressKey = layout::AddressKey;
    /// A value of the map `ADDRESSES`.
    Address = layout::Address;
    /// A key of the map `FLOWS`.
    FlowKey = layout::FlowKey;
    /// A value of the map `FLOWS`.
    Flow = colo_ebpf_shared::translate::Flow;
}

/// The object, aligned as its reader needs it.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/object/colo.bpf.o"));
