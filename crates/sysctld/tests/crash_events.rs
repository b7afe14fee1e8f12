//! Events and operations: who was away, or slow, or whose daemon was killed meanwhile, misses none.

#![allow(missing_docs)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use support::{Daemon, PATIENCE, patch, post};
use sysctl_api::Event;
use sysctl_client::{EventFilter, Followed};
use testkit::budget;

/// Kept operations and lifecycle; lines of the log are not.
fn kept() -> EventFilter {
    EventFilter { types: vec!["operation".into(), "lifecycle".into()], ..EventFilter::default() }
}

/// Ids of operations that an event says are over.
fn ended(event: &Event) -> Option<String> {
    let is_final =
        event.metadata.get("status_code").and_then(serde_json::Value::as_u64).is_some_and(|code| code >= 200);
    (event.kind == "operation" && is_final).then(|| event.metadata["id"].as_str().expect("an id").to_owned())
}

/// Listens until all of `wanted` are told as over; numbers only grow.
async fn until_told(events: &mut Followed, mut wanted: BTreeSet<String>) -> usize {
    let (mut last, mut heard) = (0, 0);
    let all = async {
        while !wanted.is_empty() {
            let event = events.next().await.expect("an event");
            assert!(event.sequence > last, "{} after {last}", event.sequence);
            assert_ne!(event.kind, "gap");
            last = event.sequence;
            heard += 1;
            ended(&event).map(|id| wanted.remove(&id));
        }
    };
    if tokio::time::timeout(PATIENCE, all).await.is_err() {
        panic!("{} operations were never told as over: {wanted:?}", wanted.len());
    }
    heard
}

/// Changes something so many times; the ids of the operations.
async fn change(daemon: &Daemon, times: usize) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for n in 0..times {
        let wanted = patch(&[("limits.processes", &(100 + n).to_string())]);
        let asked = daemon.client.patch_instance("web1", &wanted, None).await.expect("accepted");
        daemon.client.finish(&asked).await.expect("changed");
        ids.insert(asked.id);
    }
    ids
}

#[tokio::test]
async fn who_was_away_while_the_daemon_was_killed_misses_nothing() {
    let mut daemon = Daemon::new("events-away");
    daemon.import_busybox().await;
    let post = sysctl_api::InstancesPost { start: false, ..post("web1", &[]) };
    let made = daemon.client.create_instance(&post).await.expect("accepted");
    daemon.client.finish(&made).await.expect("made");
    let mut follower = daemon.client.follow_events(&kept(), PATIENCE).await.expect("events");
    let since = follower.since().expect("a number");
    let mut asked = BTreeSet::new();
    // More than a listener may be behind, and not more than is kept: 2,000 operations, 3 events each.
    let rounds = budget(3, 7);
    for _ in 0..rounds {
        asked.extend(change(&daemon, 260).await);
        // One that is under way, or never accepted, when the daemon is killed.
        let wanted = patch(&[("limits.processes", "99")]);
        let cut = daemon.client.patch_instance("web1", &wanted, None);
        if let Ok(Ok(operation)) = tokio::time::timeout(Duration::from_millis(3), cut).await {
            asked.insert(operation.id);
        }
        daemon.kill();
        daemon.start();
    }
    let heard = until_told(&mut follower, asked.clone()).await;
    let filter = EventFilter { since: Some(since), ..kept() };
    let mut late = daemon.client.follow_events(&filter, PATIENCE).await.expect("events");
    let replayed = until_told(&mut late, asked.clone()).await;
    for id in &asked {
        let known = daemon.client.wait_operation(id, Some(Duration::from_secs(1))).await.expect("still readable");
        assert!(known.is_final(), "{known:?}");
    }
    eprintln!(
        "figure: {} operations over {rounds} kills of the daemon: {heard} events to a listener that read none meanwhile, \
         {replayed} to one that came late, missed 0",
        asked.len()
    );
    daemon.finish().await;
}
