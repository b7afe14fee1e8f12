//! Operations that are about streams: programs and consoles.

use std::collections::BTreeMap;

use model::ProjectName;

use crate::engine::Engine;
use crate::operations::{self, Class, NewOperation, Operation, OperationView};

impl Engine {
    /// Starts an operation that is about streams.
    pub fn start_streams(
        &self,
        project: &ProjectName,
        description: &'static str,
        name: &str,
        metadata: BTreeMap<String, serde_json::Value>,
    ) -> Operation {
        let new = NewOperation {
            class: Class::Websocket,
            metadata,
            ..NewOperation::on_instance(project.as_str(), description, name)
        };
        self.shared.operations.start(new)
    }

    /// Goes on with an operation about streams that a former daemon started; `None` when it is known to be over.
    pub fn resume_streams(&self, view: OperationView) -> Option<Operation> {
        let is_over = self.operations().get(view.id).is_ok_and(|known| known.status.is_final());
        (!is_over).then(|| self.shared.operations.resume(view))
    }

    /// Ends an operation about streams and wakes whoever waits for it; returns once its end is on the disk. It must not be
    /// awaited by whoever tells clients.
    pub async fn finish_streams(&self, operation: &Operation, result: std::result::Result<(), String>) {
        let view = operation.tell_end(result);
        let mut ops = vec![operations::document(&view)];
        ops.extend(self.shared.operations.retire(&view));
        let kept = self.shared.submit(store::Class::Settled, ops);
        operation.end(view);
        if let Ok(Err(error)) = kept.await {
            tracing::warn!(%error, "the end of an operation could not be kept; a restart forgets it");
        }
    }
}
