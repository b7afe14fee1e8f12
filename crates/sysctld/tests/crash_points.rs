//! The daemon dies at each boundary of what it does: around each step, each commit, each part of its start and end.
//!
//! A dry run notes which boundaries there are (`SYSCTL_CRASH_COUNT`); then the daemon aborts at each (`SYSCTL_CRASH_AT`).

#![allow(missing_docs)]

mod support;

use std::path::PathBuf;

use support::crashing::{
    Act, Crashing, IMAGE_ACTS, INSTANCE_ACTS, NAMESPACE_ACTS, PERSISTENT_ACTS, Seen, seed, spread,
};

/// SIGABRT, by which a daemon ends at a point.
const ABORTED: i32 = 6;

/// Points of each act in a run of all rings.
const FEW: usize = 4;

/// The boundaries since readiness that an act passes.
async fn count(crashing: &mut Crashing, act: Act) -> usize {
    act.prepare(&crashing.daemon).await;
    let names = names_of(crashing);
    crashing.restart(&[("SYSCTL_CRASH_COUNT", &names.display().to_string())]);
    let seen = act.attempt(&crashing.daemon.client).await;
    assert_eq!(seen.end, Some(Ok(())), "{act:?} without a crash\n{}", crashing.daemon.log());
    crashing.restart(&[]);
    let text = std::fs::read_to_string(&names).expect("names of moments");
    std::fs::remove_file(names).expect("remove the names");
    text.lines().skip_while(|line| *line != "ready").skip(1).count()
}

fn names_of(crashing: &Crashing) -> PathBuf {
    crashing.daemon.scratch().join("moments")
}

/// Each act, and a death of the daemon at its boundaries.
async fn die_amid(crashing: &mut Crashing, acts: &[Act], few: usize) {
    for &act in acts {
        let boundaries = count(crashing, act).await;
        for number in spread(boundaries, few) {
            let at = format!("ready:{number}");
            act.prepare(&crashing.daemon).await;
            crashing.restart(&[("SYSCTL_CRASH_AT", &at)]);
            let seen = act.attempt(&crashing.daemon.client).await;
            let hit = crashing.daemon.bury(ABORTED, seen.end.is_none());
            crashing.start(&[]);
            crashing.judge(act, &seen, hit, &format!("SYSCTL_CRASH_AT={at}, {act:?} ({boundaries} boundaries)")).await;
        }
    }
}

#[tokio::test]
async fn what_is_done_to_an_instance_is_done_or_undone_whole() {
    let mut crashing = Crashing::new("points").await;
    die_amid(&mut crashing, &INSTANCE_ACTS, FEW).await;
    let words = format!("death at the boundaries of {} acts on an instance (seed {})", INSTANCE_ACTS.len(), seed());
    crashing.finish(&words).await;
}

#[tokio::test]
async fn what_is_done_to_an_instance_whose_network_persists_is_done_or_undone_whole() {
    let mut crashing = Crashing::bare("persist-points");
    let daemon = &crashing.daemon;
    daemon.import_busybox().await;
    // By its profile, so that the acts are those of any other.
    let profile = daemon.client.get_profile("default").await.expect("a profile").value;
    let mut config = profile.config;
    config.insert("namespaces.net.persist".into(), "true".into());
    let (config, devices, description) = (Some(config), Some(profile.devices), Some(profile.description));
    let put = sysctl_api::ProfilePut { config, devices, description };
    daemon.client.update_profile("default", &put, None).await.expect("changed");
    die_amid(&mut crashing, &PERSISTENT_ACTS, FEW / 2).await;
    let words = format!("death at the boundaries of {} acts on a network that persists", PERSISTENT_ACTS.len());
    crashing.finish(&words).await;
}

#[tokio::test]
async fn what_is_done_to_an_image_is_done_or_undone_whole() {
    let mut crashing = Crashing::bare("image-points");
    die_amid(&mut crashing, &IMAGE_ACTS, FEW).await;
    crashing.finish("death at the boundaries of an import and a removal of an image").await;
}

#[tokio::test]
async fn what_is_done_to_a_namespace_is_done_or_undone_whole() {
    let mut crashing = Crashing::bare("namespace-points");
    // All of them: each takes a blink.
    die_amid(&mut crashing, &NAMESPACE_ACTS, usize::MAX).await;
    crashing.finish("death at the boundaries of the making and the removal of a namespace object").await;
}

#[tokio::test]
async fn a_first_start_that_dies_is_no_hindrance_to_the_next() {
    let mut crashing = Crashing::bare("first-start");
    let names = names_of(&crashing);
    crashing.daemon.purge_for_another();
    crashing.start(&[("SYSCTL_CRASH_COUNT", &names.display().to_string())]);
    let text = std::fs::read_to_string(&names).expect("names of moments");
    let boundaries = text.lines().take_while(|line| *line != "ready").count();
    std::fs::remove_file(names).expect("remove the names");
    crashing.set(&[]);
    for number in spread(boundaries, 2 * FEW) {
        crashing.daemon.purge_for_another();
        crashing.set(&[("SYSCTL_CRASH_AT", &number.to_string())]);
        assert!(crashing.daemon.try_start(ABORTED), "no death at {number} of {boundaries}");
        crashing.start(&[]);
        let nothing = Seen { operation: None, end: None };
        crashing.judge(Act::Import, &nothing, true, &format!("SYSCTL_CRASH_AT={number}, first start")).await;
    }
    crashing.finish("death at the boundaries of a first start").await;
}

#[tokio::test]
async fn a_daemon_that_dies_while_it_heals_is_healed_by_the_next() {
    let mut crashing = Crashing::new("healing").await;
    for act in [Act::Launch, Act::Stop, Act::Restart, Act::Delete] {
        let boundaries = count(&mut crashing, act).await;
        for number in spread(boundaries, 2) {
            let mut healing = 1;
            // Until a start passes without a death: then it has no further boundary.
            loop {
                act.prepare(&crashing.daemon).await;
                crashing.restart(&[("SYSCTL_CRASH_AT", &format!("ready:{number}"))]);
                let seen = act.attempt(&crashing.daemon.client).await;
                crashing.daemon.bury(ABORTED, seen.end.is_none());
                crashing.set(&[("SYSCTL_CRASH_AT", &healing.to_string())]);
                let died = crashing.daemon.try_start(ABORTED);
                if !died {
                    // It heals beside its readiness.
                    let _ = crashing.daemon.client.get_doctor().await;
                    crashing.daemon.bury(ABORTED, false);
                }
                crashing.start(&[]);
                let point = format!("{act:?}, ready:{number}, then SYSCTL_CRASH_AT={healing} in the next start");
                crashing.judge(act, &seen, died, &point).await;
                if !died {
                    break;
                }
                healing += testkit::budget(5, 1);
            }
        }
    }
    crashing.finish("death of the daemon that heals a death").await;
}

#[tokio::test]
async fn a_purge_that_dies_is_ended_by_the_next() {
    let mut crashing = Crashing::new("purge").await;
    let names = names_of(&crashing);
    crashing.set(&[("SYSCTL_CRASH_COUNT", &names.display().to_string())]);
    crashing.daemon.purge_for_another();
    let boundaries = std::fs::read_to_string(&names).expect("names of moments").lines().count();
    std::fs::remove_file(names).expect("remove the names");
    crashing.set(&[]);
    let chosen = spread(boundaries, FEW);
    for &number in &chosen {
        crashing.daemon.start();
        crashing.daemon.import_busybox().await;
        crashing.daemon.launch("web1", &[]).await;
        let _ = Act::MakeNetwork.attempt(&crashing.daemon.client).await;
        crashing.daemon.terminate();
        crashing.set(&[("SYSCTL_CRASH_AT", &number.to_string())]);
        crashing.daemon.purge_and_die(ABORTED);
        crashing.set(&[]);
        crashing.daemon.purge_for_another();
        assert_eq!(crashing.daemon.traces(), [""; 0], "violation at SYSCTL_CRASH_AT={number} of a purge");
    }
    crashing.daemon.start();
    eprintln!("figure: crash points {}, violations 0: death at the boundaries of a purge", chosen.len());
    crashing.daemon.finish().await;
}
