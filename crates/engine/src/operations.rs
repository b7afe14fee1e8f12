//! Operations: what was asked for, how far it is, and how it ended. They outlive the daemon and stay readable.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::Op;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::clock;
use crate::error::{Error, Result};
use crate::events::{Events, Happening};

/// Kind of the documents.
pub(crate) const KIND: &str = "operation";

/// How long a final operation stays readable, in milliseconds.
const KEEP_MS: i64 = 24 * 3600 * 1000;

/// Final operations that are kept at most; 1 KB each.
const KEEP_COUNT: usize = 2000;

/// Final operations that are in memory only, like those of consoles: they push out none of the others.
const KEEP_STREAMS: usize = 500;

/// What an operation is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Work in the background.
    Task,
    /// Streams that a client connects to.
    Websocket,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It waits.
    Pending,
    /// It runs.
    Running,
    /// It was asked to end early.
    Cancelling,
    /// It is done.
    Success,
    /// It failed; see the error.
    Failure,
    /// It ended early.
    Cancelled,
}

impl Status {
    /// It will not change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Status::Success | Status::Failure | Status::Cancelled)
    }
}

/// An operation as it is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationView {
    /// Its id.
    pub id: Uuid,
    /// Project of what it works on.
    pub project: String,
    /// What it is like.
    pub class: Class,
    /// What it does.
    pub description: String,
    /// Milliseconds since 1970.
    pub created_ms: i64,
    /// Milliseconds since 1970.
    pub updated_ms: i64,
    /// How far it is.
    pub status: Status,
    /// Paths of what it works on, by kind.
    pub resources: BTreeMap<String, Vec<String>>,
    /// Progress and results.
    pub metadata: BTreeMap<String, Value>,
    /// It can be ended early.
    pub may_cancel: bool,
    /// Why it failed.
    pub error: String,
}

/// An operation under way. Dropping the last handle of one that is not final fails it.
#[derive(Debug)]
pub struct Operation {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    view: watch::Sender<OperationView>,
    cancel: Notify,
    events: Arc<Events>,
}

/// All operations.
#[derive(Debug)]
pub struct Operations {
    events: Arc<Events>,
    known: Mutex<HashMap<Uuid, Known>>,
    ended: Mutex<Ended>,
}

/// Final operations, oldest first.
#[derive(Debug, Default)]
struct Ended {
    kept: VecDeque<(i64, Uuid)>,
    streams: VecDeque<(i64, Uuid)>,
}

#[derive(Debug)]
enum Known {
    Live(Arc<Shared>),
    Final(Arc<OperationView>),
}

/// What a new operation is made of.
#[derive(Debug, Clone)]
pub struct NewOperation {
    /// Project of what it works on.
    pub project: String,
    /// What it is like.
    pub class: Class,
    /// What it does.
    pub description: &'static str,
    /// Paths of what it works on, by kind.
    pub resources: BTreeMap<String, Vec<String>>,
    /// Results known from the start.
    pub metadata: BTreeMap<String, Value>,
    /// It can be ended early.
    pub may_cancel: bool,
}

impl NewOperation {
    /// A task on one instance.
    pub fn on_instance(project: &str, description: &'static str, name: &str) -> NewOperation {
        NewOperation {
            project: project.to_owned(),
            class: Class::Task,
            description,
            resources: [("instances".to_owned(), vec![format!("/1.0/instances/{name}")])].into(),
            metadata: BTreeMap::new(),
            may_cancel: false,
        }
    }
}

impl Operations {
    pub(crate) fn new(events: Arc<Events>) -> Operations {
        Operations { events, known: Mutex::default(), ended: Mutex::default() }
    }

    fn ended(&self) -> std::sync::MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts an operation and tells it.
    pub fn start(&self, new: NewOperation) -> Operation {
        let now = clock::now_ms();
        self.resume(OperationView {
            id: Uuid::new_v4(),
            project: new.project,
            class: new.class,
            description: new.description.to_owned(),
            created_ms: now,
            updated_ms: now,
            status: Status::Running,
            resources: new.resources,
            metadata: new.metadata,
            may_cancel: new.may_cancel,
            error: String::new(),
        })
    }

    /// Goes on with one that an earlier daemon started.
    pub(crate) fn resume(&self, view: OperationView) -> Operation {
        let id = view.id;
        let (view, _) = watch::channel(view);
        let shared = Arc::new(Shared { view, cancel: Notify::new(), events: self.events.clone() });
        self.known().insert(id, Known::Live(shared.clone()));
        let operation = Operation { shared };
        operation.tell();
        operation
    }

    /// One operation.
    pub fn get(&self, id: Uuid) -> Result<OperationView> {
        match self.known().get(&id) {
            Some(Known::Live(shared)) => Ok(shared.view.borrow().clone()),
            Some(Known::Final(view)) => Ok((**view).clone()),
            None => Err(Error::NotFound("Operation not found".into())),
        }
    }

    /// A handle of one that is not final.
    pub(crate) fn live(&self, id: Uuid) -> Option<Operation> {
        match self.known().get(&id)? {
            Known::Live(shared) => Some(Operation { shared: shared.clone() }),
            Known::Final(_) => None,
        }
    }

    /// All operations, oldest first.
    pub fn list(&self) -> Vec<OperationView> {
        let mut all: Vec<OperationView> = self
            .known()
            .values()
            .map(|known| match known {
                Known::Live(shared) => shared.view.borrow().clone(),
                Known::Final(view) => (**view).clone(),
            })
            .collect();
        all.sort_by_key(|view| (view.created_ms, view.id));
        all
    }

    /// Waits until an operation is final.
    pub async fn wait(&self, id: Uuid) -> Result<OperationView> {
        let mut watcher = match self.known().get(&id) {
            Some(Known::Live(shared)) => shared.view.subscribe(),
            Some(Known::Final(view)) => return Ok((**view).clone()),
            None => return Err(Error::NotFound("Operation not found".into())),
        };
        let view = watcher.wait_for(|view| view.status.is_final()).await;
        view.map(|view| view.clone()).map_err(|_| Error::Internal("the operation vanished".into()))
    }

    /// Asks an operation to end early.
    pub fn cancel(&self, id: Uuid) -> Result<()> {
        match self.known().get(&id) {
            Some(Known::Live(shared)) if shared.view.borrow().may_cancel => {
                shared.cancel.notify_one();
                Ok(())
            }
            Some(_) => Err(Error::Invalid("This operation can't be cancelled".into())),
            None => Err(Error::NotFound("Operation not found".into())),
        }
    }

    /// A final operation is kept as it is; its live parts go, and so do operations that are too many or too old. Returns
    /// what must leave the database then.
    pub(crate) fn retire(&self, view: &OperationView) -> Vec<Op> {
        let mut ended = self.ended();
        ended.kept.push_back((view.updated_ms, view.id));
        let dropped = too_many(&mut ended.kept, KEEP_COUNT, clock::now_ms());
        drop(ended);
        self.replace(view, &dropped);
        dropped.into_iter().map(|id| Op::Delete { kind: KIND, key: id.to_string() }).collect()
    }

    /// The same for one that is about streams.
    fn retire_streams(&self, view: &OperationView) {
        let mut ended = self.ended();
        ended.streams.push_back((view.updated_ms, view.id));
        let dropped = too_many(&mut ended.streams, KEEP_STREAMS, view.updated_ms);
        drop(ended);
        self.replace(view, &dropped);
    }

    fn replace(&self, view: &OperationView, dropped: &[Uuid]) {
        let mut known = self.known();
        known.insert(view.id, Known::Final(Arc::new(view.clone())));
        dropped.iter().for_each(|id| drop(known.remove(id)));
    }
}

/// Takes out what is too old, and the oldest of what is too much.
fn too_many(ended: &mut VecDeque<(i64, Uuid)>, most: usize, now_ms: i64) -> Vec<Uuid> {
    let mut dropped = Vec::new();
    while let Some((at_ms, id)) = ended.front().copied()
        && (ended.len() > most || at_ms < now_ms - KEEP_MS)
    {
        ended.pop_front();
        dropped.push(id);
    }
    dropped
}

impl Operation {
    /// Its id.
    pub fn id(&self) -> Uuid {
        self.shared.view.borrow().id
    }

    /// As it is now.
    pub fn view(&self) -> OperationView {
        self.shared.view.borrow().clone()
    }

    fn tell(&self) {
        let view = self.view();
        let project = view.project.clone();
        self.shared.events.tell(&project, Happening::Operation(view));
    }

    fn update(&self, change: impl FnOnce(&mut OperationView)) {
        self.shared.view.send_modify(|view| {
            change(view);
            view.updated_ms = clock::now_ms();
        });
        self.tell();
    }

    /// Tells how far it is; `stage` like `create_instance_from_image_unpack`.
    pub fn progress(&self, stage: &str, text: &str) {
        self.update(|view| {
            view.metadata.insert(format!("{stage}_progress"), Value::from(text));
        });
    }

    /// Adds results.
    pub fn set_metadata(&self, key: &str, value: Value) {
        self.update(|view| {
            view.metadata.insert(key.to_owned(), value);
        });
    }

    /// Waits until somebody asks it to end early.
    pub async fn cancelled(&self) {
        self.shared.cancel.notified().await;
    }

    /// Tells its end and returns it as it will be. Whoever waits for it is woken by [`Operation::end`], once what must not
    /// be overtaken by the next request has been submitted.
    pub(crate) fn tell_end(&self, result: std::result::Result<(), String>) -> OperationView {
        let view = self.as_ended(result);
        self.tell_ended(&view);
        view
    }

    /// As it will be once it has ended so; nobody is told yet.
    pub(crate) fn as_ended(&self, result: std::result::Result<(), String>) -> OperationView {
        let mut view = self.view();
        view.updated_ms = clock::now_ms();
        match result {
            Ok(()) => view.status = Status::Success,
            Err(error) => {
                view.status = Status::Failure;
                view.error = error;
            }
        }
        view
    }

    /// Tells the end that [`Operation::as_ended`] made.
    pub(crate) fn tell_ended(&self, view: &OperationView) {
        self.shared.events.tell(&view.project, Happening::Operation(view.clone()));
    }

    /// Wakes whoever waits.
    pub(crate) fn end(&self, view: OperationView) {
        self.shared.view.send_replace(view);
    }

    /// Ends one that works with streams only and is kept nowhere.
    pub fn finish_unkept(&self, operations: &Operations, result: std::result::Result<(), String>) {
        let view = self.tell_end(result);
        operations.retire_streams(&view);
        self.end(view);
    }
}

/// The document of an operation.
pub(crate) fn document(view: &OperationView) -> Op {
    let body = serde_json::to_string(view).unwrap_or_default();
    Op::Put { kind: KIND, key: view.id.to_string(), body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_by_number_and_by_age() {
        let (id, day, now) = (Uuid::from_u128, KEEP_MS, 10 * KEEP_MS);
        let mut ended: VecDeque<_> = [(now - day - 1, id(1)), (now - day, id(2)), (now, id(3)), (now, id(4))].into();
        assert_eq!(too_many(&mut ended, 4, now), [id(1)], "a day is over");
        assert_eq!(too_many(&mut ended, 2, now), [id(2)], "one more than are kept");
        assert_eq!(ended, [(now, id(3)), (now, id(4))]);
    }
}
