//! Holes that the table or the model found, or review: each as the promise that it broke.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::{NewInstance, Status, Verb};
use model::{End, ProjectName, StopKind};
use store::Kept;
use testkit::fake::World;
use testkit::faults::{At, Fault};

use crate::acts::nic;
use crate::lab::{Daemon, new_instance, start, start_or_die};
use crate::run;

async fn fresh() -> (Arc<Mutex<World>>, Daemon) {
    let world: Arc<Mutex<World>> = Arc::default();
    let daemon = start(&world, Kept::default()).await;
    (world, daemon)
}

impl Daemon {
    async fn made(&self, name: &str, running: bool) -> Result<(), String> {
        self.ended(self.engine.create(new_instance(name, running), None).await).await
    }

    async fn asked(&self, name: &str, verb: Verb) -> Result<(), String> {
        self.ended(self.engine.ask(&ProjectName::default(), name, verb, None, None).await).await
    }
}

/// The network of the lab has five addresses for guests.
#[test]
fn what_a_failed_change_was_given_is_given_back() {
    run(async {
        let (_, daemon) = fresh().await;
        daemon.made("web1", true).await.expect("web1");
        daemon.asked("web1", nic(false)).await.expect("without a NIC");
        for refused in [At::Step, At::Commit, At::Look] {
            for _ in 0..10 {
                daemon.faults.arm(&[(refused, 0, Fault::Refuse)]);
                daemon.asked("web1", nic(true)).await.expect_err("refused");
                daemon.rest().await;
            }
        }
        let taken = NewInstance { name: Some("web1".parse().expect("name")), ..new_instance("web1", true) };
        for _ in 0..10 {
            daemon.engine.plan_create(taken.clone()).expect_err("the name is taken");
            daemon.engine.plan_create(new_instance("planned", true)).expect("a plan");
        }
        for n in 0..5 {
            daemon.made(&format!("more{n}"), true).await.expect("an address is free");
        }
        daemon.made("one-too-many", true).await.expect_err("none is left");
        daemon.rest().await;
        daemon.check("all addresses are taken").await;
    });
}

#[test]
fn ids_that_a_change_of_nesting_replaces_are_claimed_and_given_back() {
    run(async {
        let (world, daemon) = fresh().await;
        daemon.made("web1", false).await.expect("web1");
        let nesting = |on: &str| {
            let config = [("security.nesting".to_owned(), on.to_owned())].into();
            let written = config::Written { config, ..Default::default() };
            Verb::Patch(Box::new(engine::Patch { written, ..Default::default() }))
        };
        // Sixteen million ids hold fifteen ranges of a million.
        for _ in 0..20 {
            daemon.asked("web1", nesting("true")).await.expect("a large range");
            daemon.asked("web1", nesting("false")).await.expect("a small range");
        }
        daemon.check("after many changes").await;
        daemon.faults.die();
        let daemon = start(&world, daemon.faults.died().await.now).await;
        daemon.rest().await;
        daemon.check("after a restart").await;
    });
}

#[test]
fn a_name_is_free_again_after_a_deletion_that_could_not_be_written_down_at_once() {
    run(async {
        let (_, daemon) = fresh().await;
        daemon.made("web1", false).await.expect("web1");
        daemon.rest().await;
        // The wish is written, its end is not.
        daemon.faults.arm(&[(At::Commit, 1, Fault::Refuse)]);
        daemon.asked("web1", Verb::Delete).await.expect("it is gone");
        daemon.rest().await;
        daemon.made("web1", false).await.expect("the name is free");
        daemon.rest().await;
        daemon.check("made again").await;
        // Nothing of a creation on a full disk stays, nor stands in the way of the next one.
        daemon.faults.refuse_always(At::Commit, "commit");
        daemon.made("web2", true).await.expect_err("the disk is full");
        daemon.rest().await;
        assert!(daemon.record("web2").is_none());
        daemon.faults.heal();
        daemon.made("web2", true).await.expect("the disk is free");
        daemon.rest().await;
        daemon.check("made after all").await;
    });
}

#[test]
fn a_failure_that_could_not_be_written_down_is_told_as_such_and_then_the_next_daemon_tries_again() {
    run(async {
        for dies in [false, true] {
            let (world, daemon) = fresh().await;
            daemon.made("web1", false).await.expect("web1");
            daemon.rest().await;
            // The wish to start is written; that it failed is not.
            daemon.faults.arm(&[(At::Step, 0, Fault::Refuse), (At::Commit, 1, Fault::Refuse)]);
            let told = daemon.asked("web1", Verb::Start).await.expect_err("a step is refused");
            assert!(told.contains("could not be written down yet"), "{told}");
            if dies {
                daemon.faults.die();
                let died = daemon.faults.died().await;
                let daemon = start(&world, died.flushed).await;
                daemon.rest().await;
                daemon.check("after a death").await;
                continue;
            }
            daemon.rest().await;
            daemon.check("written down later").await;
            daemon.faults.arm(&[(At::Step, 0, Fault::Refuse)]);
            let told = daemon.asked("web1", Verb::Start).await.expect_err("a step is refused");
            assert!(!told.contains("written down"), "{told}");
            daemon.rest().await;
        }
    });
}

#[test]
fn what_is_done_before_its_commit_is_answered_with_its_end() {
    run(async {
        let (_, daemon) = fresh().await;
        daemon.made("web1", true).await.expect("web1");
        daemon.rest().await;
        let ask = async |verb| daemon.engine.ask(&ProjectName::default(), "web1", verb, None, None).await;
        for verb in [Verb::Freeze, Verb::Thaw] {
            assert_eq!(ask(verb).await.expect("a write to a group").status, Status::Success);
        }
        assert_eq!(ask(Verb::Stop(StopKind::Force)).await.expect("it takes its time").status, Status::Running);
        daemon.rest().await;
        daemon.check("stopped").await;
        daemon.made("web2", true).await.expect("web2");
        daemon.rest().await;
        daemon.faults.refuse_always(At::Commit, "commit");
        let refused = daemon.engine.ask(&ProjectName::default(), "web2", Verb::Freeze, None, None).await;
        refused.expect_err("it was done, and is taken back as it cannot be remembered");
        daemon.rest().await;
        daemon.faults.heal();
        daemon.check("not frozen").await;
    });
}

#[test]
fn what_a_refused_creation_left_keeps_its_row_until_it_can_be_removed() {
    run(async {
        let (_, daemon) = fresh().await;
        daemon.made("first", false).await.expect("an image");
        daemon.rest().await;
        daemon.faults.refuse_always(At::Commit, "commit");
        daemon.faults.refuse_always(At::Step, "discard_root");
        daemon.made("web1", false).await.expect_err("the disk is full");
        let record = daemon.record("web1").expect("it is known whose root that is");
        assert!(!record.wish.exists && record.error.is_some(), "{record:?}");
        assert_eq!(daemon.host.world().roots.len(), 2);
        let refused = daemon.made("web1", false).await.expect_err("its name is taken as long");
        assert!(refused.contains("already exists"), "{refused}");
        daemon.faults.heal();
        daemon.rest().await;
        assert!(daemon.record("web1").is_none());
        daemon.check("removed once that went").await;
        assert_eq!(daemon.told(0, "web1"), [""; 0]);
    });
}

#[test]
fn an_instance_that_was_given_up_is_healed_when_the_host_is_well_again() {
    run(async {
        let (_, daemon) = fresh().await;
        daemon.made("web1", true).await.expect("web1");
        daemon.faults.refuse_always(At::Step, "remove_group");
        let error = daemon.asked("web1", Verb::Stop(StopKind::Force)).await.expect_err("refused");
        assert!(error.ends_with("it is tried again until it succeeds"), "{error}");
        let steps = daemon.faults.counts()[0];
        daemon.rest().await;
        // Three hours: a look each ten minutes at most, three tries each.
        let tries = daemon.faults.counts()[0] - steps;
        assert!(tries < 100, "{tries} tries");
        assert!(daemon.record("web1").expect("web1").error.is_some());
        daemon.faults.heal();
        daemon.rest().await;
        daemon.check("healed").await;
        assert_eq!(daemon.told(0, "web1").last().map(String::as_str), Some("instance-stopped"));
    });
}

#[test]
fn a_guest_that_halted_while_the_disk_was_full_is_not_started_by_the_next_daemon() {
    run(async {
        let (world, daemon) = fresh().await;
        daemon.made("web1", true).await.expect("web1");
        daemon.rest().await;
        daemon.faults.refuse_always(At::Commit, "commit");
        let id = daemon.record("web1").expect("web1").id;
        daemon.host.end_guest(id, End::Halt);
        daemon.rest().await;
        daemon.faults.die();
        let daemon = start(&world, daemon.faults.died().await.now).await;
        daemon.rest().await;
        assert_eq!(daemon.record("web1").expect("web1").wish.power, model::Power::Off);
        assert_eq!(daemon.told(0, "web1"), ["instance-created", "instance-started", "instance-shutdown"]);
        daemon.check("halted").await;
    });
}

#[test]
fn a_guest_is_not_started_in_the_group_that_a_forgotten_stop_killed() {
    run(async {
        for step in 0..5 {
            let (world, daemon) = fresh().await;
            daemon.made("web1", true).await.expect("web1");
            daemon.rest().await;
            // The stop happens and cannot be written down, and the daemon dies in it: the next one has the guest run.
            daemon.faults.arm(&[(At::Step, step, Fault::CrashAfter)]);
            daemon.faults.refuse_always(At::Commit, "commit");
            let stop = Verb::Stop(StopKind::Clean { timeout_s: 5 });
            let accepted = daemon.engine.ask(&ProjectName::default(), "web1", stop, None, None).await;
            accepted.expect("a stop needs no disk");
            let daemon = start(&world, daemon.faults.died().await.now).await;
            daemon.rest().await;
            daemon.check(&format!("died after step {step} of the stop")).await;
        }
    });
}

#[test]
fn an_image_that_was_built_and_not_named_says_so_and_is_named_by_the_same_again() {
    run(async {
        let mut unnamed = 0;
        for commit in 0..6 {
            let (_, daemon) = fresh().await;
            let aliases = vec![("first".to_owned(), String::new()), ("second".to_owned(), String::new())];
            let wish = engine::ImageWish { aliases, ..Default::default() };
            daemon.faults.arm(&[(At::Commit, commit, Fault::Refuse)]);
            let built = daemon.ended(daemon.engine.build_image("debian", wish.clone()).await).await;
            daemon.rest().await;
            if let Err(text) = built.as_ref()
                && let Some((_, named)) = text.split_once("the image is there, as ")
            {
                unnamed += 1;
                assert!(daemon.engine.here(&named[..64]).is_ok(), "{text}");
                assert!(text.contains("image alias create"), "{text}");
            }
            daemon.ended(daemon.engine.build_image("debian", wish.clone()).await).await.expect("the same again");
            for (name, _) in &wish.aliases {
                daemon.engine.alias(name).expect("named");
            }
            daemon.rest().await;
            daemon.check(&format!("commit {commit} refused, {built:?}")).await;
        }
        assert_eq!(unnamed, 2, "once for each name");
    });
}

#[test]
fn what_may_be_of_a_lost_record_is_kept_until_nothing_like_that_is_there() {
    run(async {
        let (world, mut daemon) = fresh().await;
        daemon.made("web1", false).await.expect("web1");
        let stranger = (model::InstanceId(uuid::Uuid::from_u128(7)), model::RootGen(1));
        let mark = || store::Op::Put { kind: "daemon", key: "incomplete".into(), body: "{}".into() };
        let txn = |op| store::Txn { compare: Vec::new(), ops: vec![op] };
        // With the mark it is kept over starts and repairs; once it is gone, so is the mark, and the next one is swept.
        for (marks, is_there, stays) in
            [(true, true, true), (false, true, true), (false, false, false), (false, true, false)]
        {
            if marks {
                daemon.engine.store().commit(txn(mark())).await.expect("marked");
            }
            match is_there {
                true => drop(daemon.host.world().roots.insert(stranger, model::RootSource::Empty)),
                false => drop(daemon.host.world().roots.remove(&stranger)),
            }
            daemon.faults.die();
            daemon = start(&world, daemon.faults.died().await.now).await;
            daemon.engine.repair(&*daemon.host).await.expect("repair");
            daemon.rest().await;
            daemon.engine.flush().await.expect("flush");
            let case = (marks, is_there, stays);
            assert_eq!(daemon.host.world().roots.contains_key(&stranger), stays, "{case:?}");
            let marked = daemon.engine.store().get("daemon", "incomplete").expect("get").is_some();
            assert_eq!(marked, stays, "{case:?}");
            let findings = daemon.engine.diagnose(&*daemon.host).await.expect("diagnosis").findings;
            assert_eq!(findings.iter().any(|wrong| wrong.fix.contains("may have been lost")), stays, "{findings:?}");
        }
        daemon.check("at the end").await;
    });
}

#[test]
fn events_that_rode_a_refused_commit_are_kept_with_the_next() {
    run(async {
        let (_, daemon) = fresh().await;
        daemon.made("web1", true).await.expect("web1");
        daemon.rest().await;
        daemon.faults.arm(&[(At::Commit, 1, Fault::Refuse)]);
        daemon.asked("web1", Verb::Freeze).await.expect("frozen");
        daemon.rest().await;
        daemon.engine.flush().await.expect("flush");
        assert_eq!(daemon.told(0, "web1"), ["instance-created", "instance-started", "instance-paused"]);
        daemon.check("frozen").await;
    });
}

#[test]
fn an_operation_is_ended_also_when_the_first_look_of_the_next_daemon_fails() {
    run(async {
        let (world, daemon) = fresh().await;
        daemon.made("web1", false).await.expect("web1");
        daemon.rest().await;
        daemon.faults.arm(&[(At::Step, 2, Fault::CrashAfter)]);
        let accepted = daemon.engine.ask(&ProjectName::default(), "web1", Verb::Start, None, None).await.expect("202");
        let left = daemon.faults.died().await;
        let daemon = start_or_die(&world, left.flushed, &[(At::Look, 0, Fault::Refuse)]).await;
        let daemon = daemon.unwrap_or_else(|_| panic!("it lives"));
        // Whoever asks in between is told to wait or finds it done, and undoes nothing.
        let asked = daemon.asked("web1", Verb::Freeze).await;
        daemon.rest().await;
        let view = daemon.engine.operations().get(accepted.id).expect("known");
        assert_eq!(view.status, Status::Success, "{view:?}, {asked:?}");
        daemon.check("started").await;
    });
}

#[test]
fn of_two_that_create_the_same_name_at_once_one_wins_and_can_be_reached() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    runtime.expect("a runtime").block_on(async {
        let (_, daemon) = fresh().await;
        daemon.made("first", false).await.expect("an image");
        for _ in 0..testkit::budget(50, 1000) {
            let create = || {
                let engine = daemon.engine.clone();
                tokio::spawn(async move { engine.create(new_instance("web1", false), None).await })
            };
            let (one, two) = (create(), create());
            let won: Vec<_> = [one.await, two.await].into_iter().filter_map(|r| r.expect("no panic").ok()).collect();
            assert_eq!(won.len(), 1, "{won:?}");
            daemon.engine.operations().wait(won[0].id).await.expect("made");
            daemon.asked("web1", Verb::Delete).await.expect("it is reached by its name");
        }
        let ended = tokio::time::timeout(Duration::from_secs(60), daemon.engine.rest()).await;
        ended.expect("at rest");
        daemon.check("one each").await;
    });
}
