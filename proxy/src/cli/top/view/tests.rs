//! The view on a terminal in memory.

use super::*;
use colo_proxy::control::status::{CheckpointStatus, DelayStatus};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

fn node(pid: u32, captured: u64, flows: u64) -> NodeStatus {
    let flow = |port: u64| FlowStatus {
        flow: format!("udp 10.77.0.2:53 > 10.77.0.1:{}", 40_000 + port),
        held: [HeldStatus { frames: 1, bytes: 60 }, HeldStatus::default()],
        oldest_ms: 1000 - port,
        limit_ms: Some(3000),
        why: "waits for the secondary's output".to_owned(),
    };
    let nic = NicStatus {
        vif: "vif1".to_owned(),
        kernel: [("captured".to_owned(), captured)].into(),
        held: Some([HeldStatus { frames: flows, bytes: 60 * flows }, HeldStatus::default()]),
        match_delay: Some(DelayStatus { count: 9, p50_us: 120, p90_us: 300, p99_us: 1200, max_us: 15_000 }),
        held_flows: (0..flows).map(flow).collect(),
        flows,
        ..NicStatus::default()
    };
    let guest = GuestStatus {
        name: "web".to_owned(),
        role: "primary".to_owned(),
        state: "protected".to_owned(),
        epoch: 17,
        checkpoints: CheckpointStatus {
            outstanding: Some("age".to_owned()),
            outstanding_ms: 12,
            ..CheckpointStatus::default()
        },
        nics: vec![nic],
        ..GuestStatus::default()
    };
    NodeStatus { pid, uptime_ms: 61_000, guests: vec![guest], ..NodeStatus::default() }
}

fn screen(top: &mut Top) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(140, 30)).unwrap();
    terminal.draw(|frame| top.draw(frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..140).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..30).map(line).collect()
}

/// The cells of the first line that has this word in it.
fn cells(lines: &[String], word: &str) -> Vec<String> {
    let line =
        lines.iter().find(|line| line.contains(word)).unwrap_or_else(|| panic!("{word} in {lines:#?}"));
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn rates_come_with_the_second_sample() {
    let (mut top, start) = (Top::default(), Instant::now());
    assert!(screen(&mut top)[0].contains("asking"));
    top.take(start, Ok(vec![node(7, 100, 1)]));
    let lines = screen(&mut top);
    assert!(lines[0].contains("guests: 1, NICs: 1, flows that hold output: 1"), "{}", lines[0]);
    assert_eq!(cells(&lines, "vif1")[..4], ["│vif1", "-", "-", "-"]);
    let guest = cells(&lines, "web").join(" ");
    assert!(guest.contains("primary protected 17 0/0 - 1 min 1 s checkpoint (age) for 12 ms"), "{guest}");

    top.take(start + Duration::from_secs(2), Ok(vec![node(7, 400, 1)]));
    let lines = screen(&mut top);
    let nic = cells(&lines, "vif1").join(" ");
    assert!(nic.contains("vif1 0 150 0 0 0 B 0 1 0 120 µs 300 µs 1.2 ms 15 ms 1"), "{nic}");
    let flow = cells(&lines, ":40000").join(" ");
    assert!(
        flow.contains("udp 10.77.0.2:53 > 10.77.0.1:40000 1 0 1 s 3 s waits for the secondary's output"),
        "{flow}"
    );

    top.take(start + Duration::from_secs(3), Ok(vec![node(8, 400, 1)]));
    assert_eq!(cells(&screen(&mut top), "vif1")[..3], ["│vif1", "-", "-"], "another process");
}

#[test]
fn arrows_move_and_stay_inside() {
    let mut top = Top::default();
    top.take(Instant::now(), Ok(vec![node(7, 0, 100)]));
    screen(&mut top);
    let selected = |top: &Top| top.states[2].selected();
    assert_eq!(selected(&top), Some(0));
    top.key(KeyCode::Up);
    assert_eq!(selected(&top), Some(0));
    for _ in 0..30 {
        top.key(KeyCode::Down);
    }
    assert_eq!(selected(&top), Some(30));
    assert!(screen(&mut top).iter().any(|line| line.contains(":40030")), "the table follows");
    top.key(KeyCode::PageDown);
    assert!(selected(&top) > Some(31));
    top.key(KeyCode::End);
    top.key(KeyCode::Down);
    assert_eq!(selected(&top), Some(99));
    top.key(KeyCode::Home);
    assert_eq!(selected(&top), Some(0));
    top.key(KeyCode::End);
    // The other tables have a place of their own.
    top.key(KeyCode::Tab);
    top.key(KeyCode::Down);
    assert_eq!((top.states[0].selected(), selected(&top)), (Some(0), Some(99)));
    top.key(KeyCode::BackTab);
    top.key(KeyCode::Up);
    assert_eq!(selected(&top), Some(98));
    // Fewer rows: the last of them.
    top.take(Instant::now(), Ok(vec![node(7, 0, 3)]));
    assert_eq!(selected(&top), Some(2));
    top.take(Instant::now(), Ok(Vec::new()));
    assert_eq!(selected(&top), None);
    top.key(KeyCode::Down);
    assert!(screen(&mut top)[0].contains("nothing is protected"));
}

#[test]
fn an_error_stands_above_what_was_known() {
    let mut top = Top::default();
    top.take(Instant::now(), Ok(vec![node(7, 0, 1)]));
    top.take(Instant::now(), Err("no colo-proxy\x1b[2J".to_owned()));
    let lines = screen(&mut top);
    assert!(lines[0].starts_with("no colo-proxy\u{fffd}[2J"), "{}", lines[0]);
    assert_eq!(cells(&lines, "web")[1], "primary");
}

#[test]
fn a_small_terminal_is_no_reason_to_stop() {
    let mut top = Top::default();
    top.take(Instant::now(), Ok(vec![node(7, 0, 5)]));
    for (width, height) in [(1, 1), (5, 3), (20, 8), (80, 24), (300, 4)] {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| top.draw(frame)).unwrap();
    }
}

#[test]
fn what_waits_longest_comes_first_whichever_nic_holds_it() {
    let mut younger = node(7, 0, 2);
    younger.guests[0].nics[0].vif = "vif0".to_owned();
    younger.guests[0].nics[0].held_flows[0].oldest_ms = 5000;
    younger.guests[0].nics[0].held_flows[1].oldest_ms = 1;
    let mut top = Top::default();
    top.take(Instant::now(), Ok(vec![node(8, 0, 1), younger]));
    let lines = screen(&mut top);
    let table = lines.iter().position(|line| line.contains("Held output")).expect("the table");
    let vifs: Vec<&str> = lines[table + 2..table + 5].iter().map(|line| &line[3..7]).collect();
    assert_eq!(vifs, ["vif0", "vif1", "vif0"]);
}
