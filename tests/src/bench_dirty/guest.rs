//! A guest that writes to so many pages, as often as it is asked.

use anyhow::{Context as _, Result, anyhow};
use colo_vmm::boot::Entry;
use colo_vmm::bus::BusDevice;
use colo_vmm::dirty::Tracking;
use colo_vmm::kvm::{Kvm, Vm};
use colo_vmm::memory;
use colo_vmm::sandbox::Sandbox;
use colo_vmm::vcpu::{Buses, Ending, Reset, Vcpu};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};

/// Where the guest writes: a window of 2^17 pages.
const WINDOW_START: u64 = 2 << 20;
const WINDOW: u64 = 512 << 20;
const CODE: u64 = 0x1000;
const TABLES: u64 = 0x2_0000;
const PAGE: u64 = 4096;

/// Waits until it is asked; then writes a word, goes one stride on, and so forth; says that it has done so.
const PROGRAM: [u8; 38] = [
    0xe4, 0x10, // in al, 0x10
    0x84, 0xc0, // test al, al
    0x74, 0xfa, // jz to the start
    0xe5, 0x14, // in eax, 0x14: how many
    0x89, 0xc7, // mov edi, eax
    0xe5, 0x18, // in eax, 0x18: the stride
    0x89, 0xc6, // mov esi, eax
    0xe5, 0x1c, // in eax, 0x1c: where it begins
    0x48, 0x89, 0xc2, // mov rdx, rax
    0x48, 0x21, 0xca, // and rdx, rcx
    0x48, 0x89, 0x04, 0x13, // mov [rbx + rdx], rax
    0x48, 0x01, 0xf0, // add rax, rsi
    0x48, 0xff, 0xcf, // dec rdi
    0x75, 0xee, // jnz to `mov rdx`
    0xe6, 0x10, // out 0x10, al
    0xeb, 0xda, // jmp to the start
];

/// The ports of the guest.
#[derive(Debug)]
struct Order {
    asked: AtomicU32,
    pages: AtomicU32,
    stride: AtomicU32,
    start: AtomicU32,
    done: Mutex<SyncSender<Result<Instant, Ending>>>,
}

impl BusDevice for Order {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            0 => self.asked.swap(0, Ordering::AcqRel),
            4 => self.pages.load(Ordering::Relaxed),
            8 => self.stride.load(Ordering::Relaxed),
            _ => self.start.load(Ordering::Relaxed),
        };
        let len = data.len().min(4);
        data[..len].copy_from_slice(&value.to_le_bytes()[..len]);
    }

    fn write(&self, _: u64, _: &[u8]) {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = done.try_send(Ok(Instant::now()));
    }
}

/// The guest, which stands when it has done what it was asked.
pub(super) struct Guest {
    vcpu: Vcpu,
    pub(super) vm: Arc<Vm>,
    order: Arc<Order>,
    done: Receiver<Result<Instant, Ending>>,
}

impl Guest {
    pub(super) fn new(tracking: Tracking) -> Result<Self> {
        let kvm = Kvm::open()?;
        let ram = memory::new(WINDOW_START + WINDOW)?;
        ram.write_slice(&PROGRAM, GuestAddress(CODE))?;
        ram.write_obj((TABLES + PAGE) | 0x23, GuestAddress(TABLES))?;
        ram.write_obj((TABLES + 2 * PAGE) | 0x23, GuestAddress(TABLES + PAGE))?;
        for entry in 0..512 {
            ram.write_obj((entry << 21) | 0xe3, GuestAddress(TABLES + 2 * PAGE + entry * 8))?;
        }
        let vm = Arc::new(Vm::tracked_by(&kvm, Arc::new(ram), tracking)?);
        let reset = Reset::new(&kvm, &vm, 0, 1)?;
        let mut sregs = reset.fd().get_sregs()?;
        let mut regs = Entry::Linux64 { rip: CODE, zero_page: 0 }.prepare(vm.ram(), &mut sregs)?;
        sregs.cr3 = TABLES;
        (regs.rbx, regs.rcx) = (WINDOW_START, WINDOW - 8);
        reset.fd().set_sregs(&sregs)?;
        reset.fd().set_regs(&regs)?;
        let (done, receiver) = sync_channel(1);
        let ended = done.clone();
        let order = Arc::new(Order {
            asked: AtomicU32::new(0),
            pages: AtomicU32::new(0),
            stride: AtomicU32::new(0),
            start: AtomicU32::new(0),
            done: Mutex::new(done),
        });
        let mut buses = Buses::default();
        buses.ports.insert("order", 0x10, 0x10, order.clone())?;
        let told = move |_, ending| drop(ended.try_send(Err(ending)));
        let vcpu = reset.start(Arc::new(buses), Sandbox::default(), told)?;
        Ok(Self { vcpu, vm, order, done: receiver })
    }

    /// Has it write to pages, and stands it still. How long the writes took.
    pub(super) fn write(&self, pages: u32, stride: u32, start: u32) -> Result<Duration> {
        if pages == 0 {
            return Ok(Duration::ZERO);
        }
        self.vcpu.resume().wait()?;
        self.order.pages.store(pages, Ordering::Relaxed);
        self.order.stride.store(stride * PAGE as u32, Ordering::Relaxed);
        self.order.start.store(start * 8, Ordering::Relaxed);
        let begin = Instant::now();
        self.order.asked.store(1, Ordering::Release);
        let end = self.done.recv_timeout(Duration::from_secs(100)).context("the guest does not write")?;
        let end = end.map_err(|ending| anyhow!("the guest ended: {ending:?}"))?;
        self.vcpu.pause().wait()?;
        Ok(end.saturating_duration_since(begin))
    }
}

/// All pages that the guest can write.
pub(super) const PAGES: u32 = (WINDOW / PAGE) as u32;
