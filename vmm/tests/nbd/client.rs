//! Our client at qemu-nbd: what it does to a disk is what a disk in memory would say.

use super::rig::{LONG, Running, SIZE, content, drive, image, run, until};
use colo_vmm::nbd::client::{Answer, Ask, Client, Command, Order, Window, connect};
use colo_vmm::nbd::transport::{Plain, no_tls};
use colo_vmm::nbd::wire::numbers::MAX_PAYLOAD;
use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

/// Numbers of which the next says nothing to a reader.
fn dice(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

/// What is to be done, and what reads must bring, by their tokens.
pub(crate) struct Script {
    pub(crate) orders: Vec<Order<Vec<u8>>>,
    pub(crate) reads: HashMap<u64, Vec<u8>>,
}

/// Many orders of all kinds, most on a few blocks. The disk is what they make of it.
pub(crate) fn script(count: u64, disk: &mut [u8]) -> Script {
    let mut roll = dice(7);
    let (mut orders, mut reads) = (Vec::new(), HashMap::new());
    for token in 0..count {
        let room = if roll(4) == 0 { SIZE as u64 } else { 64 << 10 };
        let (offset, len) = (roll(room - 20_000), roll(20_000) as u32 + 1);
        let range = &mut disk[offset as usize..][..len as usize];
        let command = match roll(10) {
            0..4 => {
                let data: Vec<u8> = (0..len).map(|at| (u64::from(at) + token) as u8).collect();
                range.copy_from_slice(&data);
                Command::Write { offset, data, fua: roll(20) == 0 }
            }
            4..8 => {
                reads.insert(token, range.to_vec());
                Command::Read { offset, len }
            }
            8 => {
                range.fill(0);
                Command::Zero { offset, len, unmap: roll(2) == 0, fast: false, fua: false }
            }
            _ => Command::Flush,
        };
        orders.push(Order { token, epoch: token as u32, command });
    }
    Script { orders, reads }
}

fn meet(socket: &Path, server: &mut Running) -> (Plain<UnixStream>, Client<Vec<u8>>) {
    let stream = until(server, || UnixStream::connect(socket).ok());
    stream.set_nonblocking(true).unwrap();
    let ask = Ask { name: "disk".to_owned(), tls: false, epochs: true, allocation: true, sums: true };
    connect(Plain::new(stream), ask, Window::default(), Instant::now() + LONG, no_tls).unwrap()
}

#[test]
fn qemu_nbd_serves_our_client_in_every_format() {
    for format in ["raw", "qcow2"] {
        let dir = tempfile::tempdir().unwrap();
        let disk = image(dir.path(), "disk", format);
        let socket = dir.path().join("socket");
        let words = ["-f", format, "-x", "disk", "--persistent", "--discard=unmap", "-k"];
        let words = [words.as_slice(), &[socket.to_str().unwrap(), &disk]].concat();
        let mut server = Running::new("qemu-nbd", &words);
        let (mut transport, mut client) = meet(&socket, &mut server);
        let facts = *client.facts();
        assert!(facts.size == SIZE as u64 && facts.structured && facts.maximum == MAX_PAYLOAD);
        assert!(facts.epoch.is_none() && facts.allocation.is_some());
        let mut expected = vec![0; SIZE];
        let Script { orders, mut reads } = script(2000, &mut expected);
        let count = orders.len();
        let done = drive(&mut transport, &mut client, orders);
        assert_eq!(done.len(), count);
        for one in done {
            match (one.result.unwrap(), reads.remove(&one.token)) {
                (Answer::Data(data), Some(expected)) => assert!(data == expected, "{}", one.token),
                (Answer::Done, None) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(reads.is_empty());
        let whole = [Command::Status { offset: 0, len: SIZE as u32, one: false }];
        let whole = whole.map(|command| Order { token: 1, epoch: 0, command });
        let done = drive(&mut transport, &mut client, whole);
        let Ok(Answer::Status(status)) = &done[0].result else { panic!("{done:?}") };
        let mut at = 0;
        for extent in &status[0].1 {
            let range = &expected[at..expected.len().min(at + extent.len as usize)];
            at += range.len();
            assert!(extent.status & 2 == 0 || range.iter().all(|byte| *byte == 0));
        }
        client.disconnect();
        drive(&mut transport, &mut client, []);
        drop(server);
        let flat = dir.path().join("flat");
        run("qemu-img", &["convert", "-f", format, "-O", "raw", &disk, flat.to_str().unwrap()]);
        assert!(content(flat) == expected, "{format}");
    }
}
