//! COM1: a 16550A (`vm-superio`) between the guest and a console.
//!
//! ```text
//!   guest ──out──► registers ──► output (a console's writer)
//!     ▲                │
//!     └── interrupt ◄──┤◄── waiting (bounded) ◄── input(bytes) ◄── a console's reader
//! ```

mod state;

pub use state::SerialState;

use super::lock;
use crate::bus::BusDevice;
use crate::irq::Line;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial as Registers, Trigger};

/// How many ports it has.
pub const PORTS: u64 = 8;
/// The most input that waits for a guest that does not read.
const WAITING: usize = 64 << 10;

/// Where what the guest prints goes.
pub type Output = Box<dyn Write + Send>;

/// COM1.
pub struct Serial {
    line: Arc<dyn Line>,
    inner: Mutex<Inner>,
}

struct Inner {
    registers: Registers<Edge, NoEvents, Output>,
    /// What does not fit into the FIFO yet.
    waiting: VecDeque<u8>,
}

/// `vm-superio` speaks of interrupts as events, so they are edges. (COM1's pin is edge-triggered on a PC.)
struct Edge(Arc<dyn Line>);

impl Trigger for Edge {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.set(true);
        self.0.set(false);
        Ok(())
    }
}

impl Serial {
    /// A port as it is after a reset.
    pub fn new(line: Arc<dyn Line>, output: Output) -> Self {
        let registers = Registers::new(Edge(line.clone()), output);
        Self { line, inner: Mutex::new(Inner { registers, waiting: VecDeque::new() }) }
    }

    /// Takes what somebody types. Says how many bytes there was room for: who types faster than the guest
    /// reads loses the rest.
    pub fn input(&self, bytes: &[u8]) -> usize {
        let mut inner = lock(&self.inner);
        let taken = bytes.len().min(WAITING - inner.waiting.len());
        inner.waiting.extend(&bytes[..taken]);
        inner.refill();
        taken
    }

    /// Its registers, and the input that waits.
    pub fn state(&self) -> SerialState {
        let inner = lock(&self.inner);
        SerialState::new(&inner.registers.state(), &inner.waiting)
    }

    /// Becomes what a state says. The output stays.
    pub fn load(&self, state: &SerialState) {
        let mut inner = lock(&self.inner);
        let output = std::mem::replace(inner.registers.writer_mut(), Box::new(io::sink()));
        // The state's FIFO is cut to what a FIFO holds; the only other failure is the edge, which has none.
        if let Ok(registers) =
            Registers::from_state(&state.registers(), Edge(self.line.clone()), NoEvents, output)
        {
            inner.registers = registers;
        }
        inner.waiting = state.waiting.iter().copied().take(WAITING).collect();
    }
}

impl Inner {
    fn refill(&mut self) {
        let room = self.registers.fifo_capacity().min(self.waiting.len());
        if room > 0 {
            let bytes: Vec<u8> = self.waiting.iter().copied().take(room).collect();
            // In loop mode a port hears itself alone: then nothing is taken, and waits on.
            let taken = self.registers.enqueue_raw_bytes(&bytes).unwrap_or(0);
            self.waiting.drain(..taken);
        }
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serial").field("state", &self.state()).finish()
    }
}

impl BusDevice for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        // The registers are bytes; a wide access is nothing that a 16550 has.
        if let [byte] = data {
            let mut inner = lock(&self.inner);
            *byte = inner.registers.read(offset as u8);
            if offset == 0 {
                inner.refill();
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let [byte] = data {
            // What cannot be printed is lost, as on a cable that is cut: a guest never waits for a console.
            let _ = lock(&self.inner).registers.write(offset as u8, *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::dice::dice;
    use crate::state::encode_bare;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Debug, Default)]
    struct Edges(AtomicUsize);

    impl Line for Edges {
        fn set(&self, high: bool) {
            self.0.fetch_add(usize::from(high), Ordering::Relaxed);
        }
    }

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn serial() -> (Serial, Arc<Edges>, Screen) {
        let (edges, screen) = (Arc::new(Edges::default()), Screen::default());
        (Serial::new(edges.clone(), Box::new(screen.clone())), edges, screen)
    }

    fn byte(serial: &Serial, offset: u64) -> u8 {
        let mut data = [0xff];
        serial.read(offset, &mut data);
        data[0]
    }

    #[test]
    fn what_the_guest_prints_comes_out() {
        let (serial, _, screen) = serial();
        for byte in b"hello" {
            serial.write(0, &[*byte]);
        }
        serial.write(0, b"wide");
        assert_eq!(*screen.0.lock().unwrap(), b"hello");
    }

    #[test]
    fn what_is_typed_arrives_in_order_however_much() {
        let (serial, edges, _) = serial();
        serial.write(1, &[1]);
        let typed: Vec<u8> = (0..1000).map(|n| n as u8).collect();
        assert_eq!(serial.input(&typed), 1000);
        assert!(edges.0.load(Ordering::Relaxed) > 0);
        let mut read = Vec::new();
        while byte(&serial, 5) & 1 != 0 {
            read.push(byte(&serial, 0));
        }
        assert_eq!(read, typed);
    }

    #[test]
    fn a_guest_that_never_reads_costs_a_bounded_amount() {
        let (serial, _, _) = serial();
        let all = vec![b'x'; 1 << 20];
        let taken = serial.input(&all) + serial.input(&all);
        assert_eq!(taken, WAITING + 64, "what waits, and the FIFO");
        assert_eq!(serial.input(&all), 0);
    }

    proptest! {
        #[test]
        fn what_is_loaded_is_saved(
            seed: u64,
            before: u64,
            fifo in proptest::collection::vec(any::<u8>(), 0..=64),
            waiting in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let (serial, _, screen) = serial();
            serial.load(&dice(before));
            let state = SerialState { fifo, waiting, ..dice(seed) };
            serial.load(&state);
            prop_assert_eq!(encode_bare(&serial.state()), encode_bare(&state));
            prop_assert!(screen.0.lock().unwrap().is_empty());
        }

        #[test]
        fn a_loaded_port_goes_on_like_the_saved_one(
            before in proptest::collection::vec((0_u64..8, any::<u8>()), 0..40),
            typed in proptest::collection::vec(any::<u8>(), 0..200),
            after in proptest::collection::vec((0_u64..8, any::<Option<u8>>()), 0..40),
        ) {
            let (one, _, one_screen) = serial();
            before.iter().for_each(|(offset, value)| one.write(*offset, &[*value]));
            one.input(&typed);
            one_screen.0.lock().unwrap().clear();
            let (two, _, two_screen) = serial();
            let text = serde_json::to_string(&one.state()).unwrap();
            two.load(&serde_json::from_str(&text).unwrap());
            for (offset, value) in after {
                if let Some(value) = value {
                    one.write(offset, &[value]);
                    two.write(offset, &[value]);
                } else {
                    prop_assert_eq!(byte(&one, offset), byte(&two, offset));
                }
            }
            prop_assert_eq!(&*one_screen.0.lock().unwrap(), &*two_screen.0.lock().unwrap());
            prop_assert_eq!(one.state(), two.state());
        }
    }
}
