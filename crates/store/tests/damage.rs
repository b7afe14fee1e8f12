//! Every page of a database damaged in turn: each damage is noticed before anything is written, or does no harm; and what was
//! noticed is made whole again from the mirror.

#![allow(missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use store::{Event, Kinds, LATEST, Op, OpenError, Store, Txn};
use testkit::Scratch;

const PAGE: usize = 4096;
const KINDS: Kinds = Kinds { unmirrored: &["operation"] };

fn put(kind: &'static str, key: impl ToString, body: String) -> Op {
    Op::Put { kind, key: key.to_string(), body }
}

/// What a daemon with some instances, profiles and images has in its database.
async fn fill(store: &Store, instances: u64) {
    for n in 0..instances {
        let id = format!("00000000-0000-4000-8000-{n:012}");
        let claim = |space, value: String| Op::Claim { space, value, owner: id.clone() };
        let ops = vec![
            put("instance", &id, format!(r#"{{"id":"{id}","name":"web{n}","note":"{}"}}"#, "x".repeat(700))),
            put("operation", n, format!(r#"{{"id":{n},"description":"Creating instance"}}"#)),
            claim("instance-name", format!("default/web{n}")),
            claim("ids", (1_000_000 + n * 65_536).to_string()),
            claim("mac", format!("10:66:6a:00:00:{n:02x}")),
            claim("address", format!("sysctlbr0/10.9.0.{}", n + 2)),
            Op::Event(Event { sequence: 1 + 2 * n, at_ms: 5, body: "e".repeat(300) }),
            Op::Event(Event { sequence: 2 + 2 * n, at_ms: 6, body: "f".repeat(200) }),
        ];
        commit(store, ops).await;
    }
    for kind in ["project", "profile", "network", "pool", "alias", "daemon"] {
        commit(store, vec![put(kind, "default", format!(r#"{{"name":"default","kind":"{kind}"}}"#))]).await;
    }
    // One that needs pages of its own, and room that was freed again.
    commit(store, vec![put("image", "ab", "p".repeat(9000)), put("image", "cd", "q".repeat(9000))]).await;
    commit(store, vec![Op::Delete { kind: "image", key: "cd".into() }, Op::DropEvents { below: 3 }]).await;
}

async fn commit(store: &Store, ops: Vec<Op>) {
    store.commit(Txn { compare: Vec::new(), ops }).await.expect("commit");
}

/// Everything that a caller can see.
fn rows(store: &Store) -> Vec<String> {
    let kinds = ["instance", "operation", "project", "profile", "network", "pool", "alias", "daemon", "image"];
    let documents = kinds.iter().flat_map(|kind| store.list(kind).expect("list"));
    let mut rows: Vec<String> = documents.map(|d| format!("{d:?}")).collect();
    for space in ["instance-name", "ids", "mac", "address"] {
        rows.extend(store.claims(space).expect("claims").iter().map(|claim| format!("{space} {claim:?}")));
    }
    rows.extend(store.events(0, u32::MAX).expect("events").iter().map(|event| format!("{event:?}")));
    rows
}

/// A database at rest: its rows, and its bytes.
async fn at_rest(path: &Path) -> (Vec<String>, Vec<u8>) {
    let store = Store::open_with(path, KINDS).expect("open");
    fill(&store, 24).await;
    let rows = rows(&store);
    close(store, path);
    (rows, fs::read(path).expect("read"))
}

/// Waits until the writer has merged its log and is gone.
fn close(store: Store, path: &Path) {
    store.settle_mirror();
    drop(store);
    let log = PathBuf::from(format!("{}-wal", path.display()));
    testkit::eventually("the writer's end", || (!log.exists()).then_some(()));
}

/// Whether a damaged file is noticed, and left as it is; panics when damage was taken for data.
fn is_noticed(path: &Path, bytes: &[u8], before: &[String], what: &str) -> bool {
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", path.display()));
    }
    fs::write(path, bytes).expect("write");
    match Store::open_with(path, KINDS) {
        Ok(store) => {
            assert!(rows(&store) == before, "{what} was not noticed");
            close(store, path);
            false
        }
        Err(OpenError::Damaged { .. } | OpenError::Newer { .. }) => {
            assert!(fs::read(path).expect("read") == bytes, "{what}: the file was written to");
            true
        }
        Err(error) => panic!("{what}: {error}: {:?}", std::error::Error::source(&error)),
    }
}

#[tokio::test]
async fn every_flipped_byte_is_noticed_or_harmless() {
    let scratch = Scratch::new("flip");
    let (before, bytes) = at_rest(&scratch.join("x.db")).await;
    let pages = bytes.len() / PAGE;
    // Without a mirror: the checksums alone must tell.
    let path = scratch.join("alone").join("x.db");
    fs::create_dir(scratch.join("alone")).expect("mkdir");
    let (mut noticed, mut harmless) = (0, 0);
    let mut count = |seen: bool| if seen { noticed += 1 } else { harmless += 1 };
    let stride = testkit::budget(509, 1);
    for page in 0..pages {
        let mut flipped = bytes.clone();
        flipped[page * PAGE..][..PAGE].iter_mut().for_each(|byte| *byte ^= 0xff);
        count(is_noticed(&path, &flipped, &before, &format!("page {page}")));
        let mut zeroed = bytes.clone();
        zeroed[page * PAGE..][..PAGE].fill(0);
        count(is_noticed(&path, &zeroed, &before, &format!("page {page} zeroed")));
        // Each byte of the file's header and of the heads of pages, which say how to read the rest.
        let dense = if page == 0 { 116 } else { 12 };
        for at in (0..dense).chain((dense..PAGE).step_by(stride)) {
            let bits = if at % 2 == 0 { 0x01 } else { 0x80 };
            let mut flipped = bytes.clone();
            flipped[page * PAGE + at] ^= bits;
            let _ = fs::remove_dir_all(scratch.join("alone/x.db.manifests"));
            count(is_noticed(&path, &flipped, &before, &format!("byte {at} of page {page} ^ {bits:#x}")));
        }
    }
    assert!(noticed > harmless, "{noticed} {harmless}");
    eprintln!(
        "figure: database of {pages} pages, each flipped, zeroed and with single bits flipped: {} damages, {noticed} noticed, {harmless} in unused bytes, undetected 0",
        noticed + harmless
    );
}

#[tokio::test]
async fn a_file_cut_anywhere_or_turned_into_something_else_is_noticed() {
    let scratch = Scratch::new("cut");
    let path = scratch.join("x.db");
    let (before, bytes) = at_rest(&path).await;
    let pages = bytes.len() / PAGE;
    for page in 0..pages {
        assert!(is_noticed(&path, &bytes[..page * PAGE], &before, &format!("cut at page {page}")));
        // A part of a page counts as one; harmless where nothing is on it.
        is_noticed(&path, &bytes[..page * PAGE + 100], &before, &format!("cut in page {page}"));
    }
    let mut headless = bytes.clone();
    headless[..100].fill(0);
    assert!(is_noticed(&path, &headless, &before, "the header zeroed"));
    // Gone, a directory, a link: nothing is followed, and nothing is taken for a first start.
    fs::remove_file(&path).expect("rm");
    let refused = |what| assert!(matches!(Store::open_with(&path, KINDS), Err(OpenError::Damaged { .. })), "{what}");
    refused("gone");
    fs::create_dir(&path).expect("mkdir");
    refused("a directory");
    fs::remove_dir(&path).expect("rmdir");
    fs::write(scratch.join("elsewhere.db"), &bytes).expect("write");
    std::os::unix::fs::symlink(scratch.join("elsewhere.db"), &path).expect("link");
    refused("a link");
    assert!(fs::read(scratch.join("elsewhere.db")).expect("read") == bytes, "the link was followed");
    fs::remove_file(&path).expect("rm");
    assert!(!is_noticed(&path, &bytes, &before, "nothing"));
    eprintln!("figure: database cut at {} places, zeroed, gone, a directory, a link: undetected 0", 2 * pages);
}

/// The files of a database whose writer still runs, as a power cut or `kill -9` leaves them.
fn image(path: &Path, to: &Path) {
    fs::create_dir_all(to.join("x.db.manifests")).expect("mkdir");
    for name in ["x.db", "x.db-wal"] {
        fs::copy(path.with_file_name(name), to.join(name)).expect("copy");
    }
    for entry in fs::read_dir(path.with_file_name("x.db.manifests")).expect("manifests") {
        let entry = entry.expect("entry");
        fs::copy(entry.path(), to.join("x.db.manifests").join(entry.file_name())).expect("copy");
    }
}

#[tokio::test]
async fn a_lost_or_garbled_log_is_noticed() {
    let scratch = Scratch::new("log");
    let path = scratch.join("x.db");
    let store = Store::open_with(&path, KINDS).expect("open");
    fill(&store, 6).await;
    store.settle_mirror();
    let (before, frames) = (rows(&store), fs::metadata(scratch.join("x.db-wal")).expect("log").len() as usize);
    let (mut noticed, mut harmless) = (0, 0);
    let places: Vec<usize> = (0..frames).step_by(testkit::budget(4001, 97)).collect();
    for (number, at) in places.iter().enumerate() {
        for cut in [true, false] {
            let to = scratch.join(format!("{number}-{cut}"));
            image(&path, &to);
            let log = to.join("x.db-wal");
            let mut bytes = fs::read(&log).expect("read");
            if cut {
                bytes.truncate(*at);
            } else {
                bytes[*at] ^= 0xff;
            }
            fs::write(&log, bytes).expect("write");
            match Store::open_with(&to.join("x.db"), KINDS) {
                Ok(opened) => {
                    assert!(rows(&opened) == before, "byte {at} of the log, cut: {cut}");
                    harmless += 1;
                    close(opened, &to.join("x.db"));
                }
                Err(OpenError::Damaged { .. }) => noticed += 1,
                Err(error) => panic!("{error}"),
            }
            fs::remove_dir_all(&to).expect("rm");
        }
    }
    let to = scratch.join("none");
    image(&path, &to);
    fs::remove_file(to.join("x.db-wal")).expect("rm");
    let error = Store::open_with(&to.join("x.db"), KINDS).expect_err("without its log").to_string();
    assert!(error.contains("damaged"), "{error}");
    close(store, &path);
    eprintln!(
        "figure: log of a database cut and garbled at {} places: {noticed} noticed, {harmless} harmless, undetected 0",
        places.len()
    );
}

#[tokio::test]
async fn a_flipped_version_is_told_from_that_of_a_newer_release() {
    let scratch = Scratch::new("version");
    let path = scratch.join("x.db");
    let (before, bytes) = at_rest(&path).await;
    let instances =
        |rows: &[String]| rows.iter().filter(|row| row.contains("web") && row.starts_with("Document")).count();
    let mut noticed = 0;
    // Four bytes, and the bits of each.
    for (at, bit) in (60..64).flat_map(|at| (0..8).map(move |bit| (at, 1u8 << bit))) {
        let mut flipped = bytes.clone();
        flipped[at] ^= bit;
        fs::write(&path, &flipped).expect("write");
        let error = Store::open_with(&path, KINDS).expect_err("flipped");
        assert!(matches!(error, OpenError::Damaged { .. }), "byte {at} ^ {bit:#x}: {error}");
        assert!(fs::read(&path).expect("read") == flipped, "byte {at} ^ {bit:#x}: it was written to");
        noticed += 1;
    }
    let store = Store::open_or_rescue(&path, KINDS).expect("rescue");
    assert!(store.rebuild(Vec::new()).expect("rebuild").complete);
    assert_eq!(instances(&rows(&store)), instances(&before));
    close(store, &path);
    // A newer release has changed something.
    for change in ["CREATE TABLE newer (x)", "ALTER TABLE event ADD COLUMN x INTEGER"] {
        fs::write(&path, &bytes).expect("write");
        let connection = rusqlite::Connection::open(&path).expect("open");
        connection.execute_batch(&format!("{change}; PRAGMA user_version = {};", LATEST + 1)).expect("a migration");
        drop(connection);
        let error = Store::open_with(&path, KINDS).expect_err("newer");
        assert!(matches!(error, OpenError::Newer { found, .. } if found == LATEST + 1), "{change}: {error}");
    }
    eprintln!(
        "figure: version number of a database with one bit flipped: {noticed} of 32 told as damage, none as newer"
    );
}

#[tokio::test]
async fn an_old_copy_in_the_place_of_the_database_is_noticed() {
    let scratch = Scratch::new("old");
    let path = scratch.join("x.db");
    let (_, old) = at_rest(&path).await;
    let store = Store::open_with(&path, KINDS).expect("open");
    commit(&store, vec![put("instance", "new", "{}".into())]).await;
    close(store, &path);
    fs::write(&path, &old).expect("write");
    let error = Store::open_with(&path, KINDS).expect_err("old").to_string();
    assert!(error.contains("an old copy was put in its place"), "{error}");
    assert!(fs::read(&path).expect("read") == old);
    // Who wants the old one says so by taking the manifests away.
    fs::rename(scratch.join("x.db.manifests"), scratch.join("away")).expect("mv");
    let store = Store::open_with(&path, KINDS).expect("the old one is wanted");
    close(store, &path);
}

#[tokio::test]
async fn what_is_damaged_is_read_from_the_mirror_and_made_anew_from_it() {
    let scratch = Scratch::new("anew");
    let path = scratch.join("x.db");
    let (before, mut bytes) = at_rest(&path).await;
    bytes[PAGE..][..PAGE].iter_mut().for_each(|byte| *byte ^= 0xff);
    fs::write(&path, &bytes).expect("write");
    let store = Store::open_or_rescue(&path, KINDS).expect("rescue");
    let reason = store.read_only().expect("damaged");
    assert!(reason.contains("x.db is damaged"), "{reason}");
    let kept = |rows: &[String]| -> Vec<String> {
        rows.iter().filter(|row| !row.contains("Creating instance") && row.starts_with("Document")).cloned().collect()
    };
    assert_eq!(kept(&rows(&store)), kept(&before));
    let refused = store.commit(Txn { compare: Vec::new(), ops: vec![put("instance", "x", String::new())] }).await;
    let words = refused.expect_err("read-only").to_string();
    assert!(words.contains("doctor --repair"), "{words}");
    assert!(fs::read(&path).expect("read") == bytes, "the damaged file was written to");
    // Made anew, with the claims that its owner gives.
    let claim = Op::Claim { space: "ids", value: "1000000".into(), owner: "web0".into() };
    let rebuilt = store.rebuild(vec![claim]).expect("rebuild");
    assert!(rebuilt.complete, "{:?}", rebuilt.notes);
    assert_eq!(store.read_only(), None);
    assert_eq!(kept(&rows(&store)), kept(&before));
    assert_eq!(store.claims("ids").expect("claims"), [("1000000".to_owned(), "web0".to_owned())]);
    commit(&store, vec![put("instance", "after", "{}".into())]).await;
    assert_eq!(store.check().expect("check"), None);
    close(store, &path);
    let aside = fs::read_dir(scratch.path()).expect("dir").filter_map(|e| e.ok()?.file_name().into_string().ok());
    let aside = aside
        .into_iter()
        .find(|name| name.starts_with("x.db.damaged-") && !name.ends_with("-wal"))
        .expect("moved aside");
    assert!(fs::read(scratch.join(aside)).expect("read") == bytes, "not byte for byte");
    let store = Store::open_with(&path, KINDS).expect("whole again");
    close(store, &path);
}

#[tokio::test]
async fn what_the_mirror_lost_is_taken_from_whole_rows_of_the_damaged_file() {
    let scratch = Scratch::new("salvage");
    let path = scratch.join("x.db");
    let (before, _) = at_rest(&path).await;
    // The tables are whole, and one event is not; of the manifests one is garbled and one is missing.
    let connection = rusqlite::Connection::open(&path).expect("open");
    connection.execute_batch("UPDATE event SET body = 'x' WHERE sequence = 9").expect("damage");
    drop(connection);
    let manifests = |kind: &str| {
        let names = fs::read_dir(scratch.join("x.db.manifests")).expect("dir").map(|e| e.expect("entry").path());
        names.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(kind))).collect::<Vec<_>>()
    };
    fs::write(&manifests("instance.")[0], "garbage").expect("write");
    let store = Store::open_or_rescue(&path, KINDS).expect("rescue");
    let instances =
        |rows: &[String]| rows.iter().filter(|row| row.contains("web") && row.starts_with("Document")).count();
    assert_eq!(instances(&rows(&store)), instances(&before));
    let rebuilt = store.rebuild(Vec::new()).expect("rebuild");
    assert!(rebuilt.complete && rebuilt.notes.iter().any(|n| n.contains("1 documents come from the damaged file")));
    close(store, &path);
    // One that is gone, with nothing to tell what it was: that is said.
    fs::write(&path, "garbage").expect("write");
    fs::remove_file(&manifests("instance.")[0]).expect("rm");
    let store = Store::open_or_rescue(&path, KINDS).expect("rescue");
    let rebuilt = store.rebuild(Vec::new()).expect("rebuild");
    assert!(!rebuilt.complete && rebuilt.notes.iter().any(|n| n.contains("not certain")), "{:?}", rebuilt.notes);
    assert_eq!(instances(&rows(&store)), instances(&before) - 1);
    close(store, &path);
}

#[tokio::test]
async fn a_damaged_manifest_is_noticed_and_written_anew() {
    let scratch = Scratch::new("manifest");
    let path = scratch.join("x.db");
    let (before, _) = at_rest(&path).await;
    let store = Store::open_with(&path, KINDS).expect("open");
    assert_eq!(store.check().expect("check"), None);
    let directory = scratch.join("x.db.manifests");
    let files: Vec<PathBuf> = fs::read_dir(&directory).expect("dir").map(|e| e.expect("entry").path()).collect();
    let of = |kind: &str| files.iter().find(|p| p.to_string_lossy().contains(&format!("/{kind}."))).expect("a file");
    fs::write(of("instance"), "garbage").expect("write");
    fs::remove_file(of("profile")).expect("rm");
    let said = store.check().expect("check").expect("damaged");
    assert!(said.contains("1 were damaged and 1 missing"), "{said}");
    commit(&store, Vec::new()).await;
    store.settle_mirror();
    assert_eq!(store.check().expect("check"), None);
    // One that is of nothing any more goes at the next start.
    close(store, &path);
    fs::write(directory.join("instance.0123456789abcdef"), "old").expect("write");
    let store = Store::open_with(&path, KINDS).expect("open");
    store.settle_mirror();
    assert_eq!(fs::read_dir(&directory).expect("dir").count(), files.len());
    assert_eq!(rows(&store), before);
    close(store, &path);
}

#[tokio::test]
async fn a_start_with_a_thousand_instances_checks_every_row_in_a_few_milliseconds() {
    let scratch = Scratch::new("large");
    let path = scratch.join("x.db");
    let store = Store::open_with(&path, KINDS).expect("open");
    for n in 0..1000u32 {
        let id = format!("00000000-0000-4000-8000-{n:012}");
        let mut ops = vec![put("instance", &id, "x".repeat(1500))];
        ops.extend(["name", "ids", "mac", "address", "address6"].map(|space| Op::Claim {
            space,
            value: n.to_string(),
            owner: id.clone(),
        }));
        let event = |k: u32| Op::Event(Event { sequence: (n * 10 + k + 1).into(), at_ms: 0, body: "e".repeat(400) });
        ops.extend((0..10).map(event));
        drop(store.submit(Txn { compare: Vec::new(), ops }));
    }
    commit(&store, Vec::new()).await;
    close(store, &path);
    let took = |_| {
        let begun = std::time::Instant::now();
        let store = Store::open_with(&path, KINDS).expect("open");
        let took = begun.elapsed();
        close(store, &path);
        took
    };
    let best = (0..5).map(took).min().expect("five");
    eprintln!(
        "figure: opening a database of 1,000 instances, 5,000 claims and 10,000 events with every row checked: {:.1} ms{}",
        best.as_secs_f64() * 1e3,
        if cfg!(debug_assertions) { " (debug build)" } else { "" }
    );
    assert!(best.as_secs() < 10, "{best:?}");
}
