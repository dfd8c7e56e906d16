//! The stories of connections, and properties against a model that knows both sides.

extern crate std;

use super::tcp::{ACK, RST, SYN};
use super::*;
use std::vec::Vec;

/// Initial sequence numbers and timestamps: the primary's, the secondary's, the client's.
const P: u32 = 0xffff_ff00;
const S: u32 = 5_000;
const C: u32 = 70_000;
const P_TS: u32 = 900_000;
const S_TS: u32 = 0xffff_fff0;

const GENERATION: u32 = 3;

fn segment(flags: u8, seq: u32, ack: u32) -> Segment {
    Segment { seq, ack, flags, ..Segment::default() }
}

fn timed(flags: u8, seq: u32, ack: u32, tsval: u32, tsecr: u32) -> Segment {
    Segment { timestamps: true, tsval, tsecr, ..segment(flags, seq, ack) }
}

/// What comes out of a segment of the secondary's.
fn out(flow: &mut Flow, mut segment: Segment) -> (Outcome, Segment) {
    (outwards(flow, &mut segment), segment)
}

/// What comes out of a segment for the secondary.
fn inn(flow: &mut Flow, mut segment: Segment) -> (Outcome, Segment) {
    (inwards(flow, &mut segment), segment)
}

/// A passive open up to the secondary's SYN/ACK.
fn answered() -> Flow {
    begin(GENERATION, &timed(SYN | ACK, S, C + 1, S_TS, 1))
}

/// A passive open that the client has acknowledged.
fn established() -> Flow {
    let mut flow = answered();
    assert_eq!(inn(&mut flow, timed(ACK, C + 1, P.wrapping_add(1), 2, P_TS)).0, Outcome::Translated);
    flow
}

#[test]
fn a_passive_open_learns_from_the_clients_acknowledgement() {
    let mut flow = answered();
    assert_eq!(flow.flags, flags::ANSWERED | flags::TIMESTAMPS);
    let (outcome, ack) = inn(&mut flow, timed(ACK, C + 1, P.wrapping_add(1), 2, P_TS));
    assert_eq!((outcome, ack.ack, ack.tsecr), (Outcome::Translated, S + 1, S_TS));
    assert_eq!((ack.seq, ack.tsval), (C + 1, 2), "the client's own numbers");
    let (outcome, data) = out(&mut flow, timed(ACK, S + 1, C + 1, S_TS.wrapping_add(100), 2));
    assert_eq!((outcome, data.seq, data.tsval), (Outcome::Translated, P.wrapping_add(1), P_TS + 100));
    assert_eq!((data.ack, data.tsecr), (C + 1, 2), "the client's own numbers");
}

#[test]
fn an_active_open_learns_from_the_servers_answer() {
    let mut flow = begin(GENERATION, &timed(SYN, S, 0, S_TS, 0));
    assert_eq!(flow.flags, flags::TIMESTAMPS);
    let (outcome, answer) = inn(&mut flow, timed(SYN | ACK, C, P.wrapping_add(1), 7, P_TS));
    assert_eq!((outcome, answer.ack, answer.tsecr), (Outcome::Translated, S + 1, S_TS));
    let (_, ack) = out(&mut flow, timed(ACK, S + 1, C + 1, S_TS.wrapping_add(3), 7));
    assert_eq!((ack.seq, ack.tsval), (P.wrapping_add(1), P_TS + 3));
}

#[test]
fn a_simultaneous_open_learns_whichever_way_it_is_acknowledged() {
    for acknowledgement in [SYN | ACK, ACK] {
        let mut flow = begin(GENERATION, &segment(SYN, S, 0));
        assert_eq!(inn(&mut flow, segment(SYN, C, 0)).0, Outcome::Untouched);
        assert_eq!(flow.flags, flags::CROSSED);
        let (outcome, again) = out(&mut flow, segment(SYN | ACK, S, C + 1));
        assert_eq!((outcome, again.seq), (Outcome::Untouched, S), "nothing is known yet");
        let (outcome, ack) = inn(&mut flow, segment(acknowledgement, C, P.wrapping_add(1)));
        assert_eq!((outcome, ack.ack), (Outcome::Translated, S + 1));
    }
}

#[test]
fn a_syn_ack_that_is_sent_again_stays_the_same_connection() {
    let mut flow = answered();
    let again = timed(SYN | ACK, S, C + 1, S_TS.wrapping_add(1000), 1);
    assert_eq!(out(&mut flow, again), (Outcome::Untouched, again), "before anything is known");
    // The primary's was sent again as well, and the client echoes that one.
    let (_, ack) = inn(&mut flow, timed(ACK, C + 1, P.wrapping_add(1), 2, P_TS + 1000));
    assert_eq!((ack.ack, ack.tsecr), (S + 1, S_TS.wrapping_add(1000)));
    let third = timed(SYN | ACK, S, C + 1, S_TS.wrapping_add(3000), 1);
    let (outcome, third) = out(&mut flow, third);
    assert_eq!((outcome, third.seq, third.tsval), (Outcome::Translated, P, P_TS + 3000));
    assert_eq!(flow.syn_tsval, S_TS.wrapping_add(1000), "what is known stays");
}

#[test]
fn resets_in_each_state() {
    // Nothing known: both guests answer an acknowledgement out of the blue with its own number.
    let mut flow = begin(GENERATION, &segment(SYN, S, 0));
    let blue = segment(ACK, C, 12_345);
    assert_eq!(inn(&mut flow, blue), (Outcome::Untouched, blue), "a challenge in SYN-SENT teaches nothing");
    let reset = segment(RST, 12_345, 0);
    assert_eq!(out(&mut flow, reset), (Outcome::Untouched, reset));
    // A server that refuses acknowledges the primary's SYN: the secondary's must take it as well.
    let (outcome, refused) = inn(&mut flow, segment(RST | ACK, 0, P.wrapping_add(1)));
    assert_eq!((outcome, refused.ack), (Outcome::Translated, S + 1));

    let mut flow = established();
    let bare = segment(RST, C + 1, 0);
    assert_eq!(inn(&mut flow, bare), (Outcome::Untouched, bare), "its number is the client's");
    let (outcome, reset) = inn(&mut flow, segment(RST | ACK, C + 1, P.wrapping_add(9)));
    assert_eq!((outcome, reset.ack), (Outcome::Translated, S + 9));
    for flags in [RST, RST | ACK] {
        let (outcome, reset) = out(&mut flow, segment(flags, S + 9, C + 1));
        assert_eq!((outcome, reset.seq), (Outcome::Translated, P.wrapping_add(9)));
    }
}

#[test]
fn a_refusal_has_no_number_of_the_connections() {
    let refusal = segment(RST | ACK, 0, C + 1);
    for mut flow in [answered(), established()] {
        assert_eq!(out(&mut flow, refusal), (Outcome::Untouched, refusal));
    }
}

#[test]
fn another_connection_between_the_same_ends_begins_anew() {
    let mut flow = established();
    let syn = segment(SYN, C + 900_000, 0);
    assert_eq!(inn(&mut flow, syn), (Outcome::Untouched, syn));
    let answer = segment(SYN | ACK, S + 700_000, C + 900_001);
    assert_eq!(out(&mut flow, answer), (Outcome::Another, answer));
    let mut flow = begin(GENERATION, &answer);
    let (_, ack) = inn(&mut flow, segment(ACK, C + 900_001, P.wrapping_add(800_001)));
    assert_eq!(ack.ack, S + 700_001);
}

#[test]
fn after_a_checkpoint_the_guests_numbers_are_one() {
    // The checkpoint brought the primary's SYN-RECEIVED over: its SYN/ACK is sent again with P.
    let mut flow = begin(GENERATION + 1, &timed(SYN | ACK, P, C + 1, P_TS, 1));
    assert_eq!(flow.generation, GENERATION + 1);
    let ack = timed(ACK, C + 1, P.wrapping_add(1), 2, P_TS);
    assert_eq!(inn(&mut flow, ack), (Outcome::Translated, ack));
    assert_eq!((flow.offset, flow.ts_offset), (0, 0));
}

#[test]
fn the_clients_view_of_time_never_goes_back() {
    let mut flow = established();
    // The primary was ahead, and the client has echoed that.
    let (_, ack) = inn(&mut flow, timed(ACK, C + 1, P.wrapping_add(1), 3, P_TS + 500));
    assert_eq!(ack.tsecr, S_TS.wrapping_add(500));
    for (sent, seen) in [(100, 500), (499, 500), (501, 501), (502, 502)] {
        let (_, data) = out(&mut flow, timed(ACK, S + 1, C + 1, S_TS.wrapping_add(sent), 3));
        assert_eq!(data.tsval, P_TS + seen);
    }
    inn(&mut flow, timed(ACK, C + 1, P.wrapping_add(1), 3, P_TS + 400));
    assert_eq!(flow.ts_floor, P_TS + 500, "an older echo lowers nothing");
}

#[test]
fn a_zero_echo_is_no_time() {
    let mut flow = begin(GENERATION, &timed(SYN | ACK, S, C + 1, S_TS, 1));
    inn(&mut flow, timed(ACK, C + 1, P.wrapping_add(1), 2, 0xf000_0000));
    let (outcome, ack) = inn(&mut flow, timed(ACK, C + 1, P.wrapping_add(1), 2, 0));
    assert_eq!((outcome, ack.tsecr), (Outcome::Translated, 0));
    assert_eq!(flow.ts_floor, 0xf000_0000, "zero lies ahead of this floor, and does not raise it");
}

#[test]
fn without_timestamps_in_the_secondarys_syn_none_are_translated() {
    let mut flow = begin(GENERATION, &segment(SYN | ACK, S, C + 1));
    let (_, ack) = inn(&mut flow, timed(ACK, C + 1, P.wrapping_add(1), 2, P_TS));
    assert_eq!((ack.ack, ack.tsecr), (S + 1, P_TS));
    let (_, data) = out(&mut flow, timed(ACK, S + 1, C + 1, 44, 2));
    assert_eq!((data.seq, data.tsval), (P.wrapping_add(1), 44));
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    /// What happens on an established connection: `(outwards, byte of the stream, milliseconds)`.
    type Event = (bool, u32, u64);

    /// Both guests, and what the client has seen of the primary's time. Times are not modulo anything.
    struct Model {
        isn: [u32; 2],
        clock: [u32; 2],
        latest_echo: u64,
    }

    const PRIMARY: usize = 0;
    const SECONDARY: usize = 1;

    impl Model {
        fn seq(&self, side: usize, byte: u32) -> u32 {
            self.isn[side].wrapping_add(1).wrapping_add(byte)
        }

        fn time(&self, side: usize, at: u64) -> u32 {
            (u64::from(self.clock[side]) + at) as u32
        }
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        prop::collection::vec((any::<bool>(), any::<u32>(), 0..100_000_u64), 0..40)
    }

    proptest! {
        #[test]
        fn each_side_sees_its_own_space(
            isn in any::<[u32; 2]>(), clock in any::<[u32; 2]>(), client in any::<u32>(),
            passive in any::<bool>(), again in prop::option::of(1..5_000_u64), events in events(),
        ) {
            let mut model = Model { isn, clock, latest_echo: again.unwrap_or(0) };
            let answers = if passive { SYN | ACK } else { SYN };
            let syn = |at| timed(answers, isn[SECONDARY], client, model.time(SECONDARY, at), 9);
            let mut flow = begin(1, &syn(0));
            if let Some(at) = again {
                prop_assert_eq!(out(&mut flow, syn(at)), (Outcome::Untouched, syn(at)));
            }
            let echo = model.time(PRIMARY, model.latest_echo);
            prop_assume!(echo != 0);
            let reply = if passive { ACK } else { SYN | ACK };
            let (outcome, ack) = inn(&mut flow, timed(reply, client, model.seq(PRIMARY, 0), 10, echo));
            prop_assert_eq!(outcome, Outcome::Translated);
            prop_assert_eq!(ack.ack, model.seq(SECONDARY, 0));
            prop_assert_eq!(ack.tsecr, model.time(SECONDARY, model.latest_echo));
            for (is_out, byte, at) in events {
                let from = if is_out { SECONDARY } else { PRIMARY };
                let (there, when) = (model.seq(from, byte), model.time(from, at));
                if is_out {
                    prop_assume!(there != 0);
                    let (outcome, seen) = out(&mut flow, timed(ACK, there, byte, when, 77));
                    let wanted = timed(ACK, model.seq(PRIMARY, byte), byte,
                        model.time(PRIMARY, at.max(model.latest_echo)), 77);
                    prop_assert_eq!((outcome, seen), (Outcome::Translated, wanted));
                } else {
                    prop_assume!(when != 0);
                    let (outcome, seen) = inn(&mut flow, timed(ACK, byte, there, 77, when));
                    let wanted = timed(ACK, byte, model.seq(SECONDARY, byte), 77, model.time(SECONDARY, at));
                    prop_assert_eq!((outcome, seen), (Outcome::Translated, wanted));
                    model.latest_echo = model.latest_echo.max(at);
                }
            }
        }

        #[test]
        fn the_difference_is_that_of_two_whole_sums(
            mut bytes in prop::collection::vec(any::<u8>(), 8..80),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>()), 1..6),
        ) {
            let before = sum(&bytes);
            let mut diff = 0;
            for (place, new) in edits {
                let at = place.index(bytes.len() - 3);
                let old = u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
                bytes[at..at + 4].copy_from_slice(&new.to_ne_bytes());
                diff = difference(diff, at as u32, old, new);
            }
            let changed = sum_of_words([before, diff as u16, (diff >> 16) as u16]);
            prop_assert_eq!(changed % 0xffff, sum(&bytes) % 0xffff);
        }

        #[test]
        fn a_run_of_words_changes_as_its_words_do_one_by_one(
            at in 0..60_u32, diff in any::<u32>(), words in prop::collection::vec(any::<(u32, u32)>(), 0..9),
        ) {
            let mut one_by_one = diff;
            let mut changes = 0;
            for (place, (old, new)) in words.into_iter().enumerate() {
                one_by_one = difference(one_by_one, at + place as u32 * 4, old, new);
                changes += change(old, new);
            }
            prop_assert_eq!(differences(diff, at, changes) % 0xffff, one_by_one % 0xffff);
        }

        #[test]
        fn nothing_panics_whatever_a_flow_and_a_segment_hold(
            numbers in any::<[u32; 8]>(), flags in any::<u8>(), timestamps in any::<bool>(), way in any::<bool>(),
        ) {
            let [seq, ack, tsval, tsecr, known, isn, offset, ts_floor] = numbers;
            let mut flow = Flow { flags: known, isn, offset, ts_floor, ..Flow::default() };
            let segment = Segment { seq, ack, flags, timestamps, tsval, tsecr };
            let (outcome, new) = if way { out(&mut flow, segment) } else { inn(&mut flow, segment) };
            if outcome != Outcome::Translated {
                prop_assert_eq!(new, segment, "only a translated segment changes");
            }
        }
    }

    /// The ones' complement sum of the words of a buffer in memory, the last one filled up with zero.
    fn sum(bytes: &[u8]) -> u16 {
        sum_of_words(bytes.chunks(2).map(|word| u16::from_ne_bytes([word[0], *word.get(1).unwrap_or(&0)])))
    }

    fn sum_of_words(words: impl IntoIterator<Item = u16>) -> u16 {
        words.into_iter().fold(0, |sum: u16, word| {
            let (sum, carry) = sum.overflowing_add(word);
            sum + u16::from(carry)
        })
    }
}
