use super::status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, NEEDS_RESET};
use super::*;
use crate::bus::Bus;
use crate::devices::rng::Rng;
use crate::memory::layout;
use crate::pci::msix::tests::Log;
use crate::pci::root::{CONFIG_PORTS, Ports, Root, Window};
use crate::state::dice::dice;
use crate::state::encode_bare;
use crate::virtio::fake_driver::{FakeDriver, NEXT, ram, reads, writes};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use vm_memory::{Bytes as _, GuestAddress};

/// Waits for what another thread does. It fails only if that never comes.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_mins(1);
    while !done() {
        assert!(Instant::now() < end, "{what} never came");
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// A guest that finds its card as Linux does: by ports, capabilities and BARs.
#[derive(Debug)]
pub(crate) struct Guest {
    ports: Bus,
    memory: Bus,
    pub(crate) root: Arc<Root>,
    pub(crate) function: Arc<VirtioPci>,
    pub(crate) logs: Vec<Log>,
    slot: u8,
    /// By type: where the registers are.
    registers: BTreeMap<u8, u64>,
}

impl Guest {
    pub(crate) fn new(device: Box<dyn Device>, ram: &Arc<GuestRam>) -> Self {
        let logs: Vec<Log> = (0..vectors(&*device)).map(|_| Log::default()).collect();
        let vectors = logs.iter().map(|log| -> Box<dyn Vector> { Box::new(log.clone()) }).collect();
        let function = VirtioPci::new(device, ram.clone(), vectors, None, &mut Space::default()).unwrap();
        let root = Root::new();
        let slot = root.insert(function.clone()).unwrap();
        let (mut ports, mut memory) = (Bus::default(), Bus::default());
        let config = Arc::new(Ports::new(root.clone(), None));
        ports.insert("config", layout::PCI_CONFIG_PORT, CONFIG_PORTS, config).unwrap();
        let (io, mmio) = (layout::PCI_PORTS, layout::PCI_MEMORY);
        ports.insert("io", io.start, io.end - io.start, Arc::new(Window::ports(root.clone()))).unwrap();
        let window = Arc::new(Window::memory(root.clone()));
        memory.insert("memory", mmio.start, mmio.end - mmio.start, window).unwrap();
        let mut guest = Self { ports, memory, root, function, logs, slot, registers: BTreeMap::new() };
        guest.probe();
        guest
    }

    pub(crate) fn config(&self, register: u8) -> u32 {
        let address = 1 << 31 | u32::from(self.slot) << 11 | u32::from(register & 0xfc);
        self.ports.write(0xcf8, &address.to_le_bytes());
        let mut data = [0; 4];
        self.ports.read(0xcfc, &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn set_config(&self, register: u8, data: &[u8]) {
        self.config(register);
        self.ports.write(0xcfc + u64::from(register & 3), data);
    }

    /// Where a capability of virtio's type is in the configuration space.
    fn capability(&self, wanted: u8) -> Option<u8> {
        let mut at = self.config(0x34) as u8;
        while at != 0 {
            let [id, next, _, kind] = self.config(at).to_le_bytes();
            if (id, kind) == (9, wanted) || id == wanted {
                return Some(at);
            }
            at = next;
        }
        None
    }

    fn probe(&mut self) {
        for kind in 1..=4 {
            let at = self.capability(kind).unwrap();
            let bar = self.config(at + 4) as u8;
            let base = u64::from(self.config(0x10 + 4 * bar));
            let base = if base & 1 == 1 { base & !3 } else { base & !15 };
            self.registers.insert(kind, base + u64::from(self.config(at + 8)));
        }
    }

    pub(crate) fn read<const N: usize>(&self, kind: u8, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.memory.read(self.registers[&kind] + offset, &mut data);
        data
    }

    pub(crate) fn write(&self, kind: u8, offset: u64, data: &[u8]) {
        assert!(self.memory.write(self.registers[&kind] + offset, data));
    }

    pub(crate) fn status(&self) -> u8 {
        self.read::<1>(COMMON_CFG, 0x14)[0]
    }

    fn set_status(&self, bits: u8) {
        self.write(COMMON_CFG, 0x14, &[bits]);
    }

    pub(crate) fn features(&self) -> u64 {
        (0..2_u32).fold(0, |all, select| {
            self.write(COMMON_CFG, 0, &select.to_le_bytes());
            all | u64::from(u32::from_le_bytes(self.read(COMMON_CFG, 4))) << (32 * select)
        })
    }

    /// Up to `FEATURES_OK`. Says whether the device agrees.
    pub(crate) fn negotiate(&self, features: u64) -> bool {
        self.set_status(0);
        self.set_status(ACKNOWLEDGE);
        self.set_status(ACKNOWLEDGE | DRIVER);
        for select in 0..2_u32 {
            self.write(COMMON_CFG, 8, &select.to_le_bytes());
            self.write(COMMON_CFG, 12, &((features >> (32 * select)) as u32).to_le_bytes());
        }
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        self.status() & FEATURES_OK != 0
    }

    pub(crate) fn set_queue(&self, index: u16, driver: &FakeDriver) {
        self.write(COMMON_CFG, 0x16, &index.to_le_bytes());
        self.write(COMMON_CFG, 0x18, &driver.size.to_le_bytes());
        self.write(COMMON_CFG, 0x1a, &(index + 1).to_le_bytes());
        self.write(COMMON_CFG, 0x20, &driver.table().to_le_bytes());
        self.write(COMMON_CFG, 0x28, &(driver.available() as u32).to_le_bytes());
        self.write(COMMON_CFG, 0x2c, &[0; 4]);
        self.write(COMMON_CFG, 0x30, &driver.used().to_le_bytes());
        self.write(COMMON_CFG, 0x1c, &[1, 0]);
        assert_eq!(self.read(COMMON_CFG, 0x1c), [1, 0]);
    }

    /// Messages: vector n sends n.
    pub(crate) fn enable_interrupts(&self) {
        let at = self.capability(0x11).unwrap();
        let table = u64::from(self.config(0x10) & !15) + u64::from(self.config(at + 4) & !7);
        for vector in 0..self.logs.len() as u64 {
            assert!(self.memory.write(table + 16 * vector, &0xfee0_0000_u64.to_le_bytes()));
            self.memory.write(table + 16 * vector + 8, &(vector as u32).to_le_bytes());
            self.memory.write(table + 16 * vector + 12, &[0; 4]);
        }
        self.set_config(at + 2, &0x8000_u16.to_le_bytes());
        self.write(COMMON_CFG, 0x10, &[0, 0]);
    }

    pub(crate) fn start(&self) {
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    pub(crate) fn notify(&self, queue: u16) {
        self.write_port(self.registers[&NOTIFY_CFG] + 4 * u64::from(queue), queue);
    }

    fn write_port(&self, port: u64, value: u16) {
        assert!(self.ports.write(port, &value.to_le_bytes()));
    }

    pub(crate) fn interrupted(&self, vector: usize) {
        until("an interrupt", || !self.logs[vector].sent().is_empty());
    }
}

/// A guest whose virtio-rng works.
fn started() -> (Guest, FakeDriver) {
    let ram = ram(1 << 20);
    let guest = Guest::new(Box::new(Rng::default()), &ram);
    let driver = FakeDriver::new(&ram, 0x1_0000, 16);
    begin(&guest, &driver);
    (guest, driver)
}

fn begin(guest: &Guest, driver: &FakeDriver) {
    assert!(guest.negotiate(VERSION_1));
    guest.enable_interrupts();
    guest.set_queue(0, driver);
    guest.start();
    assert_eq!(guest.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

/// Asks for randomness and waits for it.
fn ask(guest: &Guest, driver: &mut FakeDriver) -> u32 {
    driver.offer(&[writes(0x100, 64)]).unwrap();
    guest.notify(0);
    guest.interrupted(1);
    let got = driver.collect();
    assert_eq!(got.len(), 1);
    got[0].1
}

#[test]
fn a_driver_finds_negotiates_and_uses_a_device() {
    let (guest, mut driver) = started();
    assert_eq!(guest.config(0), 0x1044_1af4);
    assert_eq!(guest.features(), VERSION_1 | RING_EVENT_IDX | RING_INDIRECT_DESC);
    assert_eq!(guest.read(COMMON_CFG, 0x12), [1, 0]);
    assert_eq!(ask(&guest, &mut driver), 64);
    assert_eq!(guest.read(ISR_CFG, 0), [1]);
    assert_eq!(guest.read(ISR_CFG, 0), [0], "reading takes it");
    guest.write(COMMON_CFG, 0x14, &[0]);
    assert_eq!(guest.status(), 0);
    assert_eq!(guest.read(COMMON_CFG, 0x20), [0; 8]);
    let mut again = FakeDriver::new(&driver.ram, 0x2_0000, 8);
    begin(&guest, &again);
    assert_eq!(ask(&guest, &mut again), 64);
}

#[test]
fn features_that_are_not_offered_are_no_agreement() {
    let (guest, _) = started();
    assert!(!guest.negotiate(0), "a driver of before the standard");
    assert!(!guest.negotiate(VERSION_1 | 1 << 33), "ACCESS_PLATFORM");
    guest.start();
    assert_eq!(guest.status(), ACKNOWLEDGE | DRIVER, "it cannot go on");
    assert!(guest.negotiate(VERSION_1 | RING_INDIRECT_DESC));
    guest.set_status(FAILED);
    assert_eq!(guest.status() & (FAILED | DRIVER_OK), FAILED);
}

#[test]
fn registers_refuse_what_cannot_be() {
    let (guest, _) = started();
    assert!(guest.negotiate(VERSION_1));
    for (size, expected) in [(0_u16, 64_u16), (3, 64), (128, 64), (32, 32)] {
        guest.write(COMMON_CFG, 0x18, &size.to_le_bytes());
        assert_eq!(u16::from_le_bytes(guest.read(COMMON_CFG, 0x18)), expected);
    }
    for (offset, vector, expected) in [(0x10, 2_u16, NO), (0x1a, 7, NO), (0x1a, 1, 1)] {
        guest.write(COMMON_CFG, offset, &vector.to_le_bytes());
        assert_eq!(u16::from_le_bytes(guest.read(COMMON_CFG, offset)), expected);
    }
    guest.write(COMMON_CFG, 0x16, &[1, 0]);
    assert_eq!(guest.read(COMMON_CFG, 0x18), [0, 0], "there is no second queue");
    guest.write(COMMON_CFG, 0x20, &[1; 8]);
    assert_eq!(guest.read(COMMON_CFG, 0x20), [0; 8]);
}

const NO: u16 = signals::NO_VECTOR;

#[test]
fn a_broken_queue_asks_for_a_reset_and_gets_well_by_it() {
    let (guest, mut driver) = started();
    driver.descriptor(driver.table(), 0, 0, 1, NEXT, 0);
    driver.offer_head(0);
    guest.notify(0);
    guest.interrupted(0);
    assert_ne!(guest.status() & NEEDS_RESET, 0);
    assert_eq!(guest.read(ISR_CFG, 0), [2]);
    let mut again = FakeDriver::new(&driver.ram, 0x2_0000, 8);
    begin(&guest, &again);
    assert_eq!(ask(&guest, &mut again), 64);
    again.offer(&[reads(0x100, 64)]).unwrap();
    guest.notify(0);
    guest.interrupted(0);
    assert_ne!(guest.status() & NEEDS_RESET, 0, "what it cannot write is no buffer");
}

#[test]
fn a_queue_outside_of_ram_does_not_begin() {
    let (guest, driver) = started();
    let wild = FakeDriver::new(&driver.ram, 1 << 30, 16);
    assert!(guest.negotiate(VERSION_1));
    guest.set_queue(0, &wild);
    guest.start();
    assert_ne!(guest.status() & NEEDS_RESET, 0);
    guest.notify(0);
    begin(&guest, &FakeDriver::new(&driver.ram, 0x2_0000, 16));
}

#[test]
fn a_paused_device_goes_on_in_another_machine() {
    let (guest, mut driver) = started();
    assert_eq!(ask(&guest, &mut driver), 64);
    guest.function.pause();
    driver.offer(&[writes(0x100, 32)]).unwrap();
    guest.notify(0);
    let (state, root) = (guest.function.save(), guest.root.save());
    assert_eq!(
        (state.transport.queues[0].next_avail, state.transport.queues[0].next_used),
        (1, 1),
        "nothing is in flight"
    );
    let state: CardState = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
    // The other machine has the same RAM here; a checkpoint would have sent it.
    let other = Guest::new(Box::new(Rng::default()), &driver.ram);
    other.function.check(&state).unwrap();
    other.function.load(&state);
    other.root.load(&root);
    assert_eq!(driver.collect(), [], "it is loaded, and does not run yet");
    other.function.resume();
    // One for the load, as one may have been on its way; one for the buffer.
    let mut interrupts = 0;
    until("two interrupts", || {
        interrupts += other.logs[1].sent().len();
        interrupts == 2
    });
    assert_eq!(driver.collect()[0].1, 32);
    assert_eq!(ask(&other, &mut driver), 64);
    let mut wrong = state.clone();
    wrong.transport.features |= 1;
    assert!(matches!(other.function.check(&wrong), Err(LoadError::Features(1))));
    wrong = state.clone();
    wrong.transport.queues[0].size = 3;
    assert!(matches!(other.function.check(&wrong), Err(LoadError::Size { .. })));
    wrong = state;
    wrong.transport.queues.clear();
    assert!(matches!(other.function.check(&wrong), Err(LoadError::Queues { .. })));
}

#[test]
fn a_device_that_works_takes_an_earlier_state_again_and_again() {
    let (guest, mut driver) = started();
    assert_eq!(ask(&guest, &mut driver), 64);
    guest.function.pause();
    let state = guest.function.save();
    let mut ram = vec![0; 1 << 20];
    driver.ram.read_slice(&mut ram, GuestAddress(0)).unwrap();
    guest.function.resume();
    for _ in 0..20 {
        // It goes on, and is taken back with its memory: nothing is then as if it had.
        driver.offer(&[writes(0x200, 8)]).unwrap();
        guest.notify(0);
        guest.interrupted(1);
        guest.function.pause();
        driver.ram.write_slice(&ram, GuestAddress(0)).unwrap();
        assert!(!guest.function.load(&state), "no BAR has moved");
        assert_eq!(guest.function.save(), state);
        guest.function.resume();
        guest.interrupted(1);
        driver = driver.again(1);
    }
    assert_eq!(ask(&guest, &mut driver), 64);
}

#[test]
fn a_bar_is_reached_through_the_configuration_space() {
    let (guest, mut driver) = started();
    let at = guest.capability(PCI_CFG).unwrap();
    let aim = |bar: u8, offset: u32, len: u32| {
        guest.set_config(at + 4, &[bar]);
        guest.set_config(at + 8, &offset.to_le_bytes());
        guest.set_config(at + 12, &len.to_le_bytes());
    };
    aim(0, 0x14, 1);
    assert_eq!(guest.config(at + 16) & 0xff, u32::from(guest.status()));
    driver.offer(&[writes(0x100, 8)]).unwrap();
    aim(1, 0, 2);
    guest.set_config(at + 16, &[0, 0]);
    guest.interrupted(1);
    assert_eq!(driver.collect()[0].1, 8);
    aim(9, 0xffff_fffc, 4);
    guest.config(at + 16);
    guest.set_config(at + 16, &[1; 4]);
}

#[test]
fn a_notification_bar_that_moves_takes_its_doorbells_along() {
    #[derive(Debug, Default)]
    struct Bells(Mutex<Vec<(bool, u16)>>);
    impl Doorbells for Bells {
        fn attach(&self, _: &EventFd, port: u16) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            self.0.lock().unwrap().push((true, port));
            Ok(())
        }
        fn detach(&self, _: &EventFd, port: u16) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            self.0.lock().unwrap().push((false, port));
            Err("it was not there".into())
        }
    }
    let bells = Arc::new(Bells::default());
    let device = Box::new(Rng::default());
    let function =
        VirtioPci::new(device, ram(4096), Vec::new(), Some(bells.clone()), &mut Space::default()).unwrap();
    function.write_config(0x14, &0xd000_u32.to_le_bytes());
    function.write_config(4, &[2]);
    function.write_config(4, &[3]);
    let events = std::mem::take(&mut *bells.0.lock().unwrap());
    assert_eq!(events, [(true, 0xc000), (false, 0xc000), (true, 0xd000), (false, 0xd000), (true, 0xd000)]);
}

#[test]
fn kvm_takes_doorbells_and_vectors() {
    use crate::irq::Routes;
    use crate::kvm::Kvm;
    let ram = Arc::new(crate::memory::new(2 << 20).unwrap());
    let vm = Arc::new(Vm::new(&Kvm::open().unwrap(), ram.clone()).unwrap());
    let routes = Routes::new(vm.clone()).unwrap();
    let vectors: Vec<Box<dyn Vector>> =
        vec![Box::new(routes.vector().unwrap()), Box::new(routes.vector().unwrap())];
    let bells: Arc<dyn Doorbells> = vm.clone();
    let device = Box::new(Rng::default());
    let function = VirtioPci::new(device, ram, vectors, Some(bells), &mut Space::default()).unwrap();
    let kick = EventFd::new(EFD_NONBLOCK).unwrap();
    assert!(Doorbells::attach(&*vm, &kick, 0xc000).is_err(), "the device has it");
    function.write_config(0x14, &0xd000_u32.to_le_bytes());
    Doorbells::attach(&*vm, &kick, 0xc000).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any accesses to any register: no panic, no hang, and a reset brings the device back.
    #[test]
    fn noise_on_registers_is_survived(
        accesses in prop::collection::vec(
            (0u8..3, any::<bool>(), 0u64..0x4000, prop::collection::vec(any::<u8>(), 1..9), any::<u8>()),
            1..200,
        ),
    ) {
        let (guest, driver) = started();
        for (bar, write, offset, data, near) in accesses {
            let offset = if near % 4 == 0 { offset } else { offset & 0x3f };
            let mut data = data;
            match (bar, write) {
                // BARs stay, or the guest would not find its card again.
                (2, true) if offset & 0xff >= 0x40 => guest.function.write_config(offset as u8, &data),
                (2, _) => guest.function.read_config(offset as u8, &mut data),
                (_, true) => guest.function.write(bar, offset, &data),
                (_, false) => guest.function.read(bar, offset, &mut data),
            }
        }
        guest.function.reset();
        let mut again = FakeDriver::new(&driver.ram, 0x2_0000, 8);
        begin(&guest, &again);
        again.offer(&[writes(0x100, 64)]).unwrap();
        guest.notify(0);
        until("randomness", || !again.collect().is_empty());
    }
}

/// What a driver can have made of the registers of `own`, and a device that waits for it. The writes are to the
/// configuration space of another card of that kind.
pub(crate) fn possible(own: CardState, seed: u64, written: &Guest, writes: &[(u8, [u8; 4])]) -> CardState {
    let mut state = own;
    let diced: TransportState = dice(seed);
    let transport = &mut state.transport;
    let most = transport.queues.len() as u16 + 1;
    let vector = |number: u16| if number.is_multiple_of(2) { signals::NO_VECTOR } else { number % most };
    transport.status = [0, 1, 3, 11, 128, 129, 131, 139, 143][diced.status as usize % 9];
    transport.needs_reset = diced.needs_reset;
    transport.features &= diced.features;
    (transport.device_select, transport.driver_select) = (diced.device_select, diced.driver_select);
    (transport.queue_select, transport.isr) = (diced.queue_select, diced.isr);
    (transport.generation, transport.config_vector) = (diced.generation, vector(diced.config_vector));
    for (queue, number) in transport.queues.iter_mut().zip(0..) {
        let diced: state::QueueRegisters = dice(seed ^ number);
        let size = queue.size >> (diced.size % 9);
        *queue = state::QueueRegisters { size: size.max(1), vector: vector(diced.vector), ..diced };
    }
    for (entry, number) in transport.msix.entries.iter_mut().zip(0..) {
        let diced: crate::pci::msix::Entry = dice(seed.rotate_left(9) ^ number);
        *entry = crate::pci::msix::Entry { address: diced.address & !3, control: diced.control & 1, ..diced };
    }
    transport.msix.control = diced.msix.control & msix::CONTROL_WRITABLE;
    writes.iter().for_each(|(at, data)| written.function.config().write(*at, data));
    transport.config = written.function.config().save();
    state
}

proptest! {
    #[test]
    fn what_is_loaded_is_saved(
        before: u64,
        seed: u64,
        writes in proptest::collection::vec((any::<u8>(), any::<[u8; 4]>()), 0..20),
    ) {
        let guest = Guest::new(Box::new(Rng::default()), &ram(2 << 20));
        let own = guest.function.save();
        for (seed, writes) in [(before, &[][..]), (seed, &writes[..])] {
            let written = Guest::new(Box::new(Rng::default()), &ram(2 << 20));
            let state = possible(own.clone(), seed, &written, writes);
            guest.function.check(&state).unwrap();
            guest.function.load(&state);
            prop_assert_eq!(encode_bare(&guest.function.save()), encode_bare(&state));
        }
    }
}
