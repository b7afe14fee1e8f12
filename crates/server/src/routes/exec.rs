//! Running programs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use engine::{Class, ExecOrder, InstanceView, NewOperation};
use model::{Boot, NamespaceKind};
use serde_json::Value;
use sysctl_api::ExecPost;

use crate::App;
use crate::error::ApiError;
use crate::execs::{self, Execs, Label};
use crate::reply::{self, Answer};
use crate::request::{self, Caller};

/// Bytes of arguments and environment together: what fits into one message to a keeper with room to spare.
const MAX_ARGUMENTS: usize = 128 * 1024;

pub(crate) async fn post(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller, body: Bytes) -> Answer {
    let post: ExecPost = request::body(&body)?;
    let view = app.engine.instance(&caller.project()?, &name)?;
    let boot = running(&view)?;
    let environment = environment(&app, &view, &post)?;
    let order = order(&app, &view, &post, &environment)?;
    if post.record_output {
        return Err(ApiError::bad("record-output is not supported yet; connect to the streams"));
    }
    let project = caller.project()?;
    if !post.wait_for_websocket {
        return without_streams(&app, &project, &name, boot, order).await;
    }
    let secrets = Execs::secrets(post.interactive);
    let metadata = metadata(&post, &environment, &secrets);
    let operation = app.engine.start_streams(&project, "Executing command", &name, metadata);
    let view = operation.view();
    let answer = reply::operation(&view);
    let order = ExecOrder { label: Label::write(view), ..order };
    app.execs.add(&app, operation, boot, Some(order), secrets);
    Ok(answer)
}

/// The boot of an instance that runs.
pub(crate) fn running(view: &InstanceView) -> Result<Boot, ApiError> {
    let generation = view.pid().and(view.record.wish.power.boot());
    let generation = generation.ok_or_else(|| ApiError::bad("Instance is not running"))?;
    match view.status() {
        engine::InstanceStatus::Frozen => Err(ApiError::bad("Instance is frozen")),
        _ => Ok(Boot { id: view.record.id, generation }),
    }
}

/// What the program finds in its environment: defaults, the instance's own, the caller's.
fn environment(app: &App, view: &InstanceView, post: &ExecPost) -> Result<BTreeMap<String, String>, ApiError> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |key: &str, value: &str| drop(all.insert(key.to_owned(), value.to_owned()));
    set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    set("LANG", "C.UTF-8");
    if post.user == 0 {
        set("HOME", "/root");
        set("USER", "root");
    }
    if post.interactive {
        set("TERM", "xterm");
    }
    let expanded = app.engine.expand(&view.record)?;
    for (key, value) in &expanded.config {
        if let Some(name) = key.strip_prefix("environment.") {
            all.insert(name.to_owned(), value.clone());
        }
    }
    all.extend(post.environment.clone());
    Ok(all)
}

fn order(
    app: &App,
    view: &InstanceView,
    post: &ExecPost,
    environment: &BTreeMap<String, String>,
) -> Result<ExecOrder, ApiError> {
    if post.command.is_empty() {
        return Err(ApiError::bad("command: at least the program is needed"));
    }
    let strings = post.command.iter().chain(environment.keys()).chain(environment.values());
    if strings.clone().any(|text| text.contains('\0')) {
        return Err(ApiError::bad("arguments and environment can't have NUL characters"));
    }
    if strings.map(String::len).sum::<usize>() > MAX_ARGUMENTS {
        return Err(ApiError::bad(format!(
            "arguments and environment are longer than {MAX_ARGUMENTS} bytes; pass a file"
        )));
    }
    Ok(ExecOrder {
        argv: post.command.clone(),
        environment: environment.iter().map(|(k, v)| format!("{k}={v}")).collect(),
        cwd: post.cwd.clone(),
        uid: post.user,
        gid: post.group,
        terminal: post.interactive.then_some((post.width, post.height)),
        silent: false,
        label: Vec::new(),
        sandbox: Some(app.engine.sandbox(&view.record)?),
        inside: inside(post)?,
    })
}

/// The namespaces that a program of the host is run in.
fn inside(post: &ExecPost) -> Result<BTreeSet<NamespaceKind>, ApiError> {
    let kind = |name: &String| match NamespaceKind::named(name) {
        // There it would take the guest's programs for the host's, or lose the host's rights.
        Some(NamespaceKind::Mnt | NamespaceKind::User) => Err(ApiError::bad(format!(
            "namespaces: a program of the host can't be run in the {name} namespace of an instance; name none to run one \
             of the instance in all of them"
        ))),
        Some(kind) => Ok(kind),
        None => Err(ApiError::bad(format!("namespaces: {name:?} is not known: cgroup, ipc, net, pid, time or uts"))),
    };
    post.namespaces.iter().map(kind).collect()
}

fn metadata(
    post: &ExecPost,
    environment: &BTreeMap<String, String>,
    secrets: &BTreeMap<&'static str, String>,
) -> BTreeMap<String, Value> {
    let fds: BTreeMap<&str, &str> = secrets.iter().map(|(name, secret)| (*name, secret.as_str())).collect();
    let to_value = |value: serde_json::Result<Value>| value.unwrap_or_default();
    [
        ("command".to_owned(), to_value(serde_json::to_value(&post.command))),
        ("environment".to_owned(), to_value(serde_json::to_value(environment))),
        ("fds".to_owned(), to_value(serde_json::to_value(fds))),
        ("interactive".to_owned(), post.interactive.into()),
        ("resume".to_owned(), true.into()),
    ]
    .into()
}

/// Runs it with its streams going nowhere; the operation tells the code.
async fn without_streams(
    app: &Arc<App>,
    project: &model::ProjectName,
    name: &str,
    boot: Boot,
    order: ExecOrder,
) -> Answer {
    let new =
        NewOperation { class: Class::Task, ..NewOperation::on_instance(project.as_str(), "Executing command", name) };
    let operation = app.engine.operations().start(new);
    let view = operation.view();
    let answer = reply::operation(&view);
    let app = app.clone();
    tokio::spawn(async move {
        let order = ExecOrder { silent: true, label: Label::write(view), ..order };
        match app.engine.host().exec(boot, order).await {
            Ok(session) => execs::silent(app, Some(operation), session).await,
            Err(error) => operation.finish_unkept(app.engine.operations(), Err(error.to_string())),
        }
    });
    Ok(answer)
}
