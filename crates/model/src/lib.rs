//! The words that all other crates speak: ids, names, the specification of a container, steps, and what was observed.
//!
//! Plain values only: no input or output, no decisions.

pub mod action;
pub mod chain;
pub mod devices;
pub mod facts;
pub mod gauges;
pub mod id;
pub mod knob;
pub mod limits;
pub mod name;
pub mod net;
pub mod observed;
pub mod pin;
pub mod rest;
pub mod sandbox;
pub mod scale;
pub mod step;
pub mod wish;

#[cfg(test)]
mod fuzz;

pub use action::{Bites, Bounded, LimitAction, LimitActions};
pub use chain::{ChainSpec, Hop, OnFailure};
pub use devices::{DevicePolicy, DeviceRange, DeviceRule};
pub use facts::{CgroupLayout, HostFacts, OverlayWay, V1Hierarchy};
pub use gauges::{Gauges, GroupUsage, Hits, Pressure, Scarce, Told};
pub use id::{Boot, BootGen, Fingerprint, IdMap, InstanceId, RootGen};
pub use knob::{BlockDevice, DiskRates, Knob, KnobChange, Partition, Rdma, Setting, Settings};
pub use limits::{Bytes, CpuAllowance, CpuSelection, Limits, Memory, Swap};
pub use name::{DeviceName, InstanceName, InvalidName, NamespaceName, NetworkName, PoolName, ProfileName, ProjectName};
pub use net::{Cidr, Mac, NetworkSpec, NicId, NicLimits, NicSpec, Plug, WireEnd, WireSeen};
pub use observed::{BootSeen, End, GroupSeen, GuestSeen, NicSeen, Observed};
pub use pin::{PinId, PinSeen, PinSource, PinSpec};
pub use rest::Rest;
pub use sandbox::{
    Clocks, DeviceNode, MountMode, NamespaceKind, Namespaces, ResourceLimit, SandboxSpec, Seccomp, Share,
};
pub use step::Step;
pub use wish::{FirstBootFile, INIT, InstanceSpec, PoolSpec, Power, RootSource, StopKind, Wish};
