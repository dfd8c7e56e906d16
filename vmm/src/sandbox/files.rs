//! No file is opened after the start (Landlock, Linux 5.13 and later).
//!
//! What is open stays open. All that is left is to remove the files of the sockets that are listened on.
//! It belongs to a thread and those that it starts, so it comes before all other threads.

use landlock::{
    ABI, Access as _, AccessFs, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError,
    RulesetStatus, path_beneath_rules,
};
use std::path::Path;
use thiserror::Error;

/// Files that cannot be put out of reach.
#[derive(Debug, Error)]
#[error("cannot put files out of reach with Landlock: {0}; is another security module in the way?")]
pub struct FilesError(#[from] RulesetError);

/// Whether it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landlocked {
    /// All of it.
    Fully,
    /// As far as this kernel can.
    Partly,
    /// This kernel has none; the seccomp filters refuse to open files all the same.
    Not,
}

/// Puts every file out of reach, but for removing the files of these sockets.
pub fn confine_files<'a>(sockets: impl IntoIterator<Item = &'a Path>) -> Result<Landlocked, FilesError> {
    let directory = |socket: &'a Path| match socket.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Without being told otherwise the crate does what the kernel can, and says how much that was.
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V5))?
        .create()?
        .add_rules(path_beneath_rules(sockets.into_iter().map(directory), AccessFs::RemoveFile))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Landlocked::Fully,
        RulesetStatus::PartiallyEnforced => Landlocked::Partly,
        RulesetStatus::NotEnforced => Landlocked::Not,
    })
}
