//! The programs that run in the kernel, run there on frames of ours: no device, no network.
//!
//! ```text
//!   frame, mark ──► BPF_PROG_TEST_RUN ──► verdict, frame, mark
//!                     NICS, FLOWS ┘└ COUNTERS
//! ```
//!
//! * [`segment`]: frames with any stack of headers.
//! * [`signals`]: what interrupts a thread.
//! * [`Programs`]: the object, loaded; its maps; one run.

pub mod segment;
pub mod signals;
mod sys;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, Map, PerCpuArray};
use aya::programs::{Program, SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use colo_ebpf_shared::layout::{Address, AddressKey, Counter, FlowKey, Nic};
use colo_ebpf_shared::translate::Flow;
use colo_proxy::datapath::load;
use std::time::Duration;

/// The verdict "goes its way" (`TC_ACT_UNSPEC`).
pub const NEXT: i32 = -1;
/// The verdict "is dropped" (`TC_ACT_SHOT`).
pub const DROP: i32 = 2;
/// The verdict "goes to another device" (`TC_ACT_REDIRECT`).
pub const REDIRECT: i32 = 7;

/// Bytes of the kernel's `__sk_buff`, and where the mark is in it.
const CONTEXT: usize = 192;
const MARK: usize = 8;

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// What the program returned.
    pub verdict: i32,
    /// The frame behind the program, without a tag that the kernel keeps beside it.
    pub frame: Vec<u8>,
    /// Its mark.
    pub mark: u32,
}

/// The programs of one NIC.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
    index: u32,
}

impl Programs {
    /// Loads them for the NIC `index`, with room for so many connections.
    pub fn load(index: u32, flows: u32) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.override_global("INDEX", &index, true).map_max_entries("FLOWS", flows);
        let mut ebpf = loader.load(sys::OBJECT).context("cannot load the object; this needs root")?;
        // What chooses a queue needs a tap that has several.
        let classifiers = ebpf.programs_mut().filter(|(_, one)| !matches!(one, Program::SocketFilter(_)));
        for (name, program) in classifiers {
            let program: &mut SchedClassifier = program.try_into().with_context(|| name.to_owned())?;
            load(|| program.load()).with_context(|| format!("this kernel does not take {name}"))?;
        }
        Ok(Self { ebpf, index })
    }

    fn map(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf.map_mut(name).with_context(|| format!("there is no map {name}"))
    }

    /// Writes what the NIC is.
    pub fn set_nic(&mut self, nic: Nic) -> Result<()> {
        let index = self.index;
        Ok(Array::<_, sys::Nic>::try_from(self.map("NICS")?)?.set(index, sys::Nic(nic), 0)?)
    }

    /// What the programs are told of the NIC, and what they found out since.
    pub fn nic(&mut self) -> Result<Nic> {
        let index = self.index;
        Ok(Array::<_, sys::Nic>::try_from(self.map("NICS")?)?.get(&index, 0)?.0)
    }

    /// How often something was counted, on all CPUs.
    pub fn count(&mut self, counter: Counter) -> Result<u64> {
        let index = self.index;
        let counters = PerCpuArray::<_, sys::Counters>::try_from(self.map("COUNTERS")?)?;
        Ok(counters.get(&index, 0)?.iter().map(|cpu| cpu.0[counter as usize]).sum())
    }

    /// Everything that was counted and is not 0.
    pub fn counted(&mut self) -> Result<Vec<(&'static str, u64)>> {
        let all = Counter::ALL.into_iter().map(|counter| Ok((counter.label(), self.count(counter)?)));
        let all = all.collect::<Result<Vec<_>>>()?;
        Ok(all.into_iter().filter(|(_, count)| *count > 0).collect())
    }

    /// What is known of a connection.
    pub fn flow(&mut self, key: FlowKey) -> Result<Option<Flow>> {
        let flows = HashMap::<_, sys::FlowKey, sys::Flow>::try_from(self.map("FLOWS")?)?;
        match flows.get(&sys::FlowKey(key), 0) {
            Ok(flow) => Ok(Some(flow.0)),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes something known of a connection.
    pub fn set_flow(&mut self, key: FlowKey, flow: Flow) -> Result<()> {
        let mut flows = HashMap::<_, sys::FlowKey, sys::Flow>::try_from(self.map("FLOWS")?)?;
        Ok(flows.insert(sys::FlowKey(key), sys::Flow(flow), 0)?)
    }

    /// How many connections are known.
    pub fn flows(&mut self) -> Result<usize> {
        let flows = HashMap::<_, sys::FlowKey, sys::Flow>::try_from(self.map("FLOWS")?)?;
        Ok(flows.keys().count())
    }

    /// The addresses that the guest was seen to use.
    pub fn addresses(&mut self) -> Result<Vec<(AddressKey, Address)>> {
        let addresses = HashMap::<_, sys::AddressKey, sys::Address>::try_from(self.map("ADDRESSES")?)?;
        addresses.iter().map(|entry| entry.map(|(key, value)| (key.0, value.0)).map_err(Into::into)).collect()
    }

    /// A program, to be attached.
    pub fn program(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let program = self.ebpf.program_mut(name).with_context(|| format!("there is no program {name}"))?;
        Ok(program.try_into()?)
    }

    /// Runs a program on a frame.
    pub fn run(&mut self, name: &str, frame: &[u8], mark: u32) -> Result<Ran> {
        let mut context = [0; CONTEXT];
        context[MARK..MARK + 4].copy_from_slice(&mark.to_ne_bytes());
        let mut context_out = [0; CONTEXT];
        let mut out = vec![0; frame.len() + 64];
        let result = self.program(name)?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ctx_out: Some(&mut context_out),
            ..TestRunOptions::new()
        });
        let result = result.with_context(|| format!("{name} on {} bytes", frame.len()))?;
        out.truncate(result.data_size_out as usize);
        let mut mark = [0; 4];
        mark.copy_from_slice(&context_out[MARK..MARK + 4]);
        Ok(Ran { verdict: result.return_value as i32, frame: out, mark: u32::from_ne_bytes(mark) })
    }

    /// How long a program takes for a frame, on the average of so many runs on one and the same
    /// buffer: what a run changes is what the next one sees.
    pub fn time(&mut self, name: &str, frame: &[u8], mark: u32, runs: u32) -> Result<Duration> {
        let mut context = [0; CONTEXT];
        context[MARK..MARK + 4].copy_from_slice(&mark.to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat: runs,
            ..TestRunOptions::new()
        };
        let result = self.program(name)?.test_run(options)?;
        ensure!(result.return_value != 0, "{name} returned TC_ACT_OK, which it never does");
        Ok(result.duration)
    }
}
