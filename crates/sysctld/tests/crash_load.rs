//! The daemon ended, killed and held still under load: nothing accepted is lost, nothing is given out twice, nobody waits for
//! ever.

#![allow(missing_docs)]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Daemon, PATIENCE, post};
use sysctl_api::Operation;
use tokio::task::JoinSet;

/// How long an end by SIGTERM may take, whatever is under way.
const DRAIN: Duration = Duration::from_secs(5);

/// A stopped instance.
fn stopped(name: &str) -> sysctl_api::InstancesPost {
    sysctl_api::InstancesPost { start: false, ..post(name, &[]) }
}

fn name_of(number: usize) -> String {
    format!("n{number}")
}

/// Asks for many instances at once; what was accepted, in the order of their numbers.
fn ask_for_many(daemon: &Daemon, count: usize) -> JoinSet<(usize, Result<Operation, sysctl_client::Error>)> {
    let mut asked = JoinSet::new();
    for number in 0..count {
        let client = daemon.client.clone();
        asked.spawn(async move {
            // Every eighth one runs, too.
            let mut wanted = stopped(&name_of(number));
            wanted.start = number % 8 == 0;
            (number, client.create_instance(&wanted).await)
        });
    }
    asked
}

/// Every accepted operation is there, final and good, and its instance is as it was asked for.
async fn all_resumed(daemon: &Daemon, accepted: &[(usize, Operation)]) {
    for (number, operation) in accepted {
        let ended = daemon.client.wait_operation(&operation.id, Some(PATIENCE)).await.expect("an accepted operation");
        assert!(ended.is_final() && ended.err.is_empty(), "{ended:?}\n{}", daemon.log());
        let expected = if number % 8 == 0 { "Running" } else { "Stopped" };
        assert_eq!(daemon.status(&name_of(*number)).await, expected, "{}", daemon.log());
    }
}

/// No two instances share an address, a hardware address or ids.
async fn nothing_twice(daemon: &Daemon) -> usize {
    let instances = daemon.client.get_instances(&Default::default()).await.expect("instances");
    let keys =
        ["volatile.eth0.hwaddr", "volatile.eth0.ipv4.address", "volatile.eth0.ipv6.address", "volatile.idmap.base"];
    for key in keys {
        let values: Vec<&String> = instances.iter().filter_map(|instance| instance.config.get(key)).collect();
        let different: BTreeSet<&String> = values.iter().copied().collect();
        assert_eq!(different.len(), values.len(), "{key} was given out twice: {values:?}");
    }
    assert!(instances.iter().all(|instance| instance.config.contains_key("volatile.idmap.base")));
    instances.len()
}

async fn remove_all(daemon: &Daemon) {
    for instance in daemon.client.get_instances(&Default::default()).await.expect("instances") {
        if instance.status != "Stopped" {
            daemon.change(&instance.name, "stop", true).await;
        }
        daemon.try_delete(&instance.name).await.expect("deleted");
    }
}

#[tokio::test]
async fn an_end_under_load_is_quick_and_what_was_accepted_goes_on() {
    let mut daemon = Daemon::new("drain");
    daemon.import_busybox().await;
    let (mut lost, mut slowest, mut sum) = (0, Duration::ZERO, 0);
    let rounds = testkit::budget(2, 10);
    for round in 0..rounds {
        let mut asked = ask_for_many(&daemon, 50);
        let mut accepted = Vec::new();
        // Ended while the rest is on its way.
        let enough = 5 + 40 * round / rounds;
        while let Some(answer) = asked.join_next().await {
            if let (number, Ok(operation)) = answer.expect("an answer") {
                accepted.push((number, operation));
            }
            if accepted.len() == enough {
                break;
            }
        }
        let begin = Instant::now();
        daemon.terminate();
        slowest = slowest.max(begin.elapsed());
        while let Some(answer) = asked.join_next().await {
            match answer.expect("an answer") {
                (number, Ok(operation)) => accepted.push((number, operation)),
                (_, Err(_)) => lost += 1,
            }
        }
        daemon.start();
        all_resumed(&daemon, &accepted).await;
        daemon.healthy().await;
        sum += accepted.len();
        remove_all(&daemon).await;
    }
    assert!(slowest < DRAIN, "the end took {slowest:?}");
    eprintln!(
        "figure: SIGTERM amid 50 creations, {rounds} times: {sum} accepted, 0 lost, {lost} never accepted; slowest end {} ms",
        slowest.as_millis()
    );
    daemon.finish().await;
}

#[tokio::test]
async fn a_kill_amid_a_hundred_creations_gives_nothing_out_twice() {
    let mut daemon = Daemon::new("hundred");
    daemon.import_busybox().await;
    let rounds = testkit::budget(2, 8);
    let mut resumed = 0;
    for round in 0..rounds {
        let mut asked = ask_for_many(&daemon, 100);
        let mut accepted = Vec::new();
        let enough = 5 + 90 * round / rounds;
        while let Some(answer) = asked.join_next().await {
            if let (number, Ok(operation)) = answer.expect("an answer") {
                accepted.push((number, operation));
            }
            if accepted.len() == enough {
                break;
            }
        }
        daemon.kill();
        while let Some(answer) = asked.join_next().await {
            if let (number, Ok(operation)) = answer.expect("an answer") {
                accepted.push((number, operation));
            }
        }
        daemon.start();
        all_resumed(&daemon, &accepted).await;
        resumed += accepted.len();
        // Names that were not accepted are free, the others are taken.
        let mut again = ask_for_many(&daemon, 100);
        while let Some(answer) = again.join_next().await {
            match answer.expect("an answer") {
                (_, Ok(operation)) => drop(daemon.client.finish(&operation).await.expect("made")),
                (_, Err(error)) => assert_eq!(error.status(), Some(409), "{error}"),
            }
        }
        assert_eq!(nothing_twice(&daemon).await, 100);
        daemon.healthy().await;
        remove_all(&daemon).await;
    }
    eprintln!("figure: kill amid 100 creations, {rounds} times: {resumed} accepted ones ended well, given out twice 0");
    daemon.finish().await;
}

#[tokio::test]
async fn a_daemon_that_was_held_still_goes_on_as_if_nothing_had_been() {
    let daemon = Daemon::new("held");
    daemon.import_busybox().await;
    daemon.launch("other", &[]).await;
    let bystander = daemon.init_pid("other").await;
    // Shorter than a client waits for any answer.
    let held = Duration::from_secs(testkit::budget(3, 45) as u64);
    let mut asked = ask_for_many(&daemon, 16);
    let first = asked.join_next().await.expect("an answer").expect("an answer");
    support::signal(daemon.pid(), Signal::STOP);
    // That time passes is what this is about.
    tokio::time::timeout(held, std::future::pending::<()>()).await.expect_err("time that passes");
    support::signal(daemon.pid(), Signal::CONT);
    let mut accepted = vec![(first.0, first.1.expect("accepted"))];
    while let Some(answer) = asked.join_next().await {
        let (number, operation) = answer.expect("an answer");
        accepted.push((number, operation.expect("accepted")));
    }
    all_resumed(&daemon, &accepted).await;
    assert_eq!(daemon.init_pid("other").await, bystander);
    assert_eq!(daemon.print("other", &["echo", "alive"]).await, "alive");
    eprintln!("figure: daemon held still for {} s amid 16 creations: failed 0, false time-outs 0", held.as_secs());
    daemon.finish().await;
}
