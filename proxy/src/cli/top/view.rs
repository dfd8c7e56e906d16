//! What `top` shows: three tables made of the last two samples.

use colo_proxy::control::rates::{self, NicRates};
use colo_proxy::control::render::{Bytes, Micros, Millis, clean, flow_row};
use colo_proxy::control::status::{FlowStatus, GuestStatus, HeldStatus, NicStatus, NodeStatus};
use ratatui::Frame;
use ratatui::crossterm::event::KeyCode;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style, Stylize as _};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, TableState};
use std::time::{Duration, Instant};

/// Which table the arrows move in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Focus {
    Guests = 0,
    Nics = 1,
    #[default]
    Flows = 2,
}

/// The view: what is known, and where the person is in it.
#[derive(Debug, Default)]
pub(super) struct Top {
    before: Vec<NodeStatus>,
    now: Vec<NodeStatus>,
    taken: Option<Instant>,
    elapsed: Duration,
    error: Option<String>,
    focus: Focus,
    states: [TableState; 3],
    /// Rows of each table, and of the focused one how many fit.
    rows: [usize; 3],
    page: usize,
}

impl Top {
    /// Takes a sample. What was known stays on the screen where there is none.
    pub(super) fn take(&mut self, at: Instant, nodes: Result<Vec<NodeStatus>, String>) {
        match nodes {
            Ok(nodes) => {
                self.elapsed = self.taken.map_or(Duration::ZERO, |taken| at.saturating_duration_since(taken));
                self.before = std::mem::replace(&mut self.now, nodes);
                self.taken = Some(at);
                self.error = None;
            }
            Err(error) => self.error = Some(error),
        }
        self.rows = [self.guests().count(), self.nics().count(), self.flows().len()];
        for (state, rows) in self.states.iter_mut().zip(self.rows) {
            let selected = state.selected().unwrap_or(0);
            state.select((rows > 0).then(|| selected.min(rows - 1)));
        }
    }

    /// A key that moves.
    pub(super) fn key(&mut self, key: KeyCode) {
        let table = self.focus as usize;
        let (state, last) = (&mut self.states[table], self.rows[table].saturating_sub(1));
        let here = state.selected().unwrap_or(0);
        let page = self.page.max(1);
        let there = match key {
            KeyCode::Tab | KeyCode::BackTab => {
                let order = [Focus::Guests, Focus::Nics, Focus::Flows];
                let step = if key == KeyCode::Tab { 1 } else { 2 };
                self.focus = order[(table + step) % 3];
                return;
            }
            KeyCode::Up | KeyCode::Char('k') => here.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => here + 1,
            KeyCode::PageUp => here.saturating_sub(page),
            KeyCode::PageDown => here + page,
            KeyCode::Home => 0,
            KeyCode::End => last,
            _ => return,
        };
        if self.rows[table] > 0 {
            state.select(Some(there.min(last)));
        }
    }

    fn guests(&self) -> impl Iterator<Item = (&NodeStatus, &GuestStatus)> {
        self.now.iter().flat_map(|node| node.guests.iter().map(move |guest| (node, guest)))
    }

    fn nics(&self) -> impl Iterator<Item = (&NodeStatus, &GuestStatus, &NicStatus)> {
        self.guests().flat_map(|(node, guest)| guest.nics.iter().map(move |nic| (node, guest, nic)))
    }

    /// The held flows of all NICs, those that have waited longest first.
    fn flows(&self) -> Vec<(&NicStatus, &FlowStatus)> {
        let all = self.nics().flat_map(|(_, _, nic)| nic.held_flows.iter().map(move |flow| (nic, flow)));
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(_, flow)| std::cmp::Reverse(flow.oldest_ms));
        all
    }

    /// Draws everything.
    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        // The flows get the rest, and at least a few lines.
        let needed = |rows: usize| Constraint::Length(u16::try_from(rows.clamp(1, 8) + 3).unwrap_or(11));
        let [head, guests, nics, flows, foot] = Layout::vertical([
            Constraint::Length(1),
            needed(self.rows[0]),
            needed(self.rows[1]),
            Constraint::Min(6),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.headline(), head);
        self.page = [guests, nics, flows][self.focus as usize].height.saturating_sub(3).into();
        let mut states = std::mem::take(&mut self.states);
        self.draw_guests(frame, guests, &mut states[0]);
        self.draw_nics(frame, nics, &mut states[1]);
        self.draw_flows(frame, flows, &mut states[2]);
        self.states = states;
        frame.render_widget(Line::from(" q quit   Tab next table   arrows move").dim(), foot);
    }

    fn headline(&self) -> Paragraph<'_> {
        if let Some(error) = &self.error {
            return Paragraph::new(clean(error)).style(Style::new().bold().red());
        }
        let text = match (self.taken, self.rows[0]) {
            (None, _) => " colo-proxy top: asking …".to_owned(),
            (_, 0) => " colo-proxy top: nothing is protected in this network namespace".to_owned(),
            (_, guests) => {
                let [_, nics, flows] = self.rows;
                format!(" colo-proxy top: guests: {guests}, NICs: {nics}, flows that hold output: {flows}")
            }
        };
        Paragraph::new(text).style(Style::new().bold())
    }

    fn block(&self, focus: Focus, title: &'static str) -> Block<'static> {
        let block = Block::bordered().title(title);
        if self.focus == focus {
            block.border_style(Style::new().bold())
        } else {
            block.border_style(Style::new().dim())
        }
    }

    fn table<'a>(
        &self,
        focus: Focus,
        title: &'static str,
        rows: Vec<Row<'a>>,
        columns: &[(&'a str, Constraint)],
    ) -> Table<'a> {
        let head = Row::new(columns.iter().map(|(name, _)| Cell::from(*name))).style(Style::new().bold());
        let marked = if self.focus == focus { Modifier::REVERSED } else { Modifier::empty() };
        Table::new(rows, columns.iter().map(|(_, width)| *width))
            .header(head)
            .column_spacing(1)
            .row_highlight_style(Style::new().add_modifier(marked))
            .block(self.block(focus, title))
    }

    fn draw_guests(&self, frame: &mut Frame<'_>, area: Rect, state: &mut TableState) {
        let row = |(node, guest): (&NodeStatus, &GuestStatus)| {
            let checkpoints = &guest.checkpoints;
            let outstanding = checkpoints.outstanding.as_ref().map_or_else(String::new, |why| {
                format!("checkpoint ({}) for {}", clean(why), Millis(checkpoints.outstanding_ms))
            });
            let waits = guest.waiting_for.as_deref().map_or(outstanding, clean);
            let row = Row::new([
                clean(&guest.name),
                clean(&guest.role),
                if node.pid == 0 { "no process".to_owned() } else { clean(&guest.state) },
                guest.epoch.to_string(),
                format!("{}/{}", checkpoints.completed, checkpoints.failed),
                checkpoints.last_ms.map_or_else(|| "-".to_owned(), |ms| Millis(ms).to_string()),
                Millis(node.uptime_ms).to_string(),
                waits,
            ]);
            if guest.waiting_for.is_some() { row.yellow() } else { row }
        };
        let rows = self.guests().map(row).collect();
        let columns = [
            ("GUEST", Constraint::Length(16)),
            ("ROLE", Constraint::Length(9)),
            ("STATE", Constraint::Length(11)),
            ("EPOCH", Constraint::Length(7)),
            ("DONE/FAIL", Constraint::Length(9)),
            ("LAST", Constraint::Length(8)),
            ("UP", Constraint::Length(11)),
            ("WAITS FOR", Constraint::Fill(1)),
        ];
        frame.render_stateful_widget(self.table(Focus::Guests, " Guests ", rows, &columns), area, state);
    }

    fn draw_nics(&self, frame: &mut Frame<'_>, area: Rect, state: &mut TableState) {
        let row = |(node, guest, nic): (&NodeStatus, &GuestStatus, &NicStatus)| {
            let rates = rates::nic(&self.before, node.pid, &guest.name, nic, self.elapsed);
            let rate = |of: fn(&NicRates) -> f64| {
                rates.as_ref().map_or_else(|| "-".to_owned(), |rates| format!("{:.0}", of(rates)))
            };
            let verified =
                rates.as_ref().map_or_else(|| "-".to_owned(), |rates| Bytes(rates.verified).to_string());
            let held = |side: usize| {
                let held = nic.held.map(|held| held[side]);
                held.map_or_else(|| "-".to_owned(), |HeldStatus { frames, .. }| frames.to_string())
            };
            let delay = |of: fn(&colo_proxy::control::status::DelayStatus) -> u64| {
                nic.match_delay.as_ref().map_or_else(|| "-".to_owned(), |delay| Micros(of(delay)).to_string())
            };
            let lossy = rates.as_ref().is_some_and(|rates| rates.lost > 0.0);
            let row = Row::new([
                clean(&nic.vif),
                rate(|rates| rates.input),
                rate(|rates| rates.output),
                rate(|rates| rates.twin),
                rate(|rates| rates.released),
                verified,
                rate(|rates| rates.lost),
                held(0),
                held(1),
                delay(|delay| delay.p50_us),
                delay(|delay| delay.p90_us),
                delay(|delay| delay.p99_us),
                delay(|delay| delay.max_us),
                nic.flows.to_string(),
            ]);
            if lossy { row.red() } else { row }
        };
        let rows = self.nics().map(row).collect();
        let columns = [
            ("VIF", Constraint::Length(15)),
            ("IN/s", Constraint::Length(8)),
            ("OUT/s", Constraint::Length(8)),
            ("TWIN/s", Constraint::Length(8)),
            ("LEFT/s", Constraint::Length(8)),
            ("SAME/s", Constraint::Length(8)),
            ("LOST/s", Constraint::Length(7)),
            ("HELD P", Constraint::Length(6)),
            ("HELD S", Constraint::Length(6)),
            ("50%", Constraint::Length(7)),
            ("90%", Constraint::Length(7)),
            ("99%", Constraint::Length(7)),
            ("MAX", Constraint::Length(7)),
            ("FLOWS", Constraint::Fill(1)),
        ];
        frame.render_stateful_widget(
            self.table(Focus::Nics, " NICs, frames per second ", rows, &columns),
            area,
            state,
        );
    }

    fn draw_flows(&self, frame: &mut Frame<'_>, area: Rect, state: &mut TableState) {
        let row = |(nic, flow): (&NicStatus, &FlowStatus)| {
            let [name, ours, theirs, age, limit, why] = flow_row(flow);
            Row::new([clean(&nic.vif), name, ours, theirs, age, limit, why])
        };
        let rows = self.flows().into_iter().map(row).collect();
        let columns = [
            ("VIF", Constraint::Length(15)),
            ("FLOW", Constraint::Fill(1)),
            ("P", Constraint::Length(5)),
            ("S", Constraint::Length(5)),
            ("FOR", Constraint::Length(8)),
            ("LIMIT", Constraint::Length(8)),
            ("WHY", Constraint::Fill(1)),
        ];
        let title = " Held output: what waits longest first ";
        frame.render_stateful_widget(self.table(Focus::Flows, title, rows, &columns), area, state);
    }
}

#[cfg(test)]
mod tests;
