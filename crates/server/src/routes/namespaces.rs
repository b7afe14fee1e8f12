//! Namespaces: which there are, who lives in them, and who shares what with whom. Extension `sysctl_namespaces`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use config::ShareChoice;
use engine::{InstanceView, NamespaceRecord};
use model::{InstanceId, NamespaceKind, PinId, ProjectName, Share};
use sysctl_api::{InstanceNamespace, NamespaceView};

use crate::App;
use crate::error::ApiError;
use crate::render::{self, graph};
use crate::reply::{self, Answer};
use crate::request::Caller;

/// The host, where a key would name it. An instance may be called the same, and is told as one.
const HOST: &str = "host";

/// An instance, as a key names it.
fn instance(name: &str) -> String {
    format!("instance:{name}")
}

/// An instance that runs, and the inode of each of its namespaces.
struct Resident {
    view: Arc<InstanceView>,
    /// What its definition asks for.
    shares: BTreeMap<NamespaceKind, ShareChoice>,
    inodes: BTreeMap<NamespaceKind, u64>,
}

impl Resident {
    /// It was made for this one: for its present boot, or for all of them.
    fn made(&self, kind: NamespaceKind) -> bool {
        matches!(self.shares.get(&kind), None | Some(ShareChoice::Private))
    }

    fn name(&self) -> String {
        self.view.record.name.to_string()
    }
}

pub(crate) async fn list(State(app): State<Arc<App>>, caller: Caller) -> Answer {
    let found = views(&app, &caller.project()?)?;
    if caller.query.recursion() == 0 {
        let name = |v: &NamespaceView| if v.name.is_empty() { v.inode.to_string() } else { v.name.clone() };
        let urls: Vec<String> = found.iter().map(|v| format!("/1.0/namespaces/{}/{}", v.kind, name(v))).collect();
        return Ok(reply::sync(&urls));
    }
    Ok(reply::sync(&found))
}

/// One: an object by its name, any by its number.
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Path((word, name)): Path<(String, String)>,
    caller: Caller,
) -> Answer {
    let kind = super::namespace_objects::kind(&word)?;
    let all = views(&app, &caller.project()?)?;
    let of_kind = || all.iter().filter(|view| view.kind == kind.as_str());
    let found = of_kind().find(|view| view.name == name);
    let found = found.or_else(|| of_kind().find(|view| view.name.is_empty() && view.inode.to_string() == name));
    let found = found.ok_or_else(|| ApiError::not_found(format!("Namespace {word}/{name} not found")))?;
    Ok(reply::tagged(found, &engine::etag::of(&(&found.description, found.netns))))
}

/// The same as a picture: `text`, `json`, `dot` or `mermaid`.
pub(crate) async fn draw(State(app): State<Arc<App>>, caller: Caller) -> Answer {
    let graph = graph::of(&views(&app, &caller.project()?)?, &app.engine.wires(), render::chain::chain_lines(&app));
    let text = match caller.query.get("format").unwrap_or("json") {
        "json" => return Ok(reply::sync(&graph)),
        "text" => graph::text(&graph),
        "dot" => graph::dot(&graph),
        "mermaid" => graph::mermaid(&graph),
        other => return Err(ApiError::bad(format!("format: {other:?} is not known: text, json, dot or mermaid"))),
    };
    Ok(reply::sync(&text))
}

/// Whose namespaces one instance lives in.
pub(crate) async fn of_instance(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller) -> Answer {
    let project = caller.project()?;
    let view = app.engine.instance(&project, &name)?;
    let namespaces = app.engine.sandbox(&view.record)?.namespaces;
    let inodes = view.pid().map(|pid| app.access.namespaces(pid)).transpose()?.unwrap_or_default();
    let all = views(&app, &project)?;
    let entries: Vec<InstanceNamespace> = NamespaceKind::ALL
        .into_iter()
        .map(|kind| {
            let inode = inodes.get(&kind).copied().unwrap_or(0);
            let same = all.iter().find(|v| v.kind == kind.as_str() && v.inode == inode);
            let mut shared_with: Vec<String> =
                same.iter().flat_map(|v| &v.holders).filter(|h| **h != name).map(|h| instance(h)).collect();
            if same.is_some_and(|v| v.owner == HOST) {
                shared_with.insert(0, HOST.into());
            }
            InstanceNamespace {
                kind: kind.as_str().into(),
                mode: mode(&app, namespaces.of(kind)),
                inode,
                shared_with,
                own: *namespaces.of(kind) != Share::Host && !namespaces.foreign.contains(&kind),
            }
        })
        .collect();
    Ok(reply::sync(&entries))
}

/// A share as its key has it.
pub(crate) fn mode(app: &App, share: &Share) -> String {
    match share {
        Share::Private => "private".into(),
        Share::Host => "host".into(),
        Share::Path(path) => format!("path:{path}"),
        Share::Instance(id) => format!("instance:{}", name_of(app, *id)),
        Share::Pin(pin) if app.engine.name_of(InstanceId(pin.of)).is_some() => "private".into(),
        Share::Pin(pin) => format!("named:{}", label_of(app, *pin)),
    }
}

/// Name of a namespace object by its pin, or the pin of one that is gone.
pub(crate) fn label_of(app: &App, pin: PinId) -> String {
    let found = app.engine.namespaces().into_iter().find(|object| object.pin() == pin);
    found.map_or_else(|| pin.to_string(), |object| object.name.to_string())
}

/// Name of an instance by its id, or the id of one that is gone.
pub(crate) fn name_of(app: &App, id: InstanceId) -> String {
    app.engine.name_of(id).map_or_else(|| id.to_string(), |name| name.to_string())
}

/// Every namespace that an instance of the project lives in.
fn views(app: &App, project: &ProjectName) -> Result<Vec<NamespaceView>, ApiError> {
    let mut residents = Vec::new();
    for view in app.engine.instances().into_iter().filter(|view| view.record.project == *project) {
        let Some(boot) = view.running() else { continue };
        // One that has just ended lives nowhere.
        let Ok(inodes) = app.access.namespaces_of(boot) else { continue };
        residents.push(Resident { shares: app.engine.shares_of(&view.record)?, view, inodes });
    }
    let host = app.access.namespaces(std::process::id())?;
    let mut views = by_namespace(&residents, &host);
    let pins = app.engine.pins();
    for object in app.engine.namespaces() {
        let inode = pins.get(&object.pin()).and_then(|seen| seen.inode).unwrap_or(0);
        let same = |view: &&mut NamespaceView| inode != 0 && view.kind == object.kind.as_str() && view.inode == inode;
        match views.iter_mut().find(same) {
            Some(view) => as_object(app, &object, view),
            None => {
                let mut view = NamespaceView { kind: object.kind.as_str().into(), inode, ..NamespaceView::default() };
                as_object(app, &object, &mut view);
                views.push(view);
            }
        }
    }
    Ok(views)
}

/// What is known of a namespace beyond who lives in it, since it is an object.
fn as_object(app: &App, object: &NamespaceRecord, view: &mut NamespaceView) {
    view.owner = format!("named:{}", object.name);
    view.name = object.name.to_string();
    view.description.clone_from(&object.description);
    view.pin = app.access.pin_file(object.pin()).display().to_string();
    view.netns = object.netns;
    view.user_namespace = object.users().map(|users| label_of(app, users)).unwrap_or_default();
    view.ids = object.ids.map(|ids| format!("{}:{}", ids.base, ids.count)).unwrap_or_default();
    view.used_by = app.engine.users_of_namespace(object);
}

fn by_namespace(residents: &[Resident], host: &BTreeMap<NamespaceKind, u64>) -> Vec<NamespaceView> {
    let mut holders: BTreeMap<(NamespaceKind, u64), Vec<&Resident>> = BTreeMap::new();
    for resident in residents {
        for (kind, inode) in &resident.inodes {
            holders.entry((*kind, *inode)).or_default().push(resident);
        }
    }
    let owner = |kind: NamespaceKind, inode: u64, inside: &[&Resident]| {
        if host.get(&kind) == Some(&inode) {
            return HOST.to_owned();
        }
        let maker = inside.iter().find(|resident| resident.made(kind));
        let pinned = inside.iter().find_map(|resident| match resident.shares.get(&kind) {
            Some(ShareChoice::Path(path)) => Some(format!("path:{path}")),
            // Objects are told from the others by their pins.
            _ => None,
        });
        // Kept alive by those who live in it, after its maker has ended.
        maker.map(|resident| instance(&resident.name())).or(pinned).unwrap_or_else(|| "gone".into())
    };
    let view = |((kind, inode), inside): ((NamespaceKind, u64), Vec<&Resident>)| {
        let mut holders: Vec<String> = inside.iter().map(|resident| resident.name()).collect();
        holders.sort();
        let (owner, kind) = (owner(kind, inode, &inside), kind.as_str().to_owned());
        NamespaceView { kind, inode, owner, holders, ..NamespaceView::default() }
    };
    holders.into_iter().map(view).collect()
}
