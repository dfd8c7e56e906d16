//! The map values of `colo-ebpf-shared` as plain old data.
#![allow(unsafe_code, reason = "aya takes a type's word for it that any bytes are a value of it")]

use colo_ebpf_shared::{layout, translate};

macro_rules! pod {
    ($($name:ident = $inner:ty;)*) => {
        $(
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
    Nic = layout::Nic;
    Counters = layout::Counters;
    FlowKey = layout::FlowKey;
    Flow = translate::Flow;
    AddressKey = layout::AddressKey;
    Address = layout::Address;
}

/// The object, aligned as its reader needs it.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/object/colo.bpf.o"));
