//! Real connections on the loopback: whole conversations, ends at every byte, silence, strangers.

mod beats;
mod confined;
mod conversation;
mod host;
mod strangers;
