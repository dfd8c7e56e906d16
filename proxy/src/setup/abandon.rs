//! NICs whose comparator cannot go on while its process does, for the sake of other guests.
//!
//! ```text
//!   closed   the programs stay, nothing leaves; the next 'run' takes over, 'teardown' ends it
//!   open     all is undone, and the guest goes on unprotected
//! ```

use super::SetupError;
use super::journal::{Journal, Store};
use super::undo::undo;
use crate::datapath::Pins;
use crate::link::Netlink;
use crate::live::spec::{OnCrash, Places};

/// Gives a guest's NICs up, as the death of this process would. What was held by the process must
/// have been let go of before. Goes on where one fails, and gives the first failure.
pub(crate) fn abandon(
    journals: &[Journal],
    on_crash: OnCrash,
    places: &Places,
    why: &str,
) -> Result<(), SetupError> {
    let store = Store::open(places)?;
    let _lock = store.lock()?;
    let mut netlink = Netlink::open()?;
    let give_up = |journal: &Journal| match on_crash {
        OnCrash::Open => undo(&store, journal, &mut netlink),
        OnCrash::Closed => store.put(&Journal { abandoned: Some(why.to_owned()), ..journal.clone() }),
    };
    let first = journals.iter().rev().map(give_up).fold(Ok(()), Result::and);
    Pins::open(&places.bpffs)?.tidy();
    first
}
