//! Where programs are attached, and how they are taken off again.
//!
//! With TCX (Linux 6.6) an attachment is a link: it ends with its last descriptor or pin. Before
//! that it is a filter of the `clsact` qdisc, which stays until it is deleted.

use super::{DatapathError, chain};
use crate::live::spec::Attach;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};

/// A place where one of the programs is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Place {
    /// The guest's output.
    VifIngress,
    /// The guest's input.
    VifEgress,
    /// What the comparator lets go.
    CaptureIngress,
    /// What comes over the forward link.
    ForwardIngress,
}

impl Place {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::VifIngress, Self::VifEgress, Self::CaptureIngress, Self::ForwardIngress];

    /// The name of the program, and of its pin.
    pub const fn program(self) -> &'static str {
        match self {
            Self::VifIngress => "vif_ingress",
            Self::VifEgress => "vif_egress",
            Self::CaptureIngress => "capture_ingress",
            Self::ForwardIngress => "forward_ingress",
        }
    }

    const fn direction(self) -> TcAttachType {
        match self {
            Self::VifEgress => TcAttachType::Egress,
            _ => TcAttachType::Ingress,
        }
    }

    /// Ingress before all others, so that they see what is released and nothing else; egress after
    /// all others, so that what is copied is what the guest gets.
    fn order(self) -> LinkOrder {
        match self {
            Self::VifEgress => LinkOrder::last(),
            _ => LinkOrder::first(),
        }
    }

    /// The same for a filter: the lowest number is the first. Where another kind of filter has it, the
    /// kernel refuses ours, which is better than to come behind it.
    const fn priority(self) -> u16 {
        match self {
            Self::VifEgress => u16::MAX,
            _ => 1,
        }
    }
}

/// How programs are attached: what [`Attach`] comes to on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// TCX links.
    Tcx,
    /// Filters of a `clsact` qdisc.
    Clsact,
}

impl Hook {
    /// The one that was asked for.
    pub fn of(attach: Attach) -> Self {
        match attach {
            Attach::Auto => Self::best(),
            Attach::Tcx => Self::Tcx,
            Attach::Clsact => Self::Clsact,
        }
    }

    /// The best one that this kernel has.
    pub fn best() -> Self {
        let young = KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0));
        if young { Self::Tcx } else { Self::Clsact }
    }
}

/// An attached program.
#[derive(Debug)]
#[must_use = "a held link is detached when it is dropped"]
pub enum Attached {
    /// Until its pin is removed.
    Pinned(PathBuf),
    /// Until this is dropped.
    Held(FdLink),
    /// Until its filter is deleted.
    Filter {
        /// The device.
        device: String,
        /// The place on it.
        place: Place,
        /// The filter's priority.
        priority: u16,
        /// The filter's handle.
        handle: u32,
    },
}

/// The two kinds of attachment.
#[derive(Debug)]
pub struct Hooks;

impl Hooks {
    pub(super) fn attach(
        program: &mut SchedClassifier,
        place: Place,
        device: &str,
        hook: Hook,
        pin: Option<&Path>,
    ) -> Result<Attached, DatapathError> {
        let failed =
            |why: String| DatapathError::Attach { program: place.program(), device: device.to_owned(), why };
        let options = match hook {
            Hook::Tcx => TcAttachOptions::TcxOrder(place.order()),
            Hook::Clsact => {
                Self::add_clsact(device)?;
                TcAttachOptions::Netlink(NlOptions { priority: place.priority(), ..NlOptions::default() })
            }
        };
        let id = program
            .attach_with_options(device, place.direction(), options)
            .map_err(|error| failed(chain(&error)))?;
        let link = program.take_link(id).map_err(|error| failed(chain(&error)))?;
        if hook == Hook::Clsact {
            let priority = link.priority().map_err(|error| failed(chain(&error)))?;
            let handle = u32::from(link.handle().map_err(|error| failed(chain(&error)))?);
            // Dropping the link would delete the filter.
            std::mem::forget(link);
            return Ok(Attached::Filter { device: device.to_owned(), place, priority, handle });
        }
        let link: FdLink = link.try_into().map_err(|error| failed(chain(&error)))?;
        match pin {
            None => Ok(Attached::Held(link)),
            Some(path) => {
                let pinned: PinnedLink = link.pin(path).map_err(|error| failed(chain(&error)))?;
                drop(pinned);
                Ok(Attached::Pinned(path.to_owned()))
            }
        }
    }

    /// Adds a `clsact` qdisc, which filters belong to. False if there was one.
    pub fn add_clsact(device: &str) -> Result<bool, DatapathError> {
        match tc::qdisc_add_clsact(device) {
            Ok(()) => Ok(true),
            Err(tc::TcError::AlreadyAttached) => Ok(false),
            // What the kernel's refusal is in this version of aya.
            Err(tc::TcError::NetlinkError(error))
                if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) =>
            {
                Ok(false)
            }
            Err(error) => Err(DatapathError::Attach {
                program: "a clsact qdisc",
                device: device.to_owned(),
                why: chain(&error),
            }),
        }
    }

    /// Deletes a filter. That it, its device or its qdisc is gone already is fine.
    pub fn delete_filter(device: &str, place: Place, priority: u16, handle: u32) -> io::Result<()> {
        let link =
            SchedClassifierLink::attached(device, place.direction(), priority, TcHandle::from(handle), None);
        match link {
            // Dropping the link deletes the filter.
            Ok(link) => drop(link),
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(19) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether a pinned link is still attached to a device: it is not when the device is gone.
    pub fn is_alive(pin: &Path) -> bool {
        PinnedLink::from_pin(pin).is_ok()
    }
}
