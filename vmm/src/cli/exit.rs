//! The exit codes.

use crate::sandbox::VIOLATION;
use std::process::ExitCode;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// The guest powered off, or was ended by command or by signal.
    Done,
    /// It could not be started, or could not go on.
    Failed,
    /// What was asked for makes no sense.
    Usage,
    /// The guest was reset, and `--on-reset exit` was said.
    Reset,
    /// A thread made a system call that it has no business with.
    Violation,
}

impl Exit {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Done, Self::Failed, Self::Usage, Self::Reset, Self::Violation];

    /// The number. 4 is kept free.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Reset => 3,
            Self::Violation => VIOLATION,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}
