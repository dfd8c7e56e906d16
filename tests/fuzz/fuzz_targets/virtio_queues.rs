//! Any rings, and frames meanwhile: a device answers, asks for a reset or waits. It never hangs, and when
//! it is paused nobody touches the guest's memory.
#![no_main]

use arbitrary::Arbitrary;
use colo_fuzz::guest::{Guest, RAM, SIZE};
use colo_vmm::devices::net::{Net, tap::Tap};
use colo_vmm::devices::rng::Rng;
use libfuzzer_sys::fuzz_target;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

#[derive(Debug, Arbitrary)]
enum Step {
    /// A descriptor that is mostly sane.
    Descriptor {
        queue: u8,
        index: u8,
        page: u8,
        len: u32,
        flags: u8,
        next: u8,
    },
    /// Eight bytes anywhere in a queue's rings.
    Poke {
        queue: u8,
        offset: u16,
        value: u64,
    },
    /// A head, and the index after it.
    Offer {
        queue: u8,
        slot: u8,
        head: u8,
        index: u16,
    },
    Notify {
        queue: u8,
    },
    /// A frame from the network.
    Frame {
        len: u16,
    },
    Pause,
    Restart {
        features: u64,
    },
}

#[derive(Debug, Arbitrary)]
struct Input {
    net: bool,
    features: u64,
    steps: Vec<Step>,
}

fuzz_target!(|input: Input| {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::NONBLOCK, None).expect("sockets");
    let (guest, queues) = if input.net {
        let tap = Tap::of_sockets("fuzz", vec![theirs]).expect("sockets");
        (Guest::new(Box::new(Net::new(tap, [2; 6], Some(1500)))), 2)
    } else {
        (Guest::new(Box::<Rng>::default()), 1)
    };
    let features = |features: u64| features & if input.net { (1 << 15) | (1 << 29) } else { 1 << 29 };
    guest.start(features(input.features));
    for step in input.steps.into_iter().take(200) {
        match step {
            Step::Descriptor { queue, index, page, len, flags, next } => {
                let base = (u64::from(queue % queues) + 1) << 16;
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&((0x10_0000 + (u64::from(page) << 12)) % RAM).to_le_bytes());
                bytes[8..12].copy_from_slice(&(len & 0x1_ffff).to_le_bytes());
                bytes[12..14].copy_from_slice(&u16::from(flags & 7).to_le_bytes());
                bytes[14..].copy_from_slice(&u16::from(next % 20).to_le_bytes());
                guest.poke(base + 16 * u64::from(index % SIZE as u8), &bytes);
            }
            Step::Poke { queue, offset, value } => {
                let base = (u64::from(queue % queues) + 1) << 16;
                guest.poke(base + u64::from(offset), &value.to_le_bytes());
            }
            Step::Offer { queue, slot, head, index } => {
                let base = ((u64::from(queue % queues) + 1) << 16) + 0x8000;
                guest.poke(base + 4 + 2 * u64::from(slot % SIZE as u8), &u16::from(head % 18).to_le_bytes());
                guest.poke(base + 2, &(index % 64).to_le_bytes());
                guest.notify(u16::from(queue % queues));
            }
            Step::Notify { queue } => guest.notify(u16::from(queue)),
            Step::Frame { len } => {
                let _ = send(&ours, &vec![0x5a; usize::from(len)], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            }
            Step::Pause => {
                guest.function.pause();
                let state = guest.function.save();
                assert_eq!(guest.function.save(), state);
                guest.function.resume();
            }
            Step::Restart { features: wanted } => {
                guest.start(features(wanted));
            }
        }
    }
    guest.function.pause();
    guest.function.reset();
    assert_eq!(guest.status(), 0);
});
