//! What users may ask of an instance, as pure functions from wish to wish.

use config::Written;
use model::{BootGen, InstanceName, Power, ProfileName, ProjectName, StopKind};

use crate::error::{Error, Result};
use crate::record::{InstanceRecord, WishState};

/// What is asked of an instance that exists.
#[derive(Debug, Clone, PartialEq)]
pub enum Verb {
    /// Make it run.
    Start,
    /// End it.
    Stop(StopKind),
    /// End it and make it run again.
    Restart(StopKind),
    /// Hold it still.
    Freeze,
    /// Let it go on.
    Thaw,
    /// Replace its definition.
    Update(Box<Update>),
    /// Change parts of its definition.
    Patch(Box<Patch>),
    /// Remove it.
    Delete,
}

/// A new definition.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Keys and devices.
    pub written: Written,
    /// Profiles.
    pub profiles: Vec<ProfileName>,
    /// Words about it.
    pub description: String,
    /// It is deleted when it stops.
    pub ephemeral: bool,
}

/// Parts of a definition; what is not named stays as it is when the change is made.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Patch {
    /// Keys and devices. A key with an empty value is taken back.
    pub written: Written,
    /// Profiles.
    pub profiles: Option<Vec<ProfileName>>,
    /// Words about it.
    pub description: Option<String>,
    /// It is deleted when it stops.
    pub ephemeral: Option<bool>,
}

/// What a new instance is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct NewInstance {
    /// Project.
    pub project: ProjectName,
    /// Name; one is made up when `None`.
    pub name: Option<InstanceName>,
    /// Keys and devices.
    pub written: Written,
    /// Profiles; `None` takes `default`.
    pub profiles: Option<Vec<ProfileName>>,
    /// Words about it.
    pub description: String,
    /// It is deleted when it stops.
    pub ephemeral: bool,
    /// Image by alias or fingerprint; `None` makes an empty root file system.
    pub image: Option<String>,
    /// Start it at once.
    pub start: bool,
}

impl Verb {
    /// What an operation that does it is called.
    pub fn description(&self) -> &'static str {
        match self {
            Verb::Start => "Starting instance",
            Verb::Stop(_) => "Stopping instance",
            Verb::Restart(_) => "Restarting instance",
            Verb::Freeze => "Freezing instance",
            Verb::Thaw => "Unfreezing instance",
            Verb::Update(_) | Verb::Patch(_) => "Updating instance",
            Verb::Delete => "Deleting instance",
        }
    }

    /// What is told once it is done.
    pub(crate) fn action(&self) -> &'static str {
        match self {
            Verb::Start => "instance-started",
            Verb::Stop(StopKind::Clean { .. }) => "instance-shutdown",
            Verb::Stop(StopKind::Force) => "instance-stopped",
            Verb::Restart(_) => "instance-restarted",
            Verb::Freeze => "instance-paused",
            Verb::Thaw => "instance-resumed",
            Verb::Update(_) | Verb::Patch(_) => "instance-updated",
            Verb::Delete => "instance-deleted",
        }
    }

    /// What it means for an instance in that state: clients call going on after a pause a start, too.
    pub(crate) fn meant(self, now: Power) -> Verb {
        match (self, now) {
            (Verb::Start, Power::On { frozen: true, .. }) => Verb::Thaw,
            (verb, _) => verb,
        }
    }
}

/// The wish after a verb, and the newest boot number then. NICs and ids are the caller's to give.
pub(crate) fn next(record: &InstanceRecord, verb: &Verb) -> Result<(WishState, BootGen)> {
    let now = &record.wish;
    let mut wish = now.clone();
    let mut newest = record.newest_boot;
    let wrong = |text: &str| Err(Error::Invalid(text.to_owned()));
    let running = now.power.boot();
    match verb {
        Verb::Start => {
            if running.is_some() {
                return wrong("The instance is already running");
            }
            newest = newest.next();
            wish.power = Power::On { boot: newest, frozen: false };
        }
        Verb::Stop(kind) => {
            if running.is_none() {
                return wrong("The instance is already stopped");
            }
            wish.power = Power::Off;
            wish.stop = *kind;
            wish.exists = !now.ephemeral;
        }
        Verb::Restart(kind) => {
            if running.is_none() {
                return wrong("The instance isn't running");
            }
            newest = newest.next();
            wish.power = Power::On { boot: newest, frozen: false };
            wish.stop = *kind;
        }
        Verb::Freeze | Verb::Thaw => {
            let Power::On { boot, frozen } = now.power else { return wrong("The instance isn't running") };
            let freeze = *verb == Verb::Freeze;
            if freeze == frozen {
                return wrong(if frozen {
                    "The instance is already frozen"
                } else {
                    "The instance is already running"
                });
            }
            wish.power = Power::On { boot, frozen: freeze };
        }
        Verb::Update(update) => {
            wish.written = update.written.clone();
            wish.profiles.clone_from(&update.profiles);
            wish.description.clone_from(&update.description);
            wish.ephemeral = update.ephemeral;
        }
        Verb::Patch(patch) => {
            wish.written.config.extend(patch.written.config.clone());
            wish.written.config.retain(|_, value| !value.is_empty());
            wish.written.devices.extend(patch.written.devices.clone());
            wish.profiles = patch.profiles.clone().unwrap_or(wish.profiles);
            wish.description = patch.description.clone().unwrap_or(wish.description);
            wish.ephemeral = patch.ephemeral.unwrap_or(wish.ephemeral);
        }
        Verb::Delete => {
            if running.is_some() {
                return wrong("The instance is currently running: stop it first, or delete it by force");
            }
            wish.exists = false;
        }
    }
    Ok((wish, newest))
}
