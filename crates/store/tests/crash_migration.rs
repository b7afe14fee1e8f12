//! A migration killed at each of its system calls: the database is the old one or the new one, and the copy is kept.

#![allow(missing_docs)]

use std::fs;
use std::path::Path;
use std::process::Command;

use store::{LATEST, Store};
use testkit::Scratch;

/// In this variable the child of a test finds the database that it is to open.
const OPEN: &str = "STORE_TEST_OPEN";

/// Calls that change something on a disk.
const CALLS: [&str; 6] = ["pwrite64", "write", "fsync,fdatasync", "ftruncate", "rename,renameat2", "unlink,unlinkat"];

fn golden(version: u32) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{version}.db"))
}

fn version(path: &Path) -> u32 {
    let connection = rusqlite::Connection::open(path).expect("open");
    connection.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("version")
}

/// All documents and claims, whatever the version.
fn rows(path: &Path) -> Vec<String> {
    let connection = rusqlite::Connection::open(path).expect("open");
    let sql = "SELECT kind || key || revision || body FROM document UNION ALL SELECT space || value || owner FROM claim
               UNION ALL SELECT sequence || body FROM event UNION ALL SELECT 'revision ' || value FROM revision";
    let mut statement = connection.prepare(sql).expect("prepare");
    statement.query_map([], |row| row.get(0)).expect("query").collect::<Result<_, _>>().expect("rows")
}

#[test]
fn a_migration_killed_at_any_call_leaves_the_old_or_the_new_database_and_its_copy() {
    if let Some(path) = std::env::var_os(OPEN) {
        let store = Store::open(Path::new(&path)).expect("open");
        store.settle_mirror();
        return;
    }
    let (mut old, mut new, mut kills) = (0, 0, 0);
    let before = rows(&copy_of_golden(&Scratch::new("golden")));
    for calls in CALLS {
        for number in (1..).step_by(testkit::budget(5, 1)) {
            let scratch = Scratch::new("migration");
            let path = copy_of_golden(&scratch);
            if open_in_a_child(&path, calls, number) {
                break;
            }
            kills += 1;
            if version(&path) == LATEST {
                new += 1;
            } else {
                old += 1;
            }
            assert!(rows(&path) == before, "{calls} {number}: rows changed");
            // The next start finishes it.
            drop(Store::open(&path).unwrap_or_else(|e| panic!("{calls} {number}: {e}")));
            testkit::eventually("the writer's end", || (!scratch.join("x.db-wal").exists()).then_some(()));
            assert_eq!(version(&path), LATEST, "{calls} {number}");
            let copy = scratch.join("x.db.bak-1");
            assert_eq!(version(&copy), 1, "{calls} {number}: the copy");
            assert!(rows(&copy) == before && rows(&path) == before, "{calls} {number}");
            let _ = fs::remove_file(copy);
        }
    }
    assert!(old > 0 && new > 0, "{old} {new}");
    eprintln!("figure: migration killed at {kills} system calls: {old} old, {new} new, copies lost 0, violations 0");
}

fn copy_of_golden(scratch: &Scratch) -> std::path::PathBuf {
    let path = scratch.join("x.db");
    fs::copy(golden(1), &path).expect("copy");
    path
}

/// Opens a database in a process that is killed at the `number`th of these calls; whether it came through.
fn open_in_a_child(path: &Path, calls: &str, number: u32) -> bool {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
    command.args(["-e", &format!("inject={calls}:signal=KILL:when={number}")]);
    command.arg(std::env::current_exe().expect("this test"));
    command.args(["--exact", "a_migration_killed_at_any_call_leaves_the_old_or_the_new_database_and_its_copy"]);
    command.env(OPEN, path).output().expect("strace").status.success()
}

#[test]
fn a_database_of_each_release_is_migrated_with_everything_in_it() {
    for from in 1..LATEST {
        let scratch = Scratch::new("release");
        let path = scratch.join("x.db");
        fs::copy(golden(from), &path).expect("copy");
        let before = rows(&path);
        let store = Store::open(&path).expect("open");
        assert_eq!(store.check().expect("check"), None);
        assert_eq!((store.list("instance").expect("list").len(), store.claims("ids").expect("claims").len()), (12, 12));
        store.settle_mirror();
        drop(store);
        testkit::eventually("the writer's end", || (!scratch.join("x.db-wal").exists()).then_some(()));
        assert!(rows(&path) == before, "rows changed");
    }
}
