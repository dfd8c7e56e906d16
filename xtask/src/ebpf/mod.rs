//! `xtask ebpf`: the programs that run in the kernel, and the object that is committed.
//!
//! ```text
//!   ebpf/src, ebpf/shared/src ──rustc, bpf-linker──► debug info off ──► ebpf/object/colo.bpf.o
//!          └──────────── digests of all of them, and of the object ───► ebpf/object/colo.bpf.lock
//! ```
//!
//! The object is part of the tree, so that building and running colo-proxy needs no BPF tools. The lock
//! file beside it says what it was built from; `verify` fails when sources and object have parted.
//!
//! * `build`: compiles the programs. The same sources give the same bytes in any folder.
//! * `lock`: the digests.
//! * `load`: what this kernel's verifier says of each program.

mod build;
mod load;
mod lock;

use crate::command::{program, root, run, say};
use crate::packages::{self, LLVM};
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use lock::Lock;
use std::fs;

/// The object that is committed.
const OBJECT: &str = "ebpf/object/colo.bpf.o";
/// What it was built from.
const LOCK: &str = "ebpf/object/colo.bpf.lock";

#[derive(Subcommand)]
pub(crate) enum What {
    /// Build the programs and write ebpf/object/colo.bpf.o and its lock file
    Build,
    /// Check that sources and object belong together; as root, load each program into this kernel
    Verify {
        /// Build the programs anew and compare the object byte by byte
        #[arg(long)]
        rebuild: bool,
    },
    /// Show the object's instructions
    Disasm,
}

pub(crate) fn run_chore(what: &What) -> Result<()> {
    match what {
        What::Build => build(),
        What::Verify { rebuild } => {
            verify()?;
            if *rebuild { verify_bytes(&build::prepare()?) } else { Ok(()) }
        }
        What::Disasm => disasm(),
    }
}

fn build() -> Result<()> {
    let tools = build::prepare()?;
    let object = build::object(&tools)?;
    let lock = Lock::of(&object, &tools.versions())?;
    fs::create_dir_all(root().join(OBJECT).with_file_name("")).context("ebpf/object")?;
    fs::write(root().join(OBJECT), &object).context(OBJECT)?;
    fs::write(root().join(LOCK), lock.to_string()).context(LOCK)?;
    say(&format!("wrote {OBJECT} ({} bytes) and {LOCK}", object.len()));
    Ok(())
}

/// The digests must match; as root, this kernel must take the programs.
fn verify() -> Result<()> {
    let object = committed()?;
    let text = fs::read_to_string(root().join(LOCK)).context(LOCK)?;
    let there = Lock::parse(&text).context(LOCK)?;
    let parted = there.differences(&Lock::of(&object, there.versions())?);
    if !parted.is_empty() {
        bail!(
            "{OBJECT} is not what the sources say; `cargo xtask ebpf build` mends it:\n  {}",
            parted.join("\n  ")
        );
    }
    say(&format!("{OBJECT} belongs to its sources"));
    if !packages::works_as_root() {
        say("not root: the programs were not loaded into this kernel");
        return Ok(());
    }
    load::show(&object)
}

/// Builds anew and compares.
fn verify_bytes(tools: &build::Tools) -> Result<()> {
    let object = build::object(tools)?;
    let committed = committed()?;
    if object != committed {
        let at = object.iter().zip(&committed).take_while(|(new, old)| new == old).count();
        bail!(
            "{OBJECT} is not what its sources build to: {} bytes against {}, the first difference at {at}; \
             `cargo xtask ebpf build` mends it",
            committed.len(),
            object.len()
        );
    }
    say(&format!("{OBJECT} is what its sources build to, byte by byte"));
    Ok(())
}

/// For `xtask test`: the digests, this kernel's verifier, and the rebuild. Only away from CI may the
/// rebuild be left out, and only because its tools cannot be had.
pub(crate) fn test() -> Result<()> {
    verify()?;
    match build::prepare() {
        Ok(tools) => verify_bytes(&tools),
        Err(error) if std::env::var_os("CI").is_none() => {
            say(&format!("note: {OBJECT} was not rebuilt, its tools cannot be had: {error:#}"));
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn committed() -> Result<Vec<u8>> {
    fs::read(root().join(OBJECT)).with_context(|| format!("{OBJECT}: `cargo xtask ebpf build` makes it"))
}

fn disasm() -> Result<()> {
    packages::ensure(&[LLVM])?;
    let mut objdump = program("llvm-objdump");
    objdump.args(["--disassemble", "--reloc", "--no-show-raw-insn", OBJECT]);
    run(objdump)
}
