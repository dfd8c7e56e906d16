//! Every message in every phase of both sides, and what lengths and endings do.

mod phases;
mod script;
