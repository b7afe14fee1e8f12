//! What a keeper remembers of a session for the next daemon.

use std::collections::BTreeMap;

use engine::OperationView;
use serde::{Deserialize, Serialize};

/// Version of the label; grows only when a reader of the former one would act wrongly.
const VERSION: u32 = 1;

/// Most bytes of a label. The keeper protocol leaves room for this much beside the arguments.
const MAX: usize = 24 * 1024;

/// An operation, as it was told when its program was begun. Its metadata has the secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Label {
    pub(crate) version: u32,
    pub(crate) operation: OperationView,
}

impl Label {
    /// The label of a program's operation. What a client said itself and is too long is left out.
    pub(crate) fn write(mut operation: OperationView) -> Vec<u8> {
        for long in [None, Some("environment"), Some("command")] {
            if let Some(key) = long {
                operation.metadata.remove(key);
            }
            let label = Label { version: VERSION, operation: operation.clone() };
            match serde_json::to_vec(&label) {
                Ok(bytes) if bytes.len() <= MAX => return bytes,
                Ok(_) | Err(_) => {}
            }
        }
        // Names and secrets alone are far shorter than that.
        Vec::new()
    }

    /// Reads one; `None` when it is of no release that is understood.
    pub(crate) fn read(bytes: &[u8]) -> Option<Label> {
        serde_json::from_slice(bytes).ok().filter(|label: &Label| label.version == VERSION)
    }
}

/// The secrets of an operation's streams, as its metadata tells them.
pub(super) fn secrets(operation: &OperationView) -> BTreeMap<&'static str, String> {
    let told = |name: &str| operation.metadata.get("fds")?.get(name)?.as_str().map(str::to_owned);
    ["0", "1", "2", "control"].into_iter().filter_map(|name| Some((name, told(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As release 0.1 wrote it: a keeper may hold it for years.
    const OF_0_1: &str = r#"{"version":1,"operation":{"id":"00000000-0000-0000-0000-000000000001","project":"default",
        "class":"websocket","description":"Executing command","created_ms":1,"updated_ms":2,"status":"Running",
        "resources":{"instances":["/1.0/instances/web1"]},
        "metadata":{"command":["cat"],"fds":{"0":"a","1":"b","2":"c","control":"d"},"interactive":false},
        "may_cancel":false,"error":""}}"#;

    #[test]
    fn a_label_of_release_0_1_is_read() {
        let label = Label::read(OF_0_1.as_bytes()).expect("a label");
        assert_eq!(label.operation.metadata["command"][0], "cat");
        let secrets = secrets(&label.operation);
        assert_eq!(
            secrets.into_iter().map(|(n, s)| format!("{n}{s}")).collect::<Vec<_>>(),
            ["0a", "1b", "2c", "controld"]
        );
        assert_eq!(Label::read(b"{\"version\":2}"), None);
        assert_eq!(Label::read(b""), None);
    }

    #[test]
    fn a_label_is_never_longer_than_there_is_room_for() {
        let mut operation = Label::read(OF_0_1.as_bytes()).expect("a label").operation;
        operation.metadata.insert("environment".into(), "x".repeat(100_000).into());
        let label = Label::write(operation.clone());
        assert!(label.len() < MAX);
        let read = Label::read(&label).expect("a label").operation;
        assert_eq!(read.metadata["command"][0], "cat");
        assert!(!read.metadata.contains_key("environment"));
    }
}
