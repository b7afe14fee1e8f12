//! Actors that take commands, look, plan, apply and publish; operations and events.
//!
//! It knows neither HTTP nor SQL nor system calls: it acts through [`Host`] and remembers through `store`.

mod access;
mod actor;
mod allocate;
mod ask;
mod back;
mod bite;
mod by_hand;
mod catalog;
mod chains;
mod clock;
mod create;
mod defaults;
mod doctor;
mod end;
mod engine;
mod error;
mod events;
mod foresee;
mod foresee_objects;
mod gate;
mod grants;
mod host;
mod images;
mod instances;
mod kept;
mod live;
mod load;
mod look;
mod lost;
mod mailbox;
mod names;
mod namespaces;
mod objects;
mod operations;
mod pace;
mod rebuild;
mod record;
mod rest;
mod scale;
mod shared;
mod sharing;
mod streams;
mod sweep;
mod telling;
mod told;
mod unwind;
mod verbs;
mod view;
mod wires;
mod worker;

pub mod etag;

pub use access::{Access, Cure, Damage, Guard, Inventory, Object, PoolUsage, RootFiles, VolumeSeen};
pub use catalog::ImageChoice;
pub use chains::NewNetwork;
pub use clock::now_ms;
pub use defaults::FirstStart;
pub use doctor::{Diagnosis, Wrong};
pub use engine::{Engine, EngineConfig, RecipeFacts};
pub use error::{Error, Result};
pub use events::{Event, Events, Happening, Lifecycle, Logging};
pub use foresee::{Consequence, Foreseen};
pub use host::{
    BoxFuture, Effect, ExecOrder, Host, HostEvent, ImageFacts, InheritedSession, InputPart, InputState, LinkUsage,
    NameEntry, Progress, Session, StepError, Survey, Usage, step_error,
};
pub use kept::Past;
pub use live::LimitsDone;
pub use namespaces::{Garbage, NamespaceChange, NewNamespace, Origin};
pub use objects::ImageWish;
pub use operations::{Class, NewOperation, Operation, OperationView, Operations, Status};
pub use plan::sentence;
pub use rebuild::UNMIRRORED;
pub use record::{
    Alias, ImageRecord, InstanceRecord, NamespaceRecord, NetworkRecord, NicGrant, PoolRecord, ProfileRecord,
    ProjectRecord, Telling, WishState,
};
pub use unwind::panic_text;
pub use verbs::{NewInstance, Patch, Update, Verb};
pub use view::{InstanceStatus, InstanceView};
pub use wires::Joined;
