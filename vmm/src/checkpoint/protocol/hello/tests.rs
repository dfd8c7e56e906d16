use super::*;
use proptest::prelude::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn hello(side: Side) -> Hello {
    Hello {
        role: Role::Main,
        side,
        mode: Mode::Colo,
        answer: if side == Side::Primary { Answer::Asked } else { Answer::Taken },
        capabilities: Capabilities::LZ4.with(Capabilities::XOR),
        generation: 7,
        session: 0x5e55,
        held: Held { session: 0x01d, epoch: 40, room: 1 << 20 },
        run: 0xace,
        epochs: 12,
        vm: name("web-1"),
        machine: "2 vCPUs; disk vda".to_owned(),
        blocks: vec![
            Block { name: name("pc.ram"), size: 3 << 30 },
            Block { name: name("pc.ram.high"), size: 1 << 30 },
        ],
        disks: vec![Disk {
            place: 1,
            port: 9001,
            size: 8 << 30,
            own: 5,
            peer: 4,
            dirty: true,
            ..Disk::default()
        }],
    }
}

fn parse(bytes: &[u8]) -> Result<Hello, HelloError> {
    let (head, body) = bytes.split_first_chunk().ok_or(HelloError::Short("the head"))?;
    let len = Hello::body_len(*head)?;
    assert_eq!(len, body.len());
    Hello::from_body(body)
}

#[test]
fn two_that_fit_agree_on_what_both_can_do() {
    let primary = Hello { capabilities: Capabilities(0x8000_0001), generation: 8, ..hello(Side::Primary) };
    let agreed = primary.taken(&hello(Side::Secondary)).unwrap();
    assert_eq!(agreed.capabilities, Capabilities::LZ4);
    // A secondary that has not heard of the last take-over is brought level with it.
    assert_eq!((agreed.generation, agreed.session, agreed.mode), (8, 0x5e55, Mode::Colo));
    assert_eq!(hello(Side::Secondary).compare(&primary).unwrap(), agreed);
    // What it holds is of another generation then, and nothing to go on from.
    assert_eq!(agreed.held.epoch, 0);
    let same = hello(Side::Primary).taken(&hello(Side::Secondary)).unwrap();
    assert_eq!(same.held, hello(Side::Secondary).held);
}

#[test]
fn each_mismatch_says_both_values_and_what_to_do() {
    let ours = hello(Side::Primary);
    let theirs = || hello(Side::Secondary);
    let small = vec![Block { name: name("pc.ram"), size: 1 << 30 }, ours.blocks[1].clone()];
    for (peer, says) in [
        (Hello { vm: name("web-2"), ..theirs() }, ["web-1", "web-2", "--name"]),
        (hello(Side::Primary), ["both sides are the primary", "started as primary", "as secondary"]),
        (Hello { role: Role::Heartbeat, ..theirs() }, ["main", "heartbeat", "bug"]),
        (
            Hello { generation: 9, ..theirs() },
            ["generation 7", "generation 9", "start this primary's host as"],
        ),
        (Hello { mode: Mode::Periodic, ..theirs() }, ["colo", "periodic", "--mode"]),
        (
            Hello { machine: "1 vCPU".to_owned(), ..theirs() },
            ["2 vCPUs; disk vda", "peer's 1 vCPU", "--cpus"],
        ),
        (Hello { blocks: vec![], ..theirs() }, ["has 2 blocks", "peer's has 0", "--memory"]),
        (Hello { blocks: small, ..theirs() }, ["pc.ram of 3221225472", "pc.ram of 1073741824", "--memory"]),
        (Hello { disks: vec![], ..theirs() }, ["has 1 disks", "peer's has 0", "--disk"]),
        (
            Hello { disks: vec![Disk { size: 7, ..theirs().disks[0] }], ..theirs() },
            ["vdb has 8589934592", "peer's 7", "qemu-img resize"],
        ),
        (Hello { session: 1, ..theirs() }, ["0x5e55", "0x1", "another"]),
        (Hello { answer: Answer::Busy, ..theirs() }, ["refuses", "a session already", "end that one"]),
        (
            Hello { answer: Answer::NoSession, ..theirs() },
            ["refuses", "no session", "connect the main one first"],
        ),
        (Hello { answer: Answer::Asked, ..theirs() }, ["refuses", "", "asked"]),
    ] {
        let error = ours.taken(&peer).unwrap_err().to_string();
        assert!(says.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn bytes_that_are_no_hello_are_told_apart() {
    let good = hello(Side::Primary).to_bytes();
    assert_eq!(parse(&good), Ok(hello(Side::Primary)));
    let with = |at: usize, bytes: &[u8]| {
        let mut wrong = good.clone();
        wrong[at..at + bytes.len()].copy_from_slice(bytes);
        wrong
    };
    let head = |bytes: Vec<u8>| Hello::body_len(*bytes.first_chunk().unwrap()).unwrap_err();
    assert_eq!(head(b"GET / HTTP/1.1\r\n".to_vec()), HelloError::Magic(u64::from_be_bytes(*b"GET / HT")));
    assert_eq!(head(with(8, &9u32.to_be_bytes())), HelloError::Version(9));
    assert_eq!(head(with(12, &8193u32.to_be_bytes())), HelloError::Length(8193));
    assert_eq!(head(with(12, &u32::MAX.to_be_bytes())), HelloError::Length(u32::MAX));
    for (at, field) in [(16, "Role"), (17, "Side"), (18, "Mode"), (19, "Answer")] {
        assert_eq!(parse(&with(at, &[99])), Err(HelloError::Number { field, number: 99 }));
    }
    assert_eq!(parse(&with(81, b"\x1b[2J")), Err(HelloError::Name("the VM")));
    assert_eq!(parse(&with(88, b"\x1b[2J")), Err(HelloError::Text("the machine")));
    assert_eq!(parse(&with(105, &[17])), Err(HelloError::Blocks(17)));
    let body = &good[HEAD..];
    assert_eq!(Hello::from_body(&[body, &[0, 0]].concat()), Err(HelloError::Trailing(2)));
    for len in 0..body.len() {
        assert!(matches!(Hello::from_body(&body[..len]), Err(HelloError::Short(_))), "{len}");
    }
}

#[test]
fn the_largest_hello_can_be_read() {
    let block = |n: usize| Block { name: name(&format!("{n:064}")), size: n as u64 };
    let largest = Hello {
        vm: name(&"x".repeat(64)),
        machine: "m".repeat(MACHINE),
        blocks: (0..BLOCKS).map(block).collect(),
        disks: vec![Disk { own: u128::MAX, ..Disk::default() }; DISKS],
        ..hello(Side::Primary)
    };
    assert_eq!(parse(&largest.to_bytes()), Ok(largest.clone()));
    // A letter of two bytes does not fit any more.
    let longer = Hello { machine: "m".repeat(MACHINE - 1) + "\u{e4}", ..largest.clone() };
    assert_eq!(parse(&longer.to_bytes()), Ok(Hello { machine: "m".repeat(MACHINE - 1), ..largest }));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Some((head, body)) = bytes.split_first_chunk() {
            let _ = (Hello::body_len(*head), Hello::from_body(body));
        }
    }

    #[test]
    fn a_hello_is_read_as_it_was_written(
        vm in "[a-z][a-z0-9._-]{0,63}", generation: u64, session: u64, held: [u64; 5], capabilities: u32, choice in 0..10usize,
        machine in "[^\\p{Cc}]{0,300}",
        blocks in prop::collection::vec(("[a-z][a-z.]{0,20}", any::<u64>()), 0..=BLOCKS),
        disks in prop::collection::vec(any::<(u8, u16, u64, u128, u128, [bool; 3])>(), 0..=DISKS),
    ) {
        let written = Hello {
            role: Role::ALL[choice % 2],
            side: Side::ALL[choice / 2 % 2],
            mode: Mode::ALL[choice / 4 % 2],
            answer: Answer::ALL[choice / 2],
            capabilities: Capabilities(capabilities),
            generation,
            session,
            held: Held { session: held[0], epoch: held[1], room: held[2] },
            run: held[3],
            epochs: held[4],
            vm: name(&vm),
            machine,
            blocks: blocks.iter().map(|(text, size)| Block { name: name(text), size: *size }).collect(),
            disks: disks
                .into_iter()
                .map(|(place, port, size, own, peer, [alone, dirty, believed])| Disk {
                    place,
                    port,
                    size,
                    own,
                    peer,
                    alone,
                    dirty,
                    believed,
                })
                .collect(),
        };
        prop_assert_eq!(parse(&written.to_bytes()), Ok(written));
    }
}
