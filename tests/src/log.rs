//! A sink that writes everything down, and a driver that feeds an engine by hand.

use colo_proxy::engine::{
    AckFrame, Cause, Config, Discard, Divergence, Engine, Epoch, Input, Nanos, Side, Sink, Trigger,
};
use colo_proxy::packet::{FlowKey, Offload};

/// One verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A primary frame left, with so many new bytes.
    Release(Vec<u8>, u32),
    /// A frame of the engine's own left.
    Inject(Vec<u8>),
    /// A frame went nowhere.
    Discard(Side, Discard),
    /// The sides differ at this offset.
    Divergence(Cause, u64),
    /// A checkpoint is wanted.
    Trigger(Cause),
}

/// All verdicts in order.
#[derive(Debug, Default)]
pub struct Log(pub Vec<Verdict>);

impl Sink<Vec<u8>> for Log {
    fn release(&mut self, _: Option<&FlowKey>, frame: Vec<u8>, verified: u32) {
        self.0.push(Verdict::Release(frame, verified));
    }
    fn inject(&mut self, _: &FlowKey, ack: AckFrame) {
        self.0.push(Verdict::Inject(ack.0.into_vec()));
    }
    fn discard(&mut self, _: Option<&FlowKey>, side: Side, _: Vec<u8>, cause: Discard) {
        self.0.push(Verdict::Discard(side, cause));
    }
    fn divergence(&mut self, divergence: &Divergence<'_, Vec<u8>>) {
        self.0.push(Verdict::Divergence(divergence.cause, divergence.offset));
    }
    fn trigger(&mut self, trigger: Trigger) {
        self.0.push(Verdict::Trigger(trigger.cause));
    }
}

/// An engine with its log and a clock in milliseconds.
#[derive(Debug)]
pub struct Bench {
    /// The engine.
    pub engine: Engine<Vec<u8>>,
    /// Its verdicts since the last look.
    pub log: Log,
    /// The time of the next input.
    pub now: Nanos,
}

impl Default for Bench {
    fn default() -> Self {
        Self::new(Config::default())
    }
}

impl Bench {
    /// An engine with this configuration.
    pub fn new(config: Config) -> Self {
        Self { engine: Engine::new(config), log: Log::default(), now: Nanos::from_millis(1000) }
    }

    /// Feeds one frame of the current epoch.
    pub fn feed(&mut self, side: Side, frame: &[u8]) {
        self.feed_in(self.engine.epoch(), side, frame, Offload::default());
    }

    /// Feeds one frame of this epoch, with what its vnet header said.
    pub fn feed_in(&mut self, epoch: Epoch, side: Side, frame: &[u8], offload: Offload) {
        let input = Input { side, frame: frame.to_vec(), offload, at: self.now, epoch };
        self.engine.frame(input, &mut self.log);
    }

    /// Feeds a primary frame.
    pub fn primary(&mut self, frame: &[u8]) -> &mut Self {
        self.feed(Side::Primary, frame);
        self
    }

    /// Feeds a secondary frame.
    pub fn secondary(&mut self, frame: &[u8]) -> &mut Self {
        self.feed(Side::Secondary, frame);
        self
    }

    /// Feeds both sides the same frame, the primary first.
    pub fn both(&mut self, frame: &[u8]) -> &mut Self {
        self.primary(frame).secondary(frame)
    }

    /// Lets so many milliseconds pass, and ticks.
    pub fn wait(&mut self, ms: u64) -> &mut Self {
        self.now = self.now.plus(Nanos::from_millis(ms));
        self.engine.tick(self.now, &mut self.log);
        self
    }

    /// A whole checkpoint.
    pub fn checkpoint(&mut self) -> &mut Self {
        self.engine.checkpoint_begin();
        self.engine.checkpoint_done(self.now, &mut self.log);
        self
    }

    /// Takes the verdicts so far.
    pub fn verdicts(&mut self) -> Vec<Verdict> {
        std::mem::take(&mut self.log.0)
    }

    /// Takes what has left so far: released and injected frames.
    pub fn out(&mut self) -> Vec<Vec<u8>> {
        let out = |verdict| match verdict {
            Verdict::Release(frame, _) | Verdict::Inject(frame) => Some(frame),
            _ => None,
        };
        self.verdicts().into_iter().filter_map(out).collect()
    }

    /// Takes the causes of triggers so far.
    pub fn triggers(&mut self) -> Vec<Cause> {
        let cause = |verdict| match verdict {
            Verdict::Trigger(cause) => Some(cause),
            _ => None,
        };
        self.verdicts().into_iter().filter_map(cause).collect()
    }

    /// Frames held of the primary.
    pub fn held(&self) -> usize {
        self.engine.held(Side::Primary).frames
    }
}
