//! What is fed: the shapes of traffic that are measured.

/// The transport a workload's frames carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP segments whose sequence numbers run on without a gap.
    Tcp,
    /// TCP super-segments behind a 12-byte virtio-net header that leaves checksum and cutting to the device.
    TcpGso,
    /// UDP datagrams.
    Udp,
}

/// What is measured of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Pairs per second with a window of pairs in flight.
    Throughput,
    /// The time of one pair alone.
    Latency,
}

/// One shape of traffic and what is measured with it.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// The name it is selected by.
    pub name: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// The transport.
    pub transport: Transport,
    /// Bytes after the transport header.
    pub payload: usize,
    /// How many flows the frames go round.
    pub flows: usize,
    /// How many frames are prepared (a multiple of the flows).
    pub frames: usize,
    /// Throughput or latency.
    pub measure: Measure,
    /// The windows, in pairs, of which each contender's best counts.
    pub windows: &'static [usize],
}

impl Workload {
    /// Whether frames are fed with a virtio-net header.
    pub fn vnet(&self) -> bool {
        self.transport == Transport::TcpGso
    }

    /// Bytes of one Ethernet frame.
    pub fn frame_bytes(&self) -> usize {
        let transport = if self.transport == Transport::Udp { 8 } else { 20 };
        14 + 20 + transport + self.payload
    }
}

const WINDOWS: &[usize] = &[64, 256, 1024];
const GSO: &[usize] = &[4, 8, 32];
const ONE: &[usize] = &[1];

/// Everything that is measured, in the order of the table.
pub const ALL: &[Workload] = &[
    tcp("tcp-mtu", "TCP, 1 flow, 1448 B payload", 1448, 1, 4096, WINDOWS),
    Workload {
        name: "tcp-gso",
        title: "TCP, 1 flow, 60 000 B GSO frames, vnet header",
        transport: Transport::TcpGso,
        payload: 60_000 - 54,
        flows: 1,
        frames: 128,
        measure: Measure::Throughput,
        windows: GSO,
    },
    tcp("tcp-64-1", "TCP, 1 flow, 64 B payload", 64, 1, 40_000, WINDOWS),
    tcp("tcp-64-100", "TCP, 100 flows, 64 B payload", 64, 100, 40_000, WINDOWS),
    tcp("tcp-64-10000", "TCP, 10 000 flows, 64 B payload", 64, 10_000, 40_000, WINDOWS),
    udp(tcp("udp-64-1", "UDP, 1 flow, 64 B payload", 64, 1, 40_000, WINDOWS)),
    udp(tcp("udp-64-100", "UDP, 100 flows, 64 B payload", 64, 100, 40_000, WINDOWS)),
    latency(tcp("latency-64", "TCP, 1 flow, 64 B payload, one pair in flight", 64, 1, 4096, ONE)),
    latency(tcp("latency-mtu", "TCP, 1 flow, 1448 B payload, one pair in flight", 1448, 1, 4096, ONE)),
];

const fn tcp(
    name: &'static str,
    title: &'static str,
    payload: usize,
    flows: usize,
    frames: usize,
    windows: &'static [usize],
) -> Workload {
    let transport = Transport::Tcp;
    Workload { name, title, transport, payload, flows, frames, measure: Measure::Throughput, windows }
}

const fn udp(of: Workload) -> Workload {
    Workload { transport: Transport::Udp, ..of }
}

const fn latency(of: Workload) -> Workload {
    Workload { measure: Measure::Latency, ..of }
}

/// The workload of that name.
pub fn by_name(name: &str) -> Option<&'static Workload> {
    ALL.iter().find(|workload| workload.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_rings_are_large_enough() {
        for workload in ALL {
            assert_eq!(by_name(workload.name).unwrap().title, workload.title);
            assert_eq!(workload.frames % workload.flows, 0);
            for window in workload.windows {
                assert!(4 * window <= workload.frames, "{}", workload.name);
            }
        }
    }
}
