//! A guest's frame on its way through the comparator.

use crate::engine::{self, Nanos};
use crate::frame::WireFrame;
use crate::link::VNET_HDR;

/// A frame with the vnet header that it came with, and the time of its arrival.
#[derive(Debug)]
pub struct LiveFrame {
    wire: WireFrame,
    /// When it was read.
    pub(super) at: Nanos,
}

impl LiveFrame {
    pub(super) fn new(wire: WireFrame, at: Nanos) -> Self {
        Self { wire, at }
    }

    /// A frame of the comparator's own, which needs nothing of the kernel.
    pub(super) fn made(ethernet: &[u8], at: Nanos) -> Self {
        Self { wire: WireFrame::behind(&[0; VNET_HDR], ethernet), at }
    }

    /// The vnet header and the frame, as they are written to the tap.
    pub(super) fn wire(&self) -> &[u8] {
        self.wire.wire()
    }

    /// Lets go of a block that it shares with others.
    pub(super) fn shrink(&mut self) {
        self.wire.shrink();
    }
}

impl engine::Frame for LiveFrame {
    #[inline]
    fn bytes(&self) -> &[u8] {
        self.wire.bytes()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.wire.bytes_mut()
    }

    // A vnet header has no length, and the kernel knows a frame that is too short for segmentation.
    fn cut(&mut self, header: usize, at: usize) -> Option<Self> {
        Some(Self { wire: self.wire.cut_behind(header, at)?, at: self.at })
    }
}
