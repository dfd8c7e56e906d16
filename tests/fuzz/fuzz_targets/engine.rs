//! Any order of frames, times, checkpoints and modes: the engine keeps its books and its promises.
#![no_main]

use colo_fuzz::script::{self, Script};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: Script| script::run(&script));
