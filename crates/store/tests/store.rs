//! The store on a real file.

#![allow(missing_docs)]

use store::{Compare, Event, LATEST, Op, OpenError, Store, Txn, TxnError};
use testkit::Scratch;

fn put(key: &str, body: &str) -> Op {
    Op::Put { kind: "thing", key: key.into(), body: body.into() }
}

fn claim(value: &str, owner: &str) -> Op {
    Op::Claim { space: "ipv4", value: value.into(), owner: owner.into() }
}

fn ops(ops: Vec<Op>) -> Txn {
    Txn { compare: Vec::new(), ops }
}

#[tokio::test]
async fn what_was_committed_is_there_after_opening_again() {
    let scratch = Scratch::new("store");
    let path = scratch.join("x.db");
    let store = Store::open(&path).expect("open");
    let first = store.commit(ops(vec![put("a", "1"), put("b", "2")])).await.expect("commit");
    let second = store.commit(ops(vec![put("a", "3")])).await.expect("commit");
    assert!(second > first);
    drop(store);
    let store = Store::open(&path).expect("open again");
    let all: Vec<_> = store.list("thing").expect("list").into_iter().map(|d| (d.key, d.body, d.revision)).collect();
    assert_eq!(all, [("a".into(), "3".into(), second), ("b".into(), "2".into(), first)]);
    assert!(store.commit(ops(vec![put("c", "")])).await.expect("commit") > second, "revisions never go back");
}

#[tokio::test]
async fn after_its_end_nothing_is_put_back_where_it_was() {
    let scratch = Scratch::new("store-end");
    let directory = scratch.join("state");
    std::fs::create_dir(&directory).expect("mkdir");
    let path = directory.join("db");
    let store = Store::open(&path).expect("open");
    let submitted = store.submit(ops(vec![put("a", "1")]));
    store.end();
    submitted.await.expect("an answer").expect("committed before the end");
    assert_eq!(Store::open(&path).expect("open").get("thing", "a").expect("read").expect("there").body, "1");
    std::fs::remove_dir_all(&directory).expect("remove");
    store.commit(ops(vec![put("a", "2")])).await.expect_err("refused");
    store.settle();
    assert!(!directory.exists());
}

#[tokio::test]
async fn a_transaction_happens_whole_or_not_at_all() {
    let scratch = Scratch::new("store");
    let store = Store::open(&scratch.join("x.db")).expect("open");
    let revision = store.commit(ops(vec![put("a", "1"), claim("10.0.0.2", "a")])).await.expect("commit");
    let stale = Txn {
        compare: vec![Compare { kind: "thing", key: "a".into(), revision: Some(revision - 1) }],
        ops: vec![put("a", "2")],
    };
    assert!(matches!(store.commit(stale).await, Err(TxnError::Conflict { .. })));
    let exists =
        Txn { compare: vec![Compare { kind: "thing", key: "a".into(), revision: None }], ops: vec![put("a", "2")] };
    assert!(matches!(store.commit(exists).await, Err(TxnError::Conflict { .. })));
    let taken = store.commit(ops(vec![put("b", "1"), claim("10.0.0.2", "b")])).await;
    assert_eq!(taken, Err(TxnError::Claimed { space: "ipv4", value: "10.0.0.2".into(), owner: "a".into() }));
    assert_eq!(store.get("thing", "b").expect("get"), None);
    assert_eq!(store.get("thing", "a").expect("get").expect("a").body, "1");
    // Claimed again by its holder, and free once given back.
    store.commit(ops(vec![claim("10.0.0.2", "a")])).await.expect("own claim");
    store.commit(ops(vec![Op::ReleaseAll { owner: "a".into() }, claim("10.0.0.2", "b")])).await.expect("free");
    assert_eq!(store.claims("ipv4").expect("claims"), [("10.0.0.2".into(), "b".into())]);
}

#[tokio::test]
async fn waiting_for_what_came_before_writes_nothing() {
    let scratch = Scratch::new("store-wait");
    let path = scratch.join("x.db");
    let store = Store::open(&path).expect("open");
    let submitted = store.submit(ops(vec![put("a", "1")]));
    let waited = store.commit(Txn::default()).await.expect("waited");
    store.settle();
    let log = || std::fs::metadata(path.with_extension("db-wal")).map_or(0, |log| log.len());
    assert_eq!((store.commit(Txn::default()).await, log()), (Ok(waited), 0));
    assert!(submitted.await.expect("an answer").expect("committed") <= waited);
    assert!(store.commit(ops(vec![put("a", "2")])).await.expect("commit") > waited && log() > 0);
}

#[tokio::test]
async fn the_log_is_as_long_ahead_as_it_gets_and_commits_lie_within() {
    let scratch = Scratch::new("store-log");
    let path = scratch.join("x.db");
    let store = Store::open(&path).expect("open");
    store.commit(ops(vec![put("a", "0")])).await.expect("commit");
    let log = || std::fs::metadata(path.with_extension("db-wal")).map_or(0, |log| log.len());
    testkit::eventually("a long log", || (log() == 4 << 20).then_some(()));
    // More than it holds: it starts again from its beginning.
    for number in 1..=600 {
        store.commit(ops(vec![put("a", &number.to_string())])).await.expect("commit");
    }
    assert_eq!(log(), 4 << 20);
    // What a daemon that was killed leaves.
    let left = Scratch::new("store-log-left");
    for name in ["x.db", "x.db-wal"] {
        std::fs::copy(scratch.join(name), left.join(name)).expect("copy");
    }
    let again = Store::open(&left.join("x.db")).expect("open");
    assert_eq!(again.get("thing", "a").expect("get").expect("a").body, "600");
    assert_eq!(again.check().expect("check"), None);
    drop(store);
    testkit::eventually("one file", || (log() == 0).then_some(()));
}

#[tokio::test]
async fn one_refused_transaction_does_not_take_its_neighbours_along() {
    let scratch = Scratch::new("store");
    let store = Store::open(&scratch.join("x.db")).expect("open");
    // Submitted without waiting, so that they share a commit.
    let answers: Vec<_> = (0..200)
        .map(|n| store.submit(ops(vec![put(&format!("k{n}"), "x"), claim(&(n / 2).to_string(), &format!("k{n}"))])))
        .collect();
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.await.expect("answer").is_ok(), n % 2 == 0, "{n}");
    }
    assert_eq!(store.list("thing").expect("list").len(), 100);
}

#[tokio::test]
async fn events_are_kept_in_order_and_dropped_from_the_front() {
    let scratch = Scratch::new("store");
    let store = Store::open(&scratch.join("x.db")).expect("open");
    let event = |sequence| Op::Event(Event { sequence, at_ms: 5, body: format!("{sequence}") });
    store.commit(ops((1..=10).map(event).collect())).await.expect("commit");
    store.commit(ops(vec![Op::DropEvents { below: 4 }])).await.expect("commit");
    let numbers: Vec<u64> = store.events(0, 3).expect("events").into_iter().map(|e| e.sequence).collect();
    assert_eq!(numbers, [4, 5, 6]);
    assert_eq!(store.last_event().expect("last"), 10);
}

#[test]
fn a_newer_database_is_refused_and_not_touched() {
    let scratch = Scratch::new("store");
    let path = scratch.join("x.db");
    let connection = rusqlite::Connection::open(&path).expect("open");
    connection.execute_batch(&format!("CREATE TABLE t (x); PRAGMA user_version = {};", LATEST + 1)).expect("write");
    drop(connection);
    let before = std::fs::read(&path).expect("read");
    let error = Store::open(&path).expect_err("newer");
    assert!(matches!(error, OpenError::Newer { found, .. } if found == LATEST + 1), "{error}");
    assert_eq!(std::fs::read(&path).expect("read"), before);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_told_apart() {
    let scratch = Scratch::new("store");
    let path = scratch.join("x.db");
    std::fs::write(&path, vec![b'x'; 8192]).expect("write");
    assert!(matches!(Store::open(&path), Err(OpenError::Damaged { .. })));
}

#[test]
fn the_schema_file_is_the_sum_of_the_migrations() {
    let dump = |sql: &str| -> Vec<String> {
        let connection = rusqlite::Connection::open_in_memory().expect("open");
        connection.execute_batch(sql).expect("sql");
        let mut statement =
            connection.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").expect("prepare");
        statement.query_map([], |row| row.get(0)).expect("query").collect::<Result<_, _>>().expect("rows")
    };
    let mut files: Vec<_> =
        std::fs::read_dir("../../migrations").expect("dir").map(|e| e.expect("entry").path()).collect();
    files.sort();
    let all: String = files.iter().map(|f| std::fs::read_to_string(f).expect("read")).collect();
    assert_eq!(dump(&all), dump(include_str!("../schema.sql")));
    assert_eq!(files.len() as u32, LATEST);
}

#[tokio::test]
async fn a_full_disk_is_named_and_writing_goes_on_when_there_is_room_again() {
    testkit::require_root();
    let scratch = Scratch::new("store-full");
    let mount = scratch.join("disk");
    std::fs::create_dir(&mount).expect("mkdir");
    let disk = testkit::mount::Tmpfs::new(&mount, "size=12m");
    let store = Store::open(&mount.join("x.db")).expect("open");
    std::fs::write(mount.join("filler"), vec![0u8; 7_000_000]).expect("fill");
    let big = "x".repeat(100_000);
    let mut refused = None;
    for n in 0..20 {
        if let Err(error) = store.commit(ops(vec![put(&n.to_string(), &big)])).await {
            refused = Some(error);
            break;
        }
    }
    assert_eq!(refused, Some(TxnError::Full));
    let kept = store.list("thing").expect("reading goes on").len();
    std::fs::remove_file(mount.join("filler")).expect("rm");
    store.commit(ops(vec![put("after", "")])).await.expect("room again");
    assert_eq!(store.list("thing").expect("list").len(), kept + 1);
    assert_eq!(store.check().expect("check"), None);
    drop(store);
    testkit::eventually("the writer's end", || disk.try_unmount().then_some(()));
}
