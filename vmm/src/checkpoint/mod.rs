//! Checkpoints: a guest on another host is made equal to this one, many times a second.
//!
//! ```text
//!   primary                                                            secondary
//!   tracker ── dirty pages ─► capture (a copy, in wire format)
//!   frozen machine ── state ─► package            link
//!        │ goes on                 └────────────────────────────► staged … complete ─► loaded, copied
//!        ▼                                                                │
//!   held output ◄──────────────────── vmstate-received, vmstate-loaded ───┘
//! ```
//!
//! The guest stands only for the copy; sending, receiving and loading happen while it runs.

pub mod link;
pub mod protocol;
pub mod ram;
pub mod status;
