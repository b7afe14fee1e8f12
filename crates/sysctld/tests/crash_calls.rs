//! The daemon, a keeper, a launcher or the spawn process is killed at one of its system calls, without help from the source:
//! strace finds out which calls there are, and kills at each.

#![allow(missing_docs)]

mod support;

use std::path::PathBuf;

use support::crashing::{Act, Crashing, IMAGE_ACTS, INSTANCE_ACTS, seed, spread_of};
use support::mirror::Mirror;
use support::strace::{CHANGING, Injection, Tracer, points};

const KILLED: i32 = 9;

/// Points of each act in a run of all rings.
const FEW: usize = 3;

/// Calls that keepers and launchers make, and next to never the guest's own programs.
const KEEPING: &str = "clone3,fsopen,fsconfig,fsmount,move_mount,mount_setattr,open_tree,pivot_root,setns,unshare,sendmsg,\
                       openat2,mknodat,renameat,rename,socketpair,close_range,prctl,setresuid,setresgid";

fn log_of(crashing: &Crashing) -> PathBuf {
    crashing.daemon.scratch().join("strace")
}

/// The calls that `pids` make while an act is done.
async fn dry_run(crashing: &Crashing, act: Act, pids: &[u32], calls: &str) -> Vec<(String, usize)> {
    act.prepare(&crashing.daemon).await;
    let words = ["-e".to_owned(), format!("trace={calls},execveat")];
    let tracer = Tracer::attach(pids, &words, &log_of(crashing));
    let seen = act.attempt(&crashing.daemon.client).await;
    assert_eq!(seen.end, Some(Ok(())), "{act:?} while it is watched\n{}", crashing.daemon.log());
    points(&tracer.detach(false))
}

fn kill_at((call, when): &(String, usize)) -> Injection {
    Injection { call: call.clone(), when: *when, what: "signal=KILL".into() }
}

/// Each act, and a death of the daemon at its calls.
async fn kill_daemon_amid(crashing: &mut Crashing, acts: &[Act], few: usize) {
    for &act in acts {
        let calls = dry_run(crashing, act, &[crashing.daemon.pid()], CHANGING).await;
        for point in spread_of(&calls, few) {
            let injection = kill_at(point);
            act.prepare(&crashing.daemon).await;
            let tracer = Tracer::attach(&[crashing.daemon.pid()], &injection.words(), &log_of(crashing));
            let seen = act.attempt(&crashing.daemon.client).await;
            let hit = crashing.daemon.is_dead(seen.end.is_none());
            tracer.detach(hit);
            // It may be dying of its very last call, unseen by strace: one that still answers is not.
            let hit = crashing.daemon.client.get_server().await.is_err() && crashing.daemon.is_dead(true);
            if hit {
                crashing.daemon.bury(KILLED, true);
                crashing.start(&[]);
            }
            crashing.judge(act, &seen, hit, &format!("the daemon in {act:?}, {injection}")).await;
        }
    }
}

#[tokio::test]
async fn a_daemon_killed_at_any_call_leaves_instances_whole() {
    let mut crashing = Crashing::new("calls").await;
    kill_daemon_amid(&mut crashing, &INSTANCE_ACTS, FEW).await;
    let words = format!("kill of the daemon at calls of {} acts on an instance (seed {})", INSTANCE_ACTS.len(), seed());
    crashing.finish(&words).await;
}

#[tokio::test]
async fn a_daemon_killed_at_any_call_leaves_images_whole() {
    let mut crashing = Crashing::bare("image-calls");
    let mirror = Mirror::serve();
    crashing.set_recipes(&mirror);
    kill_daemon_amid(&mut crashing, &IMAGE_ACTS, FEW).await;
    kill_daemon_amid(&mut crashing, &[Act::Build], FEW).await;
    crashing.finish("kill of the daemon at calls of an import, a removal and a build of an image").await;
}

#[tokio::test]
async fn a_daemon_killed_at_any_call_of_its_start_starts_the_next_time() {
    let mut crashing = Crashing::new("start-calls").await;
    for is_first in [false, true] {
        let log = log_of(&crashing);
        let dry = ["-e".to_owned(), format!("trace={CHANGING}")];
        crashing.daemon.end_for_start(is_first);
        crashing.daemon.trace_start(&dry, &log);
        crashing.daemon.start();
        crashing.daemon.terminate();
        crashing.daemon.trace_start(&[], &log);
        let calls = points(&std::fs::read_to_string(&log).expect("the log of strace"));
        for point in spread_of(&calls, 3 * FEW) {
            let injection = kill_at(point);
            if !is_first {
                crashing.daemon.start();
            }
            crashing.daemon.end_for_start(is_first);
            crashing.daemon.trace_start(&injection.words(), &log);
            let hit = crashing.daemon.try_start(KILLED);
            if !hit {
                crashing.daemon.bury(KILLED, false);
            }
            crashing.daemon.trace_start(&[], &log);
            crashing.daemon.start();
            crashing.judge_start(is_first, hit, &format!("a start (first: {is_first}), {injection}")).await;
            crashing.daemon.terminate();
        }
    }
    crashing.daemon.start();
    crashing.finish("kill of the daemon at calls of a first start and of one that takes guests up").await;
}

#[tokio::test]
async fn a_keeper_or_launcher_killed_at_any_call_costs_at_most_its_own_launch() {
    let mut crashing = Crashing::new("keeper-calls").await;
    for act in [Act::Launch, Act::Restart, Act::Exec, Act::Halt] {
        let has_guest = act != Act::Launch;
        act.prepare(&crashing.daemon).await;
        let pids = crashing.daemon.keeping(has_guest).await;
        let calls = dry_run(&crashing, act, &pids, KEEPING).await;
        for point in spread_of(&calls, 2 * FEW) {
            let injection = kill_at(point);
            act.prepare(&crashing.daemon).await;
            let pids = crashing.daemon.keeping(has_guest).await;
            let tracer = Tracer::attach(&pids, &injection.words(), &log_of(&crashing));
            let seen = act.attempt(&crashing.daemon.client).await;
            let log = tracer.detach(false);
            let hit = log.contains("+++ killed by SIGKILL");
            assert!(!crashing.daemon.is_dead(false), "violation: the daemon died, too, at {injection}");
            crashing.judge(act, &seen, hit, &format!("keeping processes in {act:?}, {injection}")).await;
        }
    }
    crashing
        .finish("kill of the spawn process, a keeper or a launcher at calls of a launch, restart, exec and stop")
        .await;
}
