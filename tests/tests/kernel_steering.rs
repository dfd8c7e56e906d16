//! Proof: whatever one guest sends meets what the other one sends in the same queue of the capture tap,
//! and all queues have work.
//!
//! Nothing leaves that has not met its twin. So a frame that went to another queue stays, and is seen.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use colo_proxy::control::status::GuestStatus;
use colo_tests::netns::lab::{CLIENT_MAC, mac};
use colo_tests::netns::{Conduct, Lab, Live, Options, PacketSocket, Proxy, until};

/// Conversations of each kind.
const COUNT: u32 = 200;

const QUEUES: usize = 3;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Numbers without a pattern.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

/// What of an IPv6 packet is between its header and TCP.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Between {
    Nothing,
    /// A hop-by-hop header, and destination options.
    Options,
    /// A fragment header of a packet that is whole all the same.
    Atomic,
}

/// One conversation's ends.
struct Ends {
    guest: u64,
    peer: u64,
    ports: [u16; 2],
}

impl Ends {
    fn any(chance: &mut Chance) -> Self {
        let ports = chance.next();
        Self {
            guest: chance.next(),
            peer: chance.next(),
            ports: [ports as u16 | 1, (ports >> 16) as u16 | 1],
        }
    }

    fn v4(address: u64) -> [u8; 4] {
        [10, 99, address as u8 | 1, (address >> 8) as u8 | 1]
    }

    fn v6(address: u64) -> [u8; 16] {
        let (high, low) = (address >> 32 << 16, address & 0xffff_ffff);
        (0xfd99_u128 << 112 | u128::from(high) << 64 | u128::from(low)).to_be_bytes()
    }

    fn tcp(&self) -> Vec<u8> {
        // A SYN, so that both sides begin the connection here.
        let seq = (self.guest ^ self.peer) as u32;
        let [source, destination] = self.ports.map(u16::to_be_bytes);
        [&source[..], &destination, &seq.to_be_bytes(), &[0; 4], &[0x50, 2, 4, 0, 0, 0, 0, 0]].concat()
    }

    fn udp(&self) -> Vec<u8> {
        let payload: Vec<u8> = (0..1000u32).map(|at| (at ^ self.peer as u32) as u8).collect();
        let [source, destination] = self.ports.map(u16::to_be_bytes);
        [&source[..], &destination, &1008u16.to_be_bytes(), &[0, 0], &payload].concat()
    }

    /// An echo request.
    fn icmp(&self) -> Vec<u8> {
        [&[8, 0, 0, 0][..], &self.ports[0].to_be_bytes(), &[0, 1], &self.peer.to_be_bytes()].concat()
    }

    fn ip4(&self, proto: u8, fragment: u16, options: &[u8], data: &[u8]) -> Vec<u8> {
        let header = 20 + options.len();
        let length = (header + data.len()) as u16;
        let mut out = vec![8, 0, 0x40 | (header / 4) as u8, 0];
        out.extend(length.to_be_bytes());
        out.extend([self.ports[1].to_be_bytes(), fragment.to_be_bytes()].concat());
        out.extend([64, proto, 0, 0]);
        out.extend([Self::v4(self.guest), Self::v4(self.peer)].concat());
        out.extend(options);
        out.extend(data);
        out
    }

    fn ip6(&self, between: Between) -> Vec<u8> {
        let headers: &[u8] = match between {
            Between::Nothing => &[],
            Between::Options => &[60, 0, 1, 4, 0, 0, 0, 0, TCP, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            Between::Atomic => &[TCP, 0, 0, 0, 0, 0, 0, 7],
        };
        let next = match between {
            Between::Nothing => TCP,
            Between::Options => 0,
            Between::Atomic => 44,
        };
        let data = [headers, &self.tcp()].concat();
        let mut out = vec![0x86, 0xdd, 0x60, 0, 0, 0];
        out.extend((data.len() as u16).to_be_bytes());
        out.extend([next, 64]);
        out.extend([Self::v6(self.guest), Self::v6(self.peer)].concat());
        out.extend(data);
        out
    }
}

/// A frame from the guest, from its ethertype on, inside these VLANs.
fn frame(tags: &[u8], rest: &[u8]) -> Vec<u8> {
    [&CLIENT_MAC[..], &mac(0, 0), tags, rest].concat()
}

/// What the primary and the secondary send, which is the same to those who get it.
type Pair = [Vec<Vec<u8>>; 2];

/// A kind of frames: its name, whether each conversation may go to a queue of its own, and how one is
/// made.
type Kind = (&'static str, bool, fn(&Ends) -> Pair);

const KINDS: [Kind; 9] = [
    ("TCP over IPv4, with options on one side", true, |ends| {
        let whole = |options: &[u8]| vec![frame(&[], &ends.ip4(TCP, 0x4000, options, &ends.tcp()))];
        [whole(&[]), whole(&[1, 1, 1, 0])]
    }),
    ("TCP over IPv6", true, |ends| {
        [Between::Nothing, Between::Nothing].map(|between| vec![frame(&[], &ends.ip6(between))])
    }),
    ("TCP over IPv6, with extension headers on one side", true, |ends| {
        [Between::Options, Between::Nothing].map(|between| vec![frame(&[], &ends.ip6(between))])
    }),
    ("TCP over IPv6, with a fragment header round the whole on one side", true, |ends| {
        [Between::Nothing, Between::Atomic].map(|between| vec![frame(&[], &ends.ip6(between))])
    }),
    ("TCP in a VLAN", true, |ends| {
        let vlan = [0x81, 0, (ends.peer >> 20) as u8 & 15, ends.guest as u8 | 1];
        // Priority is the path's business.
        let other = [0x81, 0, vlan[2] | 0x60, vlan[3]];
        [vlan, other].map(|tag| vec![frame(&tag, &ends.ip4(TCP, 0, &[], &ends.tcp()))])
    }),
    ("TCP in a VLAN in a VLAN", true, |ends| {
        let tags = [0x88, 0xa8, 0, ends.peer as u8 | 1, 0x81, 0, 0, ends.guest as u8 | 1];
        [(); 2].map(|()| vec![frame(&tags, &ends.ip6(Between::Nothing))])
    }),
    ("UDP, whole and in fragments", true, |ends| {
        let data = ends.udp();
        let parts = [(0x2000, &data[..504]), (504 / 8, &data[504..])];
        let cut = parts.map(|(fragment, part)| frame(&[], &ends.ip4(UDP, fragment, &[], part)));
        [vec![frame(&[], &ends.ip4(UDP, 0, &[], &data))], cut.to_vec()]
    }),
    ("ICMP", true, |ends| [(); 2].map(|()| vec![frame(&[], &ends.ip4(1, 0, &[], &ends.icmp()))])),
    ("another ethertype", false, |ends| {
        let rest = [&[0x88, 0xb5][..], &ends.guest.to_be_bytes(), &[7; 60]].concat();
        [(); 2].map(|()| vec![frame(&[], &rest)])
    }),
];

fn held(status: &GuestStatus) -> u64 {
    status.nics[0].held.unwrap().iter().map(|side| side.frames).sum()
}

/// Primary frames that came to each queue.
fn arrived(status: &GuestStatus) -> Vec<u64> {
    status.nics[0].queues.iter().map(|queue| queue.frames[0]).collect()
}

#[test]
fn both_guests_frames_of_a_conversation_meet_in_one_queue_and_all_queues_are_used() {
    let lab = Lab::new(Options { neighbours: true, ..Options::default() }).unwrap();
    // None of it is ever answered for.
    let patient = format!("--queues {QUEUES} --compare-timeout 600000 --age-floor 600000");
    let primary = Proxy::of(&lab, 0, "primary").with(&patient);
    let live = Live::of(&lab, primary, Proxy::of(&lab, 0, "secondary"), Conduct::Wait).unwrap();
    let guests = [&lab.pg[0], &lab.sg[0]].map(|guest| PacketSocket::sender(guest, "eth0").unwrap());
    let mut chance = Chance(7);
    for (name, spreads, kind) in KINDS {
        let before = live.primary.status(&lab).unwrap();
        for _ in 0..COUNT {
            let sent = kind(&Ends::any(&mut chance));
            for (guest, frames) in guests.iter().zip(&sent) {
                frames.iter().for_each(|frame| guest.send(frame).unwrap());
            }
        }
        let all = u64::from(COUNT);
        let status = until(&format!("{name}: all have met their twins"), || {
            let status = live.primary.status(&lab)?;
            let released =
                |status: &GuestStatus| status.nics[0].engine.as_ref().unwrap()["released"].as_u64();
            let enough = released(&status) >= released(&before).map(|before| before + all);
            Ok((enough && held(&status) == 0).then_some(status))
        });
        let status = status.unwrap_or_else(|error| {
            let status = live.primary.status(&lab).unwrap();
            panic!("{error}: {:?}, {:#?}", status.nics[0].queues, status.nics[0].held_flows.first())
        });
        let came: Vec<u64> =
            arrived(&status).iter().zip(arrived(&before)).map(|(now, before)| now - before).collect();
        eprintln!("{name}: {came:?} of {all}");
        assert_eq!(came.len(), QUEUES);
        if spreads {
            let fair = all / QUEUES as u64;
            assert!(came.iter().all(|&count| count > fair / 2), "{name}: {came:?} of {all}");
        } else {
            assert!(came[0] >= all && came[1..] == [0; QUEUES - 1], "{name}: {came:?}");
        }
    }
    assert_eq!(live.toolstack.requests().unwrap(), 0);
}
