use super::*;
use crate::bus::Bus;
use crate::pci::config::BarKind;
use crate::state::encode_bare;
use proptest::prelude::*;

/// A card with a memory BAR and a port BAR that writes down what it is asked.
#[derive(Debug)]
struct Card {
    config: Mutex<ConfigSpace>,
    asked: Mutex<Vec<(u8, u64)>>,
}

impl Card {
    fn new(memory: u64, ports: u64) -> Arc<Self> {
        let identity = Identity { vendor: 0x1234, device: 1, class: [0xff, 0, 0], revision: 0, subsystem: 0 };
        let mut config = ConfigSpace::new(identity);
        config.add_bar(0, BarKind::Memory32, 0x1000, memory).unwrap();
        config.add_bar(1, BarKind::Ports, 0x10, ports).unwrap();
        Arc::new(Self { config: Mutex::new(config), asked: Mutex::default() })
    }

    fn asked(&self) -> Vec<(u8, u64)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Function for Card {
    fn read_config(&self, offset: u8, data: &mut [u8]) {
        self.config.lock().unwrap().read(offset, data);
    }
    fn write_config(&self, offset: u8, data: &[u8]) {
        self.config.lock().unwrap().write(offset, data);
    }
    fn regions(&self) -> Vec<Region> {
        self.config.lock().unwrap().regions()
    }
    fn write(&self, bar: u8, offset: u64, _: &[u8]) {
        self.asked.lock().unwrap().push((bar, offset));
    }
}

#[derive(Debug, Default)]
struct ResetPort(Mutex<Vec<u8>>);

impl BusDevice for ResetPort {
    fn read(&self, _: u64, data: &mut [u8]) {
        data[0] = 0x5a;
    }
    fn write(&self, offset: u64, data: &[u8]) {
        assert_eq!(offset, 0);
        self.0.lock().unwrap().push(data[0]);
    }
}

struct Machine {
    root: Arc<Root>,
    ports: Bus,
    memory: Bus,
    reset: Arc<ResetPort>,
}

fn machine() -> Machine {
    let (root, reset) = (Root::new(), Arc::new(ResetPort::default()));
    let (mut ports, mut memory) = (Bus::default(), Bus::default());
    let config = Ports::new(root.clone(), Some(reset.clone()));
    ports.insert("PCI", layout::PCI_CONFIG_PORT, CONFIG_PORTS, Arc::new(config)).unwrap();
    let (io, mmio) = (layout::PCI_PORTS, layout::PCI_MEMORY);
    ports.insert("PCI", io.start, io.end - io.start, Arc::new(Window::ports(root.clone()))).unwrap();
    memory.insert("PCI", mmio.start, mmio.end - mmio.start, Arc::new(Window::memory(root.clone()))).unwrap();
    Machine { root, ports, memory, reset }
}

impl Machine {
    fn inl(&self, port: u64) -> u32 {
        let mut data = [0; 4];
        self.ports.read(port, &mut data);
        u32::from_le_bytes(data)
    }
    fn config(&self, slot: u32, register: u32) -> u32 {
        self.ports.write(0xcf8, &(1 << 31 | slot << 11 | register).to_le_bytes());
        self.inl(0xcfc)
    }
    fn set_config(&self, slot: u32, register: u32, data: &[u8]) {
        self.config(slot, register & 0xfc);
        self.ports.write(0xcfc + u64::from(register & 3), data);
    }
}

#[test]
fn linux_finds_mechanism_1_and_a_host_bridge() {
    let machine = machine();
    // As Linux's pci_check_type1 does.
    machine.ports.write(0xcfb, &[1]);
    machine.ports.write(0xcf8, &0x8000_0000_u32.to_le_bytes());
    assert_eq!(machine.inl(0xcf8), 0x8000_0000);
    assert_eq!(machine.config(0, 0), 0x0008_1b36);
    assert_eq!(machine.config(0, 8) >> 8, 0x06_0000);
    assert_eq!(machine.config(1, 0), u32::MAX, "nobody is there");
    assert_eq!(machine.config(1 << 5, 0), u32::MAX, "nor on bus 1");
    machine.ports.write(0xcf8, &0x8000_0100_u32.to_le_bytes());
    assert_eq!(machine.inl(0xcfc), u32::MAX, "it has one function");
    machine.ports.write(0xcf8, &0_u32.to_le_bytes());
    assert_eq!(machine.inl(0xcfc), u32::MAX, "not enabled");
}

#[test]
fn configuration_is_read_and_written_in_parts() {
    let machine = machine();
    assert_eq!(machine.root.insert(Card::new(0xc000_0000, 0xc000)), Ok(1));
    machine.config(1, 0);
    let (mut byte, mut half) = ([0], [0; 2]);
    machine.ports.read(0xcfd, &mut byte);
    machine.ports.read(0xcfe, &mut half);
    assert_eq!((byte, half), ([0x12], [1, 0]));
    machine.set_config(1, 0x3c, &[11]);
    assert_eq!(machine.config(1, 0x3c), 11);
    machine.set_config(1, 0xff, &[1, 2]);
    machine.ports.read(0xcff, &mut half);
    assert_eq!(half, [0xff; 2], "it crosses the end");
}

#[test]
fn a_bar_that_moves_takes_its_accesses_along() {
    let machine = machine();
    let (card, other) = (Card::new(0xc000_0000, 0xc000), Card::new(0xc000_1000, 0xc010));
    machine.root.insert(card.clone()).unwrap();
    machine.root.insert(other.clone()).unwrap();
    machine.memory.write(0xc000_0ffc, &[0; 4]);
    machine.memory.write(0xc000_0ffe, &[0; 4]);
    machine.ports.write(0xc004, &[0; 2]);
    machine.memory.write(0xc000_1000, &[0; 8]);
    assert_eq!(card.asked(), [(0, 0xffc), (1, 4)]);
    assert_eq!(other.asked(), [(0, 0)]);
    machine.set_config(1, 0x10, &0xd000_0000_u32.to_le_bytes());
    machine.memory.write(0xc000_0000, &[0; 4]);
    machine.memory.write(0xd000_0010, &[0; 4]);
    assert_eq!(card.asked(), [(0, 0x10)]);
    machine.set_config(1, 4, &[1]);
    machine.memory.write(0xd000_0010, &[0; 4]);
    machine.ports.write(0xc004, &[0; 2]);
    assert_eq!(card.asked(), [(1, 4)], "memory decoding is off");
    machine.set_config(1, 0x14, &0xc010_u32.to_le_bytes());
    machine.ports.write(0xc010, &[0; 2]);
    assert_eq!((card.asked(), other.asked()), (vec![(1, 0)], vec![]), "the lower slot has it");
    let mut data = [0; 4];
    machine.memory.read(0xe000_0000, &mut data);
    assert_eq!(data, [0xff; 4]);
}

#[test]
fn the_reset_port_is_between_the_registers() {
    let machine = machine();
    machine.config(0, 0);
    machine.ports.write(0xcf9, &[6]);
    let mut byte = [0];
    machine.ports.read(0xcf9, &mut byte);
    assert_eq!((byte, machine.inl(0xcf8)), ([0x5a], 0x8000_0000));
    assert_eq!(*machine.reset.0.lock().unwrap(), [6]);
}

#[test]
fn a_bus_has_32_slots() {
    let root = Root::new();
    for slot in 1..SLOTS {
        assert_eq!(root.insert(Arc::new(HostBridge::default())), Ok(slot));
    }
    assert_eq!(root.insert(Arc::new(HostBridge::default())), Err(NoSlot));
    let mut state = root.save();
    state.address = 4;
    root.check(&state).unwrap();
    root.load(&state);
    assert_eq!(root.save(), state);
    state.bridge.bytes[0] = 0;
    assert!(root.check(&state).is_err());
}

proptest! {
    #[test]
    fn what_is_loaded_is_saved(
        address: u32,
        writes in proptest::collection::vec((any::<u8>(), any::<[u8; 4]>()), 0..20),
    ) {
        let written = HostBridge::default();
        writes.iter().for_each(|(at, data)| written.write_config(*at, data));
        let state = RootState { address: address & ADDRESS, bridge: written.space().save() };
        let root = Root::new();
        root.check(&state).unwrap();
        root.load(&state);
        prop_assert_eq!(encode_bare(&root.save()), encode_bare(&state));
    }
}
