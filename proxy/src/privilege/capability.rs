//! The capabilities that mean something to this program, by the names of capabilities(7).

use rustix::thread::CapabilitySet;
use std::fmt;

macro_rules! capabilities {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $bit:ident;)*) => {
        /// A privilege of a thread.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Capability {
            $($(#[$doc])* $name,)*
        }

        impl Capability {
            /// Its name in lower case, as `setcap` takes it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            pub(super) const fn bit(self) -> CapabilitySet {
                match self { $(Self::$name => CapabilitySet::$bit,)* }
            }
        }
    };
}

capabilities! {
    /// Interfaces, filters, routes.
    NetAdmin = "cap_net_admin", NET_ADMIN;
    /// Raw and packet sockets.
    NetRaw = "cap_net_raw", NET_RAW;
    /// Ports below 1024.
    NetBindService = "cap_net_bind_service", NET_BIND_SERVICE;
    /// Programs and maps in the kernel.
    Bpf = "cap_bpf", BPF;
    /// Programs that look at more than their own data.
    Perfmon = "cap_perfmon", PERFMON;
    /// Mounts, and whatever else has no capability of its own.
    SysAdmin = "cap_sys_admin", SYS_ADMIN;
    /// Limits of resources.
    SysResource = "cap_sys_resource", SYS_RESOURCE;
    /// Memory that stays in memory.
    IpcLock = "cap_ipc_lock", IPC_LOCK;
    /// Signals to processes of others.
    Kill = "cap_kill", KILL;
    /// Files of others.
    DacOverride = "cap_dac_override", DAC_OVERRIDE;
    /// Taking capabilities out of the bounding set.
    SetPcap = "cap_setpcap", SETPCAP;
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name().to_uppercase())
    }
}

/// Their union.
pub(super) fn union(capabilities: &[Capability]) -> CapabilitySet {
    capabilities.iter().fold(CapabilitySet::empty(), |set, capability| set | capability.bit())
}

/// Names for people: `CAP_A`, `CAP_A and CAP_B`, `CAP_A, CAP_B and CAP_C`.
pub(super) fn list(capabilities: &[Capability]) -> String {
    match capabilities {
        [] => "no capability".to_owned(),
        [one] => one.to_string(),
        [several @ .., last] => {
            let several: Vec<String> = several.iter().map(ToString::to_string).collect();
            format!("{} and {last}", several.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_named_and_counted_as_the_kernel_does() {
        // linux/capability.h
        for (capability, number, name) in [
            (Capability::NetAdmin, 12, "CAP_NET_ADMIN"),
            (Capability::NetRaw, 13, "CAP_NET_RAW"),
            (Capability::SysAdmin, 21, "CAP_SYS_ADMIN"),
            (Capability::Perfmon, 38, "CAP_PERFMON"),
            (Capability::Bpf, 39, "CAP_BPF"),
            (Capability::SetPcap, 8, "CAP_SETPCAP"),
        ] {
            assert_eq!((capability.bit().bits(), capability.to_string().as_str()), (1 << number, name));
        }
    }

    #[test]
    fn a_list_reads_well() {
        use Capability::{Bpf, NetAdmin, NetRaw};
        assert_eq!(list(&[Bpf]), "CAP_BPF");
        assert_eq!(list(&[Bpf, NetAdmin]), "CAP_BPF and CAP_NET_ADMIN");
        assert_eq!(list(&[Bpf, NetAdmin, NetRaw]), "CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW");
    }
}
