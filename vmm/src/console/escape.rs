//! The way out of a terminal whose every key goes to the guest: Ctrl-a, then x, as in QEMU and screen.
//!
//! ```text
//!   any key ─► guest      Ctrl-a x ─► end      Ctrl-a Ctrl-a, Ctrl-a a ─► Ctrl-a for the guest
//!                         Ctrl-a and any other key ─► both for the guest
//! ```

/// What is said at the start.
pub(super) const ADVICE: &str = "Ctrl-a x ends it, Ctrl-a Ctrl-a is one Ctrl-a";

const CTRL_A: u8 = 1;

/// Where in a sequence the last key was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Escape {
    begun: bool,
}

impl Escape {
    /// What of the keys is the guest's, and whether the end was asked for; nothing counts after that.
    pub(super) fn filter(&mut self, keys: &[u8]) -> (Vec<u8>, bool) {
        let mut guest = Vec::with_capacity(keys.len() + 1);
        for &key in keys {
            match (self.begun, key) {
                (false, CTRL_A) => self.begun = true,
                (false, _) => guest.push(key),
                (true, b'x') => return (guest, true),
                (true, key) => {
                    self.begun = false;
                    guest.push(CTRL_A);
                    if !matches!(key, CTRL_A | b'a') {
                        guest.push(key);
                    }
                }
            }
        }
        (guest, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_sequences_do_what_is_said() {
        for (keys, guest, end) in [
            (&b"ls\r"[..], &b"ls\r"[..], false),
            (b"a\x01x", b"a", true),
            (b"\x01xrest", b"", true),
            (b"\x01\x01x", b"\x01x", false),
            (b"\x01ax", b"\x01x", false),
            (b"\x01c", b"\x01c", false),
            (b"\x01", b"", false),
        ] {
            assert_eq!(Escape::default().filter(keys), (guest.to_vec(), end), "{keys:?}");
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_keys_arrive(
            keys in prop::collection::vec(prop::sample::select(&[1, b'x', b'a', b'c'][..]), 0..20),
            at in 0usize..20,
        ) {
            let whole = Escape::default().filter(&keys);
            let (first, second) = keys.split_at(at.min(keys.len()));
            let mut escape = Escape::default();
            let (mut guest, mut end) = escape.filter(first);
            if !end {
                let (more, ended) = escape.filter(second);
                guest.extend(more);
                end = ended;
            }
            prop_assert_eq!((guest, end), whole);
        }
    }
}
