mod kept;
mod model;

use super::generation::{Generation, Refusal, Side, Sync, sync};

#[test]
fn whose_data_is_newer_decides_what_is_sent() {
    let generation = |number: u128| Generation::new(number);
    let level = Side { own: generation(1), peer: generation(9), alone: false, dirty: false, believed: true };
    let ahead = Side { own: generation(2), peer: generation(1), alone: true, dirty: true, believed: true };
    let apart = Side { own: generation(3), ..ahead };
    let foreign = Side { own: generation(7), peer: generation(8), ..level };
    let blank = Side::default();
    let dirty = Side { dirty: true, ..level };
    let alone = Side { alone: true, ..dirty };
    let doubtful = |side: Side| Side { believed: false, ..side };
    let refused = Sync::Refused;
    for (ours, theirs, without, by_force) in [
        (level, level, Sync::Nothing, Sync::Nothing),
        // It was closed before all of its last epochs were stable there.
        (dirty, level, Sync::Incremental, Sync::Incremental),
        // It went on without the other.
        (alone, level, Sync::Incremental, Sync::Incremental),
        (level, alone, refused(Refusal::TheirsIsNewer), Sync::Verify),
        (alone, alone, refused(Refusal::BothWritten), Sync::Verify),
        // It was taken over from, and had gone on all the same.
        (ahead, alone, refused(Refusal::BothWritten), Sync::Verify),
        (alone, ahead, refused(Refusal::BothWritten), Sync::Verify),
        (doubtful(level), level, Sync::Verify, Sync::Verify),
        (doubtful(dirty), level, Sync::Verify, Sync::Verify),
        (level, doubtful(level), Sync::Verify, Sync::Verify),
        (level, dirty, Sync::Verify, Sync::Verify),
        (ahead, level, Sync::Incremental, Sync::Incremental),
        (doubtful(ahead), level, Sync::Verify, Sync::Verify),
        // The peer was the primary, and died in the middle of an epoch.
        (ahead, doubtful(level), Sync::Verify, Sync::Verify),
        (ahead, dirty, Sync::Verify, Sync::Verify),
        (level, ahead, refused(Refusal::TheirsIsNewer), Sync::Verify),
        (dirty, ahead, refused(Refusal::TheirsIsNewer), Sync::Verify),
        (doubtful(level), ahead, refused(Refusal::TheirsIsNewer), Sync::Verify),
        (ahead, apart, refused(Refusal::BothWritten), Sync::Verify),
        (apart, ahead, refused(Refusal::BothWritten), Sync::Verify),
        (doubtful(ahead), doubtful(apart), refused(Refusal::BothWritten), Sync::Verify),
        (level, foreign, refused(Refusal::Unrelated), Sync::Verify),
        (ahead, foreign, refused(Refusal::Unrelated), Sync::Verify),
        (blank, level, refused(Refusal::Unrelated), Sync::Verify),
        (level, blank, Sync::Verify, Sync::Verify),
        (ahead, blank, Sync::Verify, Sync::Verify),
        (blank, blank, Sync::Verify, Sync::Verify),
        // Two that were never level with anybody have no peer in common.
        (
            Side { peer: None, ..ahead },
            Side { peer: None, ..apart },
            refused(Refusal::Unrelated),
            Sync::Verify,
        ),
    ] {
        assert_eq!(sync(&ours, &theirs, false), without, "{ours:?} {theirs:?}");
        assert_eq!(sync(&ours, &theirs, true), by_force, "{ours:?} {theirs:?}");
    }
}

#[test]
fn no_generation_is_given_twice() {
    let all: std::collections::HashSet<_> = (0..100).map(|_| Generation::random().unwrap()).collect();
    assert_eq!(all.len(), 100);
}
