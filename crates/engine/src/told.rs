//! What the host did by itself, told to whoever listens.

use std::sync::Arc;

use model::InstanceId;

use crate::events::{Happening, Lifecycle};
use crate::host::HostEvent;
use crate::shared::Shared;

/// What happened when a keeper died under a guest.
const LOST_KEEPER: &str = "its keeper died; another one took the guest over without its live console and its sessions";

/// Tells it; the instance that is to look now, if there is one.
pub(crate) fn take(shared: &Arc<Shared>, event: HostEvent) -> Option<InstanceId> {
    let cause = |text: &str| vec![("cause".to_owned(), text.into())];
    let of_network = |action: &str, name: String, text: &str| {
        tell(shared, "default", action, (format!("/1.0/networks/{name}"), name), cause(text));
        None
    };
    match event {
        HostEvent::Changed(id) => Some(id),
        HostEvent::Need(boot, resource, need) => {
            shared.scale(boot, resource, need);
            None
        }
        HostEvent::Idle(boot) => {
            shared.rest_heard(boot, None);
            None
        }
        HostEvent::Called(boot, by) => {
            shared.rest_heard(boot, Some(by));
            None
        }
        HostEvent::KeeperLost { boot, sessions } => {
            let lost = sessions.map_or_else(|| "unknown: no daemon watched".into(), serde_json::Value::from);
            let mut context = cause(LOST_KEEPER);
            context.push(("sessions-lost".to_owned(), lost));
            of_instance(shared, boot.id, "instance-keeper-replaced", context);
            Some(boot.id)
        }
        HostEvent::LinkBroken(boot, what) => {
            of_instance(shared, boot.id, "instance-link-replaced", cause(&what));
            Some(boot.id)
        }
        HostEvent::LimitMet { boot, limit, times } => {
            let context = vec![("limit".to_owned(), limit.into()), ("times".to_owned(), times.into())];
            of_instance(shared, boot.id, "instance-limit-met", context);
            None
        }
        HostEvent::Bitten(boot, bounded) => {
            shared.bitten(boot, bounded);
            None
        }
        HostEvent::Pressed { boot, scarce, stalls } => {
            let percent = |hundredths: u32| (f64::from(hundredths) / 100.0).into();
            let context = vec![
                ("resource".to_owned(), scarce.name().into()),
                ("some-avg10".to_owned(), percent(stalls.some.avg10)),
                ("full-avg10".to_owned(), percent(stalls.full.avg10)),
            ];
            of_instance(shared, boot.id, "instance-under-pressure", context);
            None
        }
        HostEvent::OutOfMemory { boot, kills, victims } => {
            let context = vec![("kills".to_owned(), kills.into()), ("victims".to_owned(), victims.into())];
            of_instance(shared, boot.id, "instance-out-of-memory", context);
            None
        }
        HostEvent::NetworkHealed(name, what) => of_network("network-healed", name, &what),
        HostEvent::LeftBroken(name, what) => of_network("network-left-broken", name, &what),
    }
}

type Context = Vec<(String, serde_json::Value)>;

fn of_instance(shared: &Shared, id: InstanceId, action: &str, context: Context) {
    let Some(view) = shared.view_of(id) else { return };
    let name = view.record.name.to_string();
    let what = (format!("/1.0/instances/{name}"), name);
    tell(shared, view.record.project.as_str(), action, what, context);
}

fn tell(shared: &Shared, project: &str, action: &str, (source, name): (String, String), context: Context) {
    tracing::warn!(action, object = name, ?context, "told");
    let context = context.into_iter().collect();
    let lifecycle = Lifecycle { action: action.to_owned(), source, context, requestor: None, name };
    shared.events.tell(project, Happening::Lifecycle(lifecycle));
}
