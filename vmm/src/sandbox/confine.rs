//! The moment between opening and running.

use super::{
    FilesError, Landlocked, PrivilegeError, Sandbox, SandboxError, confine_files, give_up_privileges,
};
use crate::config::{Config, Console, SeccompMode, User};
use std::path::PathBuf;
use thiserror::Error;

/// A process that cannot be confined does not run a guest.
#[derive(Debug, Error)]
pub enum ConfineError {
    /// Its privileges.
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// Its files.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// Its filters.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// What is to be given up. Whoever assembles a machine is handed this, and gets the [`Sandbox`] that
/// threads need by doing it.
#[derive(Debug)]
#[must_use = "a machine whose process is not confined can do what its guest likes"]
pub struct Confinement {
    seccomp: SeccompMode,
    user: Option<User>,
    sockets: Vec<PathBuf>,
    before_end: fn(),
}

impl Confinement {
    /// As configured. `before_end` is what [`Sandbox::new`] takes.
    pub fn new(config: &Config, before_end: fn()) -> Self {
        let console = match &config.console {
            Console::Unix(endpoint) => Some(endpoint),
            _ => None,
        };
        let sockets = config.qmp.iter().chain(console).map(|endpoint| endpoint.path().to_owned()).collect();
        Self { seccomp: config.seccomp, user: config.user.clone(), sockets, before_end }
    }

    /// Gives it up: to be called when everything is open and before the first thread starts. Each
    /// thread then enters what this gives.
    pub fn begin(self) -> Result<Sandbox, ConfineError> {
        super::sys::bound_arenas();
        let sandbox = Sandbox::new(self.seccomp, self.before_end)?;
        // Its directories are opened for Landlock, which another user may not be able to do.
        let files = confine_files(self.sockets.iter().map(PathBuf::as_path))?;
        if files != Landlocked::Fully {
            tracing::debug!("Landlock on this kernel: {files:?}");
        }
        give_up_privileges(self.user.as_ref())?;
        Ok(sandbox)
    }
}
