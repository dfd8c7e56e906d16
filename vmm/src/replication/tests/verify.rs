//! A disk that is verified before it is copied; and servers whose sums are none.

use super::*;
use crate::nbd::server::{Session, Step};
use crate::nbd::sum::pieces;
use crate::nbd::wire::numbers::{command, flag};
use crate::nbd::wire::requests::push_status;
use crate::nbd::wire::{Extent, Request};
use crate::replication::bitmap::REGION;
use std::io::{Read as _, Write as _};

/// Two disks of the same bytes, but for one byte in each of some regions.
fn nearly(seed: u64, regions: &[u64]) -> Hosts {
    let mut hosts = Hosts::new(seed, 4 << 20);
    let mut bytes = vec![0; SIZE];
    hosts.rng.fill(&mut bytes[SIZE / 4..]);
    for image in [&hosts.local, &hosts.base] {
        write_at(&**image, &mut bytes, 0).unwrap();
    }
    for region in regions {
        write_at(&*hosts.local, &mut [0], region * REGION + region).unwrap();
        write_at(&*hosts.base, &mut [1], region * REGION + region).unwrap();
    }
    hosts
}

fn verified(hosts: &Hosts) {
    let until = Instant::now() + LONG;
    while hosts.feed.behind() > 0 {
        assert!(Instant::now() < until, "{:?}", hosts.feed.seen());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn only_what_differs_is_sent() {
    let regions = [0, 1, 40, 77, 127];
    let mut hosts = nearly(1, &regions);
    hosts.verify();
    verified(&hosts);
    let (_, counts) = hosts.feed.seen();
    assert_eq!((counts.same, counts.different), (123, 5));
    assert_eq!((counts.read, counts.bytes), (128, 5 * REGION));
    hosts.checkpoint(false);
    same(&all(&*hosts.local), &all(&*hosts.base), "the other disk");
    hosts.cut_off();
}

#[test]
fn a_disk_that_is_verified_while_its_guest_writes_ends_equal() {
    for seed in 0..6 {
        let mut hosts = nearly(seed, &[3, 99]);
        hosts.verify();
        // In a quarter of the disk, so that there is something that stays as it was.
        let until = Instant::now() + LONG;
        while hosts.feed.behind() > 0 {
            let offset = 512 * hosts.rng.usize(0..SIZE / 4 / 512 - 16);
            let mut buffer = vec![hosts.rng.u8(..3); 512 * hosts.rng.usize(1..16)];
            let followed = hosts.feed.write(offset as u64, &[VolatileSlice::from(&mut buffer[..])]);
            write_at(&*hosts.local, &mut buffer, offset as u64).unwrap();
            hosts.feed.done(followed, true);
            assert!(Instant::now() < until, "{:?}", hosts.feed.seen());
        }
        let (_, counts) = hosts.feed.seen();
        assert!(counts.same >= 95 && counts.different >= 1, "{counts:?}");
        hosts.checkpoint(true);
        // Another connection, in which nothing is known but what has changed since: of that, too, some is the same.
        for _ in 0..3 {
            hosts.others();
            hosts.work();
            hosts.cut_off();
            hosts.work();
            hosts.verify();
            hosts.work();
            hosts.checkpoint(true);
        }
        hosts.cut_off();
    }
}

/// Serves a handshake as it should be, and then what `sums` makes of each region's length; says what the sender says.
fn told(asks: bool, sums: impl Fn(u32, Vec<Extent>) -> Vec<Extent> + Send + 'static) -> String {
    let hosts = Hosts::new(1, 4 << 20);
    let export = Arc::new(DiskExport::new(hosts.disk.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut theirs, _) = listener.accept().unwrap();
    let server = std::thread::spawn(move || {
        let offers = vec![Offer { name: "vda".into(), description: String::new(), export }];
        let mut session = Session::new(Arc::new(Terms::new(offers)));
        let mut bytes = [0; 4096];
        while session.in_handshake() {
            let step = session.step().unwrap();
            theirs.write_all(session.output()).unwrap();
            session.sent(session.output().len());
            if step == Step::Receive && session.in_handshake() {
                let len = theirs.read(&mut bytes).unwrap();
                session.feed(&bytes[..len]);
            }
        }
        theirs.write_all(session.output()).unwrap();
        let mut head = [0; Request::SIZE];
        while theirs.read_exact(&mut head).is_ok() {
            let request = Request::parse(&head).unwrap().unwrap();
            assert_eq!(request.command, command::BLOCK_STATUS);
            let whole = |(_, len)| Extent { len: len as u32, status: 0 };
            let extents = || pieces(request.offset, request.len.into()).map(whole).collect();
            let mut reply = Vec::new();
            push_status(&mut reply, false, request.cookie, 2, &[Extent { len: request.len, status: 0 }]);
            for id in 3..7 {
                let one = request.flags & flag::REQ_ONE != 0;
                let extents = if one { extents() } else { sums(id, extents()) };
                push_status(&mut reply, id == 6, request.cookie, id, &extents);
            }
            if theirs.write_all(&reply).is_err() {
                return;
            }
        }
    });
    ours.set_nonblocking(true).unwrap();
    let ask = Ask { name: "vda".into(), epochs: true, sums: asks, ..Ask::default() };
    let until = Instant::now() + LONG;
    let (transport, client) = connect(Plain::new(ours), ask, Window::default(), until, no_tls).unwrap();
    hosts.feed.begin(0);
    let sender = Sender::new(hosts.feed.clone(), hosts.dirty.clone(), transport, client).unwrap();
    let error = sender.verifying().map_or_else(|error| error, Sender::run);
    server.join().unwrap();
    hosts.feed.end();
    assert_eq!(hosts.dirty.unsent(), 128, "nothing was taken for sent");
    error.to_string()
}

#[test]
fn sums_of_a_hostile_server_end_the_connection() {
    let fewer = told(true, |_, mut extents| {
        extents.pop();
        extents
    });
    assert!(fewer.contains("15 sums for 16 regions"), "{fewer}");
    let one = told(true, |id, extents| if id == 6 { extents[..1].to_vec() } else { extents });
    assert!(one.contains("1 sums for 16 regions"), "{one}");
    let more = told(true, |_, extents| [&extents[..], &extents[..1]].concat());
    assert!(more.contains("17 sums for 16 regions"), "{more}");
    let odd = told(true, |_, mut extents| {
        extents[7].len -= 1;
        extents
    });
    assert!(odd.contains("at 0x70000 is of 65535 bytes and not of 65536"), "{odd}");
    let empty = told(true, |_, _| Vec::new());
    assert!(empty.contains("no extents"), "{empty}");
    let unasked = told(false, |_, extents| extents);
    assert!(unasked.contains("makes no sums"), "{unasked}");
}
