//! What is told of an instance once its wish is reached; kept in its record until then.

use model::End;

use crate::record::{InstanceRecord, Telling};

/// What is told of a new instance: that it was made, also when it could not be started.
pub(crate) fn telling_of_creation(record: &InstanceRecord, start: bool, requestor: Option<String>) -> Vec<Telling> {
    let context = [
        ("location".to_owned(), "none".into()),
        ("storage-pool".to_owned(), record.pool.as_str().into()),
        ("type".to_owned(), "container".into()),
    ];
    let created = Telling {
        action: "instance-created".into(),
        context: context.into(),
        requestor: requestor.clone(),
        always: true,
    };
    let started = Telling { action: "instance-started".into(), context: Default::default(), requestor, always: false };
    std::iter::once(created).chain(start.then_some(started)).collect()
}

/// What is told of a guest that ended by itself.
pub(crate) fn telling_of_end(end: End) -> Telling {
    let (action, why) = match end {
        End::Reboot => ("instance-restarted", "the guest asked for a reboot".to_owned()),
        End::Halt => ("instance-shutdown", "the guest halted".to_owned()),
        End::Exit(code) => ("instance-shutdown", format!("init exited with {code}")),
        End::Signal(signal) => ("instance-stopped", format!("init was killed by signal {signal}")),
        End::Unknown => ("instance-stopped", "init ended while nobody watched".to_owned()),
    };
    Telling {
        action: action.into(),
        context: [("cause".to_owned(), why.into())].into(),
        requestor: None,
        always: false,
    }
}
