//! Options that are one of a few words.

use crate::live::spec::{Attach, Mode, OnCrash, Start};
use std::fmt;

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)* })
            }
        }
    };
}

choice! {
    /// What a host is to the guest.
    ModeOption {
        /// The guest here serves
        #[default]
        Primary = "primary",
        /// The guest here follows
        Secondary = "secondary",
    }
}

choice! {
    /// What output is worth at the start.
    StartOption {
        /// It is held from the first frame on
        #[default]
        Protected = "protected",
        /// It passes until the first checkpoint is complete, but the secondary gets the input already
        Mirrored = "mirrored",
        /// It passes until the first checkpoint is complete, and nothing is copied
        Unprotected = "unprotected",
    }
}

choice! {
    /// What becomes of output when the comparator dies.
    CrashOption {
        /// Nothing leaves until a comparator runs again
        #[default]
        Closed = "closed",
        /// The guest goes on unprotected
        Open = "open",
    }
}

choice! {
    /// How programs are attached.
    AttachOption {
        /// As TCX links where the kernel has them, else as filters
        #[default]
        Auto = "auto",
        /// As TCX links (Linux 6.6)
        Tcx = "tcx",
        /// As filters of a clsact qdisc, which is added if there is none
        Clsact = "clsact",
    }
}

impl From<AttachOption> for Attach {
    fn from(choice: AttachOption) -> Self {
        match choice {
            AttachOption::Auto => Self::Auto,
            AttachOption::Tcx => Self::Tcx,
            AttachOption::Clsact => Self::Clsact,
        }
    }
}

impl From<ModeOption> for Mode {
    fn from(mode: ModeOption) -> Self {
        match mode {
            ModeOption::Primary => Self::Primary,
            ModeOption::Secondary => Self::Secondary,
        }
    }
}

impl From<StartOption> for Start {
    fn from(choice: StartOption) -> Self {
        match choice {
            StartOption::Protected => Self::Protected,
            StartOption::Mirrored => Self::Mirrored,
            StartOption::Unprotected => Self::Unprotected,
        }
    }
}

impl From<CrashOption> for OnCrash {
    fn from(choice: CrashOption) -> Self {
        match choice {
            CrashOption::Closed => Self::Closed,
            CrashOption::Open => Self::Open,
        }
    }
}
