//! What this kernel makes of each program.

use anyhow::{Context, Result};
use aya::EbpfLoader;
use aya::programs::{Program, SchedClassifier, SocketFilter};

/// Loads each program and prints what the verifier and the compiler in the kernel say of it.
pub(super) fn show(object: &[u8]) -> Result<()> {
    let mut ebpf =
        EbpfLoader::new().load(object).context("the object cannot be read, or its maps not made")?;
    println!("{:<18} {:>9} {:>12} {:>11}", "program", "verified", "translated", "compiled");
    println!("{:<18} {:>9} {:>12} {:>11}", "", "instr.", "bytes", "bytes");
    for (name, program) in ebpf.programs_mut() {
        let loaded = match program {
            Program::SocketFilter(_) => <&mut SocketFilter>::try_from(&mut *program)?.load(),
            _ => <&mut SchedClassifier>::try_from(&mut *program)?.load(),
        };
        loaded.with_context(|| format!("this kernel does not take {name}"))?;
        let info = program.info().with_context(|| name.to_owned())?;
        println!(
            "{name:<18} {:>9} {:>12} {:>11}",
            info.verified_instruction_count().unwrap_or(0),
            info.size_translated().unwrap_or(0),
            info.size_jitted()
        );
    }
    Ok(())
}
