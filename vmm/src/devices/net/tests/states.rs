//! Random states of a card with four queue pairs: what is loaded is saved, byte for byte.

use super::*;
use crate::state::dice::dice;
use crate::state::encode_bare;
use crate::virtio::pci::CardState;
use crate::virtio::pci::tests::possible;

const PAIRS: u16 = 4;

fn card(tap: &str, ram: &Arc<GuestRam>) -> Guest {
    Guest::new(Box::new(Net::new(Tap::open(tap, PAIRS).unwrap(), MAC, Some(1500))), ram)
}

/// The same with a driver that has begun: rings in memory, of which so many buffers were used.
fn begun(mut state: CardState, seed: u64, ram: &Arc<GuestRam>) -> CardState {
    let transport = &mut state.transport;
    (transport.status, transport.needs_reset) = (15, false);
    transport.features = VERSION_1 | RING_EVENT_IDX | ALWAYS | MQ | CTRL_VQ;
    for (queue, number) in transport.queues.iter_mut().zip(0..) {
        let driver = FakeDriver::new(ram, 0x1_0000 * (number + 1), queue.size.next_power_of_two());
        (queue.size, queue.ready) = (queue.size.next_power_of_two(), true);
        (queue.descriptors, queue.driver, queue.device) = (driver.table(), driver.available(), driver.used());
        let used: u16 = dice(seed ^ number);
        (queue.next_avail, queue.next_used) = (used, used);
        for ring in [driver.available(), driver.used()] {
            ram.write_obj(used, GuestAddress(ring + 2)).unwrap();
        }
    }
    state
}

#[test]
fn what_is_loaded_is_saved() {
    let _space = Space::enter();
    let seeds = any::<[u64; 3]>();
    let writes = prop::collection::vec((any::<u8>(), any::<[u8; 4]>()), 0..20);
    proptest!(ProptestConfig::with_cases(32), |(seeds in seeds, writes in writes)| {
        let (ram, other) = (ram(RAM), ram(RAM));
        let (guest, written) = (card("a", &ram), card("b", &other));
        let own = guest.function.save();
        guest.function.pause();
        for seed in seeds {
            let waits = possible(own.clone(), seed, &written, &writes);
            for mut state in [waits.clone(), begun(waits, seed, &ram)] {
                let pairs = 1 + dice::<u16>(seed) % PAIRS;
                let DeviceState::Net(net) = &mut state.device else { panic!("it is a card") };
                net.pairs = pairs;
                guest.function.check(&state).unwrap();
                guest.function.load(&state);
                prop_assert_eq!(encode_bare(&guest.function.save()), encode_bare(&state));
                // It goes on with nothing to do but to interrupt: the driver may have missed that.
                guest.function.resume();
                guest.function.pause();
                let later = guest.function.save();
                prop_assert_eq!(later.transport.queues, state.transport.queues);
                prop_assert_eq!(later.device, state.device);
            }
        }
    });
}
