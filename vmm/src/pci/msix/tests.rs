use super::*;
use proptest::prelude::*;
use std::sync::Arc;

/// A vector that writes down what it sends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    message: (u64, u32),
    open: bool,
    kept: bool,
    sent: Vec<(u64, u32)>,
}

impl Log {
    /// What was sent since the last call.
    pub(crate) fn sent(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.0.lock().unwrap().sent)
    }
}

impl Vector for Log {
    fn set(&self, address: u64, data: u32) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.0.lock().unwrap().message = (address, data);
        Ok(())
    }

    fn mask(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.0.lock().unwrap().open = false;
        Ok(())
    }

    fn unmask(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut inner = self.0.lock().unwrap();
        inner.open = true;
        if std::mem::take(&mut inner.kept) {
            let message = inner.message;
            inner.sent.push(message);
        }
        Ok(())
    }

    fn pending(&self) -> bool {
        self.0.lock().unwrap().kept
    }

    fn forget(&self) {
        self.0.lock().unwrap().kept = false;
    }

    fn signal(&self) {
        let mut inner = self.0.lock().unwrap();
        if inner.open {
            let message = inner.message;
            inner.sent.push(message);
        } else {
            inner.kept = true;
        }
    }
}

/// A table whose vectors are watched.
pub(crate) fn watched(count: usize) -> (Msix, Vec<Log>) {
    let logs: Vec<Log> = (0..count).map(|_| Log::default()).collect();
    let vectors = logs.iter().map(|log| -> Box<dyn Vector> { Box::new(log.clone()) }).collect();
    (Msix::new(vectors), logs)
}

fn write(msix: &Msix, offset: u64, value: u32) {
    msix.write_table(offset, &value.to_le_bytes());
}

fn pending(msix: &Msix) -> u8 {
    let mut bits = [0];
    msix.read_pending(0, &mut bits);
    bits[0]
}

#[test]
fn what_is_masked_is_pending_and_comes_when_unmasked() {
    let (msix, logs) = watched(3);
    assert_eq!(msix.capability(2, 0x3000, 0x3800), [2, 0, 2, 0x30, 0, 0, 2, 0x38, 0, 0]);
    write(&msix, 16, 0xfee0_1000);
    write(&msix, 24, 0x41);
    write(&msix, 28, 0);
    msix.signal(1);
    msix.signal(7);
    assert_eq!((logs[1].sent(), pending(&msix)), (vec![], 2), "it is not enabled");
    msix.set_control(ENABLE | FUNCTION_MASK);
    assert_eq!(logs[1].sent(), []);
    msix.set_control(ENABLE);
    assert_eq!((logs[1].sent(), pending(&msix)), (vec![(0xfee0_1000, 0x41)], 0));
    write(&msix, 28, 1);
    msix.signal(1);
    msix.signal(1);
    assert_eq!((logs[1].sent(), pending(&msix)), (vec![], 2));
    msix.write_table(24, &[0x42, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(logs[1].sent(), [(0xfee0_1000, 0x42)], "once, with the message of now");
    assert_eq!((logs[0].sent(), logs[2].sent()), (vec![], vec![]));
}

#[test]
fn the_table_reads_as_written_and_odd_accesses_are_nothing() {
    let (msix, _) = watched(2);
    msix.write_table(0, &[0x13, 0, 0xe0, 0xfe, 1, 0, 0, 0]);
    let mut data = [0xff; 8];
    msix.read_table(0, &mut data);
    assert_eq!(data, [0x10, 0, 0xe0, 0xfe, 1, 0, 0, 0]);
    msix.write_table(8, &[1, 2]);
    msix.write_table(9, &[1, 2, 3, 4]);
    msix.write_table(28, &[0; 8]);
    msix.read_table(8, &mut data);
    assert_eq!(data, [0, 0, 0, 0, 1, 0, 0, 0], "entry 0 is masked");
    msix.read_table(28, &mut data);
    assert_eq!(data, [0, 0, 0, 0, 1, 0, 0, 0], "what is beyond the end stays");
}

#[test]
fn a_table_moves_to_another_machine_with_what_is_pending() {
    let (msix, _) = watched(2);
    write(&msix, 0, 0xfee0_0000);
    write(&msix, 8, 0x31);
    write(&msix, 12, 0);
    msix.set_control(ENABLE | FUNCTION_MASK);
    msix.signal(0);
    let state = msix.save();
    let (other, logs) = watched(2);
    other.check(&state).unwrap();
    other.load(&state);
    assert_eq!(other.save(), state);
    other.set_control(ENABLE);
    assert_eq!(logs[0].sent(), [(0xfee0_0000, 0x31)]);
    let (small, _) = watched(1);
    assert_eq!(small.check(&state), Err(MsixError { theirs: 2, pending: 2, ours: 1 }));
    other.reset();
    other.signal(0);
    assert_eq!(logs[0].sent(), []);
}

/// What a guest can write into an entry.
fn entry() -> impl Strategy<Value = Entry> {
    let fields = (any::<u64>(), any::<u32>(), 0..=VECTOR_MASK);
    fields.prop_map(|(address, data, control)| Entry { address: address & !3, data, control })
}

fn state() -> impl Strategy<Value = MsixState> {
    let parts = (any::<u16>(), proptest::array::uniform4((entry(), any::<bool>())));
    parts.prop_map(|(control, vectors)| MsixState {
        control: control & CONTROL_WRITABLE,
        entries: vectors.iter().map(|(entry, _)| *entry).collect(),
        pending: vectors.iter().map(|(_, pending)| *pending).collect(),
    })
}

proptest! {
    /// What is pending and may be sent is: then it is pending no more.
    #[test]
    fn what_is_loaded_is_saved_or_sent(before in state(), mut state in state()) {
        let (msix, logs) = watched(4);
        msix.load(&before);
        logs.iter().for_each(|log| drop(log.sent()));
        msix.load(&state);
        for (number, log) in logs.iter().enumerate() {
            let Entry { address, data, control } = state.entries[number];
            let open = state.control == ENABLE && control == 0;
            let sent = if open && state.pending[number] { vec![(address, data)] } else { vec![] };
            prop_assert_eq!(log.sent(), sent);
            state.pending[number] &= !open;
        }
        prop_assert_eq!(msix.save(), state);
    }
}
