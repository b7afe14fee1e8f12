//! An instance as others see it.

use model::{Boot, BootSeen, GuestSeen, Observed, Power, Settings};

use crate::record::InstanceRecord;

/// An instance as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceView {
    /// What is remembered of it.
    pub record: InstanceRecord,
    /// What was last seen of it.
    pub observed: Observed,
    /// It was looked at since the daemon began; before, no more is shown than that it runs.
    pub looked: bool,
    /// Counts its changes, for whoever keeps something made from it.
    pub version: u64,
}

/// How an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceStatus {
    /// It does not run.
    Stopped,
    /// It runs.
    Running,
    /// It runs and is held still.
    Frozen,
    /// It is on its way up.
    Starting,
    /// It is on its way down.
    Stopping,
    /// It could not be brought where it should be.
    Error,
}

impl InstanceView {
    /// The boot that should run.
    pub fn boot(&self) -> Option<Boot> {
        Some(Boot { id: self.record.id, generation: self.record.wish.power.boot()? })
    }

    /// The boot that runs.
    pub fn running(&self) -> Option<Boot> {
        self.pid().and(self.boot())
    }

    /// What was last seen of the boot that should run.
    pub fn seen(&self) -> Option<&BootSeen> {
        self.observed.boots.get(&self.record.wish.power.boot()?)
    }

    /// What its limits were last seen at.
    pub fn settings(&self) -> Option<&Settings> {
        Some(&self.seen()?.group.as_ref()?.settings)
    }

    /// The pid of its init on the host; `None` when it does not run.
    pub fn pid(&self) -> Option<u32> {
        match self.seen()?.guest {
            GuestSeen::Running { pid } => Some(pid),
            GuestSeen::Absent | GuestSeen::Prepared { .. } | GuestSeen::Ended(_) => None,
        }
    }

    /// How it is.
    pub fn status(&self) -> InstanceStatus {
        if self.record.error.is_some() {
            return InstanceStatus::Error;
        }
        if !self.record.wish.exists {
            // It goes: nothing that is asked of it is done any more.
            return InstanceStatus::Stopping;
        }
        let alive = self.observed.boots.values().any(|seen| matches!(seen.guest, GuestSeen::Running { .. }));
        match (self.record.wish.power, self.pid(), alive) {
            (Power::On { frozen: true, .. }, Some(_), _) => InstanceStatus::Frozen,
            (Power::On { .. }, Some(_), _) => InstanceStatus::Running,
            (Power::On { .. }, None, _) => InstanceStatus::Starting,
            (Power::Off, _, true) => InstanceStatus::Stopping,
            (Power::Off, _, false) => InstanceStatus::Stopped,
        }
    }
}
