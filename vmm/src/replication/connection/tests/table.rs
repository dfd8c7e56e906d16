//! The machine against the table of its states, written down cell by cell.

use super::quick;
use crate::replication::connection::machine::{Action, Event, Failure, Machine, Side, Status};
use proptest::prelude::*;
use rustix::io::Errno;
use std::net::{IpAddr, Ipv4Addr};

const FRIEND: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

/// What leads where. `.` changes nothing, `-` is refused, `+` tells that the peer is there, `!` that it was given
/// up. n none, c closed; o, p opening from there; l listening, s serving; a attempting, w waiting, e connected.
const TABLE: &str = "
          n   c   o   p   l   s   a   w   e
client    a   a   -   -   -   -   -   -   -
server    o   p   -   -   -   -   -   -   -
restart   o   p   -   -   .   l   .   .   w
kill      .   .   c   c   c   c   c   c   c
open      .   .   l   l   .   .   .   .   .
shut      .   .   n   c   .   .   .   .   .
friend    .   .   .   .   s+  .   .   .   .
stranger  .   .   .   .   .   .   .   .   .
gone      .   .   .   .   .   .   .   .   .
emfile    .   .   .   .   .   .   .   .   .
done      .   .   .   .   .   .   e+  .   .
refused   .   .   .   .   .   .   w   .   .
eacces    .   .   .   .   .   .   c!  .   .
timer     .   .   .   .   .   .   w   a   .
internal  .   .   c!  c!  c!  c!  c!  c!  c!
";

const EVENTS: [(&str, Event); 15] = [
    ("client", Event::StartClient),
    ("server", Event::StartServer),
    ("restart", Event::Restart),
    ("kill", Event::Kill),
    ("open", Event::Listening),
    ("shut", Event::ListenFailed),
    ("friend", Event::Accepted(FRIEND)),
    ("stranger", Event::Accepted(STRANGER)),
    ("gone", Event::AcceptFailed(Errno::CONNABORTED)),
    ("emfile", Event::AcceptFailed(Errno::MFILE)),
    ("done", Event::Connected),
    ("refused", Event::ConnectFailed(Errno::CONNREFUSED)),
    ("eacces", Event::ConnectFailed(Errno::ACCESS)),
    ("timer", Event::Timer),
    ("internal", Event::Internal(Errno::NFILE)),
];

fn cell(state: char, event: &str) -> &'static str {
    let mut rows = TABLE.trim().lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let column = rows.next().unwrap().iter().position(|name| name.starts_with(state)).unwrap();
    rows.find(|row| row[0] == event).unwrap()[column + 1]
}

fn status(state: char) -> (Status, Option<Side>) {
    match state {
        'n' | 'o' => (Status::None, None),
        'c' | 'p' => (Status::Closed, None),
        'l' => (Status::InProgress, Some(Side::Server)),
        's' => (Status::Established, Some(Side::Server)),
        'a' | 'w' => (Status::InProgress, Some(Side::Client)),
        'e' => (Status::Established, Some(Side::Client)),
        other => panic!("{other}"),
    }
}

/// What is open, as the actions have it.
#[expect(clippy::struct_excessive_bools, reason = "each is open or not, whatever the others are")]
#[derive(Debug, Default, PartialEq, Eq)]
struct Open {
    listener: bool,
    paused: bool,
    attempt: bool,
    timer: bool,
    arrived: bool,
    peer: bool,
}

impl Open {
    /// What comes with an event, before the machine hears of it.
    fn comes(&mut self, event: Event) {
        match event {
            Event::Listening => self.listener = true,
            Event::Accepted(_) => self.arrived = true,
            Event::Connected => {
                self.arrived = true;
                // The socket of the attempt is the one that arrived; its time is over.
                if self.attempt {
                    (self.attempt, self.timer) = (false, false);
                }
            }
            Event::Timer => self.timer = false,
            _ => {}
        }
    }

    fn done(&mut self, action: Action) {
        match action {
            Action::Listen | Action::Busy | Action::Fail(_) => {}
            Action::CloseListener => {
                self.timer &= !self.paused;
                (self.listener, self.paused) = (false, false);
            }
            Action::Pause(_) => (self.paused, self.timer) = (true, true),
            Action::Resume => self.paused = false,
            Action::Connect { .. } => {
                assert!(!self.attempt && !self.timer, "a socket is used for one attempt");
                (self.attempt, self.timer) = (true, true);
            }
            Action::CloseAttempt => (self.attempt, self.timer) = (false, false),
            Action::Wait(_) => {
                assert!(!self.timer);
                self.timer = true;
            }
            Action::HandOut => {
                assert!(self.arrived && !self.peer, "one is there, and there is one");
                (self.arrived, self.peer) = (false, true);
            }
            Action::Refuse => self.arrived = false,
            Action::ClosePeer => {
                assert!(self.peer);
                self.peer = false;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn every_event_in_every_state_does_what_the_table_says(
        events in prop::collection::vec(prop_oneof![3 => 0usize..EVENTS.len(), 2 => 0usize..7], 1..60),
        seed: u64,
    ) {
        let mut config = quick(vec![super::any()]);
        config.allow = super::super::Allow::Only(vec![FRIEND]);
        let mut machine = Machine::new(config, seed);
        let (mut state, mut open, mut counts) = ('n', Open::default(), machine.counts());
        for event in events {
            let (name, event) = EVENTS[event];
            open.comes(event);
            let actions = machine.on(event);
            actions.iter().for_each(|action| open.done(*action));
            let cell = cell(state, name);
            let before = state;
            if !cell.starts_with(['.', '-']) {
                state = cell.chars().next().unwrap();
            }
            let context = format!("{before} {name} {state}: {actions:?}");
            prop_assert_eq!((machine.status(), machine.side()), status(state), "{}", context);
            prop_assert_eq!(actions.contains(&Action::Busy), cell == "-", "{}", context);
            let handed = actions.iter().filter(|action| **action == Action::HandOut).count();
            prop_assert_eq!(handed, usize::from(cell.ends_with('+')), "{}", context);
            let failed = actions.iter().filter(|action| matches!(action, Action::Fail(_))).count();
            prop_assert_eq!(failed, usize::from(cell.ends_with('!')), "{}", context);
            if name == "internal" && failed == 1 {
                prop_assert_eq!(actions.last(), Some(&Action::Fail(Failure::Internal(Errno::NFILE))));
            }
            // What is open follows from the state alone.
            let server = matches!(state, 'l' | 's');
            let paused = machine.is_paused();
            let expected = Open {
                listener: server,
                paused,
                attempt: state == 'a',
                timer: paused || matches!(state, 'a' | 'w'),
                arrived: false,
                peer: matches!(state, 's' | 'e'),
            };
            prop_assert_eq!(&open, &expected, "{}", context);
            prop_assert!(server || !paused);
            // Who is not let in is counted.
            let now = machine.counts();
            let second = u64::from(before == 's' && name == "friend");
            let stranger = u64::from(matches!(before, 'l' | 's') && name == "stranger");
            let failures = u64::from(matches!(before, 'l' | 's') && matches!(name, "gone" | "emfile"));
            prop_assert_eq!(now.second - counts.second, second, "{}", context);
            prop_assert_eq!(now.strangers - counts.strangers, stranger, "{}", context);
            prop_assert_eq!(now.accept_failures - counts.accept_failures, failures, "{}", context);
            counts = now;
        }
    }
}
