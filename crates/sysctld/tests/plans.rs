//! `--plan` on whatever changes something: the steps, what they mean for others, refusals in their words, and nothing done.

#![allow(missing_docs)]

mod support;

use std::process::Command;

use support::{Daemon, PATIENCE, patch};
use sysctl_api::{CONSEQUENCE, InstancePut, StatePut};
use sysctl_client::EventFilter;

/// Our own client: its exit code, and what it says.
fn cli(daemon: &Daemon, words: &str) -> (i32, String) {
    let socket = daemon.client.socket().display().to_string();
    let mut command = Command::new(support::program("sysctl-cli"));
    let output = command.args(["--socket", &socket]).args(words.split(' ')).output().expect("run the client");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), text.into_owned())
}

/// Everything that clients and `doctor` are told, but what counts by itself.
async fn all(daemon: &Daemon) -> String {
    let mut told = Vec::new();
    for path in [
        "/1.0/instances?recursion=1",
        "/1.0/networks/edge",
        "/1.0/namespaces",
        "/1.0/operations",
        "/1.0/profiles?recursion=1",
    ] {
        let answer = daemon.client.query("GET", path, None).await.expect("an answer");
        told.push(String::from_utf8(answer.body).expect("text"));
    }
    // Links of other daemons come and go.
    let networks = daemon.client.get_networks(&Default::default()).await.expect("networks").into_iter();
    told.push(format!("{:?}", networks.filter(|network| network.managed).collect::<Vec<_>>()));
    told.push(format!("{:?}", daemon.doctor().await.findings));
    told.join("\n")
}

fn used(profiles: &[&str]) -> InstancePut {
    InstancePut { profiles: Some(profiles.iter().map(|name| (*name).to_owned()).collect()), ..patch(&[]) }
}

/// A request for each change of the router's own table that tells ahead: one that would really change something, and what
/// its plan says of it.
fn that_changes(method: &str, path: &str) -> (&'static str, &'static str, &'static str) {
    const SCALE: &str = r#"{"config": {"limits.processes": "77"}}"#;
    match (method, path) {
        ("POST", "/1.0/instances") => (
            "/1.0/instances",
            r#"{"name": "planned", "source": {"type": "image", "alias": "bb"}}"#,
            "make root file system",
        ),
        ("PUT", "/1.0/instances") => {
            ("/1.0/instances", r#"{"state": {"action": "stop", "force": true}}"#, "web1: kill all processes")
        }
        ("PUT", "/1.0/instances/{name}") => {
            ("/1.0/instances/db1", r#"{"profiles": ["default"], "config": {}}"#, "set limits")
        }
        ("PATCH", "/1.0/instances/{name}") => ("/1.0/instances/web1", SCALE, "set limits"),
        ("DELETE", "/1.0/instances/{name}") => ("/1.0/instances/old1", "", "throw root file system"),
        ("PUT", "/1.0/instances/{name}/state") => {
            ("/1.0/instances/old1/state", r#"{"action": "start"}"#, "let init run")
        }
        ("PATCH", "/1.0/instances/{name}/limits") => {
            ("/1.0/instances/db1/limits", r#"{"limits.processes": "77"}"#, "set limits")
        }
        ("POST", "/1.0/networks") => (
            "/1.0/networks",
            r#"{"name": "planned", "type": "chain", "config": {"chain.to": "db1:eth0"}}"#,
            "have chain planned",
        ),
        ("PUT", "/1.0/networks/{name}") => (
            "/1.0/networks/edge",
            r#"{"config": {"chain.to": "web1:eth0", "chain.functions": ""}}"#,
            "fw1 loses its links",
        ),
        ("PATCH", "/1.0/networks/{name}") => {
            ("/1.0/networks/edge", r#"{"config": {"chain.functions": ""}}"#, "fw1 loses its links")
        }
        ("DELETE", "/1.0/networks/{name}") => ("/1.0/networks/edge", "", "remove network edge"),
        ("POST", "/1.0/profiles") => ("/1.0/profiles", r#"{"name": "planned"}"#, "[]"),
        ("PUT", "/1.0/profiles/{name}") => {
            ("/1.0/profiles/mine", r#"{"config": {"limits.processes": "77"}}"#, "old1 has it from its next start on")
        }
        // Of whatever is used by everybody.
        ("PATCH", "/1.0/profiles/{name}") => ("/1.0/profiles/default", SCALE, "web1 has this done: set limits"),
        ("DELETE", "/1.0/profiles/{name}") => ("/1.0/profiles/spare", "", "[]"),
        ("POST", "/1.0/namespaces") => {
            ("/1.0/namespaces", r#"{"type": "net", "name": "planned"}"#, "pin net namespace")
        }
        ("POST", "/1.0/namespaces/gc") => ("/1.0/namespaces/gc", "{}", "net/blue is deleted, as nobody uses it"),
        ("PATCH", "/1.0/namespaces/{kind}/{name}") => {
            ("/1.0/namespaces/net/blue", r#"{"netns": true}"#, "also at /run/netns/blue")
        }
        ("DELETE", "/1.0/namespaces/{kind}/{name}") => ("/1.0/namespaces/net/blue", "", "let pinned net namespace"),
        other => panic!("{other:?} is new: name a request of it here that would change something"),
    }
}

/// Asks each change of the router's own table for its plan. How many tell, and how many say that they cannot.
async fn every_change_is_told_or_refused(daemon: &Daemon) -> (usize, usize) {
    let (mut told, mut refused) = (0, 0);
    for server::Change { method, path, untold } in server::changes() {
        let method = method.as_str();
        let about = [("{name}", "db1"), ("{*name}", "bb"), ("{id}", "none"), ("{fingerprint}", "bb")];
        let any = about.iter().fold(path.to_owned(), |path, (word, name)| path.replace(word, name));
        let (path, body, words) = match untold {
            Some(why) => (any.as_str(), "{}", why),
            None => that_changes(method, path),
        };
        // As clients may write it, too.
        for plan in ["plan=1", "pl%61n=%31"] {
            let uri = format!("{path}?{plan}");
            let answer = daemon.client.query(method, &uri, Some(body.as_bytes())).await.expect("an answer");
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            let status = if untold.is_some() { 501 } else { 200 };
            assert!(answer.status == status && text.contains(words), "{method} {uri}: {} {text}", answer.status);
        }
        (told, refused) = if untold.is_some() { (told, refused + 1) } else { (told + 1, refused) };
    }
    (told, refused)
}

#[tokio::test]
async fn a_plan_of_whatever_changes_something_is_told_and_changes_nothing() {
    let daemon = Daemon::new("plans");
    daemon.import_busybox().await;
    let with = |policy| [("namespaces.net", "instance:db1"), ("namespaces.join.policy", policy)];
    daemon.launch("db1", &[("limits.processes", "300")]).await;
    daemon.launch("follows1", &with("stop-with")).await;
    daemon.launch("stays1", &with("detach")).await;
    for name in ["web1", "fw1", "ids1", "old1"] {
        daemon.launch(name, &[]).await;
    }
    daemon.change("old1", "stop", true).await;
    let (code, text) = cli(&daemon, "chain create planned --to web1:eth0 --via fw1:lan/wan --plan");
    assert!(code == 0 && text.contains("fw1 gets links lan and wan, and packets go through it"), "{text}");
    assert!(text.contains("web1 has its eth0 taken off"), "{text}");
    // Links of networks are called as they are: the other test of this program has another name for its chain.
    assert_eq!(cli(&daemon, "chain create edge --to web1:eth0 --via fw1:lan/wan"), (0, "Chain edge created.\n".into()));
    daemon.change("db1", "freeze", false).await;
    daemon.change("db1", "unfreeze", false).await;

    for name in ["mine", "spare"] {
        let post = sysctl_api::ProfilesPost { name: name.into(), ..Default::default() };
        daemon.client.create_profile(&post).await.expect("a profile");
    }
    daemon.client.patch_instance("old1", &used(&["default", "mine"]), None).await.expect("a user of it");
    let blue = sysctl_api::NamespacesPost { kind: "net".into(), name: "blue".into(), ..Default::default() };
    daemon.client.create_namespace(&blue).await.expect("an object");
    let end = [("type", "nic"), ("nictype", "wire"), ("peer", "web1:lan9")];
    let wire = InstancePut { devices: Some([("lan8".into(), support::strings(&end))].into()), ..patch(&[]) };
    let operation = daemon.client.patch_instance("ids1", &wire, None).await.expect("accepted");
    daemon.client.finish(&operation).await.expect("a wire");

    let before = all(&daemon).await;
    let filter = EventFilter { types: vec!["lifecycle".into()], ..EventFilter::default() };
    let mut events = daemon.client.get_events(&filter).await.expect("events");
    let planned = [
        ("launch bb web2 --plan", vec!["6. let init run"]),
        ("create bb web2 --plan", vec!["1. "]),
        ("start old1 --plan", vec!["1. "]),
        ("stop db1 --force --plan", vec!["1. ", "follows1 is stopped first", "stays1 goes on in these namespaces"]),
        ("restart db1 --plan", vec!["follows1 is restarted afterwards", "stays1 goes on"]),
        ("stop fw1 --plan", vec!["edge lets nothing pass until fw1 runs again"]),
        ("pause fw1 --plan", vec!["edge lets nothing pass until fw1 goes on"]),
        ("pause db1 --plan", vec!["1. "]),
        ("stop ids1 --plan", vec!["web1 loses its lan9, a wire to ids1, until that runs again"]),
        ("restart web1 --plan", vec!["ids1 has its lan8, a wire to web1, made anew"]),
        ("delete old1 --plan", vec!["1. "]),
        ("config set db1 limits.processes=400 --plan", vec!["1. "]),
        ("config set db1 user.a=b --plan", vec!["Nothing would be done"]),
        ("config unset db1 limits.processes --plan", vec!["1. "]),
        ("limits db1 processes=500 --plan", vec!["1. "]),
        ("chain insert edge ids1:lan/wan --before fw1 --plan", vec!["1. ", "ids1 gets links lan and wan"]),
        ("chain bypass edge fw1 --plan", vec!["fw1 has packets pass it by"]),
        ("chain remove edge fw1 --plan", vec!["fw1 loses its links lan and wan"]),
        ("chain delete edge --plan", vec!["1. remove network edge", "web1 has its eth0 on"]),
        ("profile create planned -c limits.cpu=1 --plan", vec!["Nothing would be done"]),
        ("profile set default limits.processes=77 --plan", vec!["web1 has this done: set limits"]),
        ("profile set mine limits.processes 77 --plan", vec!["old1 has it from its next start on"]),
        ("profile unset mine limits.processes --plan", vec!["Nothing would be done"]),
        ("profile delete spare --plan", vec!["Nothing would be done"]),
        ("ns create net/red --netns --plan", vec!["also at /run/netns/red"]),
        ("ns adopt net/red --from db1 --plan", vec!["1. "]),
        ("ns set net/blue --netns true --plan", vec!["also at /run/netns/blue"]),
        ("ns delete net/blue --plan", vec!["let pinned net namespace"]),
        ("ns gc --plan", vec!["net/blue would go"]),
    ];
    for (words, told) in &planned {
        let (code, text) = cli(&daemon, words);
        assert!(code == 0 && told.iter().all(|told| text.contains(told)), "{words}: {code}\n{text}");
    }
    let put = StatePut { action: "stop".into(), force: true, ..StatePut::default() };
    let plan = daemon.client.plan_update_instance_state("db1", &put).await.expect("a plan");
    let (others, steps): (Vec<_>, Vec<_>) = plan.into_iter().partition(|step| step.step == CONSEQUENCE);
    let objects: Vec<_> = others.iter().map(|other| other.detail["object"].as_str().expect("a path")).collect();
    assert!(!steps.is_empty(), "its own steps come first");
    assert_eq!(objects, ["/1.0/instances/follows1", "/1.0/instances/stays1"]);

    let (telling, refused) = every_change_is_told_or_refused(&daemon).await;
    assert_eq!(all(&daemon).await, before, "plans change nothing");
    // The first event since then is of the first change since then.
    daemon.set("old1", &[("user.a", "b")]).await.expect("set");
    let first =
        tokio::time::timeout(PATIENCE, events.next()).await.expect("in time").expect("events").expect("an event");
    let told = serde_json::to_string(&first).expect("JSON");
    assert!(told.contains("instance-updated") && told.contains("old1"), "{told}");
    eprintln!(
        "figure: plans of {} commands and all {telling} requests that tell, {refused} that cannot refused by name: objects, doctor and \
         events as before",
        planned.len()
    );
    daemon.finish().await;
}

#[tokio::test]
async fn whoever_is_in_the_way_is_a_conflict_and_ends_the_client_with_its_code() {
    const CONFLICT: i32 = 4;
    let daemon = Daemon::new("conflicts");
    daemon.import_busybox().await;
    let unique = format!("n{}", std::process::id());
    daemon.launch("db1", &[]).await;
    daemon.launch("needs1", &[("namespaces.preset", "sidecar:db1")]).await;
    assert_eq!(cli(&daemon, &format!("ns create net/{unique}")).0, 0);
    daemon.launch("lives1", &[("namespaces.net", &format!("named:{unique}"))]).await;
    daemon.launch("web1", &[]).await;
    daemon.launch("fw1", &[]).await;
    assert_eq!(cli(&daemon, "chain create ford --to web1:eth0 --via fw1:lan/wan").0, 0);
    daemon.change("fw1", "stop", true).await;
    let mut conflicts = 0;
    let mut conflict = |words: &str, told: &str| {
        conflicts += 1;
        for words in [words.to_owned(), format!("{words} --plan")] {
            let (code, text) = cli(&daemon, &words);
            assert!(code == CONFLICT && text.contains(told), "{words}: {code} {text}");
        }
    };
    conflict("stop db1", "stop needs1 first");
    conflict("stop db1 --force", "stop needs1 first");
    conflict("restart db1", "stop needs1 first");
    conflict("config set needs1 namespaces.ipc=private", "stop it first");
    conflict(&format!("ns delete net/{unique}"), "in use by instances/lives1");
    conflict("profile create default", "already exists");
    conflict("delete fw1", "it has a part in chain ford");
    daemon.change("needs1", "stop", true).await;
    daemon.change("db1", "stop", true).await;
    conflict("delete db1", "change or delete needs1 first");
    conflict("start needs1", "start db1 first");
    conflict("launch bb db1", "already exists");
    // In several, the first one's code counts.
    assert_eq!(cli(&daemon, "delete db1 none1").0, CONFLICT);
    assert_eq!(cli(&daemon, "delete none1 db1").0, 3);
    assert_eq!(daemon.set("db1", &[("namespaces.net", "nonsense")]).await.expect_err("refused").status(), Some(400));
    let text = daemon.client.patch_instance("needs1", &patch(&[("user.a", "b")]), Some("stale")).await;
    assert_eq!(text.expect_err("stale").status(), Some(412));
    for words in ["create held -c user.a=b", "set held user.a=c user.b=d", "unset held user.b"] {
        assert_eq!(cli(&daemon, &format!("profile {words}")).0, 0, "{words}");
    }
    let held = daemon.client.get_profile("held").await.expect("a profile").value;
    assert_eq!(held.config, support::strings(&[("user.a", "c")]));
    // Nobody's change is lost to another's at the same time.
    const AT_ONCE: usize = 20;
    let mut changes = tokio::task::JoinSet::new();
    for key in 0..AT_ONCE {
        let client = daemon.client.clone();
        let config = Some(support::strings(&[(&format!("user.k{key}"), "v")]));
        let patch = sysctl_api::ProfilePut { config, ..Default::default() };
        changes.spawn(async move { client.patch_profile("held", &patch, None).await.expect("changed") });
    }
    changes.join_all().await;
    let held = daemon.client.get_profile("held").await.expect("a profile").value;
    assert_eq!(held.config.len(), 1 + AT_ONCE);
    assert_eq!(cli(&daemon, "profile delete held"), (0, "Profile held deleted.\n".into()));
    eprintln!("figure: conflicts that end the client with {CONFLICT}: all {conflicts}, with and without --plan");
    daemon.finish().await;
}
